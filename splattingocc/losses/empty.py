"""Rays that meet nothing."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared, weighted_mean

EPSILON = 1e-2
"""Probability to pass below which the loss stops growing; bounds the gradient of empty rays that are stopped."""


class EmptyConfig(LossConfig):
    """Nothing along rays of the sky and along those whose label lies outside of the grid."""

    # Sky is a class, a label outside of the grid has a distance: either is enough
    optional_labels: ClassVar[frozenset[LabelKind]] = frozenset({"class", "distance"})
    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.5

    def build(self, shared: Shared) -> EmptyLoss:
        return EmptyLoss()


class EmptyLoss(Loss):
    """Ask a ray that meets nothing in the grid to pass through it."""

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        return weighted_mean(empty_ray_cost(inputs.rendering.alphas), inputs.labels.weights * inputs.empty)


def empty_ray_cost(alphas: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch ray"]:
    """Ask for no mass at all along a ray that meets nothing: −log of the probability that it passes."""
    return -(1 + EPSILON - alphas).log()
