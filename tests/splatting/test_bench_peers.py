"""The renderer beside its peers: what is compared and how ratios are taken, not how fast this machine is."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting import bench_peers, mitsuba_peer
from splattingocc.splatting.bench_scaling import bench_scaling
from splattingocc.splatting.bench_scenes import sparse_volume, surround_rays
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.peers import CANDIDATES, PARTS, Laps
from splattingocc.splatting.render import render

SMALL = VoxelGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 2.2), 0.4)


@cache
def whole_volume(num_channels: int) -> Gaussians:
    return sparse_volume(torch.Generator().manual_seed(0), num_channels=num_channels)


def small_volume(generator: torch.Generator, *, num_channels: int) -> Gaussians:
    """Return what of the trained-like volume lies within four metres."""
    whole = whole_volume(num_channels)
    kept = SMALL.cells_of(whole.means)[1]
    assert int(kept.sum()) == SMALL.num_cells
    return replace(whole.map(lambda tensor: tensor[kept]), grid=SMALL)


@pytest.fixture
def _in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "VOLUMES", {"trained-like": small_volume})
    monkeypatch.setattr(bench_peers, "peak_beyond", lambda *arguments: 12)


@pytest.mark.usefixtures("_in_small")
def test_every_candidate_is_a_flat_record_with_seconds_ratios_memory_and_circumstances(monkeypatch: pytest.MonkeyPatch):
    # Its own round is in the test of Mitsuba
    monkeypatch.setattr(bench_peers, "why_missing", lambda: None)
    monkeypatch.setitem(CANDIDATES, "Mitsuba", CANDIDATES["ours"])
    cases = list(bench_peers.bench_peers(num_rays=20, repeats=2, channels=(18, 3), volumes=("trained-like",)))
    assert [case[0]["num_channels"] for case in cases] == [18, 3]
    assert [record["what"] for record in cases[0]] == [name for name in CANDIDATES if name != "Mitsuba"]
    assert [record["what"] for record in cases[1]] == list(CANDIDATES)
    for record in (record for case in cases for record in case):
        assert json.loads(json.dumps(record)) == record
        assert all(record[f"{part}_{clock}_s"] >= 0 for part in PARTS for clock in ("cpu", "wall"))
        assert record["backward_cpu_s"] > 0
        few = "brute force" in record["what"]
        assert (record["num_rays"], record["peak_beyond_mb"]) == ((8, None) if few else (20, 12))
        assert {"commit", "torch", "processor", "num_threads", "occupied_share", "volume"} <= set(record)


@pytest.mark.usefixtures("_in_small")
def test_candidates_render_the_same_gaussians_and_rays():
    scene = bench_peers.Case("trained-like", 3, 20).scene()
    candidates = {name: CANDIDATES[name](scene) for name in ("ours", "brute force", "NeRF sampling", "NeRF, skipping")}
    for candidate in candidates.values():
        candidate.round(Laps())
    opacities = {name: candidate.leaves[-2].grad for name, candidate in candidates.items()}  # type: ignore[attr-defined]
    torch.testing.assert_close(opacities["ours"], opacities["brute force"], rtol=1e-3, atol=1e-4)
    assert opacities["ours"].abs().max() > 0.1


def test_ratios_are_seconds_of_the_peer_over_ours_with_the_index_in_forward_and_in_total():
    ours = {"index_cpu_s": 1.0, "forward_cpu_s": 3.0, "backward_cpu_s": 1.0}
    peer = {"index_cpu_s": 2.0, "forward_cpu_s": 6.0, "backward_cpu_s": 12.0}
    assert bench_peers.ratios(peer, ours) == {"forward_over_ours": 2.0, "backward_over_ours": 12.0, "total_over_ours": 4.0}


def test_a_median_is_taken_of_each_part_over_rounds():
    laps = [Laps() for _ in range(3)]
    for lap, seconds in zip(laps, (5.0, 1.0, 2.0)):
        lap.cpu.update(index=seconds, forward=10 * seconds)
        lap.wall["backward"] = seconds
    found = bench_peers.medians(laps)
    assert (found["index_cpu_s"], found["forward_cpu_s"], found["backward_cpu_s"], found["backward_wall_s"]) == (2.0, 20.0, 0.0, 2.0)


def test_without_mitsuba_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    imported = builtins.__import__

    def refuse(name: str, *arguments, **options):
        if name in ("mitsuba", "drjit"):
            raise ImportError(f"No module named {name!r}")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    line = mitsuba_peer.why_missing()
    assert line is not None
    assert "\n" not in line
    assert "splattingocc[peers]" in line
    assert "libllvm19" in line


def test_mitsuba_sees_nearly_the_same_and_has_nearly_the_same_gradients():
    if missing := mitsuba_peer.why_missing():
        pytest.skip(missing)
    generator = torch.Generator().manual_seed(0)
    rays = surround_rays(500, generator)
    gaussians = small_volume(generator, num_channels=3).map(lambda tensor: tensor.requires_grad_())
    traced = mitsuba_peer.MitsubaGaussians(gaussians, rays, num_threads=1)
    traced.build()
    colours = traced.render()
    traced.backward(2 * colours)
    rendering = render(gaussians, rays, near=0.3, far=60.0)
    rendering.features.square().sum().backward()
    kept = gaussians.opacities >= mitsuba_peer.MIN_ALPHA
    assert gaussians.opacities.grad is not None
    expected = gaussians.opacities.grad[kept].numpy()
    assert np.corrcoef(colours.T.ravel(), rendering.features.detach().numpy().ravel())[0, 1] > 0.95
    assert np.corrcoef(traced.gradients()[1], expected)[0, 1] > 0.8


@pytest.mark.usefixtures("_in_small")
def test_each_point_of_a_curve_is_a_record_and_more_empty_gaussians_are_empty():
    records = bench_scaling(repeats=1, num_rays=(10, 30), times_empty=(1, 3), rays_among_empty=20)
    assert [(record["curve"], record["num_rays"]) for record in records] == [
        ("rays", 10), ("rays", 30), ("empty Gaussians", 20), ("empty Gaussians", 20)]  # fmt: skip
    once, thrice = records[2:]
    assert thrice["num_empty"] == 3 * once["num_empty"] > 0
    assert thrice["num_gaussians"] - once["num_gaussians"] == 2 * once["num_empty"]
