"""Distance losses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SHORTEST_DISTANCE = 0.1
"""Metres; keeps logarithms finite where a ray hit nothing."""


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
