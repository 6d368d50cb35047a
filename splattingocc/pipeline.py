"""What one does with an experiment: train it, predict with it, score it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore, scene_fingerprint
from splattingocc.data.labelled_rays import Part, inside, labelled_rays
from splattingocc.data.loaders import TrainingSet, calibration_scenes
from splattingocc.data.occ3d import read_truth, truth_path
from splattingocc.engine.batches import LoaderFailed, TrainingBatches
from splattingocc.engine.checkpoint import (
    CONFIG_KEY,
    EXPERIMENT_KEY,
    check_network,
    load_network,
    newest_checkpoint,
    read_checkpoint,
    read_metadata,
    save_network,
)
from splattingocc.engine.distributed import gather, rank, share
from splattingocc.engine.inference import predict_gaussians, render_labelled
from splattingocc.engine.interruption import InterruptedTraining, stop_requested
from splattingocc.engine.ledger import differences
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import NonFiniteLoss, OccupancyModule
from splattingocc.evaluation.calibrate import Calibration, ThresholdCalibration
from splattingocc.evaluation.predictions import CachedFrame, PredictionCache, Predictions, PredictionWriter, Provenance, read_predictions
from splattingocc.evaluation.prior import TrainingPrior, all_free
from splattingocc.evaluation.rendering import RenderingScores
from splattingocc.evaluation.scoring import ScoredOccupancy, count_split, scored
from splattingocc.experiment import (
    ExperimentConfig,
    build_index,
    build_module,
    build_network,
    build_prediction_loader,
    build_trainer,
    build_training_batches,
)
from splattingocc.files import BadFile, read_json, sha256_of, sole_writer, write_json
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.objective import Losses
from splattingocc.models.network import OccupancyNetwork
from splattingocc.provenance import circumstances, commit, environment, source_hash
from splattingocc.splatting.read_out import read_out
from splattingocc.struct import stack

NETWORK_FILE = "network.safetensors"
METRICS_FILE = "metrics.json"
"""What a training measured of itself; scores are in `metrics_<split>.json`."""
SEEN_BY_THE_NETWORK = ("image_size", "vertical_position", "previous_frames")
"""Options of the loader that decide what a network sees at test time."""
CALIBRATION_FRAMES = 16
"""Key frames, evenly spread, that choose the threshold."""


def train(config: ExperimentConfig, work_dir: Path, *, resume_from: Path | None = None, show_progress: bool = True) -> dict[str, Any]:
    """Train, choose the threshold on held-out 2D labels of training frames, and return the content of METRICS_FILE.

    A training that is finished is left as it is; one that was killed after its last step gets what is missing. Of several processes the
    first one chooses and writes; the others return nothing.
    """
    quiet_lightning()
    checkpoint = None if resume_from is None else _to_go_on_from(config, resume_from)
    trained = checkpoint if checkpoint and TrainingBatches.epochs_done(checkpoint) == config.trainer.max_epochs else None
    if trained is not None and (metrics := finished_metrics(config, work_dir, trained["global_step"])) is not None:
        return metrics
    trainer = build_trainer(config, work_dir, show_progress=show_progress)
    if trainer.is_global_zero:
        if checkpoint is None:
            set_aside(work_dir)
        write_json(work_dir / "config.json", config.model_dump(mode="json"))
        write_json(work_dir / "environment.json", environment() | circumstances())
    keep_freed_memory()
    seed_everything(config.seed, workers=True, verbose=False)
    index, store = build_index(config.data, work_dir), LabelStore.open(config.data.label_folder)
    whole, index = index, store.labelled_part(index)
    module = build_module(config)
    batches = build_training_batches(config, index)
    (meter,) = (callback for callback in trainer.callbacks if isinstance(callback, StepMeter))  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        for line in (*about_labels(store, batches.dataset, whole), about_batch(config, trainer.world_size)):
            print(line)
    if trained is not None and resume_from is not None:
        # Lightning would neither train nor give the averaged weights, which are those of the checkpoint
        load_network(module.network, config.network, resume_from)
        meter.load_state_dict(trained["callbacks"][meter.state_key])
    else:
        _fit(config, work_dir, trainer, module, batches, resume_from)
    if not trainer.is_global_zero:
        return {}
    metrics = meter.results()
    calibration = calibrate(config, module.network, index)
    write_json(work_dir / "calibration.json", calibration.describe())
    metadata = {
        "threshold": repr(calibration.threshold),
        "calibration_f1": repr(calibration.f1),
        "step": str(metrics["last_step"]),
        EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json")),
        "commit": commit(),
    }
    save_network(module.network, config.network, work_dir / NETWORK_FILE, metadata)
    metrics |= {"threshold": calibration.threshold, "calibration_f1": calibration.f1}
    write_json(work_dir / METRICS_FILE, metrics)
    return metrics


def _to_go_on_from(config: ExperimentConfig, path: Path) -> dict[str, Any]:
    """Return a checkpoint, or say what is in the way of going on from it."""
    checkpoint = read_checkpoint(path)
    check_network(config.network.model_dump(mode="json"), checkpoint[CONFIG_KEY], path)
    done = TrainingBatches.epochs_done(checkpoint)
    if done > config.trainer.max_epochs:
        raise ValueError(f"trainer.max_epochs: {config.trainer.max_epochs}, but {path} has {done:g} epochs behind it")
    return checkpoint


def finished_metrics(config: ExperimentConfig, work_dir: Path, step: int) -> dict[str, Any] | None:
    """Return what a training of so many steps in this folder measured, where it is wholly finished; says so."""
    try:
        metadata = read_metadata(work_dir / NETWORK_FILE)
        metrics = read_json(work_dir / METRICS_FILE, dict[str, Any], what="the metrics of a training")
    except BadFile:
        return None
    if metadata.get("step") != str(step) or metrics.get("last_step") != step:
        return None
    print(f"{work_dir}: this training was finished before, at step {step}; nothing is changed")
    then, now = json.loads(metadata[EXPERIMENT_KEY]), config.model_dump(mode="json")
    if changed := differences(now, then):
        print(f"not applied, because it was trained without: {', '.join(f'{name}={value}' for name, value in changed.items())}")
    return metrics


def set_aside(work_dir: Path) -> None:
    """Keep the checkpoints of an earlier training out of the way of one that begins at step 0: it must never go on from them."""
    folder = work_dir / "checkpoints"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    number = 1 + sum(1 for _ in work_dir.glob("checkpoints_before_*"))
    folder.rename(work_dir / f"checkpoints_before_{number}")
    print(f"{work_dir}: holds another training; its checkpoints are kept in checkpoints_before_{number} (--auto-resume goes on instead)")


def about_batch(config: ExperimentConfig, world_size: int) -> str:
    samples, learning_rate = config.data.batch_size * world_size, config.optimization.learning_rate
    share_of_each = f"{world_size} × data.batch_size {config.data.batch_size}"
    return f"{samples} samples a step ({share_of_each}); peak learning rate {learning_rate:g}, as configured: it is not scaled"


def about_labels(store: LabelStore, dataset: TrainingSet, whole: Index) -> Iterator[str]:
    """Say what a training does not see and cannot learn; nothing to learn from at all is a `ValueError`."""
    index = dataset.index
    if left_out := len(whole) + len(whole.incomplete) - len(index):
        yield f"{len(index)} key frames have labels; {left_out} others of {whole.version} have none (prepare says which) and are left out"
    records = [store.manifest.scenes[name] for name in {index[position].scene for position in dataset.positions}]
    if not sum(record.num_rays for record in records):
        raise ValueError(
            f"{store.folder}: not one labelled ray in the {len(dataset)} key frames to train on; look at `splattingocc prepare`"
        )
    if not sum(record.num_classified for record in records):
        yield "no label has a class: the losses of classes (semantic, pixel_classes, the class in query) learn nothing and show 0"
    if not sum(record.num_measured for record in records):
        yield "no label has a distance: the losses of distances (distance, line_of_sight, query, depth_bins) learn nothing and show 0"


def _fit(
    config: ExperimentConfig, work_dir: Path, trainer: Trainer, module: OccupancyModule, batches: TrainingBatches, resume_from: Path | None
) -> None:
    try:
        trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
    except NonFiniteLoss as error:
        saved = work_dir / f"non_finite_step_{error.step:08d}_process_{trainer.global_rank}.safetensors"
        save_network(module.network, config.network, saved, replay_metadata(config, error, trainer.current_epoch))
        raise ValueError(f"{error}; saved for replay: {saved}") from error
    except LoaderFailed as error:
        if (received := stop_requested()) is not None:
            raise InterruptedTraining(received, newest_checkpoint(work_dir)) from error
        raise


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
    """Compute the losses of a step that was not finite again, from the weights and the samples that `train` saved; gradients are kept."""
    module = build_module(config)
    metadata = load_network(module.network, config.network, path)
    dataset = build_training_batches(config, index).dataset
    places = {index.tokens[position]: i for i, position in enumerate(dataset.positions)}
    keys = [int(metadata["epoch"]) * len(dataset) + places[token] for token in json.loads(metadata["tokens"])]
    return module.losses_of(stack([dataset[key] for key in keys]), step=int(metadata["step"]))


def quiet_lightning() -> None:
    """Keep Lightning's tips, its device report and its advice on loaders out of the console; its errors stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    messages = (
        "isinstance.treespec",
        "The number of training batches",
        "The '.*_dataloader' does not have",
        "Checkpoint directory",
        "The `srun` command is available",
        "Grad strides do not match bucket view strides",
        "You're resuming from a checkpoint that ended before the epoch ended",  # `TrainingBatches` goes on from there
    )
    for message in messages:
        warnings.filterwarnings("ignore", message=f".*{message}")


def open_network(config: ExperimentConfig, checkpoint: Path) -> tuple[OccupancyNetwork, float | None]:
    """Return a trained network and its occupancy threshold; a checkpoint of an unfinished training has none yet."""
    keep_freed_memory()
    network = build_network(config)
    metadata = load_network(network, config.network, checkpoint)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return network, float(metadata["threshold"]) if "threshold" in metadata else None


def calibrate(config: ExperimentConfig, network: OccupancyNetwork, index: Index) -> Calibration:
    """Choose the occupancy threshold on the labels of scenes kept back from training, or else on rays that training did not use."""
    loader_config, store = config.data.loader, LabelStore.open(config.data.label_folder)
    index = store.labelled_part(index)
    kept_back = index.of_scenes(calibration_scenes(index, loader_config))
    positions, part = (kept_back, "all") if kept_back else (index.of_split("train"), "held_out")
    step = max(1, len(positions) // CALIBRATION_FRAMES)
    calibration = ThresholdCalibration(config.calibration, OCC3D_GRID)
    positions = positions[::step][:CALIBRATION_FRAMES]
    loader = build_prediction_loader(config, index, positions)
    samples = predict_gaussians(network, loader)
    for (_, gaussians), position in zip(track(samples, "calibrating", total=len(positions)), positions):
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=loader_config.held_out_fraction)
        occupancy = read_out(gaussians, OCC3D_GRID, threshold=0.5)
        calibration.update(occupancy.probabilities.cpu(), rays, labels)
    return calibration.compute()


def predict(config: ExperimentConfig, checkpoint: Path, out: Path, *, split: str, index: Index, fresh: bool = False) -> PredictionCache:
    """Write the predicted occupancy of a split into a cache; frames that are there already, decided by all the same, are kept.

    A cache that something else decided is a `ValueError`, unless `fresh` says to predict anew.
    """
    network, threshold = open_network(config, checkpoint)
    frames = frames_of(config, index, split)
    if threshold is None:
        threshold = calibrate(config, network, index).threshold
    provenance = Provenance(
        config=config.name,
        checkpoint_hash=sha256_of(checkpoint),
        commit=commit(),
        threshold=threshold,
        split=split,
        decided_by=what_decides(config, checkpoint, threshold, split, index),
        seed=training_seed(checkpoint),
    )
    writer = PredictionWriter(out, provenance)
    if not fresh:
        writer.refuse_others()
    gather(None)
    with sole_writer(out) if rank() == 0 else nullcontext():
        if rank() == 0:
            writer.begin(fresh=fresh)
        gather(None)  # no process may look into the cache before it is opened
        missing = [position for position in share(list(frames)) if not writer.has(frames[position])]
        samples = predict_gaussians(network, build_prediction_loader(config, index, missing))
        for (_, gaussians), position in zip(track(samples, f"predicting {split}", total=len(missing), disable=rank() > 0), missing):
            occupancy = read_out(gaussians, OCC3D_GRID, threshold=threshold)
            writer.write(frames[position], occupancy.semantics.cpu(), occupancy.probabilities.cpu())
        gather(None)
        if rank() == 0:
            writer.finish(list(frames.values()))
        gather(None)
    return read_predictions(out)


def what_decides(config: ExperimentConfig, checkpoint: Path, threshold: float, split: str, index: Index) -> dict[str, str]:
    """Return, by name, all that decides what is predicted of a split, but for the contents of the image files."""
    data, loader = config.data, config.data.loader
    key_frames = [index[position] for position in positions_to_test(config, index, split)]
    return {
        "checkpoint": sha256_of(checkpoint),
        "split": split,
        "data.dataroot": str(data.dataroot.resolve()),
        "data.version": data.version,
        **{f"data.loader.{name}": str(getattr(loader, name)) for name in SEEN_BY_THE_NETWORK},
        "network": config.network.model_dump_json(exclude={"backbone": {"weights"}}),
        "threshold": repr(threshold),
        "tables": scene_fingerprint(key_frames, index.version),
        "code": source_hash(),
    }


def unlike_training(config: ExperimentConfig, checkpoint: Path) -> list[str]:
    """Say in which ways a network would see other images than it was trained on."""
    metadata = read_metadata(checkpoint)
    if EXPERIMENT_KEY not in metadata:
        return []
    then, now = json.loads(metadata[EXPERIMENT_KEY])["data"]["loader"], config.data.loader.model_dump(mode="json")
    return [
        f"{checkpoint}: trained with data.loader.{name} {then[name]}, here it is {now[name]}: the network sees images unlike those that "
        "it learned from"
        for name in SEEN_BY_THE_NETWORK
        if name in then and then[name] != now[name]
    ]


def with_remembered_labels(config: ExperimentConfig, checkpoint: Path) -> ExperimentConfig:
    """Return the experiment with the label store that the network was trained from, where none is given and the data are the same."""
    metadata = read_metadata(checkpoint)
    if EXPERIMENT_KEY not in metadata or config.data.labels is not None:
        return config
    then, now = json.loads(metadata[EXPERIMENT_KEY])["data"], config.data
    if then["labels"] is None or (Path(then["dataroot"]).resolve(), then["version"]) != (now.dataroot.resolve(), now.version):
        return config
    return config.model_copy(update={"data": now.model_copy(update={"labels": Path(then["labels"])})})


def training_seed(checkpoint: Path) -> int | None:
    """Return the seed that a network was trained with, where its file says so."""
    metadata = read_metadata(checkpoint)
    return json.loads(metadata[EXPERIMENT_KEY])["seed"] if EXPERIMENT_KEY in metadata else None


def positions_to_test(config: ExperimentConfig, index: Index, split: str) -> list[int]:
    """Return the key frames of a split of which no file is missing, as far as `prepare` knows; none at all are a `ValueError`."""
    positions = index.of_split(split)
    if not positions:
        sizes = ", ".join(f"{name} {len(index.of_split(name))}" for name in sorted(index.splits))
        raise ValueError(f"split {split} of {index.version} has no key frames; there are {sizes} (splits.json beside the tables decides)")
    if not (config.data.label_folder / MANIFEST_NAME).exists():
        return positions
    skipped = LabelStore.open(config.data.label_folder).manifest.skipped
    left = [position for position in positions if index.tokens[position] not in skipped]
    if not left:
        raise ValueError(f"split {split} of {index.version}: files of all its {len(positions)} key frames are missing, as `prepare` found")
    return left


def frames_of(config: ExperimentConfig, index: Index, split: str) -> dict[int, CachedFrame]:
    """Return the names in a cache of the key frames of a split that can be tested, by position."""
    key_frames = {position: index[position] for position in positions_to_test(config, index, split)}
    return {position: CachedFrame(frame.scene, frame.index_in_scene, frame.token) for position, frame in key_frames.items()}


def check_truth(config: ExperimentConfig, frames: Sequence[CachedFrame]) -> bool:
    """Say whether there is 3D truth of these key frames; of only some of them is a `ValueError`."""
    paths = [truth_path(config.data.truth_folder, frame.scene, frame.token) for frame in frames]
    missing = [path for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise ValueError(f"{missing[0]}: no such file; the truth of {len(missing)} of {len(paths)} key frames is missing")
    return not missing


def score(
    config: ExperimentConfig,
    predictions: Predictions,
    index: Index,
    *,
    rays: bool,
    baselines: Mapping[str, Tensor] | None = None,
) -> list[ScoredOccupancy]:
    """Score predictions, and the baselines after them, against Occ3D's truth; `rays` asks for RayIoU too. Processes share the work."""
    own = share(predictions.frames)
    read = (predictions.read(frame) for frame in track(own, "scoring", total=len(own), disable=rank() > 0))
    counts = count_split(read, config.data.truth_folder, index=index if rays else None, baselines=baselines)
    names = ["model", *(baselines or {})]
    return [scored(name, reduce(add, parts)) for name, parts in zip(names, zip(*gather(counts)))]


def score_rendering(config: ExperimentConfig, checkpoint: Path, *, split: str, part: Part, index: Index) -> dict[str, float | int]:
    """Render a trained network along labelled rays of a split and compare with the labels. Processes share the work."""
    network, _ = open_network(config, checkpoint)
    store = LabelStore.open(config.data.label_folder)
    positions = share(positions_to_test(config, index, split))
    scores = RenderingScores()
    samples = predict_gaussians(network, build_prediction_loader(config, index, positions))
    for (_, gaussians), position in zip(track(samples, f"rendering {split}", total=len(positions), disable=rank() > 0), positions):
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=config.data.loader.held_out_fraction)
        rays, labels = inside(rays, labels, OCC3D_GRID)
        device = gaussians.means.device
        rays, labels = rays.to(device), labels.to(device)
        scores.update(render_labelled(gaussians, rays, labels, config.render), labels)
    return reduce(add, gather(scores)).compute()


def prior_predictions(config: ExperimentConfig, index: Index) -> dict[str, Tensor]:
    """Return the baselines' grids: all free, and the two ways to take the training scenes' majority (an oracle on 3D truth)."""
    prior = TrainingPrior()
    for position in track(index.of_split("train"), "training prior"):
        key_frame = index[position]
        prior.update(read_truth(config.data.truth_folder, key_frame.scene, key_frame.token))
    return {"all free": all_free(), "training prior": prior.majority(), "training prior, observed": prior.majority_of_observed()}
