"""A density volume: the field of NeRF-based occupancy methods, rendered by sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

from splattingocc.geometry.rays import Rays, check_rays
from splattingocc.geometry.transforms import beside
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.field import Field, Occupancy, PointResponses, Rendering
from splattingocc.splatting.nerf import render_nerf
from splattingocc.struct import stack

SAMPLED_AT_ONCE = 2**24
"""Numbers that are sampled at once, 64 MB of them; gradients recompute each part instead of keeping it."""


@dataclass(frozen=True)
class DensityVolume(Field):
    """Density and features at the cell centres of a grid, trilinear between them."""

    densities: Float[Tensor, "*batch x y z"]
    """Per metre, not negative."""
    features: Float[Tensor, "*batch x y z channel"]
    grid: VoxelGrid
    sample_step: float
    """Metres between samples along a ray."""

    @property
    def opacities(self) -> Float[Tensor, "*batch cell"]:
        """What a ray that crosses a cell along an axis loses in it: 1 − exp(−σ c)."""
        return -torch.expm1(-self.densities * self.grid.cell_size).flatten(-3)

    def render(
        self,
        rays: Rays,
        *,
        near: float,
        far: float,
        label_distances: Float[Tensor, "*batch ray"] | None = None,
        margin: float = 0.4,
    ) -> Rendering:
        """Sample each ray, as `splatting.nerf.render_nerf` does, a part of the rays at a time. `ValueError` for rays that are none."""
        if self.densities.ndim > 3:
            return stack(
                [
                    self[i].render(
                        rays[i], near=near, far=far, label_distances=None if label_distances is None else label_distances[i], margin=margin
                    )
                    for i in range(len(self.densities))
                ]
            )
        check_rays(rays)
        num_samples = max(1, math.ceil((far - near) / self.sample_step))
        at_once = max(1, SAMPLED_AT_ONCE // (num_samples * (self.features.shape[-1] + 1)))
        options = {"near": near, "far": far, "num_samples": num_samples, "margin": margin}
        parts = []
        for start in range(0, max(1, len(rays.origins)), at_once):
            part = slice(start, start + at_once)
            labels = None if label_distances is None else label_distances[part]
            run = partial(render_nerf, grid=self.grid, rays=rays[part], label_distances=labels, **options)
            if torch.is_grad_enabled() and (self.densities.requires_grad or self.features.requires_grad):
                parts.append(checkpoint(run, self.densities, self.features, use_reentrant=False))
            else:
                parts.append(run(self.densities, self.features))
        first = vars(parts[0])
        joined: dict[str, Any] = {name: None if first[name] is None else torch.cat([vars(part)[name] for part in parts]) for name in first}
        return Rendering(**joined)

    @torch.no_grad()
    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        """Call a cell occupied where a ray that crosses it would lose so much; `ValueError` for a threshold outside of (0, 1]."""
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold: must be in (0, 1], got {threshold}; at 0 every cell of the grid would be occupied")
        densities, features = self._at(grid.centers(self.densities.device).reshape(-1, 3))
        probabilities = -torch.expm1(-densities * grid.cell_size)
        classes = features.argmax(dim=-1)
        free = torch.full_like(classes, features.shape[-1])
        semantics = torch.where(probabilities >= threshold, classes, free).to(torch.uint8)
        return Occupancy(probabilities.reshape(grid.shape), semantics.reshape(grid.shape))

    def query(self, points: Float[Tensor, "point 3"]) -> PointResponses:
        """Return opacity over a cell's length, and features; points outside of the grid are not valid."""
        densities, features = self._at(points)
        return PointResponses(-torch.expm1(-densities * self.grid.cell_size), features, self.grid.cells_of(points)[1])

    def _at(self, points: Float[Tensor, "point 3"]) -> tuple[Float[Tensor, " point"], Float[Tensor, "point channel"]]:
        """Interpolate as the rendering does: beyond the outermost centres everything fades to nothing over a cell."""
        volume = torch.cat([self.densities[..., None], self.features], dim=-1).permute(3, 0, 1, 2)[None]
        lower, upper = beside(self.grid.lower, points), beside(self.grid.upper, points)
        positions = (2 * (points - lower) / (upper - lower) - 1).flip(-1)
        sampled = grid_sample(volume, positions[None, None, None], align_corners=False)[0, :, 0, 0].T
        return sampled[:, 0], sampled[:, 1:]
