"""What rays meet of a set of Gaussians, found before there is anything to composite."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_met import find_met, keep
from splattingocc.kernels.gaussian_scene import RayBundle, RayHits, SceneIndex


@dataclass(frozen=True)
class Walk:
    """The walk of the rays of one sample through its Gaussians."""

    rays: Rays
    """(ray)"""
    near: float
    far: float
    index: SceneIndex
    met: Int64[Tensor, " met"]
    """Those Gaussians of the index that any ray composites, in its order."""
    hits: RayHits
    """Those of each ray, by the index's numbers."""

    @classmethod
    def through(cls, index: SceneIndex, grid: VoxelGrid, rays: Rays, *, near: float, far: float) -> Walk:
        """Walk along unbatched rays; neither the features of the Gaussians nor labels are looked at."""
        no_labels = torch.full_like(rays.origins[:, 0], torch.nan)
        bundle = RayBundle(rays.origins, rays.directions, no_labels, near, far, margin=0.0)
        are_met, hits = find_met(index, bundle, grid)
        return cls(rays, near, far, index, are_met.nonzero().squeeze(1), hits)

    def met_ids(self) -> Int64[Tensor, " met"]:
        """Return which Gaussians the rays meet, in the order of the index: their places in the order of those that it was made of.

        A rendering along the rays is the same without all the others, and has no gradient to them.
        """
        return self.index.ids[self.met].long()

    def keep_met(self, ids: Int64[Tensor, " met"]) -> Walk:
        """Return the same walk through the Gaussians that were met alone, whose places are now `ids`, in the order of `met_ids`."""
        index, hits = keep(self.index, self.hits, self.met, ids)
        return dataclasses.replace(self, index=index, met=torch.arange(len(ids), device=ids.device), hits=hits)


def are_along(walks: Sequence[Walk], rays: Rays, *, near: float, far: float) -> bool:
    """Return whether walks of the samples of a batch (or of one) are along these very rays."""
    origins, directions = ([tensor] if tensor.ndim == 2 else tensor.flatten(0, -3) for tensor in (rays.origins, rays.directions))
    return len(walks) == len(origins) and all(
        torch.equal(walk.rays.origins, start) and torch.equal(walk.rays.directions, direction) and (walk.near, walk.far) == (near, far)
        for walk, start, direction in zip(walks, origins, directions)
    )
