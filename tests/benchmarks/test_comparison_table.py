"""The tables of a comparison (`benchmarks/comparison_table.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from comparison_table import Column, mean_and_deviation, report, table_of


def test_mean_and_deviation_of_seeds():
    assert mean_and_deviation([]) == "–"
    assert mean_and_deviation([1.234]) == "1.23"
    assert mean_and_deviation([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert mean_and_deviation([1.0, 2.0], digits=1) == "1.5 ± 0.7"


def test_a_row_says_which_seeds_it_lacks():
    column = Column("figure", ("a", "b"), factor=100)
    results = {"fixed": {0: {"a": {"b": 0.1}}, 2: {"a": {"b": 0.3}}}, "nerf": {1: {"a": {}}}}
    assert table_of(results, ["nerf", "fixed", "learned"], [column], (0, 1, 2)).splitlines() == [
        "| training | seeds | figure |",
        "|---|---|---|",
        "| NeRF sampling | 1 (no 0, 2) | – |",
        "| fixed Gaussians, 0.1 m | 0, 2 (no 1) | 20.00 ± 14.14 |",
    ]
    assert report({}, (0,), "command") == "No cell is finished yet."
