import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import nn

from splattingocc.config import Config
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.experiment import DataConfig, ExperimentConfig, build_index, build_network
from splattingocc.pipeline import prediction
from splattingocc.pipeline.prediction import open_network, predict, training_seed, unlike_training, with_remembered_labels
from splattingocc.splatting.field import OccupancyThreshold

LOADER = {"image_size": [64, 128]}


def save(path: Path, metadata: dict[str, str]) -> Path:
    save_network(nn.Linear(1, 1), Config(), path, metadata)
    return path


def test_a_network_remembers_its_labels_its_seed_and_its_images(tmp_path: Path):
    data = {"dataroot": str(tmp_path), "version": "mine", "labels": "elsewhere", "loader": LOADER}
    path = save(tmp_path / "network.safetensors", {EXPERIMENT_KEY: json.dumps({"seed": 7, "data": data, "name": "more"})})
    config = ExperimentConfig(name="x", data=DataConfig(dataroot=tmp_path, version="mine"))
    assert training_seed(path) == 7
    assert with_remembered_labels(config, path).data.labels == Path("elsewhere")
    other = config.model_copy(update={"data": DataConfig(dataroot=tmp_path, version="another")})
    assert with_remembered_labels(other, path).data.labels is None
    (line,) = unlike_training(config, path)
    assert "image_size [64, 128], here it is [256, 704]" in line


def test_a_network_that_says_nothing_of_its_training_is_taken_as_it_is(tmp_path: Path):
    path, config = save(tmp_path / "network.safetensors", {}), ExperimentConfig(name="x")
    assert training_seed(path) is None
    assert unlike_training(config, path) == []
    assert with_remembered_labels(config, path) == config


@pytest.mark.parametrize("experiment", ["", "{", "[]", "3", '{"seed": 1}', '{"seed": "x", "data": {}}', "[" * 5000])
def test_what_is_no_experiment_in_a_network_is_one_line(tmp_path: Path, experiment: str):
    path = save(tmp_path / "network.safetensors", {EXPERIMENT_KEY: experiment})
    config = ExperimentConfig(name="x")
    for read in (training_seed, lambda path: unlike_training(config, path), lambda path: with_remembered_labels(config, path)):
        with pytest.raises(ValueError, match=r"network\.safetensors: not a network with its experiment: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threshold", ["", "x", "nan", "inf", "-0.1", "1.5"])
def test_a_threshold_that_is_none_is_one_line(tmp_path: Path, threshold: str):
    config, path = ExperimentConfig(name="x"), tmp_path / "network.safetensors"
    for thresholds in ({"threshold": threshold}, {"threshold": "0.3", "ground_threshold": threshold}):
        save_network(build_network(config), config.network, path, thresholds)
        with pytest.raises(ValueError, match=r"network\.safetensors: not a network of this project: "):
            open_network(config, path)


def test_a_file_of_one_threshold_has_it_for_every_class(tmp_path: Path):
    config, path = ExperimentConfig(name="x"), tmp_path / "network.safetensors"
    save_network(build_network(config), config.network, path, {"threshold": "0.3"})
    assert open_network(config, path)[1] == OccupancyThreshold.of_all(0.3)


def test_processes_share_what_is_still_to_be_predicted(synthetic_dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One of several that were interrupted may have done its part: the rest is no work of another one alone."""
    small = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
    data = {"dataroot": synthetic_dataroot, "version": "v1.0-mini", "loader": {"image_size": (32, 64)}, "num_workers": 0}
    grid = {"lower": (-16.0, -16.0, -1.0), "upper": (16.0, 16.0, 3.0), "cell_size": 0.5}
    config = ExperimentConfig.model_validate({"name": "small", "data": data, "grid": grid, "network": small})
    network, index = tmp_path / "network.safetensors", build_index(config.data, None)
    save_network(build_network(config), config.network, network, {"threshold": "0.3"})
    shared: list[list[int]] = []

    def share(items: Sequence[int]) -> Sequence[int]:
        shared.append(list(items))
        return items

    monkeypatch.setattr(prediction, "share", share)
    cache = predict(config, network, tmp_path / "output", split="val", index=index)
    (tmp_path / "output" / "manifest.json").unlink()
    (removed,) = (tmp_path / "output" / cache.frames[1].scene).glob(f"*{cache.frames[1].token}*")
    removed.unlink()
    predict(config, network, tmp_path / "output", split="val", index=index)
    first, second = index.of_split("val")
    assert shared == [[first, second], [second]]
