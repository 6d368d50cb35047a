"""The whole path on a small synthetic set: training sees 2D labels only, repeats exactly, resumes exactly, and fails in one line."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toy_parts import NarrowResNetConfig, ToyExperimentConfig, ToyNetworkConfig, register

from splattingocc.cli import main
from splattingocc.data.label_store import RayTable, write_manifest, write_scene
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, newest_checkpoint, read_metadata, read_network, save_network
from splattingocc.engine.checkpoint_writing import BestCheckpoint
from splattingocc.engine.loggers import MetricsTable
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import OptimizationConfig
from splattingocc.engine.signals import HEEDED, InterruptedTraining
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.evaluation.predictions import read_predictions
from splattingocc.evaluation.scoring import score_split
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig, build_index, build_network
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.losses.objective import Losses
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.image_reader import ImageReaderConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.temporal import TemporalConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.pipeline.calibration import calibrate, spread
from splattingocc.pipeline.prediction import open_network, predict
from splattingocc.pipeline.remarks import about_idle_options
from splattingocc.pipeline.scoring import prior_predictions, score_rendering
from splattingocc.pipeline.training import RESULTS, build_module, load_initial_network, options_in, replay, set_aside, train
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.taxonomy import FREE, GROUND_CLASSES

CONFIG = Path(__file__).parents[2] / "configs" / "splattingocc" / "splattingocc-synth.py"


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels and without its 3D truth."""
    out = tmp_path_factory.mktemp("without_truth") / "data"
    shutil.copytree(synthetic_dataroot, out, ignore=shutil.ignore_patterns("gts"))
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


def small_experiment(dataroot: Path) -> ExperimentConfig:
    """An experiment of few steps on an eighth of Occ3D's cells, which Occ3D's truth cannot score."""
    return ToyExperimentConfig(
        name="small",
        grid=GridConfig(cell_size=0.8),
        data=DataConfig(
            dataroot=dataroot,
            version="v1.0-mini",
            loader=LoaderConfig(image_size=(32, 64), num_rays=1000, held_out_fraction=0.1),
            num_workers=0,
        ),
        network=ToyNetworkConfig(
            backbone=NarrowResNetConfig(),
            lift=SamplingLiftConfig(channels=8, coarsening=4),
            volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)),
        ),
        # Of rays there are 49 thresholds to cast at, which would be a seventh of all these trainings
        calibration=CalibrationConfig(criterion="cells", ground_ratio=0.5),
        optimization=OptimizationConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.7),
        trainer=TrainerConfig(max_epochs=2, accelerator="cpu"),
    )


def with_workers(config: ExperimentConfig) -> ExperimentConfig:
    """The same in another process, which fetches samples ahead."""
    return config.model_copy(update={"data": config.data.model_copy(update={"num_workers": 1})})


def assert_same_network(config: ExperimentConfig, work_dir: Path, expected: Path) -> None:
    found, whole = (open_network(config, folder / "network.safetensors") for folder in (work_dir, expected))
    assert found[1] == whole[1]
    for key, value in whole[0].state_dict().items():
        assert torch.equal(found[0].state_dict()[key], value), key


def logged_losses(work_dir: Path) -> list[tuple[str, str]]:
    with (work_dir / "logs" / "metrics.csv").open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of four key frames, made without any 3D truth on disk."""
    work_dir = tmp_path_factory.mktemp("trained")
    assert not (dataroot / "gts").exists()
    train(small_experiment(dataroot), work_dir, show_progress=False)
    return work_dir


@pytest.fixture(scope="module")
def on_occ3ds_grid(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentConfig, Path]:
    """An experiment of one epoch on the grid that has truth, and its run."""
    config = with_trainer(small_experiment(dataroot), max_epochs=1).model_copy(update={"grid": GridConfig()})
    work_dir = tmp_path_factory.mktemp("on_occ3ds_grid")
    train(config, work_dir, show_progress=False)
    return config, work_dir


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


def test_a_resumed_run_equals_an_uninterrupted_one(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    original = OccupancyModule.training_step

    class Interrupted(Exception):
        pass

    def stop_in_second_epoch(module, sample, batch_index):
        if module.global_step == 5:
            raise Interrupted
        return original(module, sample, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", stop_in_second_epoch)
        with pytest.raises(Interrupted):
            train(config, tmp_path, show_progress=False)
    before = logged_losses(tmp_path)
    metrics = train(with_workers(config), tmp_path, resume_from=newest_checkpoint(tmp_path), show_progress=False)
    assert (metrics["first_step"], metrics["last_step"]) == (0, 8)
    whole = json.loads((trained / "metrics.json").read_text())
    assert {name: metrics[name] for name in ("loss", "losses")} == {name: whole[name] for name in ("loss", "losses")}
    assert logged_losses(tmp_path)[: len(before)] == before
    assert dict(logged_losses(tmp_path)) == dict(logged_losses(trained))  # the later row of a step that was done twice
    assert_same_network(config, tmp_path, trained)


def test_a_run_told_to_end_in_the_middle_of_an_epoch_goes_on_as_if_it_had_not_been(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    original = OccupancyModule.training_step

    def step_with_a_signal(module, sample, batch_index):
        if module.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(module, sample, batch_index)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", step_with_a_signal)
        with pytest.raises(InterruptedTraining, match=r"stopped by SIGTERM; --auto-resume goes on from .*step_00000006\.ckpt"):
            train(with_workers(config), tmp_path, show_progress=False)
    assert signal.getsignal(signal.SIGTERM) == handler
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step_00000006.ckpt"
    train(with_workers(config), tmp_path, resume_from=newest, show_progress=False)
    assert logged_losses(tmp_path) == logged_losses(trained)
    assert_same_network(config, tmp_path, trained)


def test_a_run_that_was_killed_leaves_the_checkpoints_of_one_that_was_not(dataroot: Path, tmp_path: Path):
    """The newest two of the ends of epochs and the newest two within epochs; not that which it went on from."""
    config = small_experiment(dataroot)
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"checkpoint_steps": 1})})
    original = OccupancyModule.training_step

    class Killed(BaseException):
        pass

    def die_in_second_epoch(module, sample, batch_index):
        if module.global_step == 6 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            raise Killed
        return original(module, sample, batch_index)

    names = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("whole", "killed"):
            work_dir = tmp_path / name
            if name == "killed":
                patch.setattr(OccupancyModule, "training_step", die_in_second_epoch)
                with pytest.raises(Killed):
                    train(config, work_dir, show_progress=False)
                # As if it had been killed before the older ones were removed
                shutil.copy(work_dir / "checkpoints/step_00000005.ckpt", work_dir / "checkpoints/step_00000001.ckpt")
                (work_dir / "checkpoints/step_00000006.ckpt").unlink()
            train(config, work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
            names[name] = sorted(path.name for path in (work_dir / "checkpoints").iterdir())
    assert names["whole"] == [f"step_{step:08d}.ckpt" for step in (4, 6, 7, 8)]
    assert names["killed"] == names["whole"]


def with_trainer(config: ExperimentConfig, **options: object) -> ExperimentConfig:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=options)})


class Killed(BaseException):
    """As kill -9: nothing of a training expects it."""


def test_the_row_of_a_step_that_a_kill_kept_from_the_table_is_in_its_checkpoint(trained: Path, dataroot: Path, tmp_path: Path):
    config = with_trainer(small_experiment(dataroot), checkpoint_steps=1)
    log_metrics = MetricsTable.log_metrics
    for number in (0, 6):  # the first step of all, and one in the middle of an epoch
        work_dir = tmp_path / str(number)

        def log_and_die(table: MetricsTable, metrics: dict, step: int, number: int = number) -> None:
            if step == number:
                raise Killed
            log_metrics(table, metrics, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsTable, "log_metrics", log_and_die)
            with pytest.raises(Killed):
                train(config, work_dir, show_progress=False)
        newest = newest_checkpoint(work_dir)
        assert newest == work_dir / f"checkpoints/step_{number + 1:08d}.ckpt"
        assert number == 0 or [int(step) for step, _ in logged_losses(work_dir)] == list(range(number))
        train(config, work_dir, resume_from=newest, show_progress=False)
        assert (work_dir / "logs/metrics.csv").read_bytes() == (trained / "logs/metrics.csv").read_bytes()


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


def test_a_signal_is_heeded_where_every_batch_is_the_last_of_its_epoch(dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    data = config.data.model_copy(update={"loader": config.data.loader.model_copy(update={"load_interval": 4})})
    trainer = config.trainer.model_copy(update={"max_epochs": 3, "checkpoint_epochs": 3})
    config = config.model_copy(update={"data": data, "trainer": trainer})
    original = OccupancyModule.training_step

    def step_with_a_signal(module, sample, batch_index):
        if module.global_step == 1 and not (tmp_path / "checkpoints").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return original(module, sample, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", step_with_a_signal)
        with pytest.raises(InterruptedTraining, match=r"stopped by SIGINT; .*step_00000002\.ckpt"):
            train(config, tmp_path, show_progress=False)
        train(config, tmp_path, resume_from=newest_checkpoint(tmp_path), show_progress=False)
    assert [step for step, _ in logged_losses(tmp_path)] == ["0", "1", "2"]


def test_a_sample_that_cannot_be_read_leaves_everything_up_to_there(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    original = TrainingSet.__getitem__
    first_of_second_epoch = 4

    def missing(dataset, key):
        if key >= first_of_second_epoch and not (tmp_path / "mended").exists():
            raise ValueError("samples/CAM_FRONT/x.jpg: cannot be read as an image")
        return original(dataset, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingSet, "__getitem__", missing)
        with pytest.raises(ValueError, match=r"x\.jpg"):
            train(config, tmp_path, show_progress=False)
        (tmp_path / "mended").touch()
        newest = newest_checkpoint(tmp_path)
        assert newest is not None
        assert newest.name == "step_00000004.ckpt"
        train(config, tmp_path, resume_from=newest, show_progress=False)
    assert_same_network(config, tmp_path, trained)


def test_the_averaged_weights_are_what_is_saved_and_checkpoints_hold_both(trained: Path, dataroot: Path):
    kept = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert kept == ["step_00000004.ckpt", "step_00000008.ckpt"]
    checkpoint = torch.load(trained / "checkpoints" / "step_00000008.ckpt", weights_only=True)
    network, _ = open_network(small_experiment(dataroot), trained / "network.safetensors")
    for key, value in network.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][f"network.{key}"], value), key
    current, averaged = (checkpoint[part]["network.head.geometry.weight"] for part in ("current_model_state", "state_dict"))
    assert not torch.equal(current, averaged)


def contents(work_dir: Path) -> dict[str, bytes]:
    """Everything that a run leaves, but for what the index caches."""
    return {str(path.relative_to(work_dir)): path.read_bytes() for path in sorted(work_dir.rglob("*")) if path.is_file()}


def lasting(metrics: dict) -> dict:
    """What a run measures that does not depend on the clock or on the memory of the machine."""
    return {name: value for name, value in metrics.items() if name not in ("seconds", "samples_per_second", "peak_memory_gib")}


WRITTEN_LAST = ("calibration.json", "network.safetensors", "metrics.json")


@pytest.mark.parametrize("lost", [(), WRITTEN_LAST[2:], WRITTEN_LAST[1:], WRITTEN_LAST])
def test_a_run_killed_after_its_last_step_ends_as_the_undisturbed_one(
    trained: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture, lost: tuple[str, ...]
):
    """With averaged weights, which Lightning would not give a training that has nothing left to do."""
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    for name in lost:
        (work_dir / name).unlink()
    before = contents(work_dir)
    assert {"logs/speed.csv", "curves.png"} <= before.keys()
    metrics = train(small_experiment(dataroot), work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    if not lost:
        assert contents(work_dir) == before
        assert "this training was finished before, at step 8; nothing is changed" in capsys.readouterr().out
    for name in (*WRITTEN_LAST[:2], "checkpoints/step_00000008.ckpt", "logs/metrics.csv"):
        assert (work_dir / name).read_bytes() == (trained / name).read_bytes(), name
    assert lasting(metrics) == lasting(json.loads((trained / "metrics.json").read_text()))
    assert lasting(json.loads((work_dir / "metrics.json").read_text())) == lasting(metrics)


def test_a_finished_run_says_which_options_it_does_not_apply(trained: Path, dataroot: Path, tmp_path: Path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    config = small_experiment(dataroot)
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"learning_rate": 0.5})})
    before = contents(work_dir)
    train(config, work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    assert contents(work_dir) == before
    assert "not applied, because it was trained without: optimization.learning_rate=0.5" in capsys.readouterr().out


def with_epochs(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"max_epochs": epochs})})


def test_more_epochs_go_on_and_fewer_than_done_are_an_error(trained: Path, dataroot: Path, tmp_path: Path):
    work_dir, config = tmp_path / "run", small_experiment(dataroot)
    shutil.copytree(trained, work_dir)
    metrics = train(with_epochs(config, 3), work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    assert (metrics["last_step"], len(logged_losses(work_dir))) == (12, 12)
    assert read_metadata(work_dir / "network.safetensors")["step"] == "12"
    before = contents(work_dir)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs: 2, but .*step_00000012\.ckpt has 3 epochs behind it"):
        train(config, work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    assert contents(work_dir) == before


def learning_rates(work_dir: Path) -> list[float]:
    with (work_dir / "logs" / "metrics.csv").open() as file:
        return [float(row["learning_rate/images"]) for row in csv.DictReader(file)]


def with_optimization(config: ExperimentConfig, **changes: object) -> ExperimentConfig:
    return config.model_copy(update={"optimization": config.optimization.model_copy(update=changes)})


def test_a_training_goes_on_at_the_rate_that_is_configured_now_and_cools_down_whatever_its_epochs_have_become(
    trained: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """One of two epochs of four steps is done; the other has two steps, of two samples each."""
    config, first = small_experiment(dataroot), trained / "checkpoints" / "step_00000004.ckpt"
    before = learning_rates(trained)[:4]
    other = with_optimization(config, learning_rate=5e-4, weight_decay=0.5, ema_decay=0.0)
    other = other.model_copy(update={"data": other.data.model_copy(update={"batch_size": 2})})
    decays: list[list[float]] = []
    original = OccupancyModule.training_step

    def watched(module, batches, batch_index):
        decays.append([group["weight_decay"] for group in module.optimizers().param_groups])
        if not decays[1:]:
            learning = torch.load(first, weights_only=True)["current_model_state"]["network.head.geometry.weight"]
            assert torch.equal(module.network.head.geometry.weight, learning)
        return original(module, batches, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", watched)
        metrics = train(other, tmp_path, resume_from=first, show_progress=False)
    assert metrics["last_step"] == 6
    said = capsys.readouterr().out
    assert f"{first}: goes on with other options than it was trained with: data.batch_size=2 (before: 1), " in said
    assert "optimization.learning_rate=0.0005 (before: 0.001)" in said
    assert decays == [[0.5, 0.0, 0.5, 0.0]] * 2
    # Two steps of warm-up, then half a cosine: its last third is left, in two steps in place of four
    assert before == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3 * 0.5 * (1 + math.cos(math.pi / 6))])
    shares = [0.5 * (1 + math.cos(math.pi * progress)) for progress in (1 / 3, 2 / 3)]
    assert learning_rates(tmp_path) == pytest.approx([5e-4 * share for share in shares])


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


def test_a_training_from_the_start_never_goes_on_from_what_was_there(trained: Path, dataroot: Path, tmp_path: Path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    train(with_epochs(small_experiment(dataroot), 1), work_dir, show_progress=False)
    assert "its checkpoints and results are kept in checkpoints_before_1" in capsys.readouterr().out
    newest = newest_checkpoint(work_dir)
    assert newest is not None
    assert newest.name == "step_00000004.ckpt"
    aside = work_dir / "checkpoints_before_1"
    for name in ("network.safetensors", "calibration.json", "metrics.json", "config.json"):
        assert (aside / name).read_bytes() == (trained / name).read_bytes()
    assert (aside / "step_00000008.ckpt").exists()


def test_the_network_of_another_training_is_never_taken_for_that_of_one_that_was_killed_before_it_had_its_own(
    trained: Path, dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    config = small_experiment(dataroot)
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"learning_rate": 3e-3})})
    with monkeypatch.context() as patch:
        patch.setattr("splattingocc.pipeline.training.calibrate", lambda *arguments: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception, match="killed"):
            train(config, work_dir, show_progress=False)
    assert not (work_dir / "network.safetensors").exists()
    # As earlier versions left it
    for name in ("network.safetensors", "metrics.json"):
        shutil.copy(trained / name, work_dir / name)
    train(config, work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    found, before = (read_metadata(folder / "network.safetensors") for folder in (work_dir, trained))
    assert json.loads(found[EXPERIMENT_KEY])["optimization"]["learning_rate"] == 3e-3
    assert found["step"] == before["step"]


@pytest.mark.parametrize("wrong", [("--data.labels", "nowhere"), ("--data.version", "v1.0-none"), ("--data.dataroot", "nowhere")])
def test_a_training_that_cannot_begin_leaves_an_earlier_one_as_it_was(
    trained: Path, dataroot: Path, tmp_path: Path, wrong: tuple[str, str]
):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    before = contents(work_dir)
    run_and_fail(*train_command(dataroot, work_dir, "--data.version", "v1.0-mini", *wrong))
    after = contents(work_dir)
    assert {name: after[name] for name in before} == before
    newest = newest_checkpoint(work_dir)
    assert newest is not None
    assert newest.name == "step_00000008.ckpt"
    assert not list(work_dir.glob("checkpoints_before_*"))


def test_going_on_from_another_folder_leaves_nothing_to_go_on_from_by_mistake(trained: Path, tmp_path: Path):
    work_dir, other = tmp_path / "run", tmp_path / "other" / "checkpoints" / "step_00000004.ckpt"
    shutil.copytree(trained, work_dir)
    other.parent.mkdir(parents=True)
    shutil.copy(trained / "checkpoints" / other.name, other)
    set_aside(work_dir, other, step=4)
    assert newest_checkpoint(work_dir) is None
    checkpoints = {"step_00000004.ckpt", "step_00000008.ckpt"}
    assert {path.name for path in (work_dir / "checkpoints_before_1").iterdir()} == {*checkpoints, *RESULTS}
    assert not (work_dir / "logs" / "metrics.csv").exists()
    assert (work_dir / "logs" / "metrics_before_1.csv").exists()


def test_going_on_from_an_older_checkpoint_sets_aside_what_came_after_it(trained: Path, tmp_path: Path):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    older, newest = (work_dir / "checkpoints" / f"step_0000000{step}.ckpt" for step in (4, 8))
    set_aside(work_dir, newest, step=8)
    assert newest.exists()
    set_aside(work_dir, older, step=4)
    assert newest_checkpoint(work_dir) == older
    assert {path.name for path in (work_dir / "checkpoints_before_1").iterdir()} == {"step_00000008.ckpt", *RESULTS}
    assert (work_dir / "logs" / "metrics.csv").exists()


def test_going_on_from_the_best_checkpoint_keeps_those_that_are_older(trained: Path, tmp_path: Path):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    best = work_dir / "checkpoints" / "best.ckpt"
    shutil.copy(work_dir / "checkpoints" / "step_00000004.ckpt", best)
    set_aside(work_dir, best, step=4)
    assert sorted(path.name for path in best.parent.iterdir()) == ["best.ckpt", "step_00000004.ckpt"]


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
    """Of nine samples in two processes, two at a time for each and two batches a step: two steps in each of five epochs."""
    options = {
        "name": "x",
        "data": {"batch_size": 2},
        "optimization": {"warmup_steps": 1},
        "trainer": {"max_epochs": 5, "accumulate_batches": 2},
    }
    for part, values in changes.items():
        options[part] = {**options.get(part, {}), **values}
    assert [*about_idle_options(ExperimentConfig.model_validate(options), 9, 2, 1)] == said


def test_options_that_an_earlier_version_had_not_are_no_change(dataroot: Path):
    """A file of before says nothing of an option that came since; it was trained with what is its default."""
    config = small_experiment(dataroot)
    options = config.model_dump(mode="json")
    assert options_in(type(config), json.dumps(options)) == options
    assert options["data"]["loader"].pop("label_frames") == 1
    assert options_in(type(config), json.dumps(options)) == config.model_dump(mode="json")
    assert options_in(type(config), '{"of": "another version"}') == {"of": "another version"}


def test_a_finished_run_whose_network_is_damaged_is_finished_again(trained: Path, dataroot: Path, tmp_path: Path):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    content = bytearray((work_dir / "network.safetensors").read_bytes())
    content[-9] ^= 16
    (work_dir / "network.safetensors").write_bytes(content)
    train(small_experiment(dataroot), work_dir, resume_from=newest_checkpoint(work_dir), show_progress=False)
    assert_same_network(small_experiment(dataroot), work_dir, trained)


def test_a_checkpoint_that_cannot_be_gone_on_from_is_one_line(trained: Path, dataroot: Path, tmp_path: Path):
    checkpoint = trained / "checkpoints" / "step_00000008.ckpt"
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:-100])
    weights = trained / "network.safetensors"
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    command = train_command(dataroot, tmp_path / "run")
    for path, said in (
        (damaged, "damaged or not a checkpoint"),
        (empty, "damaged or not a checkpoint"),
        (weights, "holds a network and no state of a training; --trainer.initial-network begins"),
        (trained, "is a folder, expected a checkpoint; --auto-resume goes on from"),
    ):
        assert run_and_fail(*command, "--resume-from", path).startswith(f"splattingocc: {path}: {said}")
    message = run_and_fail(*command, "--resume-from", checkpoint)
    assert f"{checkpoint}: checkpoint of another network: NetworkConfig.backbone: kind is 'narrow_resnet', expected" in message
    assert "no such checkpoint" in run_and_fail(*command, "--resume-from", tmp_path / "nowhere.ckpt")


def forge(checkpoint: dict, part: str, value: object) -> dict:
    *places, last = (int(place) if place.isdecimal() else place for place in part.split("/"))
    inner = checkpoint
    for place in places:
        inner = inner[place]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return checkpoint


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("TrainingBatches", None, "not a checkpoint to go on from: without TrainingBatches"),
        ("TrainingBatches/batches", None, "not a checkpoint to go on from: "),
        ("TrainingBatches/batches_per_epoch", 0, "not a checkpoint to go on from: "),
        ("TrainingBatches/batches", "x", "not a checkpoint to go on from: "),
        ("TrainingBatches/batches", -4, "not a checkpoint to go on from: "),
        ("state_dict/network.head.geometry.weight", torch.zeros(3), "written by another version of the network"),
        ("state_dict", [], "not a checkpoint to go on from: its weights are a list"),
        ("current_model_state", {"x": torch.zeros(1)}, "cannot be gone on from: "),
        ("optimizer_states", [], "cannot be gone on from: "),
        ("optimizer_states/0/param_groups", [], "cannot be gone on from: "),
        (
            "optimizer_states/0/state/0",
            {"step": torch.tensor(4.0), "exp_avg": torch.zeros(3)},
            "its optimizer state is not of this network",
        ),
        ("optimizer_states/0/state", {"x": {"step": torch.tensor(4.0)}}, "its optimizer state is not of this network"),
        ("optimizer_states/0/state/0", 3, "(cannot be gone on from|its optimizer state is not)"),
        ("lr_schedulers", [3], "cannot be gone on from: "),
        ("loops", {"fit_loop": 3}, "cannot be gone on from: "),
        ("callbacks/StepMeter", {"first_step": "x"}, "cannot be gone on from: "),
        ("splattingocc_network", "{", "not a checkpoint of this project"),
    ],
)
def test_a_whole_checkpoint_that_holds_something_else_is_named(
    trained: Path, dataroot: Path, tmp_path: Path, part: str, value: object, message: str
):
    checkpoint = torch.load(trained / "checkpoints" / "step_00000004.ckpt", weights_only=True)
    path = tmp_path / "forged.ckpt"
    torch.save(forge(checkpoint, part, value), path)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        train(small_experiment(dataroot), tmp_path / "run", resume_from=path, show_progress=False)


def test_two_trainings_in_one_folder_at_once_are_refused(dataroot: Path, tmp_path: Path):
    script = "import sys, time; from pathlib import Path; from splattingocc.files import sole_writer\n"
    script += "with sole_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "run"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert f"being written by process {holder.pid}" in run_and_fail(*train_command(dataroot, tmp_path / "run"))
        holder.kill()


def test_labels_of_distances_alone_train_geometry(dataroot: Path, tmp_path: Path, capsys):
    index = read_index(dataroot, "v1.0-mini")
    generate_labels(index, dataroot, tmp_path / "labels", source=LidarLabels(LidarLabelConfig(with_classes=False)), show_progress=False)
    config = small_experiment(dataroot)
    config = with_epochs(config.model_copy(update={"data": config.data.model_copy(update={"labels": tmp_path / "labels"})}), 1)
    metrics = train(config, tmp_path / "run", show_progress=False)
    assert "no label has a class: semantic, pixel_classes cannot learn and show 0" in capsys.readouterr().out
    assert metrics["losses"]["semantic"] == metrics["losses"]["pixel_classes"] == 0
    assert all(metrics["losses"][name] > 0 for name in ("distance", "line_of_sight", "query", "depth_bins"))


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


def test_training_uses_the_scenes_that_have_labels_and_says_how_many(dataroot: Path, tmp_path: Path, capsys):
    index = read_index(dataroot, "v1.0-mini")
    generate_labels(index, dataroot, tmp_path / "labels", scenes=[index.scenes[0].name], show_progress=False)
    config = small_experiment(dataroot)
    config = with_epochs(config.model_copy(update={"data": config.data.model_copy(update={"labels": tmp_path / "labels"})}), 1)
    metrics = train(config, tmp_path / "run", show_progress=False)
    assert metrics["last_step"] == 2
    assert "2 key frames have labels; 4 others of v1.0-mini have none" in capsys.readouterr().out


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


def test_a_copy_of_a_run_goes_on_with_its_best_checkpoint(tmp_path: Path):
    options = {"filename": "best", "monitor": "val/loss"}
    before = BestCheckpoint(tmp_path / "run", **options)
    path = str(tmp_path / "run" / "best.ckpt")
    before.best_model_path = before.kth_best_model_path = path
    before.best_model_score, before.best_k_models = torch.tensor(3.0), {path: torch.tensor(3.0)}
    copied, empty = (BestCheckpoint(tmp_path / name, **options) for name in ("copy", "empty"))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "best.ckpt").touch()
    assert copied.state_key == ModelCheckpoint(tmp_path, **options).state_key
    copied.load_state_dict(before.state_dict())
    assert copied.best_k_models == {str(tmp_path / "copy" / "best.ckpt"): torch.tensor(3.0)}
    assert copied.best_model_score == 3.0
    with pytest.warns(UserWarning, match="dirpath has changed"):
        empty.load_state_dict(before.state_dict())
    assert empty.best_k_models == {}


def test_labels_of_neighbouring_key_frames_tell_of_more_cells_when_the_threshold_is_chosen(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    index = build_index(config.data, tmp_path)
    network, _ = open_network(config, trained / "network.safetensors")
    alone, together = (
        calibrate(config.model_copy(update={"calibration": config.calibration.model_copy(update={"label_frames": n})}), network, index)
        for n in (1, 3)
    )
    # What moves has no second label, and what both hit counts once.
    assert 1.2 * alone.num_occupied < together.num_occupied < 2 * alone.num_occupied
    assert alone.num_free < together.num_free


def test_predictions_are_cached_scored_and_kept(on_occ3ds_grid: tuple[ExperimentConfig, Path], synthetic_dataroot: Path, tmp_path: Path):
    config, trained = on_occ3ds_grid
    index = build_index(config.data, tmp_path)
    cache = predict(config, trained / "network.safetensors", tmp_path / "output", split="val", index=index)
    assert len(cache) == 2
    provenance = cache.manifest.provenance
    assert provenance.seed == config.seed
    metadata, metrics = read_metadata(trained / "network.safetensors"), json.loads((trained / "metrics.json").read_text())
    chosen = (float(metadata["ground_threshold"]), float(metadata["threshold"]))
    assert chosen == (metrics["ground_threshold"], metrics["threshold"]) == (metrics["threshold"] / 2, metrics["threshold"])
    assert provenance.occupancy_threshold == OccupancyThreshold(*chosen)
    assert [provenance.decided_by[name] for name in ("ground_threshold", "threshold")] == [*map(repr, chosen)]
    predicted = [cache.read(frame) for frame in cache.frames]
    ground = torch.cat([found.semantics[torch.isin(found.semantics, torch.tensor(GROUND_CLASSES))] for found in predicted])
    assert len(ground)
    for found in predicted:
        assert found.probabilities is not None
        is_ground = torch.isin(found.semantics, torch.tensor(GROUND_CLASSES))
        # As float16
        assert (found.probabilities[is_ground] > chosen[0] - 1e-3).all()
        assert (found.probabilities[~is_ground & (found.semantics != FREE)] > chosen[1] - 1e-3).all()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*.npz")}
    predict(config, trained / "network.safetensors", tmp_path / "output", split="val", index=index)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*.npz")} == written
    with_truth = config.model_copy(update={"data": config.data.model_copy(update={"gts": synthetic_dataroot / "gts"})})
    baselines = prior_predictions(with_truth, index)
    rows = score_split(read_predictions(tmp_path / "output"), synthetic_dataroot / "gts", baselines=baselines)
    assert [row.name for row in rows] == ["model", "all free", "training prior", "training prior, observed"]
    assert rows[1].camera.geometric_iou == 0
    assert rows[2].camera.miou_17 > 0


def test_held_out_rays_are_rendered_and_scored(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    index = build_index(config.data, tmp_path)
    scores = score_rendering(config, trained / "network.safetensors", split="train", part="held_out", index=index)
    assert scores["num_rays"] > 100
    assert 0 < scores["median_relative_error"] < 1


def run_and_fail(*arguments: object) -> str:
    """Run a command that must end with an error, and return the one line it ends with."""
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert isinstance(error.value.code, str)
    assert "\n" not in error.value.code
    return error.value.code


def train_command(dataroot: Path, work_dir: Path, *more: object) -> tuple:
    options = ("--data.dataroot", dataroot, "--work-dir", work_dir, "--trainer.max-epochs", 1, "--data.loader.image-size", 32, 64)
    return ("train", CONFIG, *options, *more)


def test_the_lift_that_splats_is_chosen_by_its_kind_and_trains(dataroot: Path, tmp_path: Path):
    words = ("--network.lift.kind", "lss", "--network.lift.channels", 8, "--optimization.image-steps", 1, "--data.num-workers", 0)
    main([str(word) for word in train_command(dataroot, tmp_path, *words)])
    assert json.loads((tmp_path / "config.json").read_text())["network"]["lift"] == {"kind": "lss", "channels": 8, "coarsening": 2}
    losses = [float(loss) for _, loss in logged_losses(tmp_path)]
    assert len(losses) > 2
    assert all(map(math.isfinite, losses))


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


def test_a_damaged_truth_is_named(on_occ3ds_grid: tuple[ExperimentConfig, Path], synthetic_dataroot: Path, tmp_path: Path):
    gts = tmp_path / "gts"
    shutil.copytree(synthetic_dataroot / "gts", gts)
    for path in gts.rglob("labels.npz"):
        path.write_bytes(path.read_bytes()[:200])
    config, trained = on_occ3ds_grid
    cache = predict(config, trained / "network.safetensors", tmp_path / "out", split="val", index=build_index(config.data, tmp_path))
    with pytest.raises(ValueError, match=r"labels\.npz"):
        score_split(cache, gts)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 40, 80])
def test_the_key_frames_that_choose_the_threshold_are_spread_over_all_there_are(count: int):
    chosen = spread(range(100, 100 + count), 16)
    assert len(chosen) == len(set(chosen)) == min(16, count)
    assert chosen[0] == 100
    gaps = {later - earlier for earlier, later in zip(chosen, [*chosen[1:], 100 + count])}
    assert max(gaps) - min(gaps) <= 1
