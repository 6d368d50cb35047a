import dataclasses
import math

import pytest
import torch

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.network import NetworkOutput
from splattingocc.splatting.gaussians import Gaussians, Rendering
from splattingocc.taxonomy import IGNORE, SKY

BINS = DepthBins()
NUM_RAYS = 16


def cameras() -> Cameras:
    """Two cameras a metre apart, both looking along x."""
    cam_from_ego = torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    second = cam_from_ego.clone()
    second[0, 3] = 1.0
    K = torch.tensor([[20.0, 0.0, 24.0], [0.0, 20.0, 16.0], [0.0, 0.0, 1.0]])
    return Cameras(K.expand(1, 2, 3, 3), torch.stack([cam_from_ego, second])[None], (32, 48))


def scene() -> tuple[NetworkOutput, Rendering, Rays, RayLabels]:
    torch.manual_seed(0)
    indices = torch.arange(NUM_RAYS) % 2
    pixels = torch.rand(NUM_RAYS, 2) * torch.tensor([48.0, 32.0])
    rays = cameras()[0].rays_through(indices, pixels).map(lambda tensor: tensor[None])
    labels = RayLabels(torch.randint(0, 17, (1, NUM_RAYS)), 3 + 20 * torch.rand(1, NUM_RAYS), torch.ones(1, NUM_RAYS))
    rendering = Rendering(
        torch.rand(1, NUM_RAYS, 17) / 17, 3 + 20 * torch.rand(1, NUM_RAYS), torch.rand(1, NUM_RAYS), *(0.4 * torch.rand(2, 1, NUM_RAYS))
    )
    grid = VoxelGrid((0.0, -30.0, -30.0), (30.0, 30.0, 30.0), 5.0)
    gaussians = Gaussians(
        30 * torch.rand(1, 8, 3), torch.tensor([1.0, 0, 0, 0]).expand(1, 8, 4), torch.full((1, 8, 3), 0.1), torch.full((1, 8), 0.2),
        torch.rand(1, 8, 17), grid,
    )  # fmt: skip
    reading = ImageReading(torch.randn(1, 2, 3, 4, 6), torch.randn(1, 2, BINS.count, 4, 6), torch.randn(1, 2, 17, 4, 6))
    return NetworkOutput(gaussians, reading), rendering, rays, labels


def test_the_total_is_the_sum_of_the_parts_and_weights_scale_them():
    output, rendering, rays, labels = scene()
    losses = Objective(ObjectiveConfig(), BINS)(output, rendering, rays, labels, cameras())
    assert set(losses.parts) == {"semantic", "distance", "line_of_sight", "empty", "query", "depth_bins", "pixel_classes", "opacity_prior"}
    assert torch.allclose(losses.total, sum(losses.parts.values()))
    doubled = Objective(ObjectiveConfig(semantic=2.0), BINS)(output, rendering, rays, labels, cameras())
    assert torch.allclose(doubled.parts["semantic"], 2 * losses.parts["semantic"])


def test_a_loss_of_weight_zero_is_left_out():
    output, rendering, rays, labels = scene()
    losses = Objective(ObjectiveConfig(depth_bins=0.0, pixel_classes=0.0, distance=0.0, query=0.0), BINS)(
        output, rendering, rays, labels, cameras()
    )
    assert set(losses.parts) == {"semantic", "line_of_sight", "empty", "opacity_prior"}


def test_padding_changes_nothing():
    output, rendering, rays, labels = scene()
    objective = Objective(ObjectiveConfig(), BINS)
    plain = objective(output, rendering, rays, labels, cameras())

    def pad(tensor, value):
        return torch.cat([tensor, torch.full_like(tensor[:, :5], value)], dim=1)

    padded_rays = Rays(pad(rays.origins, 0.0), torch.cat([rays.directions, rays.directions[:, :5]], dim=1))
    padded_labels = RayLabels(pad(labels.semantics, IGNORE), pad(labels.distances, math.nan), pad(labels.weights, 0.0))
    padded_rendering = rendering.map(lambda tensor: pad(tensor, 0.3))
    padded = objective(output, padded_rendering, padded_rays, padded_labels, cameras())
    for name, value in plain.parts.items():
        assert torch.allclose(padded.parts[name], value, rtol=1e-5), name


def test_the_depth_distribution_learns_z_depth_at_the_pixel_of_its_own_rays():
    output, rendering, rays, labels = scene()
    objective = Objective(ObjectiveConfig(), BINS)
    camera = cameras()[0]
    points = rays.at(labels.distances)[0]
    logits = torch.full((1, 2, BINS.count, 4, 6), -30.0)
    for ray in range(NUM_RAYS):
        view = ray % 2
        (u, v), _ = (tensor[0] for tensor in camera[view].project(points[ray : ray + 1]))
        logits[0, view, BINS.index(points[ray, :1]).item(), int(v / 8), int(u / 8)] = 30.0  # z-depth is x: both cameras look along it
    perfect = dataclasses.replace(output, reading=dataclasses.replace(output.reading, depth_logits=logits))
    loss = objective(perfect, rendering, rays, labels, cameras()).parts["depth_bins"]
    # Two points of one feature pixel may share the distribution; nothing costs more than ln 2 then.
    assert loss < math.log(2) * objective.config.depth_bins
    other = objective(output, rendering, rays, labels, cameras()).parts["depth_bins"]
    assert loss < 0.3 * other


def test_a_ray_stopped_outside_of_the_grid_is_asked_for_nothing_but_emptiness():
    output, rendering, rays, labels = scene()
    far = dataclasses.replace(labels, distances=labels.distances + 100)
    objective = Objective(ObjectiveConfig(query=0.0, opacity_prior=0.0, depth_bins=0.0, pixel_classes=0.0), BINS)
    parts = objective(output, rendering, rays, far, cameras()).parts
    assert parts["semantic"] == 0
    assert parts["line_of_sight"] == 0
    assert torch.allclose(parts["empty"], -0.5 * (1.01 - rendering.alphas).log().mean())


def test_sky_asks_for_emptiness_and_an_unknown_distance_for_the_class_alone():
    output, rendering, rays, labels = scene()
    nowhere = torch.full_like(labels.distances, math.nan)
    objective = Objective(ObjectiveConfig(query=0.0, opacity_prior=0.0, depth_bins=0.0, pixel_classes=0.0), BINS)
    sky = RayLabels(torch.full_like(labels.semantics, SKY), nowhere, labels.weights)
    parts = objective(output, rendering, rays, sky, cameras()).parts
    assert parts["empty"] > 0
    assert parts["semantic"] == parts["line_of_sight"] == 0
    parts = objective(output, rendering, rays, dataclasses.replace(labels, distances=nowhere), cameras()).parts
    assert parts["semantic"] > 0
    assert parts["empty"] == parts["line_of_sight"] == 0


def test_an_unknown_class_name_is_refused():
    with pytest.raises(ValueError, match="'cra' is not a class"):
        Objective(ObjectiveConfig(class_weights={"cra": 2.0}), BINS)
