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
from torch.nn import functional

from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.taxonomy import FREE

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
    accuracy, completeness = _num_near(predicted, true) / num_predicted, _num_near(true, predicted) / num_true
    return 2 * accuracy * completeness / (accuracy + completeness) if accuracy + completeness else 0.0


def _num_near(these: Bool[Tensor, "x y z"], others: Bool[Tensor, "x y z"]) -> int:
    """Count the voxels of `these` whose centre lies within REACH of one of `others`: exact, because centres lie on a lattice."""
    cells = math.floor(REACH / OCC3D_GRID.cell_size)
    padded = functional.pad(others, (cells,) * 6)
    _, height, depth = padded.shape
    x, y, z = (these.nonzero() + cells).unbind(dim=1)
    places = (x * height + y) * depth + z
    near = torch.zeros(len(places), dtype=torch.bool, device=these.device)
    for i, j, k in itertools.product(range(-cells, cells + 1), repeat=3):
        if math.hypot(i, j, k) * OCC3D_GRID.cell_size <= REACH:
            near |= padded.view(-1)[places + ((i * height + j) * depth + k)]
    return int(near.sum())
