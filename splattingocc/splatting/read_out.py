"""Read Gaussians out as an occupancy grid, without gradients. `splatting/reference.py` says what is computed."""

from __future__ import annotations

import torch

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_read_out import read_cells
from splattingocc.kernels.gaussian_scene import index_gaussians
from splattingocc.splatting.field import Occupancy
from splattingocc.splatting.gaussians import Gaussians


def cell_variance(grid: VoxelGrid) -> float:
    """Variance in m², along any axis, of a point spread evenly over a cell."""
    return grid.cell_size**2 / 12


@torch.no_grad()
def read_out(gaussians: Gaussians, grid: VoxelGrid, *, threshold: float, widen_by_cell: bool = True) -> Occupancy:
    """Turn one (unbatched) set of Gaussians into the occupancy of a grid; features are class probabilities.

    The probability of a cell is 1 − Π(1 − p·exp(−½ d²)), d the Mahalanobis distance of its centre, over the Gaussians above 1/255 there
    that have their own centre inside the grid; its class is the strongest of their weighted features, free below `threshold`. With
    `widen_by_cell` each covariance is widened by that of the cell itself, Σ + c²/12·I, and the peak is kept: a thin wall away from the
    middle of its cell still fills it. Without, such a cell would read as free. Raises `ValueError` naming the field that is wrong.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: must be in (0, 1], got {threshold}; at 0 every cell of the grid would be occupied")
    if gaussians.means.ndim != 2:
        raise ValueError(f"gaussians.means: shape is {tuple(gaussians.means.shape)}, read-out takes one set, expected (gaussian, 3)")
    if gaussians.features.dtype != torch.float32 or not gaussians.features.isfinite().all():
        raise ValueError(f"gaussians.features: must be finite torch.float32, dtype is {gaussians.features.dtype}")
    index = index_gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, grid)
    variance = cell_variance(grid) if widen_by_cell else 0.0
    probabilities, classes = read_cells(index, gaussians.features, grid, variance)
    free = gaussians.features.shape[-1]
    semantics = torch.where(probabilities >= threshold, classes, torch.full_like(classes, free))
    return Occupancy(probabilities, semantics)
