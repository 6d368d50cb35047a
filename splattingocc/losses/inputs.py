"""What losses look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.losses.pixels import PixelLabels, label_pixels
from splattingocc.models.image_reader import ImageReading
from splattingocc.splatting.field import Field, Rendering
from splattingocc.taxonomy import SKY


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """What there is before anything is lifted: all that a loss without a volume may look at."""

    reading: ImageReading
    rays: Rays
    """(batch, ray)"""
    labels: RayLabels
    cameras: Cameras
    """Those of the newest frame, (batch, view)."""

    @cached_property
    def pixels(self) -> PixelLabels:
        """The labelled points in the images, computed once for all losses."""
        return label_pixels(self.rays, self.labels, self.cameras)


@dataclass(frozen=True, kw_only=True)
class LossInputs(ImageInputs):
    """What there is after rendering along the labelled rays."""

    field: Field
    """What the network predicts."""
    rendering: Rendering
    """Made with the label distances, so that `in_front` and `at_hit` are there."""
    near: float = 0.0
    """Metres along the rays before which nothing is at a label: where rendering begins, less half the thickness of a surface."""
    far: float = math.inf
    """Metres along the rays behind which nothing is at a label: where rendering ends, and half the thickness of a surface."""

    @cached_property
    def empty(self) -> Bool[Tensor, "*batch ray"]:
        """Rays that meet nothing on their way through the grid: those of the sky, and those that are stopped behind it only.

        So are those that are stopped where nothing is rendered any more.
        """
        distances = self.labels.distances
        is_behind = self._outside & (distances >= self.field.grid.exit_distances(self.rays))
        return (self.labels.semantics == SKY) | (is_behind & ~self._before) | (distances.isfinite() & (distances > self.far))

    @cached_property
    def stopped(self) -> Float[Tensor, "*batch ray"]:
        """Label weights of the rays that something in the grid may stop; 0 for the others.

        Of those that are stopped before the grid begins, or before anything is rendered, nothing is known of what is behind.
        """
        return self.labels.weights * ~(self.empty | self._outside | self._before)

    @cached_property
    def _outside(self) -> Bool[Tensor, "*batch ray"]:
        """Rays of which it is known that they are stopped outside of the grid."""
        distances = self.labels.distances
        known = distances.isfinite()
        _, inside = self.field.grid.cells_of(self.rays.at(distances.where(known, torch.zeros_like(distances))))
        return known & ~inside

    @cached_property
    def _before(self) -> Bool[Tensor, "*batch ray"]:
        """Rays of which it is known that they are stopped before anything is rendered."""
        return self.labels.distances < self.near

    @cached_property
    def stopped_at_distance(self) -> Float[Tensor, "*batch ray"]:
        """The same of those of which it is known where."""
        return self.stopped * self.labels.distances.isfinite()
