"""What the engine hands to training and to prediction. Neither type has a 3D label."""

from __future__ import annotations

from dataclasses import dataclass

from splattingocc.geometry.cameras import Views
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.struct import Struct


@dataclass(frozen=True)
class TrainingSample(Struct):
    """One key frame with its labelled rays, padded or drawn to one budget so that samples stack."""

    token: str | tuple[str, ...]
    views: Views
    rays: Rays
    labels: RayLabels


@dataclass(frozen=True)
class PredictionSample(Struct):
    """One key frame as seen at test time."""

    token: str | tuple[str, ...]
    views: Views
