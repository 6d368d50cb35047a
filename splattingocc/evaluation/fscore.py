"""F-score: are the predicted voxels near true ones, and the true ones near predicted ones?

Definition: the CVPR 2023 occupancy challenge. Voxel centres, whatever their class; accuracy is the share of the predicted within 0.6 m of a
true one, completeness the reverse; their harmonic mean, averaged over key frames.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from splattingocc.data.taxonomy import FREE
from splattingocc.geometry.voxel_grid import OCC3D_GRID

REACH = 0.6
"""Metres."""


def f_score(prediction: UInt8[Tensor, "x y z"], truth: UInt8[Tensor, "x y z"], mask: Bool[Tensor, "x y z"] | None = None) -> float:
    """Return the F-score of one key frame in [0, 1]: 0 where only one of both grids is empty, nan where both are.

    With a mask, only voxels inside it are there at all.
    """
    predicted, true = prediction != FREE, truth != FREE
    if mask is not None:
        predicted, true = predicted & mask, true & mask
    num_predicted, num_true = int(predicted.sum()), int(true.sum())
    if not num_predicted and not num_true:
        return math.nan
    if not num_predicted or not num_true:
        return 0.0
    accuracy = int((predicted & _near(true)).sum()) / num_predicted
    completeness = int((true & _near(predicted)).sum()) / num_true
    return 2 * accuracy * completeness / (accuracy + completeness) if accuracy + completeness else 0.0


def _near(occupied: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Return the voxels whose centre lies within REACH of an occupied one's: exact, because centres lie on a lattice."""
    cells = math.floor(REACH / OCC3D_GRID.cell_size)
    near = torch.zeros_like(occupied)
    for offset in itertools.product(range(-cells, cells + 1), repeat=3):
        if math.hypot(*offset) * OCC3D_GRID.cell_size <= REACH:
            to = tuple(slice(max(0, shift), size + min(0, shift)) for shift, size in zip(offset, occupied.shape))
            source = tuple(slice(max(0, -shift), size + min(0, -shift)) for shift, size in zip(offset, occupied.shape))
            near[to] |= occupied[source]
    return near
