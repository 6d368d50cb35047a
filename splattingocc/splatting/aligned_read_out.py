"""Read Gaussians that stay in their cells out as a grid, in plain torch: what leaves with a network for runtimes without our kernels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from splattingocc.geometry.transforms import rotation_from_quat
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.splatting.gather import sum_rows
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.read_out import cell_variance

STEPS_AT_ONCE = 32
"""Neighbours of every Gaussian that are looked at together: what is in memory for a moment are this many numbers for each of them."""


class AlignedReadOut(nn.Module):
    """Return what `splattingocc.splatting.read_out.read_out` does, within float32 rounding, of one Gaussian in each cell.

    Only as many neighbours of a cell are looked at as its Gaussian can reach: `reach` says how many cells that is along an axis. Whether
    an alpha counts that is MIN_ALPHA but for rounding, the two decide differently; a probability then differs by at most 1/255.
    """

    cells: Tensor
    steps: Tensor
    strides: Tensor
    centers: Tensor

    def __init__(
        self, grid: VoxelGrid, centers: Float[Tensor, "cell 3"], *, threshold: float, largest_scale: float, offset: float, peak: float
    ) -> None:
        """Gaussian i belongs to the cell at `centers[i]`: it is at most `offset` cells from there along each axis, at most `largest_scale`
        metres wide, and at most as opaque as `peak`.
        """
        super().__init__()
        self.grid, self.threshold, self.variance = grid, threshold, cell_variance(grid)
        steps = reached_steps(grid.cell_size, radius_of(largest_scale, peak, self.variance), offset)
        self.reach = int(steps.max())
        # Around the grid lie as many cells more, so that no neighbour is missing; they are cut off in the end
        self._framed = [count + 2 * self.reach for count in grid.shape]
        _, y, z = self._framed
        strides = torch.tensor([y * z, z, 1])
        indices, inside = grid.cells_of(centers)
        assert bool(inside.all()), "centers are cells of the grid"
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("cells", ((indices.cpu() + self.reach) * strides).sum(dim=1).to(centers.device), persistent=False)
        self.register_buffer("steps", (steps * grid.cell_size).to(centers), persistent=False)
        self.register_buffer("strides", (steps * strides).sum(dim=1).to(centers.device), persistent=False)

    def forward(self, gaussians: Gaussians) -> tuple[Float[Tensor, "x y z"], UInt8[Tensor, "x y z"]]:
        """Return the probability and the class of each cell, of unbatched Gaussians."""
        seen = (gaussians.opacities >= MIN_ALPHA).nonzero().squeeze(1)
        targets, sources, alphas = self._responses(gaussians, seen)
        num_framed = math.prod(self._framed)
        log_free = sum_rows(torch.log(1 - alphas), targets, num_framed)
        probabilities = 1 - torch.exp(log_free)
        # A class is asked for where something is
        occupied = (probabilities[targets] >= self.threshold).nonzero().squeeze(1)
        said = gaussians.features[sources[occupied]] * alphas[occupied, None]
        scores = sum_rows(said, targets[occupied], num_framed)
        classes = torch.where(probabilities >= self.threshold, scores.argmax(dim=1), scores.shape[1])
        return self._cut(probabilities), self._cut(classes).to(torch.uint8)

    def _responses(
        self, gaussians: Gaussians, seen: Int64[Tensor, " seen"]
    ) -> tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"], Float[Tensor, " pair"]]:
        """Return which cell meets which Gaussian, and with what alpha, for all pairs that count."""
        rotation, scales = rotation_from_quat(gaussians.quats[seen]), gaussians.scales[seen]
        whitening = rotation.mT / (scales.square() + self.variance).sqrt()[:, :, None]
        mean = (whitening @ (gaussians.means[seen] - self.centers[seen])[:, :, None]).squeeze(2)
        opacities, cells = gaussians.opacities[seen], self.cells[seen]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for steps, strides in zip(self.steps.split(STEPS_AT_ONCE), self.strides.split(STEPS_AT_ONCE)):
            # Axis by axis: all three at once would take three times the memory
            squared = torch.zeros((), device=steps.device)
            for axis in range(3):
                squared = squared + (whitening[:, axis] @ steps.T - mean[:, axis, None]).square()
            alphas = opacities[:, None] * torch.exp(-0.5 * squared)
            place, step = (alphas >= MIN_ALPHA).nonzero().unbind(dim=1)
            found.append((cells[place] + strides[step], seen[place], alphas[place, step]))
        targets, sources, alphas = (torch.cat(parts) for parts in zip(*found))
        return targets, sources, alphas

    def _cut(self, values: Tensor) -> Tensor:
        whole, reach = values.reshape(self._framed), self.reach
        x, y, z = self.grid.shape
        return whole[reach : reach + x, reach : reach + y, reach : reach + z]


def radius_of(scale: float, peak: float, variance: float) -> float:
    """Return how far from its mean a Gaussian can count, metres, with a variance in m² added to that of its largest scale."""
    return math.sqrt((scale**2 + variance) * 2 * math.log(max(peak / MIN_ALPHA, 1.0)))


def reached_steps(cell_size: float, radius: float, offset: float) -> Int64[Tensor, "step 3"]:
    """Return the steps from a cell to all whose centres can lie within a radius of a point at most `offset` cells from its centre."""
    reach = max(1, math.ceil(radius / cell_size + offset))
    axis = torch.arange(-reach, reach + 1)
    steps = torch.cartesian_prod(axis, axis, axis)
    nearest = (steps.abs() - offset).clamp(min=0) * cell_size
    steps = steps[nearest.square().sum(dim=1) <= (radius * 1.0001) ** 2]
    return steps
