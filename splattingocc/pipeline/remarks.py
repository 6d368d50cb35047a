"""What there is to say of a training before its first step: what it does not see, cannot learn, or would do nothing with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.engine.options import OptimizationConfig
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.experiment import ExperimentConfig, TrainerConfig
from splattingocc.losses.loss import LabelKind
from splattingocc.losses.objective import ObjectiveConfig, about_missing_labels


def about_batch(config: ExperimentConfig, world_size: int) -> str:
    accumulated, learning_rate = config.trainer.accumulate_batches, config.optimization.learning_rate
    samples = config.data.batch_size * world_size * accumulated
    share_of_each = f"{world_size} × data.batch_size {config.data.batch_size}"
    if accumulated > 1:
        share_of_each += f" × trainer.accumulate_batches {accumulated}"
    return f"{samples} samples a step ({share_of_each}); peak learning rate {learning_rate:g}, as configured: it is not scaled"


def about_idle_options(config: ExperimentConfig, num_samples: int, world_size: int, num_kept_back: int) -> Iterator[str]:
    """Say which options do nothing in a training on so many samples, and why."""
    optimization, trainer, calibration = config.optimization, config.trainer, config.calibration
    of_each = num_samples // world_size
    num_steps = trainer.max_epochs * math.ceil(of_each / (config.data.batch_size * trainer.accumulate_batches))
    if optimization.image_steps >= num_steps:
        yield f"optimization.image_steps {optimization.image_steps} of {num_steps} steps: the image branch alone learns, no volume does"
    learning = num_steps - optimization.image_steps if optimization.image_steps < num_steps else num_steps
    if optimization.warmup_steps > learning:
        yield f"optimization.warmup_steps {optimization.warmup_steps} of {learning} steps: the peak learning rate is never reached"
    changed = [name for name in ("step_epochs", "step_factor") if getattr(optimization, name) != getattr(OptimizationConfig(), name)]
    if optimization.schedule != "step" and changed:
        yield f"optimization.{', '.join(changed)}: does nothing without optimization.schedule step"
    if optimization.schedule == "step" and all(epoch >= trainer.max_epochs for epoch in optimization.step_epochs):
        yield f"optimization.step_epochs {optimization.step_epochs} of {trainer.max_epochs} epochs: the learning rate never falls"
    if (wanted := config.data.loader.calibration_scenes) != LoaderConfig().calibration_scenes and wanted > num_kept_back:
        yield f"data.loader.calibration_scenes {wanted}: {num_kept_back} are kept back, at most one in eight of the training scenes"
    if trainer.best_by != TrainerConfig().best_by and not trainer.validate_epochs:
        yield f"trainer.best_by {trainer.best_by}: does nothing without trainer.validate_epochs"
    if calibration.criterion != "rays" and calibration.ray_tolerance != CalibrationConfig().ray_tolerance:
        yield f"calibration.ray_tolerance {calibration.ray_tolerance}: does nothing without calibration.criterion rays"


def about_labels(store: LabelStore, dataset: TrainingSet, whole: Index, objective: ObjectiveConfig) -> Iterator[str]:
    """Say what a training does not see and cannot learn; nothing to learn from at all is a `ValueError`."""
    index = dataset.index
    if left_out := len(whole) + len(whole.incomplete) - len(index):
        yield f"{len(index)} key frames have labels; {left_out} others of {whole.version} have none (prepare says which) and are left out"
    if not len(dataset):
        raise ValueError(f"split train of {whole.version} has no key frame to train on (splits.json beside the tables decides)")
    records = [store.manifest.scenes[name] for name in {index[position].scene for position in dataset.positions}]
    if not sum(record.num_rays for record in records):
        raise ValueError(
            f"{store.folder}: not one labelled ray in the {len(dataset)} key frames to train on; look at `splattingocc prepare`"
        )
    counts: dict[LabelKind, int] = {
        "class": sum(record.num_classified for record in records),
        "distance": sum(record.num_measured for record in records),
    }
    try:
        yield from about_missing_labels(objective, {kind for kind, count in counts.items() if not count})
    except ValueError as error:
        raise ValueError(f"{store.folder}: {error}") from error
