"""Losses on what the image branch says of single pixels."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.losses.gather import gather_rows
from splattingocc.struct import Struct


@dataclass(frozen=True)
class PixelLabels(Struct):
    """Labelled points, each in the image of the camera that its ray starts from."""

    images: Int64[Tensor, " point"]
    """Position of the image in the batch of images."""
    positions: Float[Tensor, "point 2"]
    """(u, v) in [0, 1] of the image's width and height."""
    depths: Float[Tensor, " point"]
    """z-depth, metres."""
    semantics: Int64[Tensor, " point"]
    weights: Float[Tensor, " point"]


def pixel_nll(
    logits: Float[Tensor, "image channel height width"], pixels: PixelLabels, targets: Int64[Tensor, " point"]
) -> Float[Tensor, " point"]:
    """Return the negative log-likelihood of each point's target at the feature pixel that holds it; 0 where the target is no channel."""
    channels, height, width = logits.shape[-3:]
    columns = (pixels.positions[:, 0] * width).long().clamp(0, width - 1)
    rows = (pixels.positions[:, 1] * height).long().clamp(0, height - 1)
    known = targets < channels
    of_points = gather_rows(logits.movedim(1, -1).flatten(0, 2), (pixels.images * height + rows) * width + columns)
    nll = functional.cross_entropy(of_points, targets.where(known, 0), reduction="none")
    return nll * known
