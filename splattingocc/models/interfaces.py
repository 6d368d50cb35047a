"""What the parts of a network promise each other. Which part is which is said in `models/parts.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor, nn

from splattingocc.geometry.cameras import Cameras
from splattingocc.models.backbones.weights import LoadedWeights
from splattingocc.models.evidence import Evidence
from splattingocc.models.image_reader import ImageReading
from splattingocc.splatting.asked import Asked
from splattingocc.splatting.field import Field
from splattingocc.splatting.walk import Walk
from splattingocc.struct import Struct


class Part(nn.Module):
    """A part of a network."""

    def stages(self) -> Iterable[nn.Module]:
        """Return what is run again, one after the other, where the backward pass computes activations again.

        The part as a whole by default. Stages that follow each other need less memory: the largest is what is in memory at a time.
        """
        return [self]


class Backbone(Part):
    """Encode images. Built from its configuration alone."""

    out_channels: Sequence[int]
    """Widths of the results."""
    loaded: LoadedWeights | None = None
    """What it started from, where that was not random."""

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        """Encode RGB images in [0, 1]; the results are features at 1/4, 1/8, 1/16 and 1/32 of their size, in this order."""
        raise NotImplementedError


class Neck(nn.Module):
    """Bring a backbone's results together. Built from its configuration and their widths."""

    out_channels: int
    """Width of the result."""

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "image channel height width"]:
        """Return one map of features for each image."""
        raise NotImplementedError


class Lift(nn.Module):
    """Turn what was read off the images into a volume. Built from its configuration, the width of the image features, the number of
    classes, the bins of the depth distributions and the grid.

    The configuration has a field `coarsening`: how many cells of that grid a cell of the volume is long.
    """

    out_channels: int
    """Width of the volume."""

    def forward(self, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "batch channel x y z"]:
        """Return the volume around the cameras (batch, view). No cell lies before a camera that is nowhere."""
        raise NotImplementedError


class VolumeEncoder(Part):
    """Think in 3D. Built from its configuration and the width of the volume."""

    out_channels: int
    """Width of the result."""

    def forward(self, volume: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch out_channel x y z"]:
        """Return a volume of the same resolution."""
        raise NotImplementedError


@dataclass(frozen=True)
class ChosenCells(Struct):
    """The cells that a step needs."""

    cells: Int64[Tensor, "batch chosen"]
    """Rows of the head's `centers`, in ascending order."""
    walks: tuple[Walk, ...] | None = None
    """What each sample's rays meet in them, where the head knows."""


class Head(Part):
    """Turn a volume into a field. Built from its configuration, the width of the volume, the grid and how much coarser the volume is.

    The configuration has a field `num_classes`.
    """

    centers: Tensor
    """(cell, 3): where the evidence is asked for, metres in the ego frame."""
    chooses_cells: bool = False
    """Whether it can predict those cells alone that a training step asks for: it has `choose`, and `forward` takes what that returns,
    with the evidence of the surface in all cells and of the classes in the chosen ones."""

    def forward(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence) -> Field:
        """Predict the field of a volume, starting from what the images alone say of each cell."""
        raise NotImplementedError

    def choose(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence, asked: Asked) -> ChosenCells:
        """Return cells: without all others, what is asked has the same answers and gradients.

        The evidence has the surface of all cells, and no classes.
        """
        raise NotImplementedError
