"""What trains an experiment: its module, its batches, and the trainer with all that writes and watches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import TrainingSet, calibration_scenes
from splattingocc.engine.averaging import AveragedWeights
from splattingocc.engine.batches import TrainingBatches
from splattingocc.engine.callbacks import StepProgress
from splattingocc.engine.checkpoint_writing import (
    AtEpochs,
    AtomicCheckpointIO,
    BestCheckpoint,
    GoOnCleanly,
    RememberExperiment,
    WithinEpochs,
)
from splattingocc.engine.interruption import EndEarly
from splattingocc.engine.loggers import MetricsTable, RememberRow, build_tracker
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig, TrainerConfig, build_network, open_masks
from splattingocc.losses.objective import Objective


def build_module(config: ExperimentConfig, *, initial_weights: bool = True) -> OccupancyModule:
    objective = Objective(config.objective, config.network.image_reader.depth_bins)
    network = build_network(config, initial_weights=initial_weights)
    network.format_in_training = torch.bfloat16 if config.trainer.precision == "bf16-mixed" else torch.float32
    if config.trainer.activation_checkpointing:
        network.recompute_in_backward()
    module = OccupancyModule(network, objective, config.render, config.optimization)
    module.predict_all_cells = config.trainer.predict_all_cells
    return module


def build_training_batches(config: ExperimentConfig, index: Index) -> TrainingBatches:
    data = config.data
    store = LabelStore.open(data.label_folder)
    masks = open_masks(data, index)
    dataset = TrainingSet(index, store, data.dataroot, data.loader, seed=config.seed, masks=masks)
    kept_back = None
    if (every := config.trainer.validate_epochs) > (last := config.trainer.max_epochs):
        raise ValueError(f"trainer.validate_epochs is {every}, expected at most trainer.max_epochs, {last}: nothing would be measured")
    if every:
        positions = index.of_scenes(calibration_scenes(index, data.loader))
        if not positions:
            raise ValueError(
                "trainer.validate_epochs: no scene is kept back from training (data.loader.calibration_scenes, at most one in eight)"
            )
        as_tested = data.loader.model_copy(update={"augment": AugmentConfig(), "label_frames": 1})
        kept_back = TrainingSet(index, store, data.dataroot, as_tested, part="all", positions=positions, masks=masks)
    return TrainingBatches(
        dataset,
        batch_size=data.batch_size,
        accumulate_batches=config.trainer.accumulate_batches,
        num_workers=data.num_workers,
        worker_timeout=data.worker_timeout,
        kept_back=kept_back,
    )


def build_checkpoints(config: TrainerConfig, work_dir: Path) -> list[ModelCheckpoint]:
    """Return what writes the newest checkpoints, and the best one where there is a measurement to choose it by."""
    # Lightning takes a folder called ~ for the user's own
    folder = work_dir.absolute() / "checkpoints"
    options: dict[str, Any] = {
        "dirpath": folder,
        "filename": "step_{step:08d}",
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
        "monitor": "step",
        "mode": "max",
        "save_top_k": config.keep_checkpoints,
    }
    checkpoints: list[ModelCheckpoint] = [AtEpochs(**options, checkpoint_epochs=config.checkpoint_epochs)]
    if config.checkpoint_steps:
        within = WithinEpochs(**options, every_n_train_steps=config.checkpoint_steps, checkpoint_epochs=config.checkpoint_epochs)
        checkpoints.append(within)
    if config.validate_epochs:
        best = BestCheckpoint(folder, filename="best", enable_version_counter=False, monitor=config.best_by)
        checkpoints.append(best)
    return checkpoints


def build_loggers(config: ExperimentConfig, work_dir: Path) -> list[Logger]:
    trackers = [build_tracker(name, work_dir.absolute(), config.model_dump(mode="json")) for name in config.trainer.loggers]
    return [MetricsTable(work_dir), *trackers]


def _accelerator(config: TrainerConfig) -> str:
    """Return Lightning's word for what to train on; `ValueError` where the machine has not what was asked for."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.sync_batchnorm and not found:
        raise ValueError("trainer.sync_batchnorm: works on CUDA only, and there is no CUDA device")
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not found):
        return "cpu"
    if not found:
        raise ValueError(f"trainer.accelerator: {config.accelerator} asked for, and there is no CUDA device; `auto` takes what there is")
    if config.devices > found:
        raise ValueError(f"trainer.devices: {config.devices} asked for, and there are {found} CUDA devices")
    return "cuda"


def check_sync_batchnorm(config: TrainerConfig, network: nn.Module) -> None:
    """Raise a `ValueError` for layers that would compute something else with it: torch puts its own in place of whatever has a BatchNorm's
    type, and leaves out what one of another library does besides, such as an activation."""
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    others = {type(part).__name__ for part in network.modules() if isinstance(part, _BatchNorm) and type(part) not in plain}
    if config.sync_batchnorm and others:
        raise ValueError(f"trainer.sync_batchnorm: would leave out what {', '.join(sorted(others))} does besides; expected False")


def _environment(config: TrainerConfig) -> list[LightningEnvironment]:
    """Return what says that a process is alone: in a shell inside of an allocation of Slurm's, Lightning would look for the others."""
    return [LightningEnvironment()] if config.devices * config.num_nodes == 1 and "SLURM_NTASKS" in os.environ else []


def build_trainer(config: ExperimentConfig, work_dir: Path, *, show_progress: bool = True) -> Trainer:
    trainer, meter = config.trainer, StepMeter()
    accelerator = _accelerator(trainer)
    averaging = [AveragedWeights(config.optimization.ema_decay)] if config.optimization.ema_decay else []
    bar = [StepProgress(meter)] if show_progress else []
    return Trainer(
        max_epochs=trainer.max_epochs,
        accelerator=accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        # Some of CUDA's operations have no twin that repeats, and would end the training
        deterministic="warn" if trainer.deterministic and accelerator == "cuda" else trainer.deterministic,
        gradient_clip_val=config.optimization.gradient_clip,
        logger=build_loggers(config, work_dir),
        sync_batchnorm=trainer.sync_batchnorm,
        check_val_every_n_epoch=trainer.validate_epochs or None,
        limit_val_batches=1.0 if trainer.validate_epochs else 0,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO(), *_environment(trainer)],
        callbacks=[
            *averaging,
            *build_checkpoints(trainer, work_dir),
            RememberExperiment(config.network, config),
            meter,
            RememberRow(work_dir),
            EndEarly(work_dir),
            GoOnCleanly(work_dir, trainer.keep_checkpoints),
            *bar,
        ],
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
