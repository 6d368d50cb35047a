"""The guard of what is fast (`benchmarks/guard.py`): what it compares, not how fast this machine is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import guard

from splattingocc.splatting import bench_scenes
from splattingocc.splatting.render import render


def test_more_empty_gaussians_change_nothing_but_the_number():
    generator = torch.Generator().manual_seed(0)
    volume = bench_scenes.trained_like_volume(generator)
    crowded = bench_scenes.with_more_empty(volume, times=3)
    empty = int((volume.opacities < 0.003).sum())
    assert len(crowded.opacities) == len(volume.opacities) + 2 * empty
    assert empty > len(volume.opacities) // 2
    rays = bench_scenes.surround_rays(200, generator)
    found, expected = (render(gaussians, rays, near=bench_scenes.NEAR, far=bench_scenes.FAR) for gaussians in (crowded, volume))
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.distances, expected.distances)


@pytest.mark.parametrize(("value", "at_most", "holds"), [(3, False, True), (1, False, False), (3, True, False), (1, True, True)])
def test_a_bound_holds_on_its_side(value, at_most, holds):
    found = guard.Guard("a / b", value, 2, at_most=at_most)
    assert found.holds is holds
    assert found.describe()["bound"] == ("at most 2" if at_most else "at least 2")


def test_the_status_is_1_where_a_bound_is_missed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["guard.py"])
    monkeypatch.setattr(guard, "guards", lambda rays, repeats: [guard.Guard("a / b", 1.0, 2), guard.Guard("c / d", 1.0, 2, at_most=True)])
    assert guard.main() == 1
    assert [line.count('"holds": true') for line in capsys.readouterr().out.splitlines()] == [0, 1]
