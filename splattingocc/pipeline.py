"""What one does with an experiment: train it, predict with it, score it."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore, sha256_of
from splattingocc.data.labelled_rays import Part, inside, labelled_rays
from splattingocc.data.loaders import calibration_scenes
from splattingocc.data.occ3d import read_truth
from splattingocc.engine.checkpoint import load_network, read_metadata, save_network
from splattingocc.engine.distributed import gather, rank, share
from splattingocc.engine.inference import predict_gaussians, render_labelled
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import NonFiniteLoss
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
from splattingocc.files import write_json
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.objective import Losses
from splattingocc.models.network import OccupancyNetwork
from splattingocc.provenance import circumstances, commit, environment
from splattingocc.splatting.read_out import read_out
from splattingocc.struct import stack

NETWORK_FILE = "network.safetensors"
METRICS_FILE = "metrics.json"
"""What a training measured of itself; scores are in `metrics_<split>.json`."""
CALIBRATION_FRAMES = 16
"""Key frames, evenly spread, that choose the threshold."""


def train(config: ExperimentConfig, work_dir: Path, *, resume_from: Path | None = None, show_progress: bool = True) -> dict[str, Any]:
    """Train, choose the threshold on held-out 2D labels of training frames, and return the content of METRICS_FILE.

    Of several processes the first one chooses and writes; the others return nothing.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    write_json(work_dir / "config.json", config.model_dump(mode="json"))
    write_json(work_dir / "environment.json", environment() | circumstances())
    quiet_lightning()
    keep_freed_memory()
    seed_everything(config.seed, workers=True, verbose=False)
    index = build_index(config.data, work_dir)
    module = build_module(config)
    batches = build_training_batches(config, index)
    trainer = build_trainer(config, work_dir, show_progress=show_progress)
    if trainer.is_global_zero:
        samples, learning_rate = config.data.batch_size * trainer.world_size, config.optimization.learning_rate
        share_of_each = f"{trainer.world_size} × data.batch_size {config.data.batch_size}"
        print(f"{samples} samples a step ({share_of_each}); peak learning rate {learning_rate:g}, as configured: it is not scaled")
    try:
        trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
    except NonFiniteLoss as error:
        saved = work_dir / f"non_finite_step_{error.step:08d}_process_{trainer.global_rank}.safetensors"
        save_network(module.network, config.network, saved, replay_metadata(config, error, trainer.current_epoch))
        raise ValueError(f"{error}; saved for replay: {saved}") from error
    if not trainer.is_global_zero:
        return {}
    (meter,) = (callback for callback in trainer.callbacks if isinstance(callback, StepMeter))  # type: ignore[attr-defined]
    metrics = meter.results()
    calibration = calibrate(config, module.network, index)
    write_json(work_dir / "calibration.json", calibration.describe())
    metadata = {
        "threshold": repr(calibration.threshold),
        "calibration_f1": repr(calibration.f1),
        "experiment": json.dumps(config.model_dump(mode="json")),
        "commit": commit(),
    }
    save_network(module.network, config.network, work_dir / NETWORK_FILE, metadata)
    metrics |= {"threshold": calibration.threshold, "calibration_f1": calibration.f1}
    write_json(work_dir / METRICS_FILE, metrics)
    return metrics


def replay_metadata(config: ExperimentConfig, error: NonFiniteLoss, epoch: int) -> dict[str, str]:
    return {
        "step": str(error.step),
        "epoch": str(epoch),
        "tokens": json.dumps(list(error.tokens)),
        "losses": json.dumps({name: repr(value) for name, value in error.losses.items()}),
        "experiment": json.dumps(config.model_dump(mode="json")),
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
    loader_config = config.data.loader
    kept_back = index.of_scenes(calibration_scenes(index, loader_config))
    positions, part = (kept_back, "all") if kept_back else (index.of_split("train"), "held_out")
    step = max(1, len(positions) // CALIBRATION_FRAMES)
    store = LabelStore.open(config.data.label_folder)
    calibration = ThresholdCalibration(config.calibration, OCC3D_GRID)
    positions = positions[::step][:CALIBRATION_FRAMES]
    loader = build_prediction_loader(config, index, positions)
    samples = predict_gaussians(network, loader)
    for (_, gaussians), position in zip(track(samples, "calibrating", total=len(positions)), positions):
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=loader_config.held_out_fraction)
        occupancy = read_out(gaussians, OCC3D_GRID, threshold=0.5)
        calibration.update(occupancy.probabilities.cpu(), rays, labels)
    return calibration.compute()


def predict(config: ExperimentConfig, checkpoint: Path, out: Path, *, split: str, index: Index) -> PredictionCache:
    """Write the predicted occupancy of a split into a cache; frames that this checkpoint already predicted are kept."""
    network, threshold = open_network(config, checkpoint)
    if threshold is None:
        threshold = calibrate(config, network, index).threshold
    provenance = Provenance(
        config=config.name,
        config_hash=hash_of(config),
        checkpoint_hash=sha256_of(checkpoint),
        commit=commit(),
        threshold=threshold,
        split=split,
        seed=training_seed(checkpoint),
    )
    writer = PredictionWriter(out, provenance)
    frames = frames_of(index, split)
    gather(None)  # no process may open the cache for writing after another one has finished it
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


def training_seed(checkpoint: Path) -> int | None:
    """Return the seed that a network was trained with, where its file says so."""
    metadata = read_metadata(checkpoint)
    return json.loads(metadata["experiment"])["seed"] if "experiment" in metadata else None


def frames_of(index: Index, split: str) -> dict[int, CachedFrame]:
    """Return the names of a split's key frames in a cache, by position."""
    key_frames = {position: index[position] for position in index.of_split(split)}
    return {position: CachedFrame(frame.scene, frame.index_in_scene, frame.token) for position, frame in key_frames.items()}


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
    positions = share(index.of_split(split))
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


def hash_of(config: ExperimentConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()
