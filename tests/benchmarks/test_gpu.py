"""The command that measures a GPU (`benchmarks/gpu.py`), on a CPU and small: what it does, not its figures."""

from __future__ import annotations

import json
import sys
import time
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
    assert [line["what"] for line in steps] == ["step of splattingocc-r50", "description of splattingocc-r50"]
    assert steps[0]["samples_per_second"] > 0
    assert steps[1]["described_float32_mib"] > 100
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


def test_lines_come_as_soon_as_they_are_known_and_nothing_of_a_late_part_lives_on(monkeypatch, tmp_path):
    script = tmp_path / "part.py"
    script.write_text(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        'print(\'{"what": "first", "child": %d}\' % child.pid, flush=True)\n'
        "time.sleep(100)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    lines = gpu._of_process("render", 20)
    first = next(lines)
    assert first["what"] == "first"
    assert Path(f"/proc/{first['child']}").exists()
    lines.close()
    end = time.monotonic() + 30
    while _is_running(first["child"]):
        assert time.monotonic() < end, "a child of an ended part lives on"
        time.sleep(0.05)


def _is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
