"""How far what stops a ray is spread along it."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import Loss, LossConfig, LossWeight, Shared, weighted_mean


class DistortionConfig(LossConfig):
    """Spread of the weights along each ray, metres; of fields that say it (network.head.kind density)."""

    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.0

    def build(self, shared: Shared) -> DistortionLoss:
        return DistortionLoss()


class DistortionLoss(Loss):
    """Ask a ray to be stopped in one place. Source: Barron et al. 2022 (Mip-NeRF 360), in metres of distance."""

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        assert inputs.rendering.distortion is not None, "the experiment refuses heads that render none"
        return weighted_mean(inputs.rendering.distortion, (inputs.labels.weights > 0).to(inputs.labels.weights))
