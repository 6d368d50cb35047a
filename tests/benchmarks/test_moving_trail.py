"""What moving labels of neighbouring key frames would leave behind (`benchmarks/moving_trail.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import moving_trail

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.taxonomy import FREE, IGNORE


def test_surfaces_are_counted_where_truth_has_them():
    semantics = torch.full((200, 200, 16), FREE, dtype=torch.uint8)
    seen = torch.ones(200, 200, 16, dtype=torch.bool)
    # The cells at x = 2, 4, 6 and 8 m, y = 0, z = 0: a car, a wall, nothing, nothing that is seen
    semantics[105, 100, 2], semantics[110, 100, 2] = 4, 15
    seen[120, 100, 2] = False
    rays = Rays(torch.tensor([[0.0, 0.1, 0.0]]).repeat(6, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(6, 1))
    distances = torch.tensor([2.1, 4.1, 6.1, 8.1, 100.0, 2.1])
    labels = RayLabels(torch.tensor([4, 4, 4, 4, 4, IGNORE]), distances, torch.ones(6))
    truth = OccupancyTruth("t", semantics, mask_lidar=seen, mask_camera=seen)
    assert moving_trail.count((rays, labels), truth).tolist() == [3, 1, 1]
    assert moving_trail.count((rays, labels), truth, torch.tensor([True, False, False, True, True, True])).tolist() == [1, 0, 0]
