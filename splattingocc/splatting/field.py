"""What a network predicts, whatever it is made of: it can be rendered along rays, read out as a grid, and asked at points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.struct import Struct
from splattingocc.taxonomy import FREE, GROUND_CLASSES


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
    """Σ w of what is met more than the margin before the label distance; None without label distances, 0 where the label is nan."""
    at_hit: Float[Tensor, "*batch ray"] | None = None
    """Σ w of what is met within the margin of the label distance; None without label distances, 0 where the label is nan."""
    distortion: Float[Tensor, "*batch ray"] | None = None
    """How far the weights are spread along the ray, Σᵢⱼ wᵢ wⱼ |tᵢ − tⱼ| + ⅓ Σ wᵢ² Δ in metres; None where a field does not say. Source:
    Barron et al. 2022 (Mip-NeRF 360)."""


@dataclass(frozen=True)
class Occupancy(Struct):
    """What fills each cell of a grid."""

    probabilities: Float[Tensor, "x y z"]
    """That the cell is not free."""
    semantics: UInt8[Tensor, "x y z"]
    """Class index; the number of classes means free (17 of Occ3D's 0..16)."""


@dataclass(frozen=True)
class OccupancyThreshold:
    """From which probability on, in (0, 1], a cell is occupied, by what its class would be."""

    ground: float
    """Of cells whose class is one of GROUND_CLASSES."""
    others: float

    @classmethod
    def of_all(cls, threshold: float) -> OccupancyThreshold:
        """Return the same threshold for every class."""
        return cls(threshold, threshold)

    @property
    def is_of_all(self) -> bool:
        """Say whether every class has the same."""
        return self.ground == self.others

    @property
    def lowest(self) -> float:
        """Below it every cell is free."""
        return min(self.ground, self.others)

    def __str__(self) -> str:
        return f"{self.others:.4g}" if self.is_of_all else f"{self.others:.4g} (ground {self.ground:.4g})"

    def read_out(self, field: Field, grid: VoxelGrid) -> Occupancy:
        """Turn an unbatched field, whose features are probabilities of Occ3D's classes, into the occupancy of a grid; without gradients."""
        occupancy = field.read_out(grid, threshold=self.lowest)
        return occupancy if self.is_of_all else self.applied_to(occupancy)

    def applied_to(self, occupancy: Occupancy) -> Occupancy:
        """Return an occupancy that was read out by a threshold not above these, by these."""
        probabilities, classes = occupancy.probabilities, occupancy.semantics
        is_ground = torch.stack([classes == ground for ground in GROUND_CLASSES]).any(dim=0)
        filled = torch.where(is_ground, self.ground, self.others) <= probabilities
        return Occupancy(probabilities, torch.where(filled, classes, torch.full_like(classes, FREE)))


@dataclass(frozen=True)
class PointResponses(Struct):
    """What a field says at points."""

    opacities: Float[Tensor, " point"]
    """How opaque it is there, in [0, 1]."""
    features: Float[Tensor, "point channel"]
    valid: Bool[Tensor, " point"]
    """False where it says nothing: outside of its grid, or where nothing answers for the place."""


class Field(Struct):
    """Opacity and class probabilities all over a grid: what heads return, and all that losses, read-out and pictures know of it.

    Leading axes of its tensors are batches. A subclass is a frozen dataclass of tensors.
    """

    grid: VoxelGrid
    """Where there is something to see."""
    opacities: Float[Tensor, "*batch element"]
    """How opaque each of its elements is, in [0, 1]."""

    @property
    def mean_opacity(self) -> Float[Tensor, "*batch"]:
        """Return the mean over all elements that there are: of this, what is assumed of all space is asked."""
        return self.opacities.mean(dim=-1)

    def render(
        self,
        rays: Rays,
        *,
        near: float,
        far: float,
        label_distances: Float[Tensor, "*batch ray"] | None = None,
        margin: float = 0.4,
    ) -> Rendering:
        """Composite what each ray meets between `near` and `far` metres, front to back, differentiably.

        `label_distances` (nan where there is none) asks for `in_front` and `at_hit`, within `margin` metres.
        """
        raise NotImplementedError

    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        """Turn an unbatched field, whose features are class probabilities, into the occupancy of any grid; without gradients."""
        raise NotImplementedError

    def query(self, points: Float[Tensor, "point 3"]) -> PointResponses:
        """Say what an unbatched field is at points, differentiably and so that a run repeats."""
        raise NotImplementedError
