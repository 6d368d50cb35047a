"""From image features to a volume in the ego frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import transform_points
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.struct import Struct


class DepthBins(Config):
    """Intervals of z-depth, equally wide in the logarithm."""

    nearest: float = 1.5
    """Metres at which the first bin begins; nearer depths count to it."""
    farthest: float = 60.0
    """Metres at which the last bin ends; farther depths count to it."""
    count: int = 32
    """Number of bins."""

    def position(self, depths: Tensor) -> Tensor:
        """Return where z-depths lie on the axis of bins, in bins: 0 at `nearest`, `count` at `farthest`."""
        span = math.log(self.farthest / self.nearest)
        return (torch.log(depths.clamp(min=self.nearest) / self.nearest) / span * self.count).clamp(max=self.count)

    def width(self, depths: Tensor) -> Tensor:
        """Return the width in metres of the bin around each z-depth."""
        return depths * ((self.farthest / self.nearest) ** (1 / self.count) - 1)

    def index(self, depths: Tensor) -> Int64[Tensor, "..."]:
        """Return the bin of each z-depth."""
        return self.position(depths).long().clamp(max=self.count - 1)


class SamplingLiftConfig(Config):
    """Each cell reads the image features at its projection, weighted by how likely the surface seen there lies at the cell's depth."""

    kind: Literal["sampling"] = "sampling"
    channels: int = 32
    """Width of the volume."""
    coarsening: int = 2
    """Cells of the Gaussians' grid per cell of the volume, along each axis."""
    depth_bins: DepthBins = DepthBins()
    """Bins of the depth distribution of each feature pixel."""


@dataclass(frozen=True)
class ImageReading(Struct):
    """What the image branch says of each feature pixel, before anything is lifted."""

    context: Float[Tensor, "batch view channel height width"]
    depth_logits: Float[Tensor, "batch view bin height width"]
    """Belief about the z-depth of the surface seen there."""
    class_logits: Float[Tensor, "batch view class height width"]
    """Belief about its class."""


class SamplingLift(nn.Module):
    """Lift image features by sampling. A cell that several cameras see gets the mean of what they say; an unseen one only knows its height.

    Without the depth distribution every cell along a pixel's ray would read the same features. Each camera says, of each cell: the
    feature (and class), the same times the density of the surface at this depth, that density, and the probability that the surface lies
    behind it (so that the cell is free).

    The depth distribution starts from geometry: next to the image features it reads at which depth the pixel's ray meets level ground,
    which a network would otherwise have to learn for each camera from the row alone.
    """

    centers: Tensor

    def __init__(self, config: SamplingLiftConfig, in_channels: int, num_classes: int, grid: VoxelGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid.coarsen(config.coarsening)
        self.register_buffer("centers", self.grid.centers().reshape(-1, 3), persistent=False)
        self.depth_head = nn.Conv2d(in_channels + config.depth_bins.count, config.depth_bins.count, 1)
        with torch.no_grad():
            # Before it has seen anything, the network believes in level ground
            self.depth_head.weight[:, in_channels:, 0, 0] = GROUND_LOGIT * torch.eye(config.depth_bins.count)
        self.context_head = nn.Conv2d(in_channels, config.channels, 1)
        self.class_head = nn.Conv2d(in_channels, num_classes, 1)
        self.mix = nn.Linear(2 * (config.channels + num_classes) + NUM_GEOMETRY, config.channels)
        self.height_embedding = nn.Parameter(torch.zeros(config.channels, self.grid.shape[2]))
        nn.init.normal_(self.height_embedding)

    def read(self, features: Float[Tensor, "batch view in_channel height width"], cameras: Cameras) -> ImageReading:
        """Read the image features of each view by themselves."""
        batch, views = features.shape[:2]
        flat = features.flatten(0, 1)
        with torch.no_grad():
            ground = ground_encoding(cameras, self.config.depth_bins, (features.shape[-2], features.shape[-1])).flatten(0, 1)
        depth_logits = self.depth_head(torch.cat([flat, ground.to(flat.dtype)], dim=1)).unflatten(0, (batch, views))
        context = self.context_head(flat).unflatten(0, (batch, views))
        return ImageReading(context, depth_logits, self.class_head(flat).unflatten(0, (batch, views)))

    def forward(self, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "batch channel x y z"]:
        """Return the volume."""
        seen = torch.cat([reading.context, reading.class_logits.softmax(dim=2)], dim=2)
        volumes = [self._lift_one(seen[sample], reading.depth_logits[sample], cameras[sample]) for sample in range(len(seen))]
        return torch.stack(volumes) + self.height_embedding[:, None, None, :]

    def _lift_one(self, context: Tensor, depth_logits: Tensor, cameras: Cameras) -> Tensor:
        bins = self.config.depth_bins
        density = depth_logits.softmax(dim=1)
        # The surface lies behind bin i: one minus the distribution up to and including it
        distribution = torch.stack([density * bins.count, 1 - density.cumsum(dim=1)], dim=1)
        with torch.no_grad():
            seen, positions, _ = self._project(self.centers, cameras)
            share = 1 / torch.bincount(torch.cat(seen), minlength=len(self.centers)).clamp(min=1).to(context.dtype)
        volume = context.new_zeros(len(self.centers), self.config.channels)
        for view, (cells, position) in enumerate(zip(seen, positions)):
            feature = _sample(context[view], position[:, :2])
            geometry = _sample(distribution[view], position)
            said = self.mix(torch.cat([feature, feature * geometry[:, :1], geometry], dim=-1))
            volume = volume.index_add(0, cells, said * share[cells, None])
        return volume.T.unflatten(1, self.grid.shape)

    @torch.no_grad()
    def evidence(
        self, reading: ImageReading, cameras: Cameras, centers: Float[Tensor, "cell 3"], cell_size: float
    ) -> tuple[Float[Tensor, "batch cell"], Float[Tensor, "batch cell class"]]:
        """Say of any cells what the image branch alone would make of them, without gradients: it learns from its own losses.

        The first result is the probability that the surface lies in the cell, given that it does not lie before it (the mean over the
        views that see the cell, 0 where none does); the second are the class probabilities, weighed by the first and summing to 1 or 0.
        """
        bins = self.config.depth_bins
        hazards, classes = [], []
        for sample in range(len(reading.context)):
            density = reading.depth_logits[sample].softmax(dim=1)
            distribution = torch.stack([density, 1 - density.cumsum(dim=1) + density], dim=1)
            class_probabilities = reading.class_logits[sample].softmax(dim=1)
            hazard, views = centers.new_zeros(len(centers)), centers.new_zeros(len(centers))
            weighed = centers.new_zeros(len(centers), class_probabilities.shape[1])
            for view, (cells, position, depths) in enumerate(zip(*self._project(centers, cameras[sample]))):
                mass, left = _sample(distribution[view], position).unbind(dim=-1)
                seen = mass * (cell_size / bins.width(depths)).clamp(max=1) / left.clamp(min=1e-3)
                hazard.index_add_(0, cells, seen)
                views.index_add_(0, cells, torch.ones_like(seen))
                weighed.index_add_(0, cells, _sample(class_probabilities[view], position[:, :2]) * seen[:, None])
            hazards.append(hazard / views.clamp(min=1))
            classes.append(weighed / hazard.clamp(min=1e-6)[:, None])
        return torch.stack(hazards).clamp(max=1), torch.stack(classes)

    def _project(self, centers: Tensor, cameras: Cameras) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return, for each view, the cells it sees, where (u, v and depth bin in [-1, 1]) and at which z-depth."""
        bins = self.config.depth_bins
        seen, positions, z_depths = [], [], []
        for view in range(len(cameras.K)):
            camera = cameras[view]
            pixels, visible = camera.project(centers)
            cells = visible.nonzero().squeeze(1)
            depths = transform_points(camera.cam_from_ego, centers[cells])[:, 2]
            size = pixels.new_tensor([camera.image_size[1], camera.image_size[0]])
            position = torch.cat([pixels[cells] / size, bins.position(depths)[:, None] / bins.count], dim=-1)
            seen.append(cells)
            positions.append(position * 2 - 1)
            z_depths.append(depths)
        return seen, positions, z_depths


GROUND_LOGIT = 3.0
"""By how much a fresh network prefers the depth of level ground over any other."""
NUM_GEOMETRY = 2
"""Channels a camera says of a cell besides features: surface density, and the probability that the surface lies behind."""


def ground_encoding(cameras: Cameras, bins: DepthBins, size: tuple[int, int]) -> Float[Tensor, "*batch bin height width"]:
    """Say, for each feature pixel, at which depth its ray meets the plane z = 0 of the ego frame.

    The depth is spread over the two nearest bins so that it varies smoothly; rays that meet the plane nowhere in front give zeros.
    """
    height, width = size
    v = (torch.arange(height, device=cameras.K.device) + 0.5) * (cameras.image_size[0] / height)
    u = (torch.arange(width, device=cameras.K.device) + 0.5) * (cameras.image_size[1] / width)
    pixels = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width, device=u.device)], dim=-1)
    # Per metre of depth the ray climbs by this much; only the z row of ego_from_cam is needed.
    up_from_cam = cameras.cam_from_ego[..., :3, 2]
    climb = torch.einsum("...i,...ij,hwj->...hw", up_from_cam, torch.linalg.inv(cameras.K), pixels)
    camera_height = cameras.optical_centers[..., 2][..., None, None]
    depths = -camera_height / climb.where(climb < 0, torch.full_like(climb, -1e-6))
    position = bins.position(depths.clamp(min=0.0))[..., None] - 0.5
    spread = (1 - (position - torch.arange(bins.count, device=position.device)).abs()).clamp(min=0)
    return (spread * (climb < 0)[..., None]).movedim(-1, -3)


def _sample(image: Float[Tensor, "channel *space"], positions: Float[Tensor, "point axis"]) -> Float[Tensor, "point channel"]:
    """Interpolate an image (2D or 3D) at positions in [-1, 1], ordered from the last axis to the first; the border extends outwards."""
    ones = (1,) * (image.ndim - 2)
    grid = positions.view(1, *ones, *positions.shape)
    sampled = functional.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.flatten(1)[0].view(image.shape[0], -1).T
