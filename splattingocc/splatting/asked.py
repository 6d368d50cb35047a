"""What a training step asks of a field, so that a head need not predict the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.gaussian_met import find_met
from splattingocc.kernels.gaussian_scene import RayBundle, index_gaussians
from splattingocc.splatting.gaussians import Gaussians


@dataclass(frozen=True)
class Asked:
    """The rays that a field will be rendered along, and the points where it will be asked; nothing else of it but its mean opacity."""

    rays: Rays
    """(batch, ray)"""
    near: float
    """Metres from the ray's origin before which nothing is rendered."""
    far: float
    """Metres from the ray's origin behind which nothing is rendered."""
    points: Sequence[Float[Tensor, "point 3"]]
    """Of each sample."""


@torch.no_grad()
def met_along(gaussians: Gaussians, rays: Rays, *, near: float, far: float) -> Bool[Tensor, " gaussian"]:
    """Return which Gaussians of an unbatched set a rendering along the rays is made of; their features are not looked at.

    It is the same without all the others, and has no gradient to them.
    """
    index = index_gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.grid)
    labels = torch.full_like(rays.origins[:, 0], torch.nan)
    met = torch.zeros(len(gaussians.means), dtype=torch.bool, device=gaussians.means.device)
    met[index.ids.long()] = find_met(index, RayBundle(rays.origins, rays.directions, labels, near, far, margin=0.0), gaussians.grid)
    return met
