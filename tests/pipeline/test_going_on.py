"""A training that is killed, repeated or begun anew in its folder goes on exactly, and takes nothing for its own that is not."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_trainings import (
    assert_same_network,
    interrupted_at,
    logged_losses,
    run_and_fail,
    small_experiment,
    train_command,
    with_epochs,
    with_trainer,
    with_workers,
)

from splattingocc.data.loaders import TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, KEPT_BACK_KEY, newest_checkpoint, read_checkpoint, read_metadata
from splattingocc.engine.checkpoint_writing import BestCheckpoint, GoOnCleanly
from splattingocc.engine.loggers import MetricsTable
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.signals import InterruptedTraining
from splattingocc.experiment import ExperimentConfig
from splattingocc.pipeline.prediction import open_once
from splattingocc.pipeline.trainer import build_checkpoints, build_trainer
from splattingocc.pipeline.training import RESULTS, options_in, set_aside, train

pytestmark = pytest.mark.usefixtures("registered")


def test_a_resumed_run_equals_an_uninterrupted_one(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    in_second_epoch = 5
    with interrupted_at(in_second_epoch):
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


def test_an_error_while_kept_back_scenes_are_measured_leaves_learning_and_averaged_weights_as_they_were(dataroot: Path, tmp_path: Path):
    config = with_trainer(small_experiment(dataroot), validate_epochs=1)
    original = OccupancyModule.validation_step

    def unreadable(module, sample, batch_index):
        if not (tmp_path / "mended").exists():
            raise ValueError("samples/CAM_FRONT/x.jpg: cannot be read as an image")
        return original(module, sample, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        for place in ("splattingocc.pipeline.trainer", "splattingocc.data.loaders"):
            patch.setattr(f"{place}.calibration_scenes", lambda index, config, split="train": index.splits["train"][:1])
        train(config, tmp_path / "whole", show_progress=False)
        patch.setattr(OccupancyModule, "validation_step", unreadable)
        with pytest.raises(ValueError, match=r"x\.jpg"):
            train(config, tmp_path / "run", show_progress=False)
        (tmp_path / "mended").touch()
        newest = newest_checkpoint(tmp_path / "run")
        assert newest is not None
        train(config, tmp_path / "run", resume_from=newest, show_progress=False)
    assert_same_network(config, tmp_path / "run", tmp_path / "whole")


def test_scenes_that_were_kept_back_stay_so_whatever_is_labelled_later(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Labels of more scenes, or of fewer as here, have others chosen: such as were trained on would choose the threshold."""
    config = small_experiment(dataroot)
    name = read_index(dataroot, "v1.0-mini").splits["train"][1]
    with pytest.MonkeyPatch.context() as patch:
        for place in ("splattingocc.pipeline.training", "splattingocc.data.loaders"):
            patch.setattr(f"{place}.calibration_scenes", lambda index, config, split="train": (name,))
        with interrupted_at(2):
            train(config, tmp_path, show_progress=False)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert json.loads(read_metadata(newest)[KEPT_BACK_KEY]) == [name]
    assert open_once(config, newest).kept_back == (name,)
    trained_on: list[str] = []
    original = OccupancyModule.training_step

    def noted(module, batches, batch_index):
        trained_on.extend(token for batch in batches for token in batch.token)
        return original(module, batches, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", noted)
        train(config, tmp_path, resume_from=newest, show_progress=False)
    assert f"has kept back {name}, and goes on so, with 2 key frames" in capsys.readouterr().out
    index = read_index(dataroot, "v1.0-mini")
    assert {index[index.position_of(token)].scene for token in trained_on} == {index.splits["train"][0]}
    assert json.loads(read_metadata(tmp_path / "network.safetensors")[KEPT_BACK_KEY]) == [name]


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
    # Of steps that the training will not take again, perhaps, no row stays among those that it has taken
    assert [step for step, _ in logged_losses(work_dir)] == ["0", "1", "2", "3"]
    assert (work_dir / "logs" / "metrics_before_1.csv").read_bytes() == (trained / "logs" / "metrics.csv").read_bytes()
    assert len((work_dir / "logs" / "speed.csv").read_text().splitlines()) == 1 + 3  # the first step of a run has no speed


def test_nothing_is_set_aside_over_what_was_set_aside_before(trained: Path, tmp_path: Path):
    """Also where its user has removed the first of it since."""
    work_dir, other = tmp_path / "run", tmp_path / "other.ckpt"
    shutil.copytree(trained, work_dir)
    kept = (
        work_dir / "checkpoints_before_2" / "old",
        work_dir / "logs" / "metrics_before_2.csv",
        work_dir / "tensorboard_before_2" / "old",
    )
    for path in (*kept, work_dir / "tensorboard" / "events"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("before")
    for number in (1, 3):
        set_aside(work_dir, other, step=0)
        assert (work_dir / f"checkpoints_before_{number}" / "step_00000008.ckpt").exists()
        assert (work_dir / "logs" / f"metrics_before_{number}.csv").exists()
        assert (work_dir / f"tensorboard_before_{number}" / "events").exists()
        shutil.copytree(trained, work_dir, dirs_exist_ok=True)
        (work_dir / "tensorboard").mkdir()
        (work_dir / "tensorboard" / "events").touch()
    assert {path.read_text() for path in kept} == {"before"}


def test_weights_to_begin_with_are_none_of_a_training_that_goes_on(
    trained: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """They are neither read nor written down as what it began with."""
    config, other = with_epochs(small_experiment(dataroot), 3), tmp_path / "other.safetensors"
    shutil.copytree(trained, tmp_path / "run")
    config = with_trainer(config, initial_network=other)
    train(config, tmp_path / "run", resume_from=newest_checkpoint(tmp_path / "run"), show_progress=False)
    said = capsys.readouterr().out
    assert f"goes on with its own weights; trainer.initial_network {other} does nothing" in said
    assert "initial_network=" not in said
    found = json.loads(read_metadata(tmp_path / "run" / "network.safetensors")[EXPERIMENT_KEY])
    assert found["trainer"] | {"max_epochs": 2} == json.loads(read_metadata(trained / "network.safetensors")[EXPERIMENT_KEY])["trainer"]


@pytest.mark.parametrize("moment", ["on_train_start", "on_train_batch_end"])
def test_ctrl_c_that_lightning_hears_is_ctrl_c(dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    """Lightning would end the process with 1 and say nothing."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GoOnCleanly, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small_experiment(dataroot), tmp_path, show_progress=False)


def test_a_shell_inside_of_an_allocation_is_alone(dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `sbatch --ntasks 4 --wrap "splattingocc train ..."` begins it: Lightning would look for three others."""
    for name, value in {
        "SLURM_NTASKS": "4",
        "SLURM_JOB_NAME": "wrap",
        "SLURM_JOB_ID": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    trainer = build_trainer(small_experiment(dataroot), tmp_path, show_progress=False)
    assert trainer.world_size == 1


def test_a_folder_that_is_called_as_shells_call_home_is_one_like_others(dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for checkpoints in build_checkpoints(with_trainer(small_experiment(dataroot), validate_epochs=1).trainer, Path("~/run")):
        assert checkpoints.dirpath == str(tmp_path / "~" / "run" / "checkpoints")


def test_going_on_from_the_best_checkpoint_keeps_those_that_are_older(trained: Path, tmp_path: Path):
    work_dir = tmp_path / "run"
    shutil.copytree(trained, work_dir)
    best = work_dir / "checkpoints" / "best.ckpt"
    shutil.copy(work_dir / "checkpoints" / "step_00000004.ckpt", best)
    set_aside(work_dir, best, step=4)
    assert sorted(path.name for path in best.parent.iterdir()) == ["best.ckpt", "step_00000004.ckpt"]
    # One that came later goes with what came later
    shutil.copy(trained / "checkpoints" / "step_00000008.ckpt", best)
    set_aside(work_dir, work_dir / "checkpoints" / "step_00000004.ckpt", step=4)
    assert [path.name for path in best.parent.iterdir()] == ["step_00000004.ckpt"]
    assert [path.name for path in (work_dir / "checkpoints_before_2").iterdir()] == ["best.ckpt"]
    # A damaged one keeps no training from going on
    best.write_bytes(b"half a file")
    set_aside(work_dir, work_dir / "checkpoints" / "step_00000004.ckpt", step=4)
    assert (work_dir / "checkpoints_before_3" / "best.ckpt").read_bytes() == b"half a file"


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


def test_the_best_checkpoint_of_a_training_that_was_stopped_and_went_on_is_that_of_one_that_was_not(
    dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the second epoch, where the losses of the kept-back scene are the least: all that comes later does worse."""
    losses = (3.0, 1.0, 2.0, 2.5)
    log_dict = OccupancyModule.log_dict

    def scripted(module: OccupancyModule, values: dict[str, Any], **options: Any) -> None:
        told = values | {"val/loss": torch.tensor(losses[module.current_epoch])} if "val/loss" in values else values
        log_dict(module, told, **options)

    monkeypatch.setattr(OccupancyModule, "log_dict", scripted)
    for place in ("splattingocc.pipeline.trainer", "splattingocc.data.loaders"):
        monkeypatch.setattr(f"{place}.calibration_scenes", lambda index, config, split="train": index.splits["train"][:1])
    config = with_trainer(small_experiment(dataroot), validate_epochs=1, max_epochs=4)
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"image_steps": 100})})
    with interrupted_at(4):
        train(config, tmp_path, show_progress=False)
    train(config, tmp_path, resume_from=newest_checkpoint(tmp_path), show_progress=False)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 4


def test_a_loss_that_has_no_value_yet_chooses_later(dataroot: Path, tmp_path: Path):
    """Of the volume there is none before the image branch has learned."""
    config = with_trainer(small_experiment(dataroot), validate_epochs=1, best_by="loss/query")
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"image_steps": 3})})
    with pytest.MonkeyPatch.context() as patch:
        for place in ("splattingocc.pipeline.trainer", "splattingocc.data.loaders"):
            patch.setattr(f"{place}.calibration_scenes", lambda index, config, split="train": index.splits["train"][:1])
        train(config, tmp_path, show_progress=False)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 4


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
    empty.load_state_dict(before.state_dict())
    assert empty.best_k_models == {}
    assert empty.best_model_score is None
