"""Rays and the 2D labels that live on them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.geometry.transforms import transform_directions, transform_points
from splattingocc.struct import Struct


@dataclass(frozen=True)
class Rays(Struct):
    """Half lines in the ego frame of the key frame, in metres; `directions` have unit length."""

    origins: Float[Tensor, "*batch ray 3"]
    directions: Float[Tensor, "*batch ray 3"]

    def at(self, distances: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch ray 3"]:
        """Return the points `distances` metres along the rays."""
        return self.origins + distances[..., None] * self.directions

    def transform(self, dst_from_ego: Float[Tensor, "*batch 4 4"]) -> Rays:
        """Express the rays in another frame. An orthogonal transform, reflections included, keeps distances along the ray."""
        return Rays(transform_points(dst_from_ego, self.origins), transform_directions(dst_from_ego, self.directions))


@dataclass(frozen=True)
class RayLabels(Struct):
    """What is known about each ray from 2D labels."""

    semantics: Int64[Tensor, "*batch ray"]
    """Class index, or SKY, or IGNORE (`splattingocc.taxonomy`)."""
    distances: Float[Tensor, "*batch ray"]
    """Metres along the ray to the labelled surface (not z-depth); nan where none is known."""
    weights: Float[Tensor, "*batch ray"]
    """Share in the loss; 0 marks padding."""
