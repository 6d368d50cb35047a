"""The root configuration and what is built from it: the one place where everything meets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from pydantic import Field, ValidationError
from torch.utils.data import DataLoader

from splattingocc.config import Config
from splattingocc.data.augment import AugmentConfig
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, PredictionSet, TrainingSet, calibration_scenes
from splattingocc.data.nuscenes import read_index
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.engine.batches import TrainingBatches, prediction_loader
from splattingocc.engine.callbacks import StepProgress
from splattingocc.engine.checkpoint import AtomicCheckpointIO, RememberNetwork
from splattingocc.engine.interruption import EndEarly
from splattingocc.engine.loggers import MetricsTable, Tracker, build_tracker
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import OccupancyModule, OptimizationConfig, RenderConfig
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork


class DataConfig(Config):
    """Where the data are and how they become batches."""

    dataroot: Path = Path("data/nuscenes")
    """Folder of a data set in the nuScenes layout."""
    version: str = "v1.0-trainval"
    """Folder of its tables."""
    labels: Path | None = None
    """Folder of the 2D label store; `<dataroot>/labels_2d` by default."""
    gts: Path | None = None
    """Folder of Occ3D's truth, read by scoring only; `<dataroot>/gts` by default."""
    vehicle_masks: Path | None = None
    """Folder with a PNG per camera, `<channel>.png`, that is black but for the own vehicle: what it covers is black to the network, in
    training and in testing. Labels are made without it by the same option of `prepare`."""
    loader: LoaderConfig = LoaderConfig()
    batch_size: int = 1
    """Samples per step and process."""
    num_workers: int = 1
    """Processes that load samples."""

    @property
    def label_folder(self) -> Path:
        return self.labels or self.dataroot / "labels_2d"

    @property
    def truth_folder(self) -> Path:
        return self.gts or self.dataroot / "gts"


class TrainerConfig(Config):
    """How long to train, and on what."""

    max_epochs: int = 12
    """Passes over the training key frames. There is no limit in steps: Lightning resumes such a run at the wrong place of an epoch."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu."""
    devices: int = 1
    """Processes per node."""
    num_nodes: int = 1
    """Nodes."""
    checkpoint_epochs: Annotated[int, Field(gt=0)] = 1
    """A checkpoint to resume from is written every so many epochs."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """And every so many steps, for long epochs; 0 writes none within epochs."""
    keep_checkpoints: Annotated[int, Field(gt=0)] = 2
    """How many of them are kept, the newest; those within epochs count for themselves."""
    validate_epochs: Annotated[int, Field(ge=0)] = 0
    """Every so many epochs the losses are measured on the scenes kept back from training (their 2D labels, never 3D truth)."""
    best_by: str = "val/loss"
    """The logged number by which `checkpoints/best.ckpt` is chosen where there is such a measurement; the smallest is best."""
    sync_batchnorm: bool = False
    """Whether BatchNorm counts the images of all processes instead of each process's own. CUDA only."""
    deterministic: bool = False
    """Whether every operation must repeat exactly, also on CUDA, where that is slower; on a CPU runs repeat anyway."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format of the network; rendering is always float32."""
    loggers: tuple[Tracker, ...] = ()
    """Where the metrics of each step go besides `logs/metrics.csv`: `tensorboard` needs the extra `tracking`, `wandb` the extra `wandb`."""


class ExperimentConfig(Config):
    """Everything that decides what is trained."""

    name: str
    """Names the run; results go to `work_dirs/<name>` by default."""
    seed: int = 0
    """Seeds initial weights, sampling and augmentation."""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    render: RenderConfig = RenderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    trainer: TrainerConfig = TrainerConfig()
    calibration: CalibrationConfig = CalibrationConfig()


def load_config(path: Path) -> ExperimentConfig:
    """Run a configuration file and return what its function `config` makes; `ValueError` in one line for whatever is wrong with it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such configuration file")
    spec = importlib.util.spec_from_file_location("splattingocc_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.config()
    except ValidationError as error:
        raise ValueError(f"{path}: {describe_validation(error)}") from error
    except Exception as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(made, ExperimentConfig):
        raise ValueError(f"{path}: config() returned {type(made).__name__}; it must return an ExperimentConfig")
    return made


def describe_validation(error: ValidationError) -> str:
    """Say a pydantic error in one line: class, key, what is wrong, and the key that was probably meant."""
    return "; ".join(f"{error.title}.{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())


def build_index(config: DataConfig, work_dir: Path) -> Index:
    return read_index(config.dataroot, config.version, cache_dir=work_dir / "index")


def open_masks(config: DataConfig, index: Index) -> VehicleMasks | None:
    return None if config.vehicle_masks is None else VehicleMasks.open(config.vehicle_masks, index)


def build_network(config: ExperimentConfig) -> OccupancyNetwork:
    return OccupancyNetwork(config.network, OCC3D_GRID)


def build_module(config: ExperimentConfig) -> OccupancyModule:
    objective = Objective(config.objective, config.network.lift.depth_bins)
    return OccupancyModule(build_network(config), objective, config.render, config.optimization)


def build_training_batches(config: ExperimentConfig, index: Index) -> TrainingBatches:
    data = config.data
    store = LabelStore.open(data.label_folder)
    masks = open_masks(data, index)
    dataset = TrainingSet(index, store, data.dataroot, data.loader, seed=config.seed, masks=masks)
    kept_back = None
    if config.trainer.validate_epochs:
        positions = index.of_scenes(calibration_scenes(index, data.loader))
        if not positions:
            raise ValueError(
                "trainer.validate_epochs: no scene is kept back from training (data.loader.calibration_scenes, at most one in eight)"
            )
        as_tested = data.loader.model_copy(update={"augment": AugmentConfig(), "auxiliary_offsets": ()})
        kept_back = TrainingSet(index, store, data.dataroot, as_tested, part="all", positions=positions, masks=masks)
    return TrainingBatches(dataset, batch_size=data.batch_size, num_workers=data.num_workers, kept_back=kept_back)


def build_prediction_loader(config: ExperimentConfig, index: Index, positions: Sequence[int]) -> DataLoader:
    data = config.data
    dataset = PredictionSet(index, data.dataroot, data.loader, positions, masks=open_masks(data, index))
    return prediction_loader(dataset, num_workers=data.num_workers)


def build_checkpoints(config: TrainerConfig, work_dir: Path) -> list[ModelCheckpoint]:
    """Return what writes the newest checkpoints, and the best one where there is a measurement to choose it by."""
    newest = partial(
        ModelCheckpoint,
        work_dir / "checkpoints",
        filename="step_{step:08d}",
        auto_insert_metric_name=False,
        enable_version_counter=False,
        monitor="step",
        mode="max",
        save_top_k=config.keep_checkpoints,
    )
    checkpoints = [newest(every_n_epochs=config.checkpoint_epochs, save_on_train_epoch_end=True)]
    if config.checkpoint_steps:
        checkpoints.append(newest(every_n_train_steps=config.checkpoint_steps))
    if config.validate_epochs:
        best = ModelCheckpoint(work_dir / "checkpoints", filename="best", enable_version_counter=False, monitor=config.best_by)
        checkpoints.append(best)
    return checkpoints


def build_loggers(config: ExperimentConfig, work_dir: Path) -> list[Logger]:
    trackers = [build_tracker(name, work_dir, config.model_dump(mode="json")) for name in config.trainer.loggers]
    return [MetricsTable(work_dir), *trackers]


def build_trainer(config: ExperimentConfig, work_dir: Path, *, show_progress: bool = True) -> Trainer:
    trainer, meter = config.trainer, StepMeter()
    if trainer.sync_batchnorm and not torch.cuda.is_available():
        raise ValueError("trainer.sync_batchnorm: works on CUDA only, and there is no CUDA device")
    averaging = [EMAWeightAveraging(decay=config.optimization.ema_decay)] if config.optimization.ema_decay else []
    bar = [StepProgress(meter)] if show_progress else []
    return Trainer(
        max_epochs=trainer.max_epochs,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        precision=trainer.precision,
        deterministic=trainer.deterministic,
        gradient_clip_val=config.optimization.gradient_clip,
        logger=build_loggers(config, work_dir),
        sync_batchnorm=trainer.sync_batchnorm,
        check_val_every_n_epoch=trainer.validate_epochs or None,
        limit_val_batches=1.0 if trainer.validate_epochs else 0,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            *averaging,
            *build_checkpoints(trainer, work_dir),
            RememberNetwork(config.network),
            meter,
            EndEarly(work_dir),
            *bar,
        ],
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
