"""The whole path on a small synthetic set: training sees 2D labels only, repeats exactly, resumes exactly, and fails in one line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from splattingocc.cli import main
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.module import OptimizationConfig
from splattingocc.evaluation.predictions import read_predictions
from splattingocc.evaluation.scoring import score_split
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig, build_index
from splattingocc.labels.generate import generate_labels
from splattingocc.models.lift import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.pipeline import newest_checkpoint, open_network, predict, prior_predictions, score_rendering, train

CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels and without its 3D truth."""
    out = tmp_path_factory.mktemp("without_truth") / "data"
    shutil.copytree(synthetic_dataroot, out, ignore=shutil.ignore_patterns("gts"))
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


def small_experiment(dataroot: Path) -> ExperimentConfig:
    return ExperimentConfig(
        name="small",
        data=DataConfig(
            dataroot=dataroot,
            version="v1.0-mini",
            loader=LoaderConfig(image_size=(32, 64), num_rays=1000, held_out_fraction=0.1),
            num_workers=0,
        ),
        network=NetworkConfig(
            lift=SamplingLiftConfig(channels=8, coarsening=4), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1))
        ),
        optimization=OptimizationConfig(learning_rate=1e-3, warmup_steps=2),
        trainer=TrainerConfig(max_epochs=2, accelerator="cpu"),
    )


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
    train(small_experiment(dataroot), tmp_path, show_progress=False)
    assert logged_losses(tmp_path) == logged_losses(trained)


def test_a_resumed_run_equals_an_uninterrupted_one(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)

    class Interrupted(Exception):
        pass

    def stop_in_second_epoch(module, sample, batch_index):
        if module.global_step == 5:
            raise Interrupted
        return original(module, sample, batch_index)

    from splattingocc.engine.module import OccupancyModule

    original = OccupancyModule.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", stop_in_second_epoch)
        with pytest.raises(Interrupted):
            train(config, tmp_path, show_progress=False)
    before = logged_losses(tmp_path)
    metrics = train(config, tmp_path, resume_from=newest_checkpoint(tmp_path), show_progress=False)
    assert (metrics["first_step"], metrics["last_step"]) == (4, 8)
    assert logged_losses(tmp_path)[: len(before)] == before
    assert dict(logged_losses(tmp_path)) == dict(logged_losses(trained))  # the later row of a step that was done twice
    resumed, whole = open_network(config, tmp_path / "network.safetensors"), open_network(config, trained / "network.safetensors")
    assert resumed[1] == whole[1]
    for key, value in whole[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[key], value), key


def test_predictions_are_cached_scored_and_kept(trained: Path, synthetic_dataroot: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    index = build_index(config.data, tmp_path)
    cache = predict(config, trained / "network.safetensors", tmp_path / "output", split="val", index=index)
    assert len(cache) == 2
    assert cache.manifest.provenance.seed == config.seed
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


def test_a_truncated_image_ends_training_in_one_line_that_names_it(dataroot: Path, tmp_path: Path):
    broken = tmp_path / "data"
    shutil.copytree(dataroot, broken)
    for path in (broken / "samples" / "CAM_FRONT").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    message = run_and_fail(*train_command(broken, tmp_path / "run", "--data.num-workers", 1))
    assert "samples/CAM_FRONT/" in message
    assert (tmp_path / "run" / "console.log").read_text().splitlines()[-1] == message.replace("splattingocc: ", "ValueError: ")
    assert "cannot be read as an image" in message


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


def test_a_checkpoint_of_another_config_is_refused_by_the_option(trained: Path, dataroot: Path):
    message = run_and_fail("test", CONFIG, trained / "network.safetensors", "--data.dataroot", dataroot)
    assert "network.safetensors: checkpoint of another network: network.neck.stride is 8 there and 4" in message


def test_a_damaged_truth_is_named(trained: Path, dataroot: Path, synthetic_dataroot: Path, tmp_path: Path):
    gts = tmp_path / "gts"
    shutil.copytree(synthetic_dataroot / "gts", gts)
    for path in gts.rglob("labels.npz"):
        path.write_bytes(path.read_bytes()[:200])
    config = small_experiment(dataroot)
    cache = predict(config, trained / "network.safetensors", tmp_path / "out", split="val", index=build_index(config.data, tmp_path))
    with pytest.raises(ValueError, match=r"labels\.npz"):
        score_split(cache, gts)
