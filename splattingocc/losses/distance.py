"""The rendered distance."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from splattingocc.config import Probability
from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared

SHORTEST_DISTANCE = 0.1
"""Metres; keeps logarithms finite where a ray hit nothing."""


class DistanceConfig(LossConfig):
    """Scale-invariant logarithmic error of the rendered distance."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"distance"})
    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.5
    variance_focus: Probability = 0.85
    """Share of the common scale error that is forgiven."""

    def build(self, shared: Shared) -> DistanceLoss:
        return DistanceLoss(self.variance_focus)


class DistanceLoss(Loss):
    """Ask a ray that something in the grid stops for the label's distance."""

    def __init__(self, variance_focus: float) -> None:
        super().__init__()
        self.variance_focus = variance_focus

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        errors = log_distance_error(inputs.rendering.distances, inputs.labels.distances)
        return silog(errors, inputs.stopped_at_distance, variance_focus=self.variance_focus)


def log_distance_error(distances: Float[Tensor, "*batch ray"], targets: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch ray"]:
    """Return the signed difference of the logarithms; 0 where the target is nan or the ray hit nothing (distance 0)."""
    valid = targets.isfinite() & (distances.detach() > SHORTEST_DISTANCE)
    safe_targets = targets.where(valid, torch.ones_like(targets))
    safe_distances = distances.where(valid, torch.ones_like(distances))
    return safe_distances.log() - safe_targets.log()


def silog(
    log_errors: Float[Tensor, "*batch ray"], weights: Float[Tensor, "*batch ray"], *, variance_focus: float
) -> Float[Tensor, "*batch"]:
    """Return the scale-invariant logarithmic error, sqrt(mean(d²) − variance_focus · mean(d)²). Source: Eigen et al. 2014."""
    total = weights.sum(dim=-1).clamp(min=1e-6)
    mean = (weights * log_errors).sum(dim=-1) / total
    mean_square = (weights * log_errors.square()).sum(dim=-1) / total
    return (mean_square - variance_focus * mean.square()).clamp(min=1e-8).sqrt()
