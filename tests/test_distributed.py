"""Predicting and scoring with one, two and three processes that torchrun starts (gloo, CPU): the same files and the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from splattingocc.cli import main
from splattingocc.engine.checkpoint import save_network
from splattingocc.experiment import build_network, load_config

CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"
SMALL = ("--data.loader.image-size", "32", "64", "--data.num-workers", "0")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the demo's configuration with random weights."""
    config = load_config(CONFIG)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_network(build_network(config), config.network, path, {"threshold": "0.05"})
    return path


def arguments(dataroot: Path, *more: object) -> list[str]:
    # Four key frames: three processes get two, one and one of them
    options = ["--data.dataroot", dataroot, "--split", "train", "--eval", "segm", "ray", *SMALL, *more]
    return [str(word) for word in ("test", CONFIG, *options)]


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics_train.json").read_text())


@pytest.fixture(scope="module")
def alone(checkpoint: Path, synthetic_dataroot: Path) -> Path:
    """What one process predicts."""
    main(arguments(synthetic_dataroot, checkpoint))
    assert metrics_of(checkpoint.parent)["model"]["num_frames"] == 4
    assert metrics_of(checkpoint.parent)["model"]["ray_iou"]["mean"] is not None
    return checkpoint.parent / "output"


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_predict_and_score_the_same(checkpoint: Path, alone: Path, synthetic_dataroot: Path, tmp_path: Path, size: int):
    copy = tmp_path / checkpoint.name
    copy.write_bytes(checkpoint.read_bytes())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m", "splattingocc.cli"]
    finished = subprocess.run([*command, *arguments(synthetic_dataroot, copy)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("RayIoU and F-score") == 1
    for path in alone.rglob("*.npz"):
        assert np.array_equal(np.load(path)["semantics"], np.load(tmp_path / "output" / path.relative_to(alone))["semantics"])
    assert metrics_of(tmp_path) == metrics_of(checkpoint.parent)


def test_predictions_of_another_program_score_the_same(alone: Path, checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path):
    for path in alone.rglob("*.npz"):
        np.savez_compressed(tmp_path / f"{path.stem.split('_')[1]}.npz", pred=np.load(path)["semantics"].astype(np.int64))
    main(arguments(synthetic_dataroot, "--from-cache", tmp_path))
    found, expected = metrics_of(tmp_path), metrics_of(checkpoint.parent)
    assert found["model"] == expected["model"]
    assert found["markdown"].count("|") == expected["markdown"].count("|")
    next(iter(tmp_path.glob("*.npz"))).unlink()
    with pytest.raises(SystemExit, match=r"no prediction for 1 of 4 key frames, the first is [0-9a-f]{32} of scene-9"):
        main(arguments(synthetic_dataroot, "--from-cache", tmp_path))


def test_a_cache_of_another_split_and_wrong_options_are_refused(alone: Path, checkpoint: Path, synthetic_dataroot: Path):
    words = arguments(synthetic_dataroot, "--from-cache", alone)
    words[words.index("train")] = "val"
    with pytest.raises(
        SystemExit, match=r"holds 4 key frames of split train, 4 of them not asked for; asked for are 2, of which 2 are missing"
    ):
        main(words)
    with pytest.raises(SystemExit, match="give either a checkpoint, or --from-cache with predictions"):
        main(arguments(synthetic_dataroot))
    with pytest.raises(SystemExit, match="needs the network itself"):
        main([word if word != "ray" else "render" for word in arguments(synthetic_dataroot, "--from-cache", alone)])
