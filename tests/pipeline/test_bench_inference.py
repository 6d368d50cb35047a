"""A network is timed in a process of its own, and a way that does not work is a line of the table, not the end of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splattingocc.cli import main
from splattingocc.experiment import ExperimentConfig
from splattingocc.pipeline import bench_inference
from splattingocc.pipeline.bench_inference import Case, measure

SMALL = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
GRID = {"lower": (-8.0, -8.0, -1.0), "upper": (8.0, 8.0, 3.0), "cell_size": 0.5}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "config.json"
    small = ExperimentConfig.model_validate({"name": "small", "grid": GRID, "network": SMALL, "data": {"loader": {"image_size": (32, 64)}}})
    path.write_text(small.model_dump_json())
    return path


@pytest.mark.slow
def test_each_case_is_one_json_line_with_times_memory_and_circumstances(config: Path, capsys: pytest.CaptureFixture):
    main(["bench", "infer", str(config), "--repeats", "2", "--threads", "1", "--ways", "eager", "onnxruntime", "--json"])
    eager, onnx = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (eager["what"], eager["num_threads"], eager["num_views"], eager["image_size"]) == ("eager", 1, 6, "32 × 64")
    assert 0 < eager["p50_s"] <= eager["p95_s"]
    assert eager["peak_memory_mb"] > 100
    assert onnx["failed"].startswith("--onnx FILE is not given")


def test_a_compiler_that_fails_is_told_in_one_line(config: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(network: object) -> None:
        raise RuntimeError("\n  no compiler\nand a page about it")

    monkeypatch.setattr(bench_inference, "compile_parts", fail)
    found = measure(Case("torch.compile", config, 1, 1, None, "cpu"))
    assert found["failed"] == "no compiler"
    assert "p50_s" not in found


def test_what_was_asked_for_is_timed_as_often_as_asked(config: Path):
    found = measure(Case("eager", config, 1, 3, None, "cpu"))
    assert (found["repeats"], found["num_threads"]) == (3, 1)
    assert 0 < found["p50_s"] <= found["p95_s"] < 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer"], "expected a network or a configuration, as in `splattingocc bench infer NETWORK`"),
        (["infer", "splattingocc-synth", "--onnx", "absent.onnx"], r"absent\.onnx: no such file; `splattingocc export .*` writes it"),
        (["infer", "splattingocc-sinth"], "no configuration of this name; did you mean splattingocc-synth"),
        (["render", "network.safetensors"], r"network\.safetensors: `bench render` takes no network, `bench infer` does"),
    ],
)
def test_what_cannot_be_timed_is_said_in_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(["bench", *words])
