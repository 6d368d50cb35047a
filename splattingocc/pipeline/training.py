"""Train an experiment from 2D labels, and choose its threshold from them. Nothing here can reach 3D truth."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from pydantic import ValidationError

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import inside
from splattingocc.data.loaders import calibration_scenes
from splattingocc.engine.batches import TrainingBatches
from splattingocc.engine.checkpoint import (
    CONFIG_KEY,
    EXPERIMENT_KEY,
    KEPT_BACK_KEY,
    NETWORK_FILE,
    check_network,
    check_weights,
    checkpoints_by_step,
    is_safetensors,
    kept_back_in,
    load_network,
    network_config,
    newest_checkpoint,
    read_checkpoint,
    read_metadata,
    read_network,
    save_network,
)
from splattingocc.engine.checkpoint_writing import RememberExperiment
from splattingocc.engine.console import in_one_line
from splattingocc.engine.latest_link import link_latest
from splattingocc.engine.ledger import differences
from splattingocc.engine.loading import LoaderFailed, dead_workers_named
from splattingocc.engine.loggers import TENSORBOARD_FOLDER, free_name, set_rows_aside
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import NonFiniteLoss, OccupancyModule
from splattingocc.engine.signals import InterruptedTraining, handlers_restored, stop_requested
from splattingocc.engine.training_pictures import DrawPictures
from splattingocc.experiment import ExperimentConfig, build_index
from splattingocc.files import BadFile, decoding, read_json, write_json
from splattingocc.losses.objective import Losses
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.calibration import calibrate, calibration_frames, calibration_rays, check_labels_reach_grid
from splattingocc.pipeline.networks import check_grid, hold_the_same
from splattingocc.pipeline.prediction import trained_with
from splattingocc.pipeline.remarks import about_batch, about_idle_options, about_labels
from splattingocc.pipeline.trainer import build_module, build_trainer, build_training_batches, check_sync_batchnorm
from splattingocc.pipeline.training_pictures import WatchedFrame
from splattingocc.provenance import circumstances, commit, environment
from splattingocc.struct import stack
from splattingocc.visualization.curves import draw_curves
from splattingocc.zoo import find_in_zoo

METRICS_FILE = "metrics.json"
"""What a training measured of itself; scores are in `metrics_<split>.json`."""
RESULTS = (NETWORK_FILE, "calibration.json", METRICS_FILE, "curves.png", "config.json", "environment.json")
"""What a training leaves beside its checkpoints, and nothing else says of which training it is."""


def train(
    config: ExperimentConfig,
    work_dir: Path,
    *,
    resume_from: Path | None = None,
    show_progress: bool = True,
    build: Callable[..., OccupancyModule] = build_module,
) -> dict[str, Any]:
    """Train, choose the threshold on held-out 2D labels of training frames, and return the content of METRICS_FILE.

    A training that is finished is left as it is; one that was killed after its last step gets what is missing. Of several processes the
    first one chooses and writes; the others return nothing. What `build` makes, called as `build_module` is, takes the steps: comparisons
    that learn from something else share all the rest.
    """
    quiet_lightning()
    if resume_from is not None and resume_from.is_symlink():
        resume_from = resume_from.resolve()  # the link leads to another checkpoint as soon as there is one
    checkpoint = None if resume_from is None else _to_go_on_from(config, resume_from)
    trained = checkpoint if checkpoint and TrainingBatches.epochs_done(checkpoint) == config.trainer.max_epochs else None
    if trained is not None and resume_from is not None and (metrics := finished_metrics(config, work_dir, resume_from)) is not None:
        return metrics
    ignored = ""
    if checkpoint is not None:
        config, ignored = _as_it_began(config, checkpoint)
    trainer = build_trainer(config, work_dir, show_progress=show_progress)
    keep_freed_memory()
    seed_everything(config.seed, workers=True, verbose=False)
    index, store = build_index(config.data, work_dir), LabelStore.open(config.data.label_folder)
    whole, index = index, store.labelled_part(index)
    chosen = calibration_scenes(index, config.data.loader)
    if checkpoint is not None and resume_from is not None:
        # Labels of more scenes, since it began, would have others chosen: such as it has learned from
        index = dataclasses.replace(index, kept_back=kept_back_in(checkpoint, resume_from))
    kept_back = calibration_scenes(index, config.data.loader)
    # Whose labels are missing now may have some again later
    kept_names = index.kept_back if index.kept_back and kept_back != chosen else kept_back
    first = config.trainer.initial_network if checkpoint is None else None
    module = build(config, initial_weights=checkpoint is None and first is None)
    check_sync_batchnorm(config.trainer, module.network)
    begins_with = None if first is None else load_initial_network(config, module.network, first)
    if checkpoint is not None and resume_from is not None:
        check_weights(module, checkpoint, resume_from)
    batches = build_training_batches(config, index)
    (meter,) = (callback for callback in trainer.callbacks if isinstance(callback, StepMeter))  # type: ignore[attr-defined]
    (remember,) = (callback for callback in trainer.callbacks if isinstance(callback, RememberExperiment))  # type: ignore[attr-defined]
    remember.kept_back = kept_names
    if trainer.is_global_zero:
        if checkpoint is not None and (changed := _changed_since(config, checkpoint)):
            print(f"{resume_from}: goes on with other options than it was trained with: {changed}")
        if ignored:
            print(f"{resume_from}: goes on with its own weights; {ignored} does nothing")
        if kept_back != chosen:
            print(
                f"{resume_from}: has kept back {', '.join(kept_back) or 'no scene'}, and goes on so, with {len(batches.dataset)} key frames"
            )
        about = about_labels(store, batches.dataset, whole, config.objective)
        for line in (
            *about,
            about_batch(config, trainer.world_size),
            *about_idle_options(config, len(batches.dataset), trainer.world_size, len(kept_back)),
        ):
            print(line)
        check_labels_reach_grid(config, index, store)
        if config.trainer.picture_steps:
            trainer.callbacks.append(_pictures(config, work_dir, index, store))  # type: ignore[attr-defined]
        if (loaded := module.network.backbone.loaded) is not None and checkpoint is None:
            print(loaded.describe())
        if begins_with is not None:
            print(begins_with)
        # Not before all that may be wrong with data and labels has been found: a mistyped folder must cost an earlier training nothing
        set_aside(work_dir, resume_from, step=0 if checkpoint is None else checkpoint["global_step"])
        link_latest(work_dir, next(iter(checkpoints_by_step(work_dir / "checkpoints")), None))
        write_json(work_dir / "config.json", config.model_dump(mode="json"))
        write_json(work_dir / "environment.json", environment() | circumstances(trainer.world_size))
    if trained is not None and resume_from is not None:
        # Lightning would neither train nor give the averaged weights, which are those of the checkpoint
        module.on_load_checkpoint(trained)
        module.load_state_dict(trained["state_dict"])
        with decoding(resume_from, "a checkpoint to go on from"):
            if meter.state_key in trained["callbacks"]:  # it was not always kept
                meter.load_state_dict(trained["callbacks"][meter.state_key])
    else:
        _fit(config, work_dir, trainer, module, batches, meter, resume_from, kept_names)
    if not trainer.is_global_zero:
        return {}
    metrics = meter.results()
    # Lightning has left it on the CPU
    module.network.to(trainer.strategy.root_device)
    calibration = calibrate(config, module.network, index)
    write_json(work_dir / "calibration.json", calibration.describe())
    metadata = {
        "threshold": repr(calibration.threshold),
        "ground_threshold": repr(calibration.occupancy_threshold.ground),
        "calibration_f1": repr(calibration.f1),
        "step": str(metrics["last_step"]),
        EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json")),
        KEPT_BACK_KEY: json.dumps(kept_names),
        "commit": commit(),
    }
    save_network(module.network, config.network, work_dir / NETWORK_FILE, metadata)
    metrics |= {
        "threshold": calibration.threshold,
        "ground_threshold": calibration.occupancy_threshold.ground,
        "calibration_f1": calibration.f1,
    }
    draw_curves(work_dir)
    write_json(work_dir / METRICS_FILE, metrics)
    return metrics


def _to_go_on_from(config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Return a checkpoint, or say what is in the way of going on from it."""
    if path.is_dir():
        raise BadFile(path, "is a folder, expected a checkpoint; --auto-resume goes on from the newest one of the work directory")
    if path.is_file() and is_safetensors(path):
        raise BadFile(path, "holds a network and no state of a training; --trainer.initial-network begins a training with its weights")
    checkpoint = read_checkpoint(path)
    check_network(config.network, checkpoint[CONFIG_KEY], path)
    check_grid(config, checkpoint.get(EXPERIMENT_KEY), path)
    with decoding(path, "a checkpoint to go on from"):
        done = TrainingBatches.epochs_done(checkpoint)
    if done > config.trainer.max_epochs:
        raise ValueError(f"trainer.max_epochs: {config.trainer.max_epochs}, but {path} has {done:g} epochs behind it")
    return checkpoint


def _as_it_began(config: ExperimentConfig, checkpoint: dict[str, Any]) -> tuple[ExperimentConfig, str]:
    """Return the experiment with the initial weights that the training of a checkpoint began with, and which others were asked for."""
    then = options_in(type(config), checkpoint.get(EXPERIMENT_KEY, "{}"))
    ignored = []
    for place, name in (("trainer",), "initial_network"), (("network", "backbone"), "weights"):
        parts, before = [config], then
        for part in place:
            parts, before = [*parts, getattr(parts[-1], part)], before.get(part, {})
        now = getattr(parts[-1], name, None)
        if name not in before or before[name] == (now and str(now)):
            continue
        if now is not None:
            ignored.append(f"{'.'.join(place)}.{name} {now}")
        changed = parts[-1].model_copy(update={name: before[name] and Path(before[name])})
        for holder, part in zip(reversed(parts[:-1]), reversed(place)):
            changed = holder.model_copy(update={part: changed})
        config = changed
    return config, ", ".join(ignored)


def _changed_since(config: ExperimentConfig, checkpoint: dict[str, Any]) -> str:
    """Return the options that are others than those a checkpoint was trained with, and what they were; nothing where all are the same."""
    if EXPERIMENT_KEY not in checkpoint:  # it was not always kept
        return ""
    now, then = config.model_dump(mode="json"), options_in(type(config), checkpoint[EXPERIMENT_KEY])
    before = differences(then, now)
    return ", ".join(f"{name}={value} (before: {before.get(name)})" for name, value in differences(now, then).items())


def options_in(kind: type[ExperimentConfig], experiment: str) -> Any:
    """Return the options of an experiment that a file holds; those that there were not yet have their default, as far as it is known."""
    found = json.loads(experiment)
    try:
        return kind.model_validate(found).model_dump(mode="json")
    except ValidationError:  # of another version, or with parts of its own
        return found


def load_initial_network(config: ExperimentConfig, network: OccupancyNetwork, path: Path) -> str:
    """Fill a network with the weights of another training, and say which they are; what does not fit is a `ValueError`.

    A part that corrects what the other one computed (`NetworkConfig.as_before`) may be new, and begins as in a new network.
    """
    path, expected, new = find_in_zoo(path), config.network, list[str]()
    if path.exists():
        expected, new = expected.as_before(network_config(type(expected), read_metadata(path).get(CONFIG_KEY), path))
    metadata = load_network(network, expected, path, without=new)
    check_grid(config, metadata.get(EXPERIMENT_KEY), path)
    said = f"begins with the weights of {path}" + (f", which has no {' and no '.join(new)}: that is new" if new else "")
    before, size = trained_with(path), list(config.data.loader.image_size)
    if before is not None and (then := before.data.loader.get("image_size", size)) != size:
        said += f"; it has learned from images of {then[0]} × {then[1]}, here they are {size[0]} × {size[1]} (data.loader.image_size)"
    return said


def finished_metrics(config: ExperimentConfig, work_dir: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Return what the training whose last checkpoint this is measured, where it is wholly finished in this folder; says so."""
    step = read_checkpoint(checkpoint)["global_step"]
    try:
        _, metadata = read_network(work_dir / NETWORK_FILE)
        metrics = read_json(work_dir / METRICS_FILE, dict[str, Any], what="the metrics of a training")
        with decoding(work_dir / NETWORK_FILE, "a network with its experiment"):
            then = options_in(type(config), metadata[EXPERIMENT_KEY])
    except BadFile:
        return None
    if metadata.get("step") != str(step) or metrics.get("last_step") != step:
        return None
    if not hold_the_same(work_dir / NETWORK_FILE, checkpoint):
        return None  # it is of a training before this one, which was killed before it had its own
    print(f"{work_dir}: this training was finished before, at step {step}; nothing is changed")
    if changed := differences(config.model_dump(mode="json"), then):
        print(f"not applied, because it was trained without: {', '.join(f'{name}={value}' for name, value in changed.items())}")
    return metrics


def set_aside(work_dir: Path, resume_from: Path | None, *, step: int) -> None:
    """Keep what another training left out of the way of this one, which must never go on from it nor pass its network for its own.

    That is all of it, where this one begins at step 0 or goes on from another folder's checkpoint, and what came after, where it goes on
    from a checkpoint of this folder, of the given step.
    """
    folder = work_dir / "checkpoints"
    is_own = resume_from is not None and resume_from.resolve().parent == folder.resolve()
    found = checkpoints_by_step(folder)
    others = [path for path in found if not is_own or found[path] > step]
    tables = [work_dir / "logs" / name for name in ("metrics.csv", "speed.csv")]
    if not is_own:
        events = work_dir / TENSORBOARD_FOLDER
        if events.exists():
            events.rename(free_name(events, "before"))
        # Those of a training that begins at step 0 are set aside with its first row
        for table in tables if resume_from is not None else ():
            set_rows_aside(table, from_step=0)
    best = folder / "best.ckpt"
    if best.exists() and (not is_own or _is_later(best, step)):
        others.append(best)
    if others or (not is_own and (work_dir / NETWORK_FILE).exists()):
        others += [path for name in RESULTS if (path := work_dir / name).exists()]
    if not others:
        return
    link_latest(work_dir, None)  # before what it leads to is elsewhere
    aside = free_name(folder, "before")
    aside.mkdir()
    for path in others:
        path.rename(aside / path.name)
    for table in tables if is_own else ():
        set_rows_aside(table, from_step=step)
    last = next((aside / path.name for path in others if path in found), None)  # the newest comes first
    instead = "" if last is None else f" (--resume-from {last} goes on from the newest instead)"
    print(f"{work_dir}: holds another training; its checkpoints and results are kept in {aside.name}{instead}")


def _is_later(path: Path, step: int) -> bool:
    """Say whether a checkpoint is of after a step; one that cannot be read is none to keep."""
    try:
        return read_checkpoint(path)["global_step"] > step
    except BadFile:
        return True


def _fit(
    config: ExperimentConfig,
    work_dir: Path,
    trainer: Trainer,
    module: OccupancyModule,
    batches: TrainingBatches,
    meter: StepMeter,
    resume_from: Path | None,
    kept_back: tuple[str, ...],
) -> None:
    try:
        with dead_workers_named(), handlers_restored():
            trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
    except NonFiniteLoss as error:
        saved = work_dir / f"non_finite_step_{error.step:08d}_process_{trainer.global_rank}.safetensors"
        metadata = replay_metadata(config, error, trainer.current_epoch) | {KEPT_BACK_KEY: json.dumps(kept_back)}
        save_network(module.network, config.network, saved, metadata)
        raise ValueError(f"{error}; saved for replay: {saved}") from error
    except LoaderFailed as error:
        if (received := stop_requested()) is not None:
            raise InterruptedTraining(received, newest_checkpoint(work_dir)) from error
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Lightning would end the process with 1, and say nothing
        raise
    except Exception as error:
        # Until then all that happens is that parts of the checkpoint are handed out, which raise errors of any kind
        if resume_from is None or meter.has_begun or isinstance(error, OSError):
            raise
        raise BadFile(resume_from, f"cannot be gone on from: {in_one_line(error)}") from error


def _pictures(config: ExperimentConfig, work_dir: Path, index: Index, store: LabelStore) -> DrawPictures:
    """Return what draws the first of the key frames that choose the threshold whose labels tell of the grid."""
    positions, part = calibration_frames(config, index)
    labelled = ((position, calibration_rays(config, index, position, store, part)) for position in positions)
    position, rays = next((each, rays) for each, rays in labelled if len(inside(*rays, config.grid.voxels)[1].distances))
    return DrawPictures(config.trainer.picture_steps, work_dir / "pictures", WatchedFrame(config, index, position, rays).draw)


def replay_metadata(config: ExperimentConfig, error: NonFiniteLoss, epoch: int) -> dict[str, str]:
    return {
        "step": str(error.step),
        "epoch": str(epoch),
        "tokens": json.dumps(list(error.tokens)),
        "losses": json.dumps({name: repr(value) for name, value in error.losses.items()}),
        EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json")),
        "commit": commit(),
    }


def replay(config: ExperimentConfig, path: Path, index: Index) -> Losses:
    """Compute the losses of a step that was not finite again, from the weights and the samples that `train` saved; gradients are kept.

    Of several batches of a step, what was saved are those that were not finite; each is computed by itself, as it was.
    """
    index = LabelStore.open(config.data.label_folder).labelled_part(index)
    module = build_module(config, initial_weights=False)
    metadata = load_network(module.network, config.network, path)
    index = dataclasses.replace(index, kept_back=kept_back_in(metadata, path))
    dataset = build_training_batches(config, index).dataset
    places = {index.tokens[position]: i for i, position in enumerate(dataset.positions)}
    keys = [int(metadata["epoch"]) * len(dataset) + places[token] for token in json.loads(metadata["tokens"])]
    size = config.data.batch_size
    batches = [stack([dataset[key] for key in keys[start : start + size]]) for start in range(0, len(keys), size)]
    losses = [module.losses_of(batch, step=int(metadata["step"])).parts for batch in batches]
    shares = [len(batch.token) / len(keys) for batch in batches]
    return Losses({name: torch.stack([parts[name] * share for parts, share in zip(losses, shares)]).sum() for name in losses[0]})


def quiet_lightning() -> None:
    """Keep Lightning's tips, its device report and its advice on loaders out of the console; its errors stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    messages = (
        "isinstance.treespec",
        "The number of training batches",
        "The '.*_dataloader' does not have",
        "Checkpoint directory",
        "The dirpath has changed",  # the folder was copied or renamed, which `BestCheckpoint` sees to
        "callbacks used to create the checkpoint",  # of averaged weights, which a training that averages none does not need
        "The `srun` command is available",
        "Grad strides do not match bucket view strides",
        "You're resuming from a checkpoint that ended before the epoch ended",  # `TrainingBatches` goes on from there
    )
    for message in messages:
        warnings.filterwarnings("ignore", message=f".*{message}")
