"""The image branch's depth at labelled pixels."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import ImageInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared
from splattingocc.losses.pixels import mean_pixel_nll
from splattingocc.models.depth import DepthBins


class DepthBinsConfig(LossConfig):
    """Cross-entropy of the image branch's depth distribution at labelled pixels."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"distance"})
    needs_volume: ClassVar[bool] = False

    weight: LossWeight = 0.5

    def build(self, shared: Shared) -> DepthBinsLoss:
        return DepthBinsLoss(shared.depth_bins)


class DepthBinsLoss(Loss):
    """Ask the depth distribution for the bin of the label's z-depth."""

    def __init__(self, depth_bins: DepthBins) -> None:
        super().__init__()
        self.depth_bins = depth_bins

    def forward(self, inputs: ImageInputs) -> Float[Tensor, " batch"]:
        pixels = inputs.pixels
        return mean_pixel_nll(inputs.reading.depth_logits.flatten(0, 1), pixels, self.depth_bins.index(pixels.depths))
