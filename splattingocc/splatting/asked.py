"""What a training step asks of a field, so that a head need not predict the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.rays import Rays


@dataclass(frozen=True)
class Asked:
    """The rays that a field will be rendered along, and the points where it will be asked; nothing else of it but its mean opacity."""

    rays: Rays
    """(batch, ray)"""
    near: float
    """Metres from the ray's origin before which nothing is rendered."""
    far: float
    """Metres from the ray's origin behind which nothing is rendered."""
    points: Sequence[Float[Tensor, "_ 3"]]
    """Of each sample, however many it has."""
