"""From a volume to a density, as NeRF-based occupancy methods have it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.cell_head import CellHead, CellHeadConfig
from splattingocc.models.evidence import Evidence
from splattingocc.splatting.density import DensityVolume


class DensityHeadConfig(CellHeadConfig):
    """A density and class probabilities in each cell, interpolated and rendered by sampling along rays."""

    kind: Literal["density"] = "density"
    sample_step: Annotated[float, Field(ge=0.01, le=10)] = 0.2
    """Metres between samples along a ray."""


class DensityHead(CellHead):
    """Predict how opaque each cell is to a ray that crosses it along an axis, and from that its density."""

    def __init__(self, config: DensityHeadConfig, in_channels: int, grid: VoxelGrid, coarsening: int) -> None:
        super().__init__(config, in_channels, grid, coarsening, torch.zeros(0))
        self.config = config

    def forward(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence) -> DensityVolume:
        """Predict the density of a volume."""
        opacities, features, _ = self.of_cells(volume, evidence)
        x, y, z = volume.shape[-3:]
        factor = self.coarsening
        densities = rearrange(
            -torch.log1p(-opacities) / self.grid.cell_size,
            "b (x y z fx fy fz) -> b (x fx) (y fy) (z fz)", x=x, y=y, z=z, fx=factor, fy=factor, fz=factor,
        )  # fmt: skip
        features = rearrange(features, "b (x y z fx fy fz) c -> b (x fx) (y fy) (z fz) c", x=x, y=y, z=z, fx=factor, fy=factor, fz=factor)
        return DensityVolume(densities, features, self.grid, self.config.sample_step)
