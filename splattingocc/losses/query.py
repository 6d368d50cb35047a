"""Asking the Gaussians directly, at points of which a label says what is there.

A rendered loss reaches a Gaussian only through everything in front of it: in the fog of an untrained volume the surface gets next to
no gradient. The same 2D label also says that its end point is occupied, by its class, and that the way there is free; asking the field at
such points trains surfaces from the first step (compare QueryOcc, where queries beat rendering on the same labels).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import rotation_from_quat
from splattingocc.losses.gather import gather_rows
from splattingocc.splatting.gaussians import Gaussians

EPSILON = 1e-2
"""Response below which a hit's loss stops growing, and above one minus which a free point's does."""
GOLDEN_RATIO = 0.6180339887
"""Its multiples, modulo one, fill the unit interval evenly; they place the free points without a random generator to resume."""


def free_points(rays: Rays, distances: Float[Tensor, "*batch ray"], *, margin: float, count: int) -> Float[Tensor, "*batch ray sample 3"]:
    """Return `count` points on each ray up to `margin` before its label distance, evenly spread over the rays of a batch."""
    device = distances.device
    start = torch.arange(distances.shape[-1], device=device) * GOLDEN_RATIO
    shares = ((start[:, None] % 1) + torch.arange(count, device=device)) / count
    reach = (distances - margin).clamp(min=0)
    return rays.origins[..., None, :] + (shares * reach[..., None])[..., None] * rays.directions[..., None, :]


def gaussian_of_cell(gaussians: Gaussians) -> Int64[Tensor, " cell"]:
    """Return the index of the Gaussian in each cell of the grid (of an unbatched set), −1 where there is none; the last of several."""
    grid = gaussians.grid
    cells, inside = grid.cells_of(gaussians.means.detach())
    flat = (cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]
    table = torch.full((grid.num_cells,), -1, dtype=torch.int64, device=flat.device)
    table[flat[inside]] = inside.nonzero().squeeze(1)
    return table


def query(
    gaussians: Gaussians, table: Int64[Tensor, " cell"], points: Float[Tensor, "point 3"]
) -> tuple[Float[Tensor, " point"], Float[Tensor, "point channel"], Bool[Tensor, " point"]]:
    """Return the response p·exp(−½ d²) and the features of the Gaussian in each point's own cell.

    The third result is False for points outside the grid or in a cell without a Gaussian.
    """
    grid = gaussians.grid
    cells, inside = grid.cells_of(points)
    index = table[(cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]]
    valid = inside & (index >= 0)
    index = index.clamp(min=0)
    offsets = (points - gather_rows(gaussians.means, index))[:, None, :] @ rotation_from_quat(gather_rows(gaussians.quats, index))
    squared = (offsets.squeeze(1) / gather_rows(gaussians.scales, index)).square().sum(dim=-1)
    opacities = gather_rows(gaussians.opacities[:, None], index).squeeze(1)
    return opacities * torch.exp(-0.5 * squared), gather_rows(gaussians.features, index), valid


def hit_cost(responses: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """Ask for a response where a label ends."""
    return -(responses + EPSILON).log()


def free_cost(responses: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """Ask for none on the way there."""
    return -(1 + EPSILON - responses).log()
