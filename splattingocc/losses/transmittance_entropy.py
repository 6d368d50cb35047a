"""Whether a ray is stopped or passes, nothing between."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import Loss, LossConfig, LossWeight, Shared, weighted_mean

EPSILON = 1e-5
"""Keeps the logarithms finite, and their gradients bounded."""


class TransmittanceEntropyConfig(LossConfig):
    """Entropy of whether each ray is stopped at all."""

    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.0

    def build(self, shared: Shared) -> TransmittanceEntropyLoss:
        return TransmittanceEntropyLoss()


class TransmittanceEntropyLoss(Loss):
    """Ask a ray to be stopped wholly or not at all: −T log T − (1 − T) log (1 − T) of the transmittance behind everything."""

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        alphas = inputs.rendering.alphas.clamp(EPSILON, 1 - EPSILON)
        entropy = -alphas * alphas.log() - (1 - alphas) * (1 - alphas).log()
        return weighted_mean(entropy, (inputs.labels.weights > 0).to(inputs.labels.weights))
