"""The table that holds the synthetic world against Occ3D (`benchmarks/synthetic_against_occ3d.py`)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from splattingocc.taxonomy import CLASSES, FREE

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import synthetic_against_occ3d as table


def test_a_value_outside_of_the_factor_is_marked():
    assert str(table.Row("a", 2.0, 1.0)) == "| a | 2.00 | 1.00 | 2.00 **out** |"
    assert str(table.Row("b", 1.4, 1.0)) == "| b | 1.40 | 1.00 | 1.40 |"
    assert "**out**" in str(table.Row("c", 0.66, 1.0))


def test_truth_is_counted_in_its_masks():
    semantics = np.full((200, 200, 16), FREE, dtype=np.uint8)
    semantics[100, 100, 2] = CLASSES.index("car")
    semantics[199, 100, 3] = CLASSES.index("driveable_surface")
    semantics[0, 0, 5] = CLASSES.index("manmade")
    seen = np.zeros(semantics.shape, dtype=bool)
    seen[100, 100, 2], seen[199, 100, 3], seen[50, 50, 4], seen[50, 50, 5] = True, True, True, True
    counts = table.Counts()
    counts.add_truth(semantics, semantics != FREE, seen)
    assert counts.voxels.sum() == 3
    assert counts.road_heights.tolist() == [0, 0, 0, 1] + [0] * 12
    shares = counts.shares[0]
    assert shares["occupied voxels of a frame"] == 3
    assert shares["occupied share of mask_camera"] == pytest.approx(0.5)
    assert shares["share of the occupied voxels inside mask_camera"] == pytest.approx(2 / 3)
    assert shares["of those, beyond 20 m"] == pytest.approx(0.5)
    assert shares["mask_lidar, share of the grid"] == pytest.approx(3 / 640_000)


def test_a_written_data_set_is_reported(synthetic_dataroot: Path):
    lines = table.report(synthetic_dataroot)
    assert lines[0] == "6 key frames of 3 scenes"
    assert sum(line.startswith("| ") for line in lines) == 1 + 14 + 2 * len(CLASSES)
