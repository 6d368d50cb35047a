"""One cell of a comparison: a variant trained with a seed from the image phase that all variants of the seed share, and scored.

The image phase is the first `image_steps` steps of the common experiment's own training. A cell goes on from its checkpoint: weights,
optimizer and place in the epoch of the image branch are those, and everything else begins as the seed makes it, as it would have in a
training of the variant alone (the image phase leaves it untouched). So where a variant does not change what the image phase sees, its cell
is to the last digit what `splattingocc train` makes of its configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from comparison_scores import THRESHOLDS, read_outs_of, score_read_outs, threshold_of
from comparison_variants import Variant, changed
from lightning import seed_everything
from truth_supervision import TruthModule

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import MANIFEST_NAME
from splattingocc.engine.checkpoint import CONFIG_KEY, EXPERIMENT_KEY, NETWORK_FILE, checkpoint_path, newest_checkpoint, read_checkpoint
from splattingocc.engine.meter import MeterState, StepMeter
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig, build_index
from splattingocc.files import sha256_of, write_atomically
from splattingocc.pipeline.prediction import open_network
from splattingocc.pipeline.scoring import score_rendering
from splattingocc.pipeline.trainer import build_module, build_training_batches
from splattingocc.pipeline.training import train
from splattingocc.provenance import environment, source_hash
from splattingocc.synthetic.writer import MANIFEST as SYNTHETIC

IMAGE_BRANCH = ("network.backbone.", "network.neck.", "network.image_reader.")
"""What the image phase trains, by the names of a checkpoint's weights."""
START_FILE = "start.ckpt"
SPLIT = "val"


class ImagePhaseOver(Exception):
    """The image phase has had its steps, and its checkpoint is written."""


class ImagePhase(OccupancyModule):
    """Take the image steps of a training and none after them."""

    def training_step(self, batches: Any, batch_index: int) -> torch.Tensor:
        if self.global_step >= self.optimization.image_steps:
            raise ImagePhaseOver
        return super().training_step(batches, batch_index)


@dataclass(frozen=True)
class Cell:
    """One variant with one seed."""

    variant: Variant
    common: ExperimentConfig
    """What all variants of this seed begin as; the image phase is its training."""

    @property
    def seed(self) -> int:
        return self.common.seed

    @property
    def experiment(self) -> ExperimentConfig:
        return self.variant.change(self.common)

    @property
    def digest(self) -> str:
        """Of all options and data that decide the numbers. Variants that come to the same have the same."""
        options = [config.model_dump(mode="json") for config in (self.experiment, self.common)]
        decided = [*options, self.variant.supervision, SPLIT, THRESHOLDS, contents_of(self.common)]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()

    def folder(self, work_dir: Path) -> Path:
        """Return where the cell is trained; it is another one as soon as options, data or code are others."""
        return work_dir / "cells" / f"{self.variant.name}-seed{self.seed}-{_short(self.digest, source())}"

    def image_folder(self, work_dir: Path) -> Path:
        """Return where the image phase of the seed is."""
        options = json.dumps(self.common.model_dump(mode="json"), sort_keys=True)
        return work_dir / "image-phases" / f"seed{self.seed}-{_short(options, contents_of(self.common), source())}"


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def contents_of(config: ExperimentConfig) -> str:
    """Return a digest of what the options name: tables and splits, what a synthetic data set is made with, labels by their own digests, 3D
    truth, and the weights to begin with; not of images and masks."""
    data, weights = config.data, getattr(config.network.backbone, "weights", None)
    files = [*sorted((data.dataroot / data.version).glob("*.json")), *data.dataroot.glob(SYNTHETIC), data.label_folder / MANIFEST_NAME]
    files += sorted(data.truth_folder.glob("*/*/labels.npz"))
    return _digest_of((*files, *([] if weights is None else [Path(weights)])))


@cache
def _digest_of(files: tuple[Path, ...]) -> str:
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


@cache
def source() -> str:
    """Return a digest of the code that decides the numbers: the package's, and what of the comparison trains and scores."""
    digest = hashlib.sha256(source_hash().encode())
    for name in ("comparison_cell.py", "comparison_scores.py", "truth_supervision.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def common_experiment(config: ExperimentConfig, dataroot: Path | None, joint_steps: int, index_folder: Path) -> ExperimentConfig:
    """Return the experiment that the variants begin as: as many whole epochs as hold the image steps and the joint steps.

    `ValueError` for what could not be shared between variants.
    """
    if dataroot is not None:
        config = changed(config, {"data.dataroot": dataroot.resolve(), "data.labels": None, "data.gts": None})
    if config.optimization.ema_decay:
        raise ValueError(f"optimization.ema_decay is {config.optimization.ema_decay}, expected 0: an average of weights is not handed on")
    if config.trainer.devices * config.trainer.num_nodes > 1:
        raise ValueError(f"trainer.devices is {config.trainer.devices}, expected 1: a cell is trained by one process")
    if not config.data.truth_folder.is_dir():
        raise ValueError(f"{config.data.truth_folder}: no such folder; all variants are scored by Occ3D's truth (data.gts)")
    dataset = build_training_batches(config, build_index(config.data, index_folder)).dataset
    per_epoch = math.ceil(len(dataset) / (config.data.batch_size * config.trainer.accumulate_batches))
    image_steps = config.optimization.image_steps
    epochs = math.ceil((image_steps + joint_steps) / per_epoch)
    joint_steps = epochs * per_epoch - image_steps
    print(f"{image_steps} image steps and {joint_steps} joint steps in {epochs} epochs of {per_epoch} steps", flush=True)
    # Within an epoch, the checkpoint at the end of the image phase
    return changed(config, {"trainer.max_epochs": epochs, "trainer.checkpoint_steps": image_steps})


def run_cell(cell: Cell, work_dir: Path) -> dict[str, Any]:
    """Train and score a cell, going on from what an earlier process left of it, and return its line of results."""
    began = time.monotonic()
    config, folder = cell.experiment, cell.folder(work_dir)
    start = _start(cell, work_dir)
    started = time.monotonic()
    trained_in = folder / "train"
    build = partial(_build, cell=cell, index=build_index(config.data, work_dir))
    metrics = train(config, trained_in, resume_from=newest_checkpoint(trained_in) or start, build=build)
    trained = time.monotonic()
    index = build_index(config.data, work_dir)
    found = _measure(config, trained_in / NETWORK_FILE, index, metrics["threshold"])
    return {
        "variant": cell.variant.name,
        "seed": cell.seed,
        "digest": cell.digest,
        "source": source(),
        "config": config.name,
        "supervision": cell.variant.supervision,
        "key_frames": {split: len(index.of_split(split)) for split in ("train", SPLIT)},
        "image_steps": config.optimization.image_steps,
        "joint_steps": metrics["last_step"] - config.optimization.image_steps,
        "ground_ratio": config.calibration.ground_ratio,
        **found,
        "losses": metrics["losses"],
        "seconds_per_step": _seconds_per_step(config, metrics["samples_per_second"]),
        "peak_memory_gib": metrics["peak_memory_gib"],
        # Of this process: where it went on from another, less than all
        "seconds": {
            "image_phase": round(started - began, 1),
            "joint_steps": round(trained - started, 1),
            "scoring": round(time.monotonic() - trained, 1),
        },
        **environment(),
    }


def forget_checkpoints(cell: Cell, work_dir: Path) -> None:
    """Remove what only an unfinished cell needs; its network stays."""
    folder = cell.folder(work_dir)
    shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
    (folder / "train" / "latest.pth").unlink(missing_ok=True)
    (folder / START_FILE).unlink(missing_ok=True)


def _seconds_per_step(config: ExperimentConfig, samples_per_second: float | None) -> float | None:
    """Return seconds of a joint step, with the loading of its samples; None where there was one step only."""
    if not samples_per_second:
        return None
    return round(config.data.batch_size * config.trainer.accumulate_batches / samples_per_second, 3)


def _build(config: ExperimentConfig, *, initial_weights: bool, cell: Cell, index: Index) -> OccupancyModule:
    module = build_module(config, initial_weights=initial_weights)
    if cell.variant.supervision == "2D":
        return module
    return TruthModule(module, config, index, renders=cell.variant.supervision != "3D")


def _start(cell: Cell, work_dir: Path) -> Path | None:
    """Return the checkpoint that a cell begins with, None where there is no image phase."""
    if not cell.common.optimization.image_steps:
        return None
    path = cell.folder(work_dir) / START_FILE
    if not path.exists():
        _hand_on(train_images(cell, work_dir), cell.experiment, path)
    return path


def train_images(cell: Cell, work_dir: Path) -> Path:
    """Train the image phase of a seed, unless that is done, and return its checkpoint."""
    config, folder = cell.common, cell.image_folder(work_dir)
    path = checkpoint_path(folder, config.optimization.image_steps)
    if not path.exists():
        try:
            train(config, folder, resume_from=newest_checkpoint(folder), build=_build_image_phase)
        except ImagePhaseOver:
            print(f"image phase: {path}", flush=True)
    return path


def _build_image_phase(config: ExperimentConfig, *, initial_weights: bool) -> OccupancyModule:
    module = build_module(config, initial_weights=initial_weights)
    return ImagePhase(module.network, module.objective, module.render_config, module.optimization)


def _hand_on(image_phase: Path, config: ExperimentConfig, path: Path) -> None:
    """Write the checkpoint of an image phase as one of another experiment, which begins everything else as its own seed makes it."""
    checkpoint = read_checkpoint(image_phase)
    seed_everything(config.seed, workers=True, verbose=False)
    module = build_module(config)
    of_images = sum(1 for _ in module.network.image_branch.parameters())
    (optimizer,) = checkpoint["optimizer_states"]
    assert max(optimizer["state"], default=0) < of_images, "the optimizer lists the image branch first, and only that has learned"
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(IMAGE_BRANCH)}
    step = checkpoint["global_step"]
    # The meter is to tell of joint steps alone
    meter = MeterState(first_step=step, step=step, seconds=0.0, timed_samples=0, timed_seconds=0.0, losses=[])
    checkpoint |= {
        "state_dict": module.state_dict() | weights,
        "callbacks": checkpoint["callbacks"] | {StepMeter().state_key: msgspec.to_builtins(meter)},
        CONFIG_KEY: json.dumps(config.network.model_dump(mode="json")),
        EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json")),
    }
    write_atomically(path, partial(_save, checkpoint))


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)


def _measure(config: ExperimentConfig, network_file: Path, index: Index, threshold: float) -> dict[str, Any]:
    """Return the scores of a trained network."""
    network, _ = open_network(config, network_file)
    read_outs = read_outs_of(network)
    thresholds = {name: threshold if name == "own" else threshold_of(name, config, network, index) for name in read_outs}
    return {
        "read_outs": score_read_outs(config, network, index, thresholds, read_outs, split=SPLIT),
        "rendering": score_rendering(config, network_file, split=SPLIT, part="all", index=index),
    }
