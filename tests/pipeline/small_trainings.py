"""Trainings of few steps that the tests of this room share."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_parts import NarrowResNetConfig, ToyExperimentConfig, ToyNetworkConfig

from splattingocc.cli import main
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import OptimizationConfig
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.pipeline.prediction import open_network

CONFIG = Path(__file__).parents[2] / "configs" / "splattingocc" / "splattingocc-synth.py"


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


class Interrupted(Exception):
    """Ends a training where a test wants it to."""


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Let the training inside end before a step, as a fault would end it."""
    original = OccupancyModule.training_step

    def stop(module: OccupancyModule, sample: TrainingSample, batch_index: int) -> Tensor:
        if module.global_step == step:
            raise Interrupted
        return original(module, sample, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OccupancyModule, "training_step", stop)
        with pytest.raises(Interrupted):
            yield


def with_trainer(config: ExperimentConfig, **options: object) -> ExperimentConfig:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=options)})


def train_command(dataroot: Path, work_dir: Path, *more: object) -> tuple:
    options = ("--data.dataroot", dataroot, "--work-dir", work_dir, "--trainer.max-epochs", 1, "--data.loader.image-size", 32, 64)
    return ("train", CONFIG, *options, *more)


def with_epochs(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"max_epochs": epochs})})


def run_and_fail(*arguments: object) -> str:
    """Run a command that must end with an error, and return the one line it ends with."""
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert isinstance(error.value.code, str)
    assert "\n" not in error.value.code
    return error.value.code
