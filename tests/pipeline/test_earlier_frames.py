"""A network that looks at earlier frames, on the whole path: options, training in both phases, resuming, predicting, drawing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_trainings import assert_same_network, interrupted_at, logged_losses

from splattingocc.cli import parse
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import newest_checkpoint
from splattingocc.experiment import ExperimentConfig, build_index, build_prediction_loader
from splattingocc.geometry.cameras import Views
from splattingocc.labels.generate import generate_labels
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.pictures import PictureOptions, draw_key_frame_without_cache
from splattingocc.pipeline import camera_maps
from splattingocc.pipeline.prediction import open_network, predict
from splattingocc.pipeline.training import train
from splattingocc.visualization.raycast import PictureConfig

DATA = ("--data.version", "v1.0-mini", "--data.loader.image-size", "32", "64", "--data.loader.num-rays", "500", "--data.num-workers", "0")
STEREO = ("--network.image-reader.stereo.kind", "cost_volume", "--network.image-reader.stereo.channels", "8")
NETWORK = (*STEREO, "--network.temporal.frames", "1", "--network.image-reader.camera-aware", "--network.lift.coarsening", "4")
SMALL = ("--network.backbone.kind", "mobilenet_v2", "--grid.cell-size", "0.8", "--calibration.criterion", "cells")
TRAINING = (
    "--optimization.image-steps",
    "2",
    "--optimization.warmup-steps",
    "1",
    "--trainer.max-epochs",
    "1",
    "--trainer.accelerator",
    "cpu",
)
ONE_EARLIER = ("--data.loader.previous-frames", "1")


@pytest.fixture(scope="module")
def config(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    labels = tmp_path_factory.mktemp("labels")
    generate_labels(read_index(synthetic_dataroot, "v1.0-mini"), synthetic_dataroot, labels, show_progress=False)
    places = ["--data.dataroot", str(synthetic_dataroot), "--data.labels", str(labels)]
    return parse(["train", "splattingocc-synth", *places, *DATA, *ONE_EARLIER, *NETWORK, *SMALL, *TRAINING]).experiment


@pytest.fixture(scope="module")
def trained(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("trained")
    train(config, work_dir, show_progress=False)
    return work_dir


def test_options_choose_the_parts(config: ExperimentConfig):
    assert config.network.image_reader.stereo == CostVolumeConfig(channels=8)
    assert config.network.temporal.frames == config.network.previous_frames == config.data.loader.previous_frames == 1


def test_both_phases_train_and_a_resumed_run_equals_an_uninterrupted_one(config: ExperimentConfig, trained: Path, tmp_path: Path):
    losses = logged_losses(trained)
    assert [step for step, _ in losses] == ["0", "1", "2", "3"]
    in_the_joint_phase = 3
    often = config.model_copy(update={"trainer": config.trainer.model_copy(update={"checkpoint_steps": 1})})
    with interrupted_at(in_the_joint_phase):
        train(often, tmp_path, show_progress=False)
    train(often, tmp_path, resume_from=newest_checkpoint(tmp_path), show_progress=False)
    assert logged_losses(tmp_path) == losses
    assert_same_network(config, tmp_path, trained)


def repeated(views: Views) -> Views:
    """The same with the newest frame in the place of those before."""
    return views.map(lambda values: values[:, :1].expand_as(values))


def test_a_trained_network_predicts_and_draws_with_the_frames_that_it_needs(
    config: ExperimentConfig, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    index, checkpoint = build_index(config.data, tmp_path), trained / "network.safetensors"
    cache = predict(config, checkpoint, tmp_path / "output", split="val", index=index)
    second = index.of_split("val")[1]
    assert len(list((tmp_path / "output").rglob("*.npz"))) == 2
    assert cache.manifest.provenance.split == "val"
    (sample,) = build_prediction_loader(config, index, [second])
    network, _ = open_network(config, checkpoint)
    with torch.inference_mode():
        seen, standing = (network(views).field.opacities for views in (sample.views, repeated(sample.views)))
    assert not torch.equal(seen, standing)
    monkeypatch.setattr(camera_maps, "MAP_WIDTH", 32)
    options = PictureOptions(picture=PictureConfig(image_size=(60, 100), pixels_per_cell=1, supersampling=1))
    assert len(draw_key_frame_without_cache(config, checkpoint, index, second, tmp_path / "pictures", options=options)) == 4


def test_a_key_frame_that_was_skipped_is_no_earlier_frame_of_another(config: ExperimentConfig, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(config.data.dataroot, data)
    index = read_index(data, "v1.0-mini")
    first, second = index.of_split("val")
    (data / index[first].cameras[0].filename).unlink()
    generate_labels(index, data, tmp_path / "labels", skip_missing=True, show_progress=False)
    places = config.data.model_copy(update={"dataroot": data, "labels": tmp_path / "labels"})
    (sample,) = build_prediction_loader(config.model_copy(update={"data": places}), index, [second])
    # As in training: the frame itself takes the place of one that is not there
    assert torch.equal(sample.views.images, repeated(sample.views).images)
    with pytest.raises(ValueError, match=index[first].cameras[0].filename):
        list(build_prediction_loader(config.model_copy(update={"data": places}), index, [first]))


@pytest.mark.parametrize("number", [0, 2])
def test_too_few_and_too_many_frames_are_refused_on_the_command_line(number: int):
    with pytest.raises(ValueError, match=r"^ExperimentConfig: ") as refused:
        parse(["train", "splattingocc-synth", *NETWORK, "--data.loader.previous-frames", str(number)])
    said = str(refused.value)
    assert f"data.loader.previous_frames is {number}, expected 1: that many earlier frames network.temporal.frames (1)" in said
    assert "\n" not in said
