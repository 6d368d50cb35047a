"""The image branch's class at labelled pixels."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import ImageInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared
from splattingocc.losses.pixels import mean_pixel_nll


class PixelClassesConfig(LossConfig):
    """Cross-entropy of the image branch's class at labelled pixels."""

    # The pixel is where the labelled point is seen, and a point needs a distance
    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"class", "distance"})
    needs_volume: ClassVar[bool] = False

    weight: LossWeight = 0.5

    def build(self, shared: Shared) -> PixelClassesLoss:
        return PixelClassesLoss()


class PixelClassesLoss(Loss):
    """Ask the class distribution for the label's class."""

    def forward(self, inputs: ImageInputs) -> Float[Tensor, " batch"]:
        pixels = inputs.pixels
        return mean_pixel_nll(inputs.reading.class_logits.flatten(0, 1), pixels, pixels.semantics)
