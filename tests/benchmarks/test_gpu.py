"""The command that measures a GPU (`benchmarks/gpu.py`), on a CPU and small: what it does, not its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu


@pytest.fixture
def options(tmp_path) -> gpu.Arguments:
    return gpu.Arguments(device="cpu", small=True, out=tmp_path)


def test_gradients_are_those_of_the_cpu(options):
    (line,) = gpu._gradients(options)
    assert set(line["of_each"]) == {"means", "quats", "scales", "opacities", "features"}
    assert line["largest_relative_difference_to_cpu"] < 1e-5
    assert line["largest_relative_difference_of_results"] < 1e-6


def test_steps_and_inference_tell_what_they_took(options, monkeypatch):
    monkeypatch.setattr(gpu, "RECIPES", gpu.RECIPES[:1])
    steps, inferences = list(gpu._steps(options)), list(gpu._inference(options))
    assert [line["what"] for line in steps] == ["step of splattingocc-r50"]
    assert all(line["samples_per_second"] > 0 and line["described_float32_mib"] > 100 for line in steps)
    assert [line["what"] for line in inferences] == ["inference of splattingocc-r50"]


def test_a_part_that_fails_or_runs_out_of_time_leaves_the_others_be(options, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small"])
    (line,) = gpu._of_process("no such part", 250)
    assert line["what"] == "no such part"
    assert "KeyError" in line["error"]
    (line,) = gpu._of_process("gradients", 0.2)
    assert line == {"what": "gradients", "error": "ended after 0 s, when the time was up"}
    options.seconds = 0
    assert [line["error"] for line in gpu.measured(options)] == ["not begun within 0 s"] * len(options.only)


def test_the_table_holds_figures_against_aims():
    lines = [
        {"what": "gradients", "largest_relative_difference_to_cpu": 3e-4},
        {"what": "training", "last_loss_over_first": 0.5},
        {"what": "render", "error": "status 1: no kernel"},
    ]
    rows = gpu.table_of(lines).splitlines()
    assert rows[2:] == [
        "| gradients | largest_relative_difference_to_cpu | 0.0003 | at most 0.0001 | missed |",
        "| training | last_loss_over_first | 0.5 | at most 0.9 | met |",
        "| render | | status 1: no kernel | | failed |",
    ]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        gpu.main()


def test_the_lines_are_written_with_the_circumstances(options, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--out", str(tmp_path), "--only", "gradients"])
    monkeypatch.setattr(gpu, "_of_process", lambda part, seconds: iter([{"what": part, "largest_relative_difference_to_cpu": 1e-6}]))
    assert gpu.main() == 0
    (path,) = tmp_path.glob("cpu-*.jsonl")
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["what"] == "gradients"
    assert {"commit", "torch", "warp", "device", "small"} <= line.keys()
