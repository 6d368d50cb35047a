"""Rays and the 2D labels that live on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from splattingocc.geometry.transforms import transform_directions, transform_points
from splattingocc.struct import Struct
from splattingocc.taxonomy import GROUND_CLASSES, IGNORE

UNIT_TOLERANCE = 1e-3
"""Largest |norm² − 1| of a direction that passes as normalised."""
SHALLOWEST_DESCENT = 1e-6
"""Metres for each metre along a ray; one that descends less is never above the ground it meets."""
GROUND_BAND = 1.0
"""Metres from the height of the ego frame's origin, which is on the ground, within which a surface of unknown class may be ground."""


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


def are_proper(rays: Rays) -> Bool[Tensor, ""]:
    """Say whether all rays are finite and have directions of unit length, without waiting for a GPU."""
    return rays.origins.isfinite().all() & ((rays.directions.square().sum(-1) - 1).abs() <= UNIT_TOLERANCE).all()


def check_rays(rays: Rays) -> None:
    """Raise `ValueError` for rays that are not `are_proper`, naming what is wrong."""
    if not are_proper(rays):
        what = "origins: must be finite" if not rays.origins.isfinite().all() else "directions: must have unit length"
        raise ValueError(f"rays.{what}")


@dataclass(frozen=True)
class RayLabels(Struct):
    """What is known about each ray from 2D labels."""

    semantics: Int64[Tensor, "*batch ray"]
    """Class index, or SKY, or IGNORE (`splattingocc.taxonomy`)."""
    distances: Float[Tensor, "*batch ray"]
    """Metres along the ray to the labelled surface (not z-depth); nan where none is known."""
    weights: Float[Tensor, "*batch ray"]
    """Share in the loss; 0 marks padding."""
    is_own: Bool[Tensor, "*batch ray"] = None  # type: ignore[assignment]
    """Whether the key frame itself has the label, rather than another one of its scene; all are its own where not given."""

    def __post_init__(self) -> None:
        if self.is_own is None:
            object.__setattr__(self, "is_own", torch.ones_like(self.weights, dtype=torch.bool))


def free_distances(rays: Rays, labels: RayLabels, *, margin: float, ground_clearance: float) -> Float[Tensor, "*batch ray"]:
    """Return up to which distance the cells on the way to each label are surely free, metres; 0 where none are, nan without a distance.

    It ends `margin` metres before the label. Where that is ground it also ends where the ray is `ground_clearance` metres above the label:
    a ray that meets the ground at a low angle crosses for metres the cells that the ground fills, and says nothing against them. A label of
    unknown class counts as ground within GROUND_BAND of the ego frame's.
    """
    descent = (-rays.directions[..., 2]).clamp(min=SHALLOWEST_DESCENT)
    is_ground = torch.stack([labels.semantics == ground for ground in GROUND_CLASSES]).any(dim=0)
    heights = rays.origins[..., 2] + labels.distances * rays.directions[..., 2]
    is_ground |= (labels.semantics == IGNORE) & (heights.abs() < GROUND_BAND)
    before = torch.where(is_ground, (ground_clearance / descent).clamp(min=margin), margin)
    return (labels.distances - before).clamp(min=0)
