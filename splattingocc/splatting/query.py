"""What Gaussians say at a point: each answers for its own cell."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.geometry.transforms import rotation_from_quat
from splattingocc.splatting.field import PointResponses
from splattingocc.splatting.gather import gather_rows
from splattingocc.splatting.gaussians import Gaussians


def gaussian_of_cell(gaussians: Gaussians) -> Int64[Tensor, " cell"]:
    """Return the index of the Gaussian in each cell of the grid (of an unbatched set), −1 where there is none; the last of several."""
    grid = gaussians.grid
    cells, inside = grid.cells_of(gaussians.means.detach())
    flat = (cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]
    # Those outside write behind the last cell: leaving them out would make the host wait for a GPU to know how many there are
    table = torch.full((grid.num_cells + 1,), -1, dtype=torch.int64, device=flat.device)
    numbers = torch.arange(len(flat), device=flat.device)
    return table.scatter_reduce(0, flat.where(inside, grid.num_cells), numbers, "amax")[:-1]


def query(gaussians: Gaussians, points: Float[Tensor, "point 3"]) -> PointResponses:
    """Return the response p·exp(−½ d²) and the features of the Gaussian in each point's own cell, of an unbatched set.

    Points outside the grid or in a cell without a Gaussian are not valid. `ValueError` where there would be one, had it been asked for.
    """
    grid = gaussians.grid
    cells, inside = grid.cells_of(points)
    index = gaussian_of_cell(gaussians)[(cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]]
    valid = inside & (index >= 0)
    if gaussians.walks is not None and not torch.equal(valid, inside):
        raise ValueError("gaussians: are only those that a step asks for, expected points that were asked for")
    if not len(gaussians.means):
        features = gaussians.features.new_zeros(len(points), gaussians.features.shape[-1])
        return PointResponses(features.sum(dim=-1), features, valid)
    index = index.clamp(min=0)
    offsets = (points - gather_rows(gaussians.means, index))[:, None, :] @ rotation_from_quat(gather_rows(gaussians.quats, index))
    squared = (offsets.squeeze(1) / gather_rows(gaussians.scales, index)).square().sum(dim=-1)
    opacities = gather_rows(gaussians.opacities[:, None], index).squeeze(1)
    return PointResponses(opacities * torch.exp(-0.5 * squared), gather_rows(gaussians.features, index), valid)
