"""Lift by sampling: each cell of the volume reads the images where it projects."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from einops import reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from splattingocc.config import Channels, Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.interfaces import Lift
from splattingocc.models.projection import place_all, sample_map

NUM_GEOMETRY = 2
"""Channels a camera says of a cell besides features: surface density, and the probability that the surface lies behind."""


class SamplingLiftConfig(Config):
    """Each cell reads the image features at its projection, weighted by how likely the surface seen there lies at the cell's depth."""

    kind: Literal["sampling"] = "sampling"
    channels: Channels = 32
    """Width of the volume."""
    coarsening: Annotated[int, Field(ge=1, le=64)] = 2
    """Cells of the grid per cell of the volume, along each axis."""


class SamplingLift(Lift):
    """Lift image features by sampling. A cell that several cameras see gets the mean of what they say; an unseen one only knows its height.

    Without the depth distribution every cell along a pixel's ray would read the same features. Each camera says, of each cell: the
    feature (and class), the same times the density of the surface at this depth, that density, and the probability that the surface lies
    behind it (so that the cell is free).
    """

    centers: Tensor

    def __init__(self, config: SamplingLiftConfig, in_channels: int, num_classes: int, depth_bins: DepthBins, grid: VoxelGrid) -> None:
        super().__init__()
        self.depth_bins = depth_bins
        self.grid = grid.coarsen(config.coarsening)
        self.out_channels = config.channels
        self.register_buffer("centers", self.grid.centers().reshape(-1, 3), persistent=False)
        self.context_head = nn.Conv2d(in_channels, config.channels, 1)
        self.mix = nn.Linear(2 * (config.channels + num_classes) + NUM_GEOMETRY, config.channels)
        self.height_embedding = nn.Parameter(torch.zeros(config.channels, self.grid.shape[2]))
        nn.init.normal_(self.height_embedding)

    def forward(self, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "batch channel x y z"]:
        """Return the volume."""
        context = self.context_head(reading.context.flatten(0, 1)).unflatten(0, reading.context.shape[:2])
        rows = reading.class_logits.shape[-2] // context.shape[-2]
        classes = reduce(reading.class_logits.softmax(dim=2), "batch view c (h row) w -> batch view c h w", "mean", row=rows)
        seen = torch.cat([context, classes], dim=2)
        placed = place_all(self.centers, cameras, self.depth_bins)
        volumes = [self._lift_one(*of_sample) for of_sample in zip(seen, reading.depth_logits, placed)]
        return torch.stack(volumes) + self.height_embedding[:, None, None, :]

    def _lift_one(self, context: Tensor, depth_logits: Tensor, placed: list[tuple[Tensor, Tensor]]) -> Tensor:
        density = depth_logits.softmax(dim=1)
        # The surface lies behind bin i: one minus the distribution up to and including it
        distribution = torch.stack([density * self.depth_bins.count, 1 - density.cumsum(dim=1)], dim=1)
        cells_of_all = torch.cat([cells for cells, _ in placed])
        # Not `bincount`, which asks a GPU for the largest first
        num_views = torch.zeros(len(self.centers), dtype=torch.int64, device=context.device)
        num_views = num_views.index_add_(0, cells_of_all, torch.ones_like(cells_of_all))
        share = 1 / num_views.clamp(min=1).to(context.dtype)
        volume = context.new_zeros(len(self.centers), self.out_channels)
        for view, (cells, position) in enumerate(placed):
            feature = sample_map(context[view], position[:, :2])
            geometry = sample_map(distribution[view], position)
            said = self.mix(torch.cat([feature, feature * geometry[:, :1], geometry], dim=-1))
            volume = volume.index_add(0, cells, said * share[cells, None])
        return volume.T.unflatten(1, self.grid.shape)
