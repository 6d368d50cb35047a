"""Regular grids of cubic cells in the ego frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import model_validator
from torch import Tensor

from splattingocc.config import Config, Coordinate, Metres
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import beside

MOST_CELLS = 2**26
"""Of a grid that is trained: 100 times Occ3D's. More would not fit into any device, and indices of cells are 32 bits wide."""


@dataclass(frozen=True)
class VoxelGrid:
    """An axis-aligned box cut into cubes; arrays over it have the axis order x, y, z."""

    lower: tuple[float, float, float]
    """Metres."""
    upper: tuple[float, float, float]
    """Metres; a whole number of cells above `lower`."""
    cell_size: float
    """Metres."""

    def __post_init__(self) -> None:
        for low, high in zip(self.lower, self.upper):
            cells = (high - low) / self.cell_size
            if cells < 0.5 or abs(cells - round(cells)) > 1e-4:
                raise ValueError(f"voxel grid: {low}..{high} m is not a whole number of {self.cell_size} m cells")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of cells along x, y, z."""
        x, y, z = (round((high - low) / self.cell_size) for low, high in zip(self.lower, self.upper))
        return x, y, z

    @property
    def num_cells(self) -> int:
        x, y, z = self.shape
        return x * y * z

    def centers(self, device: torch.device | str | None = None) -> Float[Tensor, "x y z 3"]:
        """Return the cell centres in metres."""
        axes = [
            low + (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * self.cell_size
            for low, count in zip(self.lower, self.shape)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def cells_of(self, points: Float[Tensor, "*batch 3"]) -> tuple[Int64[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
        """Return the (x, y, z) cell of each point and whether it lies inside, which no nan does; cells of points outside are clamped."""
        cells = ((points - beside(self.lower, points)) / self.cell_size).floor().long()
        shape = beside(self.shape, cells)
        # What a nan becomes as a whole number is up to the processor
        inside = ((cells >= 0) & (cells < shape) & points.isfinite()).all(dim=-1)
        return cells.clamp(min=torch.zeros_like(shape), max=shape - 1), inside

    def exit_distances(self, rays: Rays) -> Float[Tensor, "*batch"]:
        """Return where each ray leaves the box for good, metres along it; −inf of a ray that never is inside."""
        origins, directions = rays.origins, rays.directions
        to_lower, to_upper = beside(self.lower, origins) - origins, beside(self.upper, origins) - origins
        is_parallel = directions == 0
        slopes = directions.where(~is_parallel, torch.ones_like(directions))
        ways = torch.stack([to_lower / slopes, to_upper / slopes])
        never = is_parallel & ((to_lower > 0) | (to_upper < 0))
        first = ways.amin(dim=0).masked_fill(is_parallel, -math.inf).masked_fill(never, math.inf).amax(dim=-1)
        last = ways.amax(dim=0).masked_fill(is_parallel, math.inf).amin(dim=-1)
        return last.masked_fill((first > last) | (last < 0), -math.inf)

    def coarsen(self, factor: int) -> VoxelGrid:
        """Return the grid over the same box whose cells are `factor` times larger."""
        return VoxelGrid(self.lower, self.upper, self.cell_size * factor)


class GridConfig(Config):
    """The box around the vehicle, and the cells it is cut into. The default is Occ3D-nuScenes'."""

    lower: tuple[Coordinate, Coordinate, Coordinate] = (-40.0, -40.0, -1.0)
    """Smallest x (forward), y (left) and z (up), metres in the ego frame."""
    upper: tuple[Coordinate, Coordinate, Coordinate] = (40.0, 40.0, 5.4)
    """Largest ones: whole numbers of cells above the smallest."""
    cell_size: Metres = 0.4
    """Edge of a cell, metres. The scales of Gaussians, and the margins of losses and calibration, are for cells of 0.4 m."""

    @model_validator(mode="after")
    def _check(self) -> GridConfig:
        sizes = [high - low for low, high in zip(self.lower, self.upper)]
        if min(sizes) <= 0:
            raise ValueError(f"grid.upper is {self.upper}, expected more than grid.lower, {self.lower}, along each axis")
        voxels = self.voxels
        if voxels.num_cells > MOST_CELLS:
            shape = " × ".join(map(str, voxels.shape))
            raise ValueError(f"grid.cell_size is {self.cell_size} m, which makes {shape} cells; expected at most {MOST_CELLS:,} in all")
        return self

    @property
    def voxels(self) -> VoxelGrid:
        return VoxelGrid(self.lower, self.upper, self.cell_size)


OCC3D_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), upper=(40.0, 40.0, 5.4), cell_size=0.4)
"""The 200 × 200 × 16 grid of Occ3D-nuScenes."""
