import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from splattingocc.experiment import ExperimentConfig, TrainerConfig, load_config
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_scene import index_gaussians
from splattingocc.losses.objective import ObjectiveConfig
from splattingocc.models.cell_head import MAX_OPACITY
from splattingocc.pipeline.trainer import build_trainer

HEADER = "from splattingocc.experiment import ExperimentConfig\n"
PYTHON = {
    "a text": (
        "# Read me\nThis is no Python.\n",
        r"line 2: invalid syntax; a configuration is Python with a function config\(\), or a run's",
    ),
    "a syntax error": ("def config(:\n", "line 1: invalid syntax"),
    "bytes that are no text": (b"\xff\xfe", "line 1: .*can't decode byte 0xff"),
    "a NUL": (b"a\0b", "null bytes"),
    "500 nested brackets": ("x = " + "(" * 500 + ")" * 500, "too many nested parentheses"),
    "100,000 signs": ("x = " + "-" * 100_000 + "1", "a configuration is Python"),
    "nothing": ("", r"has no function config\(\)"),
    "a config that is no function": ("config = 3\n", r"has no function config\(\)"),
    "a config of something else": ("def config(): return 3\n", r"config\(\) returned int; it must return an ExperimentConfig"),
    "an exit": ("import sys\nsys.exit(3)\n", r"calls sys.exit\(3\)"),
    "an exit of config()": ("def config(): raise SystemExit\n", r"calls sys.exit\(None\)"),
    "endless recursion": ("def config(): return config()\n", "RecursionError: maximum recursion depth exceeded"),
    "a missing module": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "want of memory": ("def config(): raise MemoryError\n", "MemoryError$"),
    "an error of many lines": ("def config(): raise ValueError('\\n\\nwrong\\nand more')\n", "wrong$"),
    "a wrong copy": (
        HEADER + "def config(): return ExperimentConfig(name='x').model_copy(update={'seed': -1})\n",
        "ExperimentConfig.seed is -1",
    ),
}
JSON = {
    "an unknown key": ({"seeds": 1}, r"seeds is not an option of ExperimentConfig; did you mean seed\?"),
    "a wrong type": ({"seed": "x"}, "ExperimentConfig.seed is 'x': input should be a valid integer"),
    "a list for a part": ({"data": [1]}, r"ExperimentConfig.data is \[1\]"),
    "a truth for a number": ({"trainer": {"devices": True}}, "devices is True, expected a number"),
    "a NUL in a path": ({"data": {"dataroot": "a\0b"}}, r"dataroot is 'a\\x00b', expected text without NUL"),
    "a number of 400 digits": ({"seed": 10**400}, "ExperimentConfig.seed"),
    "a name that leads elsewhere": ({"name": "../x"}, "name '../x' cannot name a file"),
    "a version that leads elsewhere": ({"data": {"version": "../x"}}, "data.version '../x' cannot name a file"),
}
DAMAGED = {
    "half a file": b'{"name": "x", "se',
    "nothing": b"",
    "a list": b"[1, 2]",
    "bytes that are no text": b'{"name": "\xff"}',
    "a NUL": b'{"name": "\0"}',
    "nan": b'{"name": "x", "seed": NaN}',
    "500 nested brackets": b"[" * 500 + b"]" * 500,
    "100,000 nested brackets": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


def refusal(path: Path) -> str:
    """Return why a configuration is refused: one line, with its name."""
    with pytest.raises(ValueError, match=r".") as refused:
        load_config(path)
    said = str(refused.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 500
    return said.removeprefix(str(path))


@pytest.mark.parametrize("fault", PYTHON)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(fault: str, tmp_path: Path):
    content, reason = PYTHON[fault]
    path = tmp_path / "config.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(reason, refusal(path))


@pytest.mark.parametrize("fault", JSON)
def test_wrong_options_in_json_are_refused_in_one_line(fault: str, tmp_path: Path):
    options, reason = JSON[fault]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"name": "x", **options}))
    assert re.search(reason, refusal(path))


@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_json_is_refused_in_one_line(fault: str, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(DAMAGED[fault])
    refusal(path)


@pytest.mark.parametrize("suffix", [".py", ".json"])
def test_what_is_no_file_is_refused_by_what_it_is(suffix: str, tmp_path: Path):
    assert refusal(tmp_path / f"absent{suffix}").startswith(": no such file, and no configuration of this name; by name there are ")
    (tmp_path / f"folder{suffix}").mkdir()
    assert refusal(tmp_path / f"folder{suffix}") == ": is a folder, expected a file"
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert refusal(tmp_path / f"pipe{suffix}") == ": is a device or a pipe, expected a file"


def test_what_a_run_leaves_is_a_configuration(tmp_path: Path):
    config = ExperimentConfig(name="x", seed=7).model_copy(update={"data": {"dataroot": "here", "loader": {"image_size": [96, 240]}}})
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(tmp_path / "config.json") == config


def test_a_configuration_may_define_classes_of_its_own(tmp_path: Path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n" + HEADER + "@dataclass\nclass Part:\n    size: int = 3\n"
    )
    text += "def config() -> ExperimentConfig:\n    return ExperimentConfig(name='x', seed=Part().size)"
    (tmp_path / "config.py").write_text(text)
    assert load_config(tmp_path / "config.py").seed == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network": {"head": {"num_classes": 16}}}, "network.head.num_classes is 16, labels have 17 classes"),
        ({"network": {"lift": {"coarsening": 3}}}, "network.lift.coarsening is 3, expected a divisor of the grid's 200 × 200 × 16"),
        (
            {"data": {"loader": {"image_size": [100, 250]}}},
            "data.loader.image_size is 100 × 250, expected multiples of network.neck.stride, 8, such as 96 × 248",
        ),
        ({"network": {"head": {"max_scale": 0.6}}}, "network.head.max_scale is 0.6 m, expected at most 0.4809 m"),
        ({"network": {"head": {"initial_scale": 0.3}}}, "head.initial_scale is 0.3 m, expected more than head.min_scale, 0.04 m, and less"),
        ({"network": {"image_reader": {"depth_bins": {"nearest": 60.0}}}}, "depth_bins.nearest is 60.0 m, expected less than"),
        ({"network": {"image_reader": {"ground_classes": [11, 11]}}}, "expected each class once"),
        (
            {"network": {"image_reader": {"stereo": {"kind": "cost_volume"}}}},
            "data.loader.previous_frames is 0, expected 1: that many earlier frames network.temporal.frames (0) and",
        ),
        ({"network": {"temporal": {"frames": 3}}}, "data.loader.previous_frames is 0, expected 3"),
        ({"data": {"loader": {"previous_frames": 2}}}, "data.loader.previous_frames is 2, expected 0"),
        ({"network": {"image_reader": {"stereo": {"kind": "costs"}}}}, "stereo: kind is 'costs', expected one of none, cost_volume"),
        ({"network": {"volume_encoder": {"channels": [32], "blocks": [1, 1]}}}, "1 widths but 2 block counts"),
        ({"network": {"volume_encoder": {"channels": [4], "blocks": [1]}}}, "volume_encoder.channels: 4 cannot be normalised in groups"),
        ({"network": {"volume_encoder": {"channels": [25], "blocks": [1]}}}, "expected multiples of 8"),
        ({"render": {"near": 70.0}}, "render.near is 70.0 m, expected less than render.far, 70.0 m"),
        ({"calibration": {"num_bins": 1001}}, "multiple of 100"),
        ({"optimization": {"step_epochs": [8, 8]}}, "expected each epoch once and in order"),
        ({"optimization": {"learning_rate": 0.0}}, "learning_rate is 0.0: input should be greater than 0"),
        (
            {"objective": {name: {"weight": 0} for name in ObjectiveConfig().losses if name != "opacity_prior"}},
            "nothing would be learned from labels",
        ),
        (
            {"objective": {name: {"weight": 0} for name in ("depth_bins", "pixel_classes")}, "optimization": {"image_steps": 5}},
            "none of objective.depth_bins, objective.pixel_classes, which",
        ),
        ({"objective": {"semantic": 0.5}}, "objective.semantic: is 0.5, expected the options of a SemanticConfig, such as its weight"),
        ({"objective": {"class_weights": {"cra": 1.0}}}, "'cra' is not a class"),
        ({"trainer": {"accelerator": "tpu"}}, "accelerator is 'tpu': input should be 'auto', 'cpu', 'gpu' or 'cuda'"),
        ({"trainer": {"max_epochs": 0}}, "max_epochs is 0"),
    ],
)
def test_what_would_crash_later_or_compute_nonsense_is_refused(options: dict[str, Any], reason: str, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"name": "x", **options}))
    assert reason in refusal(path)


@pytest.mark.parametrize("cell_size", [0.08, 0.1, 0.4])
def test_the_largest_scale_that_is_said_can_be_rendered_and_hardly_more(cell_size: float):
    def with_scale(scale: float) -> ExperimentConfig:
        head = {"learn_scales": False, "initial_scale": scale}
        grid = {"cell_size": cell_size, "lower": (0, 0, 0), "upper": (1.6, 1.6, 1.6)}
        return ExperimentConfig.model_validate({"name": "x", "network": {"head": head}, "grid": grid})

    def index_with_scale(scale: float) -> None:
        mean, quat, opacity = torch.full((1, 3), 0.8), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([MAX_OPACITY])
        index_gaussians(mean, quat, torch.full((1, 3), scale), opacity, VoxelGrid((0.0, 0.0, 0.0), (1.6, 1.6, 1.6), cell_size))

    with pytest.raises(ValueError, match=r"network\.head\.initial_scale is 2\.0 m") as refused:
        with_scale(2.0)
    (said,) = re.findall(r"expected at most (\S+) m with", str(refused.value))
    largest = float(said)
    assert with_scale(largest).network.head.initial_scale == largest
    index_with_scale(largest)
    with pytest.raises(ValueError, match="expected at most"):
        with_scale(largest + 1e-4)
    with pytest.raises(ValueError, match="can be searched"):
        index_with_scale(largest + 1e-4)


@pytest.mark.parametrize("found", [0, 2])
def test_devices_that_are_not_there_are_refused(found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: found > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    config = ExperimentConfig(name="x", trainer=TrainerConfig(accelerator="gpu", devices=3))
    reason = "trainer.devices: 3 asked for, and there are 2" if found else "trainer.accelerator: gpu asked for, and there is no CUDA device"
    with pytest.raises(ValueError, match=reason):
        build_trainer(config, tmp_path)
