"""What a network sees becomes files that other programs open; what an option would not do is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from splattingocc import FREE
from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.evaluation.predictions import read_grid
from splattingocc.experiment import ExperimentConfig, build_network
from splattingocc.pipeline.prediction import predict

SMALL = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
GRID = {"lower": (-16.0, -16.0, -1.0), "upper": (16.0, 16.0, 3.0), "cell_size": 0.5}


def experiment(dataroot: Path) -> ExperimentConfig:
    data = {"dataroot": dataroot, "version": "v1.0-mini", "loader": {"image_size": (32, 64)}, "num_workers": 0}
    return ExperimentConfig.model_validate({"name": "small", "data": data, "grid": GRID, "network": SMALL})


@pytest.fixture(scope="module")
def network(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, path = experiment(synthetic_dataroot), tmp_path_factory.mktemp("run") / "network.safetensors"
    torch.manual_seed(0)
    metadata = {"threshold": "0.05", EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))}
    save_network(build_network(config), config.network, path, metadata)
    return path


def test_a_key_frame_is_written_as_it_is_predicted(network: Path, synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    config, index = experiment(synthetic_dataroot), read_index(synthetic_dataroot, "v1.0-mini")
    cache = predict(config, network, tmp_path / "output", split="val", index=index)
    expected = cache.read(cache.frames[1])
    main(["export", str(network), str(tmp_path / "seen.npz"), "--frame", "1"])
    assert torch.equal(read_grid(tmp_path / "seen.npz", config.grid.voxels), expected.semantics)
    with np.load(tmp_path / "seen.npz") as arrays:
        assert (arrays["semantics"].dtype, arrays["probabilities"].dtype) == (np.uint8, np.float16)
        np.testing.assert_array_equal(arrays["probabilities"], expected.probabilities)
    occupied = int((expected.semantics != FREE).sum())
    assert 0 < occupied < expected.semantics.numel()
    scene = cache.frames[1].scene
    assert f"seen.npz: {occupied:,} occupied cells of {scene}, key frame 1\n" in capsys.readouterr().out
    main(["export", str(network), str(tmp_path / "seen.ply"), "--frame", "1"])
    assert len(PlyData.read(tmp_path / "seen.ply")["face"]) >= 6


def test_gaussians_are_written_by_their_opacity(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    counts = []
    for least in ("0.0", "0.03"):
        main(["export", str(network), str(tmp_path / "seen.ply"), "--gaussians", "--min-opacity", least])
        counts.append(len(PlyData.read(tmp_path / "seen.ply")["vertex"]))
        assert f"seen.ply: {counts[-1]:,} Gaussians of" in capsys.readouterr().out
    assert counts[0] == 64 * 64 * 8 > counts[1] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.obj"], r"out\.obj: expected a name that ends with \.onnx, \.safetensors, \.npz, \.ply"),
        (["out.npz", "--fp16"], r"--fp16: does nothing for out\.npz"),
        (["out.onnx", "--frame", "2"], r"--frame: does nothing for out\.onnx"),
        (
            ["out.onnx", "--data.loader.image-size", "64", "160"],
            r"data\.loader\.image_size \[64, 160\]: does nothing for out\.onnx, which is",
        ),
        (["out.safetensors", "--name", "other"], r"name other: does nothing for out\.safetensors, which is the network as it was trained"),
        (["out.npz", "--gaussians"], r"--gaussians: does nothing for out\.npz"),
        (["out.ply", "--min-opacity", "0.5"], r"--min-opacity: is about Gaussians, expected --gaussians with it"),
        (["out.ply", "--frame", "99"], r"--frame 99: split val has key frames 0 to 1"),
        (["out.ply", "--data.dataroot", "nowhere"], r"--data\.dataroot nowhere: no such folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words: list[str], message: str, network: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^splattingocc: {message}"):
        main(["export", str(network), *words])
    assert not list(tmp_path.glob("out.*"))


def test_a_network_is_not_written_over_itself(network: Path):
    with pytest.raises(SystemExit, match="is the network itself, expected another name"):
        main(["export", str(network), str(network.parent / ".." / network.parent.name / network.name), "--fp16"])


def test_a_configuration_cannot_be_exported(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="splattingocc-synth: a configuration, expected the file of a trained network"):
        main(["export", "splattingocc-synth", "out.onnx"])
    with pytest.raises(SystemExit):
        main(["export"])
    assert "export: expected a network's file first, as in `splattingocc export NETWORK OUT [options]`" in capsys.readouterr().err
