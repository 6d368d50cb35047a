"""A network's file as somebody names it: by a link, by a bare name, alone; and what its header may hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splattingocc.cli import main
from splattingocc.config import Config
from splattingocc.engine.checkpoint import CONFIG_KEY, EXPERIMENT_KEY, checkpoint_path, is_network, is_safetensors, save_network
from splattingocc.engine.checkpoint_writing import AtomicCheckpointIO
from splattingocc.experiment import DataConfig, ExperimentConfig, build_network
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.pipeline.networks import experiment_of, find_network, load_experiment, network_to_test, run_folder, with_folders_here
from splattingocc.pipeline.prediction import open_network
from splattingocc.pipeline.training import set_aside

EXPERIMENT = ExperimentConfig(name="mine", seed=7)


def save(path: Path, experiment: object, **metadata: str) -> Path:
    """Write a network of one weight with an experiment in its header."""
    text = experiment if isinstance(experiment, str) else json.dumps(experiment)
    torch.manual_seed(0)
    save_network(nn.Linear(1, 1), Config(), path, {EXPERIMENT_KEY: text, **metadata})
    return path


def save_checkpoint(work_dir: Path, step: int, weight: float | None = None) -> Path:
    """Write a checkpoint of the weights that `save` writes, or of another."""
    torch.manual_seed(0)
    state = {f"network.{key}": value if weight is None else value * 0 + weight for key, value in nn.Linear(1, 1).state_dict().items()}
    content = {"state_dict": state, CONFIG_KEY: "{}", EXPERIMENT_KEY: json.dumps(plain())}
    AtomicCheckpointIO().save_checkpoint(content, path := checkpoint_path(work_dir, step))
    return path


def plain(**changes: Any) -> dict[str, Any]:
    return {**EXPERIMENT.model_dump(mode="json"), **changes}


def test_a_network_holds_its_experiment(tmp_path: Path):
    network = save(tmp_path / "network.safetensors", plain())
    checkpoint = save_checkpoint(tmp_path, 3)
    for path in (network, checkpoint, tmp_path / "latest.pth"):
        assert load_experiment(path) == EXPERIMENT
    assert experiment_of(network)[1] == []


@pytest.mark.parametrize(
    ("part", "values", "named"),
    [
        ("objective", {"metric_distance": {"weight": 0.1}}, "metric_distance is not an option of ObjectiveConfig"),
        ("trainer", {"max_epochs": 10**9}, "trainer.max_epochs is 1000000000"),
        ("optimization", {"kind": "muon"}, "kind is not an option of OptimizationConfig"),
    ],
)
def test_what_only_training_needs_may_be_unknown_and_is_said(part: str, values: object, named: str, tmp_path: Path):
    network = save(tmp_path / "network.safetensors", plain(**{part: values}))
    experiment, (line,) = experiment_of(network)
    assert experiment == EXPERIMENT
    assert line.startswith(f"{network}: trained with what is unknown here and not needed for testing (ExperimentConfig")
    assert named in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": {"attention": 3}}, "attention is not an option of NetworkConfig"),
        ({"network": {"lift": {"kind": "radar"}}}, "kind is 'radar', expected one of sampling"),
        ({"weather": "rain"}, "weather is not an option of ExperimentConfig"),
        ({"network": {"attention": 3}, "objective": {"mine": 1}}, "attention is not an option of NetworkConfig"),
        ({"seed": -1}, "ExperimentConfig.seed is -1"),
        ({"name": "../up"}, "cannot name a file"),
    ],
)
def test_anything_else_of_another_version_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path):
    network = save(tmp_path / "network.safetensors", plain(**changes))
    with pytest.raises(SystemExit) as stopped:
        main(["test", str(network)])
    message = str(stopped.value)
    assert message.startswith(f"splattingocc: {network}: trained by another version or with parts of its own: ")
    assert named in message
    assert "\n" not in message


def test_what_an_earlier_version_had_for_training_or_for_nothing_is_no_hindrance(tmp_path: Path):
    """Label frames on one side only, and earlier frames that networks of then never looked at."""
    experiment = plain()
    loader = experiment["data"]["loader"]
    del loader["label_frames"]
    loader |= {"auxiliary_offsets": [-1], "previous_frames": 2, "image_size": [96, 240]}
    found, remarks = experiment_of(save(tmp_path / "network.safetensors", experiment))
    assert (found.data.loader.previous_frames, found.data.loader.image_size) == (0, (96, 240))
    assert len(remarks) == 1


def test_a_network_is_opened_without_the_weights_that_it_started_from(tmp_path: Path):
    config = ExperimentConfig.model_validate({"name": "x", "network": {"lift": {"coarsening": 8}, "backbone": {"weights": "gone.pth"}}})
    without = config.model_copy(update={"network": config.network.model_copy(update={"backbone": ResNetConfig()})})
    path = tmp_path / "network.safetensors"
    save_network(build_network(without), config.network, path, {EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))})
    open_network(load_experiment(path), path)
    with pytest.raises(ValueError, match=r"gone\.pth: no such file"):
        build_network(config)


@pytest.mark.parametrize("text", ["", "{", "3", "null", "[]", "[" * 5000, '{"name": "' + "x" * 2**20 + '"}', '{"name": NaN}'])
def test_a_header_that_holds_no_experiment_is_one_line(text: str, tmp_path: Path):
    network = save(tmp_path / "network.safetensors", text)
    for command in ("test", "visualize"):
        with pytest.raises(SystemExit) as stopped:
            main([command, str(network)])
        assert str(stopped.value).startswith(f"splattingocc: {network}: ")
        assert "\n" not in str(stopped.value)


def test_a_network_without_an_experiment_asks_for_a_configuration(tmp_path: Path):
    save_network(nn.Linear(1, 1), Config(), tmp_path / "network.safetensors", {})
    with pytest.raises(SystemExit, match=r"holds no experiment \(key experiment is missing\); give a configuration before it"):
        main(["test", str(tmp_path / "network.safetensors")])


def test_a_network_of_the_zoo_is_no_configuration_to_train_either():
    with pytest.raises(SystemExit, match=r"zoo/.*network\.safetensors: a network, expected a configuration; config\.json in"):
        main(["describe", "zoo/splattingocc-synth-long"])


def test_a_network_is_no_configuration_to_train(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"network\.safetensors: a network, expected a configuration; config\.json in"):
        main(["train", str(save(tmp_path / "network.safetensors", plain()))])


def test_what_a_file_is_is_told_by_its_content_and_else_by_its_name(tmp_path: Path):
    network, checkpoint = save(tmp_path / "network.safetensors", plain()), save_checkpoint(tmp_path, 1)
    for path, name in ((network, "blob"), (network, "a.pth"), (checkpoint, "blob2"), (checkpoint, "b.safetensors")):
        (tmp_path / name).symlink_to(path)
        assert is_network(tmp_path / name)
        assert is_safetensors(tmp_path / name) == (path == network)
    (tmp_path / "config.py").write_text("options={}\n\n\ndef config(): ...\n")  # its ninth character is a brace, too
    (tmp_path / "empty.safetensors").touch()
    assert not is_network(tmp_path / "config.py")
    assert not is_network(tmp_path)
    assert not is_network(Path("splattingocc-synth"))
    assert is_safetensors(tmp_path / "empty.safetensors")


def test_a_link_that_leads_nowhere_is_one_line(tmp_path: Path):
    save_checkpoint(tmp_path, 1).unlink()
    for words in ((), ("splattingocc-synth",)):
        with pytest.raises(SystemExit, match=r"latest\.pth: a link to checkpoints/step_00000001\.ckpt, which is not there any more$"):
            main(["test", *words, str(tmp_path / "latest.pth")])
    with pytest.raises(SystemExit, match=r"latest\.pth: a link to checkpoints/step_00000001\.ckpt, which is not there any more$"):
        main(["train", "splattingocc-synth", "--work-dir", str(tmp_path), "--resume-from", str(tmp_path / "latest.pth")])


def test_a_bare_name_is_looked_for_here_and_then_in_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^latest\.pth: no such checkpoint; "):
        find_network(Path("latest.pth"), "mine")
    save_checkpoint(tmp_path / "work_dirs" / "mine", 1)
    assert find_network(Path("latest.pth"), "mine") == Path("work_dirs/mine/latest.pth")
    with pytest.raises(ValueError, match=r"^latest\.pth: no such checkpoint; "):
        find_network(Path("latest.pth"), "yours")
    with pytest.raises(ValueError, match=r"^elsewhere/latest\.pth: no such checkpoint$"):
        find_network(Path("elsewhere/latest.pth"), "mine")
    save_checkpoint(tmp_path, 2)
    assert find_network(Path("latest.pth"), "mine") == Path("latest.pth")


def test_a_link_from_anywhere_to_a_checkpoint_is_of_that_checkpoint_s_run(tmp_path: Path):
    checkpoint = save_checkpoint(tmp_path / "run", 1)
    (tmp_path / "mine.pth").symlink_to("run/latest.pth")
    (tmp_path / "mine.safetensors").symlink_to(save(tmp_path / "store" / "0a1b2c", plain()))
    assert run_folder(checkpoint) == run_folder(tmp_path / "run" / "latest.pth") == run_folder(tmp_path / "mine.pth") == tmp_path / "run"
    assert run_folder(tmp_path / "mine.safetensors") == tmp_path
    assert run_folder(tmp_path / "checkpoints" / "network.safetensors") == tmp_path / "checkpoints"
    assert network_to_test(tmp_path / "mine.pth") == checkpoint


def test_the_last_checkpoint_of_a_finished_training_is_its_network_and_no_other(tmp_path: Path):
    other, last = save_checkpoint(tmp_path, 1, weight=3.0), save_checkpoint(tmp_path, 2)
    assert network_to_test(tmp_path / "latest.pth") == last  # not finished yet
    network = save(tmp_path / "network.safetensors", plain(), threshold="0.3")
    assert network_to_test(tmp_path / "latest.pth") == network_to_test(last) == network_to_test(network) == network
    assert network_to_test(other) == other
    network.write_bytes(network.read_bytes()[:-3])
    assert network_to_test(last) == last


def test_what_is_set_aside_is_not_the_latest_any_more(tmp_path: Path):
    older, _ = save_checkpoint(tmp_path, 1), save_checkpoint(tmp_path, 2)
    set_aside(tmp_path, tmp_path / "checkpoints" / "step_00000002.ckpt", step=2)
    assert os.readlink(tmp_path / "latest.pth") == "checkpoints/step_00000002.ckpt"
    set_aside(tmp_path, older, step=1)
    assert not (tmp_path / "latest.pth").is_symlink()


def test_folders_of_the_training_that_are_not_here_name_their_options(tmp_path: Path):
    data = DataConfig(dataroot=tmp_path / "then", labels=tmp_path / "labels", gts=tmp_path / "gts")
    trained = EXPERIMENT.model_copy(update={"data": data})
    network = save(tmp_path / "network.safetensors", trained.model_dump(mode="json"))
    with pytest.raises(ValueError, match=r"then: no such folder; .*network\.safetensors was trained with it: .* --data\.dataroot$"):
        with_folders_here(trained, network)
    (tmp_path / "then").mkdir()
    with pytest.raises(ValueError, match=r"gts: no such folder; .* was trained with it: .* --data\.gts$"):
        with_folders_here(trained, network)
    (tmp_path / "gts").mkdir()
    same, (line,) = with_folders_here(trained, network)
    assert same == trained
    assert line.endswith("labels is not here; --data.labels says where, should it be needed")
    now = trained.model_copy(update={"data": data.model_copy(update={"dataroot": tmp_path / "now"})})
    with pytest.raises(ValueError, match=rf"^--data\.dataroot {tmp_path}/now: no such folder$"):
        with_folders_here(now, network)
    (tmp_path / "now").mkdir()
    moved, lines = with_folders_here(now, network)
    assert moved.data == DataConfig(dataroot=tmp_path / "now")
    assert [line.split(" is of other data; --data.")[1] for line in lines] == [
        f"{name} says where it is here" for name in ("labels", "gts")
    ]
