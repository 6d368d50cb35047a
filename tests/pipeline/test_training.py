"""The whole path on a small synthetic set: training sees 2D labels only, repeats exactly, and leaves what later runs need."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_trainings import assert_same_network, logged_losses, small_experiment, train_command, with_epochs, with_trainer, with_workers

from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.checkpoint import newest_checkpoint, read_network
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.signals import HEEDED, InterruptedTraining
from splattingocc.experiment import build_index
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.losses.objective import Losses
from splattingocc.models.image_reader import ImageReaderConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.temporal import TemporalConfig
from splattingocc.pipeline.prediction import open_network, predict
from splattingocc.pipeline.training import build_module, load_initial_network, train

pytestmark = pytest.mark.usefixtures("registered")


def test_the_loss_falls_and_every_step_is_logged(trained: Path):
    losses = [float(loss) for _, loss in logged_losses(trained)]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_training_leaves_its_configuration_environment_and_metrics(trained: Path):
    files = {name: json.loads((trained / f"{name}.json").read_text()) for name in ("config", "environment", "metrics")}
    assert files["config"]["trainer"]["max_epochs"] == 2
    assert {"commit", "torch", "gpus", "launcher"} <= set(files["environment"])
    metrics = files["metrics"]
    assert (metrics["first_step"], metrics["last_step"]) == (0, 8)
    assert metrics["loss"] == pytest.approx(sum(metrics["losses"].values()), abs=0.01)
    assert metrics["samples_per_second"] > 0
    assert 0 < metrics["threshold"] < 1


def test_the_same_seed_gives_the_same_losses_to_the_last_digit(trained: Path, dataroot: Path, tmp_path: Path):
    handlers = [signal.getsignal(number) for number in HEEDED]
    train(small_experiment(dataroot), tmp_path, show_progress=False)
    assert logged_losses(tmp_path) == logged_losses(trained)
    assert [signal.getsignal(number) for number in HEEDED] == handlers, "SIGTERM would not end what comes after a training"


def test_pictures_while_training_leave_the_training_as_it_is(trained: Path, dataroot: Path, tmp_path: Path):
    train(with_trainer(small_experiment(dataroot), picture_steps=3), tmp_path, show_progress=False)
    assert [path.name for path in sorted((tmp_path / "pictures").iterdir())] == [f"step_{step:08d}.png" for step in (3, 6, 8)]
    assert (tmp_path / "logs/metrics.csv").read_bytes() == (trained / "logs/metrics.csv").read_bytes()
    assert_same_network(small_experiment(dataroot), tmp_path, trained)
    assert (tmp_path / "curves.png").is_file()


def test_accumulated_batches_are_one_step_in_all_that_counts_steps(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Four key frames by three: steps of three and of one. A run stopped in the middle of an epoch goes on as if it had not been."""
    config = with_trainer(small_experiment(dataroot), accumulate_batches=3)
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"image_steps": 1})})
    original = OccupancyModule.training_step
    seen: list[list[int]] = []

    def step_with_a_signal(module, batches, batch_index):
        seen.append([len(batch.token) for batch in batches])
        if module.global_step == 2 and not (tmp_path / "stopped/checkpoints/step_00000003.ckpt").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return original(module, batches, batch_index)

    metrics = train(config, tmp_path / "whole", show_progress=False)
    assert metrics["last_step"] == 4
    assert "3 samples a step (1 × data.batch_size 1 × trainer.accumulate_batches 3)" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", step_with_a_signal)
        with pytest.raises(InterruptedTraining, match=r"step_00000003\.ckpt"):
            train(config, tmp_path / "stopped", show_progress=False)
        newest = newest_checkpoint(tmp_path / "stopped")
        metrics = train(with_workers(config), tmp_path / "stopped", resume_from=newest, show_progress=False)
    assert seen == [[1, 1, 1], [1]] * 2
    assert metrics["last_step"] == 4
    tables = [(tmp_path / name / "logs/metrics.csv").read_bytes() for name in ("whole", "stopped")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].decode().splitlines()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["loss/semantic"]) for row in rows] == [False, True, True, True]
    assert_same_network(config, tmp_path / "stopped", tmp_path / "whole")


def test_half_the_digits_train_both_phases_and_reach_nothing_that_has_to_do_with_places(dataroot: Path, tmp_path: Path):
    config = with_trainer(small_experiment(dataroot), precision="bf16-mixed", max_epochs=1, accumulate_batches=2)
    # Volumes of two layers would stay float32
    network = config.network.model_copy(update={"lift": SamplingLiftConfig(channels=8, coarsening=2)})
    config = config.model_copy(update={"network": network, "optimization": config.optimization.model_copy(update={"image_steps": 1})})
    formats: dict[str, torch.dtype] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            formats.setdefault(name, output.dtype)

        return hook

    def remembered_losses(module: OccupancyModule, sample: TrainingSample) -> Losses:
        network = module.network
        first_block = network.volume_encoder.get_submodule("down.0.0.conv1")  # its GroupNorm is float32 under autocast, too
        for name, part in (("encoder", first_block), ("neck", network.neck), ("lift", network.lift)):
            part.register_forward_hook(remember(name))
        found = losses_of(module, sample)
        formats.update({f"loss/{name}": value.dtype for name, value in found.parts.items()})
        return found

    losses_of = OccupancyModule._losses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "_losses", remembered_losses)
        train(config, tmp_path, show_progress=False)
    assert {name for name, dtype in formats.items() if dtype == torch.bfloat16} == {"encoder", "neck"}
    assert set(formats.values()) == {torch.bfloat16, torch.float32}
    assert [math.isfinite(float(loss)) for _, loss in logged_losses(tmp_path)] == [True, True]
    index = build_index(config.data, tmp_path)
    assert len(predict(config, tmp_path / "network.safetensors", tmp_path / "output", split="val", index=index)) == 2


def test_the_averaged_weights_are_what_is_saved_and_checkpoints_hold_both(trained: Path, dataroot: Path):
    kept = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert kept == ["step_00000004.ckpt", "step_00000008.ckpt"]
    checkpoint = torch.load(trained / "checkpoints" / "step_00000008.ckpt", weights_only=True)
    network, _ = open_network(small_experiment(dataroot), trained / "network.safetensors")
    for key, value in network.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][f"network.{key}"], value), key
    current, averaged = (checkpoint[part]["network.head.geometry.weight"] for part in ("current_model_state", "state_dict"))
    assert not torch.equal(current, averaged)


def test_a_training_begins_with_the_weights_of_another_and_needs_them_no_more_when_it_goes_on(
    trained: Path, dataroot: Path, tmp_path: Path, capsys
):
    first = tmp_path / "first.safetensors"
    shutil.copy(trained / "network.safetensors", first)
    config = with_trainer(small_experiment(dataroot), initial_network=first, max_epochs=1)
    unmoved = config.model_copy(update={"optimization": config.optimization.model_copy(update={"learning_rate": 1e-12})})
    train(unmoved, tmp_path / "unmoved", show_progress=False)
    assert f"begins with the weights of {first}" in capsys.readouterr().out
    found, begun = (read_network(path)[0] for path in (tmp_path / "unmoved" / "network.safetensors", first))
    weights = [name for name in begun if "running_" not in name and "num_batches" not in name]
    assert all(torch.allclose(found[name], begun[name], atol=1e-6) for name in weights)

    train(config, tmp_path / "moved", show_progress=False)
    learned = [float(loss) for _, loss in logged_losses(tmp_path / "moved")]
    assert learned[0] < float(logged_losses(trained)[0][1])
    first.unlink()
    on = train(with_epochs(config, 2), tmp_path / "moved", resume_from=newest_checkpoint(tmp_path / "moved"), show_progress=False)
    assert on["last_step"] == 8


def test_parts_that_correct_the_rest_may_be_new_where_a_training_begins_with_another_network(
    trained: Path, dataroot: Path, tmp_path: Path, capsys
):
    first, plain = trained / "network.safetensors", small_experiment(dataroot)
    reader = ImageReaderConfig(stereo=CostVolumeConfig(channels=8, refining_channels=8), camera_aware=True)
    more = plain.network.model_copy(update={"image_reader": reader, "temporal": TemporalConfig(frames=1)})
    loader = plain.data.loader.model_copy(update={"previous_frames": 1})
    data = plain.data.model_copy(update={"loader": loader})
    config = with_trainer(plain, initial_network=first, max_epochs=1).model_copy(update={"network": more, "data": data})
    module = build_module(config, initial_weights=False)
    new = {name: value.clone() for name, value in module.network.state_dict().items()}
    said = load_initial_network(config, module.network, first)
    assert said.endswith(f"{first}, which has no image_reader.stereo and no image_reader.camera_gate and no temporal: that is new")
    begun, state = read_network(first)[0], module.network.state_dict()
    assert all(torch.equal(state[name], begun.get(name, new[name])) for name in state)
    assert {name.split(".")[0] for name in state.keys() - begun.keys()} == {"image_reader", "temporal"}

    train(config, tmp_path / "more", show_progress=False)
    assert said in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"checkpoint of another network: network\.image_reader\.camera_aware is True there and False"):
        train(with_trainer(plain, initial_network=tmp_path / "more" / "network.safetensors"), tmp_path / "fewer", show_progress=False)


def test_weights_to_begin_with_that_do_not_fit_are_refused_before_anything_is_touched(trained: Path, dataroot: Path, tmp_path: Path):
    network = trained / "network.safetensors"
    config = small_experiment(dataroot)
    other_neck = config.network.model_copy(update={"neck": config.network.neck.model_copy(update={"channels": 8})})
    lower = GridConfig(cell_size=0.8, lower=(-40.0, -40.0, -1.8), upper=(40.0, 40.0, 4.6))
    refused = {
        "no such checkpoint": with_trainer(config, initial_network=tmp_path / "gone.safetensors"),
        "zoo/nothing: no network of this name": with_trainer(config, initial_network=Path("zoo/nothing")),
        "checkpoint of another network: network.neck.channels": with_trainer(config, initial_network=network).model_copy(
            update={"network": other_neck}
        ),
        "trained on another grid: grid.lower": with_trainer(config, initial_network=network).model_copy(update={"grid": lower}),
    }
    for message, wrong in refused.items():
        with pytest.raises(ValueError, match=message):
            train(wrong, tmp_path / "run", show_progress=False)
    assert not list((tmp_path / "run").glob("config.json"))


def test_the_last_epoch_has_a_checkpoint_whatever_their_distance(dataroot: Path, tmp_path: Path, capsys):
    config = with_trainer(small_experiment(dataroot), max_epochs=1, checkpoint_epochs=5)
    train(config, tmp_path, show_progress=False)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step_00000004.ckpt"
    before = (tmp_path / "network.safetensors").read_bytes()
    train(config, tmp_path, resume_from=newest, show_progress=False)
    assert "this training was finished before, at step 4; nothing is changed" in capsys.readouterr().out
    # Without averaging, what is finished again has the weights that learned
    (tmp_path / "network.safetensors").unlink()
    plain = config.model_copy(update={"optimization": config.optimization.model_copy(update={"ema_decay": 0.0})})
    train(plain, tmp_path, resume_from=newest, show_progress=False)
    found, averaged = read_network(tmp_path / "network.safetensors")[0], read_network(newest)[0]
    learned = torch.load(newest, weights_only=True)["current_model_state"]
    name = "head.geometry.weight"
    assert torch.equal(found[name], learned[f"network.{name}"])
    assert not torch.equal(found[name], averaged[name])
    assert (tmp_path / "network.safetensors").read_bytes() != before


def test_labels_of_distances_alone_train_geometry(dataroot: Path, tmp_path: Path, capsys):
    index = read_index(dataroot, "v1.0-mini")
    generate_labels(index, dataroot, tmp_path / "labels", source=LidarLabels(LidarLabelConfig(with_classes=False)), show_progress=False)
    config = small_experiment(dataroot)
    config = with_epochs(config.model_copy(update={"data": config.data.model_copy(update={"labels": tmp_path / "labels"})}), 1)
    metrics = train(config, tmp_path / "run", show_progress=False)
    assert "no label has a class: semantic, pixel_classes cannot learn and show 0" in capsys.readouterr().out
    assert metrics["losses"]["semantic"] == metrics["losses"]["pixel_classes"] == 0
    assert all(metrics["losses"][name] > 0 for name in ("distance", "line_of_sight", "query", "depth_bins"))


def test_training_uses_the_scenes_that_have_labels_and_says_how_many(dataroot: Path, tmp_path: Path, capsys):
    index = read_index(dataroot, "v1.0-mini")
    generate_labels(index, dataroot, tmp_path / "labels", scenes=[index.scenes[0].name], show_progress=False)
    config = small_experiment(dataroot)
    config = with_epochs(config.model_copy(update={"data": config.data.model_copy(update={"labels": tmp_path / "labels"})}), 1)
    metrics = train(config, tmp_path / "run", show_progress=False)
    assert metrics["last_step"] == 2
    assert "2 key frames have labels; 4 others of v1.0-mini have none" in capsys.readouterr().out


def test_losses_on_kept_back_scenes_choose_the_best_checkpoint(dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    trainer = config.trainer.model_copy(update={"validate_epochs": 1})
    config = config.model_copy(update={"trainer": trainer})
    with pytest.raises(ValueError, match=r"trainer\.validate_epochs: no scene is kept back"):
        train(config, tmp_path, show_progress=False)
    with pytest.MonkeyPatch.context() as patch:
        for place in ("splattingocc.pipeline.trainer", "splattingocc.data.loaders"):
            patch.setattr(f"{place}.calibration_scenes", lambda index, config, split="train": index.splits["train"][:1])
        train(config, tmp_path, show_progress=False)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        measured = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert len(measured) == 2
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2 * (1 + measured.index(min(measured)))


def test_the_lift_that_splats_is_chosen_by_its_kind_and_trains(dataroot: Path, tmp_path: Path):
    words = ("--network.lift.kind", "lss", "--network.lift.channels", 8, "--optimization.image-steps", 1, "--data.num-workers", 0)
    words += ("--grid.cell-size", 0.8, "--calibration.criterion", "cells", "--data.loader.num-rays", 200)
    main([str(word) for word in train_command(dataroot, tmp_path, *words)])
    assert json.loads((tmp_path / "config.json").read_text())["network"]["lift"] == {"kind": "lss", "channels": 8, "coarsening": 2}
    losses = [float(loss) for _, loss in logged_losses(tmp_path)]
    assert len(losses) > 2
    assert all(map(math.isfinite, losses))
