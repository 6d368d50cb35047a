"""The volume of 3D Gaussians that a network predicts, and what rendering makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.struct import Struct


@dataclass(frozen=True)
class Gaussians(Struct):
    """Anisotropic 3D Gaussians in the ego frame. They need not be aligned with `grid`, and a cell may hold any number of them."""

    means: Float[Tensor, "*batch gaussian 3"]
    """Centres, metres."""
    quats: Float[Tensor, "*batch gaussian 4"]
    """Unit quaternions w, x, y, z: ego from the Gaussian's own axes. Gradients flow as if the norm were one, and are not projected onto the
    unit sphere: who optimises quaternions normalises them, which projects."""
    scales: Float[Tensor, "*batch gaussian 3"]
    """Standard deviations along the own axes, metres."""
    opacities: Float[Tensor, "*batch gaussian"]
    """In [0, 1): the alpha of a ray through the centre."""
    features: Float[Tensor, "*batch gaussian channel"]
    """What is composited; class probabilities in training."""
    grid: VoxelGrid
    """Indexes the Gaussians by their centre's cell. Gaussians outside of it are not rendered."""


@dataclass(frozen=True)
class Rendering(Struct):
    """What each ray sees."""

    features: Float[Tensor, "*batch ray channel"]
    """Σ w f, not divided by alpha: what is not hit is missing."""
    distances: Float[Tensor, "*batch ray"]
    """Expected metres along the ray, Σ w t* / Σ w; 0 where nothing was hit."""
    alphas: Float[Tensor, "*batch ray"]
    """1 − T: the share of the ray that was stopped."""
    in_front: Float[Tensor, "*batch ray"] | None = None
    """Σ w of Gaussians met more than the margin before the label distance; None without label distances, 0 where the label is nan."""
    at_hit: Float[Tensor, "*batch ray"] | None = None
    """Σ w of Gaussians met within the margin of the label distance; None without label distances, 0 where the label is nan."""
