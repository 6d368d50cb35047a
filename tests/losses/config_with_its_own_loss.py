"""A configuration that adds a loss: the class, and a field of the objective. `docs/extending.md` says where each goes in the package."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.config import Metres
from splattingocc.experiment import ExperimentConfig
from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared, weighted_mean
from splattingocc.losses.objective import ObjectiveConfig


class MetricDistanceConfig(LossConfig):
    """Absolute error of the rendered distance."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"distance"})

    weight: LossWeight = 0.1
    largest: Metres = 5.0
    """Metres beyond which the error stops growing."""

    def build(self, shared: Shared) -> MetricDistanceLoss:
        return MetricDistanceLoss(self.largest)


class MetricDistanceLoss(Loss):
    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        errors = (inputs.rendering.distances - inputs.labels.distances.nan_to_num()).abs().clamp(max=self.largest)
        return weighted_mean(errors, inputs.stopped_at_distance)


class Objective(ObjectiveConfig):
    metric_distance: MetricDistanceConfig = MetricDistanceConfig()


def config() -> ExperimentConfig:
    return ExperimentConfig(name="with-its-own-loss", objective=Objective())
