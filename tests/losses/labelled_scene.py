"""A small batch with every kind of label, and what a network and a renderer might have made of it: input of the losses' tests."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.losses.inputs import LossInputs
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import IGNORE, SKY

BINS = DepthBins(count=16)
GRID = VoxelGrid((0.0, -10.0, -5.0), (20.0, 10.0, 5.0), 2.5)
NUM_SAMPLES, NUM_VIEWS, NUM_RAYS, NUM_CLASSES = 2, 2, 24, 17


def cameras() -> Cameras:
    """Two cameras a metre apart, both looking along x, in both samples."""
    cam_from_ego = torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).double()
    second = cam_from_ego.clone()
    second[0, 3] = 1.0
    K = torch.tensor([[20.0, 0.0, 24.0], [0.0, 20.0, 16.0], [0.0, 0.0, 1.0]]).double()
    shape = (NUM_SAMPLES, NUM_VIEWS)
    return Cameras(K.expand(*shape, 3, 3), torch.stack([cam_from_ego, second]).expand(*shape, 4, 4), (32, 48))


def labelled_rays(generator: torch.Generator) -> tuple[Rays, RayLabels]:
    """Rays of both cameras: most are stopped in the grid, others outside of it; some have a class or a distance only; sky; padding."""
    pixels = torch.rand(NUM_SAMPLES * NUM_RAYS, 2, generator=generator, dtype=torch.float64) * torch.tensor([48.0, 32.0])
    rays = cameras()[0].rays_through(torch.arange(NUM_SAMPLES * NUM_RAYS) % NUM_VIEWS, pixels)
    semantics = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES, NUM_RAYS), generator=generator)
    distances = 2 + 12 * torch.rand(NUM_SAMPLES, NUM_RAYS, generator=generator, dtype=torch.float64)
    weights = torch.rand(NUM_SAMPLES, NUM_RAYS, generator=generator, dtype=torch.float64)
    distances[:, :3] += 40
    semantics[:, 3:6], distances[:, 3:6] = SKY, math.nan
    distances[:, 6:9] = math.nan
    semantics[:, 9:12] = IGNORE
    semantics[1, 12:15], distances[1, 12:15], weights[1, 12:15] = IGNORE, math.nan, 0
    return rays.map(lambda values: values.unflatten(0, (NUM_SAMPLES, NUM_RAYS))), RayLabels(semantics, distances, weights)


def loss_inputs() -> LossInputs:
    """Random predictions in float64, leaves of the autograd graph: a Gaussian in each cell, what the rays see, what the images say."""
    generator = torch.Generator().manual_seed(0)
    rays, labels = labelled_rays(generator)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    cells, of_rays, maps = (NUM_SAMPLES, GRID.num_cells), (NUM_SAMPLES, NUM_RAYS), (NUM_SAMPLES, NUM_VIEWS)
    gaussians = Gaussians(
        means=GRID.centers().reshape(-1, 3).double() + 2.4 * (rand(*cells, 3) - 0.5),
        quats=torch.nn.functional.normalize(rand(*cells, 4) - 0.5, dim=-1),
        scales=0.3 + rand(*cells, 3),
        opacities=0.9 * rand(*cells),
        features=rand(*cells, NUM_CLASSES).softmax(dim=-1),
        grid=GRID,
    )
    rendering = Rendering(
        features=rand(*of_rays, NUM_CLASSES) / NUM_CLASSES,
        distances=2 + 12 * rand(*of_rays),
        alphas=rand(*of_rays),
        in_front=0.4 * rand(*of_rays),
        at_hit=0.4 * rand(*of_rays),
    )
    reading = ImageReading(rand(*maps, 3, 4, 6), 4 * rand(*maps, BINS.count, 8, 6), 4 * rand(*maps, NUM_CLASSES, 8, 6))
    rendering = dataclasses.replace(rendering, distortion=rand(*of_rays))
    predictions = [part.map(lambda values: values.detach().requires_grad_()) for part in (reading, gaussians, rendering)]
    names = ("reading", "field", "rendering")
    return LossInputs(**dict(zip(names, predictions, strict=True)), rays=rays, labels=labels, cameras=cameras())


def meets_nothing(inputs: LossInputs) -> Tensor:
    """Say which rays are the sky's or end beyond the corners of the grid."""
    points = inputs.rays.at(inputs.labels.distances)
    lower, upper = (points.new_tensor(corner) for corner in (GRID.lower, GRID.upper))
    return (inputs.labels.semantics == SKY) | ((points < lower) | (points >= upper)).any(dim=-1)
