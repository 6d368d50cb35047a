"""Networks of the repository are found by name from any folder, and where there are none, that is said; how they come there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splattingocc import Predictor, zoo
from splattingocc.cli import main, parse
from splattingocc.engine.checkpoint import CONFIG_KEY, EXPERIMENT_KEY, read_network, save_network, save_weights
from splattingocc.experiment import ExperimentConfig, build_network
from splattingocc.files import sha256_of
from splattingocc.pipeline.networks import find_network, load_experiment, run_folder
from splattingocc.pipeline.sharing import ORIGIN_KEY
from splattingocc.provenance import commit

SMALL = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
GRID = {"lower": (-16.0, -16.0, -1.0), "upper": (16.0, 16.0, 3.0), "cell_size": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as a training on this machine leaves one, with its scores beside it."""
    folder = tmp_path_factory.mktemp("run")
    data = {"dataroot": folder / "streets", "labels": folder / "streets" / "labels_2d", "loader": {"image_size": (64, 128)}}
    trainer = {"initial_network": folder / "first.safetensors"}
    config = ExperimentConfig.model_validate({"name": "small", "data": data, "grid": GRID, "network": SMALL, "trainer": trainer})
    torch.manual_seed(0)
    metadata = {"threshold": "0.05", "step": "7", "commit": commit(), EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))}
    network = folder / "network.safetensors"
    save_network(build_network(config), config.network, network, metadata)
    row = f"| method | mIoU | checkpoint |\n|---|---|---|\n| small | 12.3 | {sha256_of(network)[:12]} |"
    (folder / "metrics_val.json").write_text(json.dumps({"markdown": row}))
    return network


@pytest.fixture
def repository(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with one network, made by the command, and a working directory elsewhere."""
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "repository" / "zoo")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    main(["export", str(trained), str(zoo.ZOO / "tiny" / "network.safetensors"), "--fp16", "--card"])
    return zoo.ZOO / "tiny"


def test_a_network_is_loaded_by_name_from_any_folder_and_one_that_is_here_comes_first(repository: Path, trained: Path):
    assert zoo.known_networks() == {"tiny": repository / "network.safetensors"}
    assert Predictor.load("zoo/tiny").threshold == 0.05
    assert parse(["test", "zoo/tiny"]).config == repository / "network.safetensors"
    assert load_experiment(Path("zoo/tiny")).name == "small"
    assert zoo.find_in_zoo(repository) == repository / "network.safetensors"
    assert find_network(Path("zoo/tiny"), "any") == repository / "network.safetensors"
    here = Path("zoo/tiny/network.safetensors")
    here.parent.mkdir(parents=True)
    here.symlink_to(trained)
    assert zoo.find_in_zoo(Path("zoo/tiny")) == here


def test_results_of_a_network_of_the_zoo_do_not_go_into_it(repository: Path):
    assert run_folder(repository / "network.safetensors") == Path("work_dirs/tiny")


def test_a_name_that_there_is_not_is_refused_in_one_line(repository: Path):
    with pytest.raises(ValueError, match=r"^zoo/tinny: no network of this name; did you mean zoo/tiny\? .*zoo has tiny$"):
        Predictor.load("zoo/tinny")
    with pytest.raises(SystemExit, match=r"^splattingocc: zoo/huge: no network of this name; .*zoo has tiny$"):
        main(["test", "zoo/huge"])


def test_where_the_package_is_no_checkout_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "site-packages" / "zoo")
    with pytest.raises(ValueError, match=r"^zoo/tiny: this installation has no zoo, .* not in the wheel; expected the path of a network"):
        Predictor.load("zoo/tiny")


def test_half_the_bytes_predict_nearly_the_same(repository: Path, trained: Path):
    shared = repository / "network.safetensors"
    assert shared.stat().st_size < 0.52 * trained.stat().st_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    K = np.tile([[80.0, 0, 64], [0, 80, 32], [0, 0, 1]], (2, 1, 1))
    ahead = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])
    rig = (images, K, np.stack([ahead, ahead @ np.diag([-1.0, -1, 1, 1])]))
    whole, half = (Predictor.load(path, device="cpu") for path in (trained, shared))
    assert {weight.dtype for weight in half.network.state_dict().values()} == {torch.float32, torch.int64}
    expected, found = whole(*rig), half(*rig)
    assert (found.probabilities - expected.probabilities).abs().max() < 0.01
    assert (found.semantics == expected.semantics).float().mean() > 0.99
    assert not torch.equal(found.probabilities, expected.probabilities)


def test_what_is_handed_on_keeps_where_it_is_from_and_names_no_folder_of_its_machine(repository: Path, trained: Path):
    _, metadata = read_network(repository / "network.safetensors")
    _, before = read_network(trained)
    assert {key: metadata[key] for key in ("threshold", "step", "commit", CONFIG_KEY)} == {
        key: before[key] for key in ("threshold", "step", "commit", CONFIG_KEY)
    }
    assert len(metadata[ORIGIN_KEY]) == 64
    data = json.loads(metadata[EXPERIMENT_KEY])["data"]
    assert (data["dataroot"], data["labels"]) == ("streets", "labels_2d")
    assert str(trained.parent) in before[EXPERIMENT_KEY]
    content = (repository / "network.safetensors").read_bytes() + (repository / "README.md").read_bytes()
    assert str(trained.parent).encode() not in content


def test_the_card_says_what_the_network_is_and_what_it_scored(repository: Path, trained: Path):
    card = (repository / "README.md").read_text()
    for expected in ("# tiny", "| small | 12.3 |", "| occupancy threshold | 0.05 |", "7 steps, seed 0", "64 × 128", 'load("zoo/tiny")'):
        assert expected in card
    assert "| began with the weights of | first.safetensors |" in card
    # Scores of another network of the run are not its own, and a name without a folder is in the folder at hand
    scores = trained.parent / "metrics_val.json"
    tested, of_another = scores.read_text(), scores.read_text().replace(sha256_of(trained)[:12], "0123456789ab")
    scores.write_text(of_another)
    main(["export", str(trained), "small.safetensors", "--card"])
    scores.write_text(tested)
    card = Path("README.md").read_text()
    for expected in ("# elsewhere", "Not tested yet", 'load("small.safetensors")'):
        assert expected in card
    with pytest.raises(SystemExit, match=r"README\.md: is there already; remove it to have it written anew"):
        main(["export", str(trained), str(repository / "network.safetensors"), "--fp16", "--card"])


def test_a_threshold_that_is_none_is_named_before_anything_is_written(trained: Path, tmp_path: Path):
    weights, metadata = read_network(trained)
    path = tmp_path / "damaged.safetensors"
    save_weights(weights, path, {**metadata, "threshold": "x"})
    with pytest.raises(SystemExit, match=r"damaged\.safetensors: not a network of this project: ") as stopped:
        main(["export", str(path), str(tmp_path / "out" / "network.safetensors"), "--card"])
    assert "\n" not in str(stopped.value.code)
    assert not (tmp_path / "out").exists()


def test_weights_that_float16_cannot_hold_are_refused(trained: Path, tmp_path: Path):
    config = ExperimentConfig.model_validate(
        {"name": "small", "grid": GRID, "network": SMALL, "data": {"loader": {"image_size": (64, 128)}}}
    )
    network = build_network(config)
    with torch.no_grad():
        network.head.classes.weight[0, 0] = 1e6
    path = tmp_path / "large.safetensors"
    save_network(network, config.network, path, {"threshold": "0.3", EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))})
    with pytest.raises(SystemExit, match=r"large\.safetensors: weight head\.classes\.weight has numbers up to 1e\+06, float16 ends"):
        main(["export", str(path), str(tmp_path / "small.safetensors"), "--fp16"])
