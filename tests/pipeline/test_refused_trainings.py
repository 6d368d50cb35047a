"""What cannot be trained, or would do nothing, is said in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from small_trainings import CONFIG, run_and_fail, small_experiment, train_command, with_trainer
from torch import Tensor, nn

from splattingocc.cli import main
from splattingocc.data.label_store import RayTable, write_manifest, write_scene
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import read_metadata, save_network
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig, TrainerConfig, build_index, build_network
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.losses.objective import Losses
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.network import NetworkConfig
from splattingocc.pipeline.remarks import about_idle_options
from splattingocc.pipeline.trainer import check_sync_batchnorm
from splattingocc.pipeline.training import build_module, replay, train

pytestmark = pytest.mark.usefixtures("registered")


def test_a_network_whose_gaussians_cannot_be_rendered_ends_the_training_as_a_loss_that_is_not_finite_does(dataroot: Path, tmp_path: Path):
    def spoilt(config: ExperimentConfig, **options: bool) -> OccupancyModule:
        module = build_module(config, **options)
        with torch.no_grad():
            module.network.head.geometry.weight.fill_(1e38)
        return module

    config = with_trainer(small_experiment(dataroot), max_epochs=1)
    with pytest.raises(ValueError, match=r"is not finite at step 0, samples .*semantic nan.*\(gaussians\.\w+: must be .*saved for replay"):
        train(config, tmp_path, show_progress=False, build=spoilt)
    (saved,) = tmp_path.glob("non_finite_step_*.safetensors")
    with pytest.raises(ValueError, match=r"^gaussians\.\w+: must be"):
        replay(config, saved, build_index(config.data, None))


@pytest.mark.parametrize("name", ["val/lss", "semantic", "learning_rate/images", "val/loss/distortion"])
def test_a_number_that_there_will_not_be_chooses_no_checkpoint(name: str, dataroot: Path):
    with pytest.raises(ValueError, match=f"trainer.best_by is {name}, expected one of val/loss, val/loss/semantic"):
        with_trainer(small_experiment(dataroot), validate_epochs=1, best_by=name)


def test_a_measurement_that_no_epoch_reaches_is_refused_before_the_training(dataroot: Path, tmp_path: Path):
    config = with_trainer(small_experiment(dataroot), validate_epochs=3, max_epochs=2)
    with pytest.raises(ValueError, match=r"trainer\.validate_epochs is 3, expected at most trainer\.max_epochs, 2"):
        train(config, tmp_path / "run", show_progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"optimization": {"image_steps": 10}}, ["optimization.image_steps 10 of 10 steps: the image branch alone learns, no volume does"]),
        ({"optimization": {"image_steps": 6, "warmup_steps": 4}}, []),
        (
            {"optimization": {"image_steps": 6, "warmup_steps": 5}},
            ["optimization.warmup_steps 5 of 4 steps: the peak learning rate is never reached"],
        ),
        ({"optimization": {"step_factor": 0.5}}, ["optimization.step_factor: does nothing without optimization.schedule step"]),
        (
            {"optimization": {"schedule": "step", "step_epochs": (5, 7)}},
            ["optimization.step_epochs (5, 7) of 5 epochs: the learning rate never falls"],
        ),
        ({"optimization": {"schedule": "step", "step_epochs": (4, 7)}}, []),
        (
            {"data": {"loader": {"calibration_scenes": 5}}},
            ["data.loader.calibration_scenes 5: 1 are kept back, at most one in eight of the training scenes"],
        ),
        ({"trainer": {"best_by": "loss"}}, ["trainer.best_by loss: does nothing without trainer.validate_epochs"]),
        (
            {"calibration": {"criterion": "cells", "ray_tolerance": 0.1}},
            ["calibration.ray_tolerance 0.1: does nothing without calibration.criterion rays"],
        ),
    ],
)
def test_options_that_do_nothing_in_a_training_are_said(changes: dict[str, dict[str, Any]], said: list[str]):
    """Of 17 samples in two processes, of which one is left over, two at a time for each and two batches a step: twice five steps."""
    options = {
        "name": "x",
        "data": {"batch_size": 2},
        "optimization": {"warmup_steps": 1},
        "trainer": {"max_epochs": 5, "accumulate_batches": 2},
    }
    for part, values in changes.items():
        options[part] = {**options.get(part, {}), **values}
    assert [*about_idle_options(ExperimentConfig.model_validate(options), 17, 2, 1)] == said


def test_labels_that_no_loss_can_learn_from_are_refused_before_the_first_step(dataroot: Path, tmp_path: Path):
    index, source = read_index(dataroot, "v1.0-mini"), LidarLabels(LidarLabelConfig(with_classes=False))
    generate_labels(index, dataroot, tmp_path / "labels", source=source, show_progress=False)
    geometry = ("distance", "line-of-sight", "empty", "query", "depth-bins")
    options = [word for name in geometry for word in (f"--objective.{name}.weight", "0")]
    message = run_and_fail(*train_command(dataroot, tmp_path / "run", "--data.labels", tmp_path / "labels", *options))
    assert (
        f"{tmp_path / 'labels'}: no label has a class, and of the losses with a weight (semantic, pixel_classes) none can do without"
        in message
    )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_labels_that_choose_the_threshold_have_to_be_left(dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    loader = config.data.loader.model_copy(update={"held_out_fraction": 0.0})
    config = config.model_copy(update={"data": config.data.model_copy(update={"loader": loader})})
    with pytest.raises(
        ValueError, match=r"^data\.loader\.held_out_fraction is 0 and data\.loader\.calibration_scenes 2 keeps no scene back"
    ):
        train(config, tmp_path / "run", show_progress=False)


def test_without_a_single_label_no_step_is_taken(dataroot: Path, tmp_path: Path):
    store = tmp_path / "labels"
    index = read_index(dataroot, "v1.0-mini")
    manifest = generate_labels(index, dataroot, store, show_progress=False)
    nothing = RayTable(np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    records = {
        name: write_scene(
            store,
            name,
            dict.fromkeys(record.tokens, nothing),
            steps=32,
            num_cameras=6,
            source_sha256=record.source_sha256,
            inputs_sha256="0",
        )
        for name, record in manifest.scenes.items()
    }
    write_manifest(store, msgspec.structs.replace(manifest, scenes=records))
    message = run_and_fail(*train_command(dataroot, tmp_path / "run", "--data.labels", store))
    assert f"{store}: not one labelled ray in the 4 key frames to train on" in message


def test_a_loss_that_is_not_finite_ends_the_run_and_can_be_replayed(dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    original = OccupancyModule._losses

    def broken(module, sample):
        losses = original(module, sample)
        return losses if sample.token[0] != bad_token else Losses(losses.parts | {"distance": losses.parts["distance"] * math.nan})

    index = build_index(config.data, tmp_path)
    bad_token = index.tokens[index.of_split("train")[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "_losses", broken)
        with pytest.raises(ValueError, match=rf"not finite at step \d+, samples {bad_token}: .*distance nan.*; saved for replay") as error:
            train(config, tmp_path, show_progress=False)
        path = Path(str(error.value).split("saved for replay: ")[1])
        assert replay(config, path, index).parts["distance"].isnan()
        accumulated = with_trainer(config, accumulate_batches=4)
        with pytest.raises(ValueError, match=rf"not finite at step 0, samples {bad_token}: .*distance nan"):
            train(accumulated, tmp_path / "accumulated", show_progress=False)
    mended = replay(config, path, index)
    assert mended.total.isfinite()
    said = json.loads(read_metadata(path)["losses"])
    assert repr(mended.parts["query"].item()) == said["query"]


def test_a_truncated_image_ends_training_in_one_line_that_names_it(dataroot: Path, tmp_path: Path):
    broken = tmp_path / "data"
    shutil.copytree(dataroot, broken)
    for path in (broken / "samples" / "CAM_FRONT").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    message = run_and_fail(*train_command(broken, tmp_path / "run", "--data.num-workers", 1))
    assert "samples/CAM_FRONT/" in message
    assert (tmp_path / "run" / "console.log").read_text().splitlines()[-1] == message.replace("splattingocc: ", "ValueError: ")
    assert "cannot be read as a JPEG or PNG image: Truncated File Read" in message


def test_a_damaged_table_a_missing_store_and_a_wrong_folder_are_named(dataroot: Path, tmp_path: Path):
    broken = tmp_path / "data"
    shutil.copytree(dataroot, broken)
    table = broken / "v1.0-mini" / "sample_data.json"
    table.write_bytes(table.read_bytes()[:1000])
    assert "sample_data.json" in run_and_fail(*train_command(broken, tmp_path / "run"))
    assert "labels_nowhere" in run_and_fail(*train_command(dataroot, tmp_path / "run", "--data.labels", "labels_nowhere"))
    assert "nowhere" in run_and_fail("prepare", "--dataroot", "nowhere", "--version", "v1.0-mini")


def test_a_misspelled_key_in_a_config_file_names_the_right_one(tmp_path: Path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.read_text().replace("warmup_steps", "warmup_step"))
    message = run_and_fail("train", path)
    assert "warmup_step is not an option of OptimizationConfig; did you mean warmup_steps?" in message


def test_a_misspelled_option_names_the_right_one(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main([str(word) for word in train_command(dataroot, tmp_path, "--optimization.learning-rat", 1)])
    assert "--optimization.learning-rate" in capsys.readouterr().err


def test_a_checkpoint_of_another_config_is_refused_by_the_option(dataroot: Path, tmp_path: Path):
    config = ExperimentConfig(name="coarser", grid=GridConfig(cell_size=0.8), network=NetworkConfig(backbone=MobileNetV2Config()))
    save_network(build_network(config), config.network, tmp_path / "network.safetensors", {"threshold": "0.5"})
    message = run_and_fail("test", CONFIG, tmp_path / "network.safetensors", "--data.dataroot", dataroot, "--grid.cell-size", 0.8)
    assert "network.safetensors: checkpoint of another network: network.neck.stride is 8 there and 4" in message


def test_layers_that_torch_would_replace_by_less_are_not_shared_between_processes():
    """As timm's of EfficientNet: torch's conversion leaves out their activation, and the network's file would have it again."""

    class BatchNormAct2d(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    config = TrainerConfig(sync_batchnorm=True)
    check_sync_batchnorm(config, nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm3d(2)))
    network = nn.Sequential(nn.BatchNorm2d(2), BatchNormAct2d(2))
    check_sync_batchnorm(TrainerConfig(), network)
    with pytest.raises(ValueError, match=r"^trainer\.sync_batchnorm: would leave out what BatchNormAct2d does besides; expected False$"):
        check_sync_batchnorm(config, network)
