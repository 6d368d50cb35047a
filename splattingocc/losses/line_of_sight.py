"""The line of sight: what a sensor saw, it saw through empty space."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared, weighted_mean

EPSILON = 1e-2
"""Mass at the hit below which the loss stops growing; bounds the gradient of rays that miss their surface."""


class LineOfSightConfig(LossConfig):
    """Free space before the label, mass at the label."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"distance"})
    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.5

    def build(self, shared: Shared) -> LineOfSightLoss:
        return LineOfSightLoss()


class LineOfSightLoss(Loss):
    """Ask a ray that something in the grid stops to be stopped there and not before."""

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        rendering = inputs.rendering
        assert rendering.in_front is not None
        assert rendering.at_hit is not None
        costs = line_of_sight(rendering.in_front, rendering.at_hit, inputs.labels.distances)
        return weighted_mean(costs, inputs.stopped_at_distance)


def line_of_sight(
    in_front: Float[Tensor, "*batch ray"], at_hit: Float[Tensor, "*batch ray"], targets: Float[Tensor, "*batch ray"]
) -> Float[Tensor, "*batch ray"]:
    """Ask for no mass before the labelled surface and for all of it there; 0 where the target is nan.

    −log of the mass at the hit is the likelihood of the label under the ray's own distribution of stops; the mass in front is added so
    that fog is pushed away before anything stands at the hit.
    """
    return (in_front - (at_hit.clamp(min=0) + EPSILON).log()).where(targets.isfinite(), 0.0)
