"""Predict with a trained network."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.markup import escape
from rich.progress import track

from splattingocc.data.key_frames import Index
from splattingocc.data.labelled_rays import Part
from splattingocc.engine.checkpoint import (
    EXPERIMENT_KEY,
    kept_back_in,
    load_network,
    read_metadata,
)
from splattingocc.engine.distributed import gather, rank, share
from splattingocc.engine.inference import predict_fields
from splattingocc.engine.ledger import differences
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.evaluation.predictions import (
    CachedFrame,
    GridRecord,
    PredictionCache,
    PredictionWriter,
    Provenance,
    read_predictions,
)
from splattingocc.experiment import (
    ExperimentConfig,
    build_network,
    build_prediction_loader,
    open_masks,
    skipped_key_frames,
)
from splattingocc.files import BadFile, decoding, sha256_of, sole_writer
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.calibration import calibrate
from splattingocc.pipeline.networks import check_grid, check_is_there, load_experiment, threshold_in
from splattingocc.provenance import commit, source_hash
from splattingocc.splatting.field import OccupancyThreshold

SEEN_BY_THE_NETWORK = ("image_size", "vertical_position", "previous_frames")
"""Options of the loader that decide what a network sees at test time."""
OF_TRAINING = ("trainer", "optimization", "objective")
"""Parts of an experiment that only its training reads."""


class TrainedData(msgspec.Struct):
    """What testing wants to know of the data that a network was trained on."""

    dataroot: str
    version: str
    loader: dict[str, Any]
    labels: str | None = None
    vehicle_masks: str | None = None


class TrainedWith(msgspec.Struct):
    """What testing wants to know of the experiment that trained a network."""

    seed: int
    data: TrainedData
    calibration: dict[str, Any] = {}


def trained_with(checkpoint: Path) -> TrainedWith | None:
    """Return what a network's file says of its training, where it says anything."""
    metadata = read_metadata(checkpoint)
    if EXPERIMENT_KEY not in metadata:
        return None
    with decoding(checkpoint, "a network with its experiment"):
        return msgspec.json.decode(metadata[EXPERIMENT_KEY], type=TrainedWith)


def open_network(
    config: ExperimentConfig, checkpoint: Path, device: torch.device | None = None
) -> tuple[OccupancyNetwork, OccupancyThreshold | None]:
    """Return a trained network and its occupancy threshold; a checkpoint of an unfinished training has none yet.

    Without a device it is on the first CUDA device where there is one.
    """
    keep_freed_memory()
    if checkpoint.exists():
        # Before its weights are found to be of other shapes, which says less
        check_grid(config, read_metadata(checkpoint).get(EXPERIMENT_KEY), checkpoint)
    network = build_network(config, initial_weights=False)
    metadata = load_network(network, config.network, checkpoint)
    network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    with decoding(checkpoint, "a network of this project"):
        return network, threshold_in(metadata)


@dataclass(frozen=True)
class OpenedNetwork:
    """A network's file as it was when it was read: a training may put another in its place, or remove it, while it is tested."""

    network: OccupancyNetwork
    threshold: OccupancyThreshold | None
    """None of a training that is not finished."""
    digest: str
    """sha256 of the file."""
    seed: int | None
    """Of the training, where the file says so."""
    kept_back: tuple[str, ...] | None
    """Scenes that the training kept back from itself, where the file says so."""


def open_once(config: ExperimentConfig, checkpoint: Path) -> OpenedNetwork:
    """Read all of a network's file that testing wants; one that is replaced meanwhile is a `ValueError`."""
    check_is_there(checkpoint)
    digest = sha256_of(checkpoint)
    seed, kept_back = training_seed(checkpoint), kept_back_in(read_metadata(checkpoint), checkpoint)
    network, threshold = open_network(config, checkpoint)
    if sha256_of(checkpoint) != digest:
        raise BadFile(checkpoint, "was replaced while it was read; try again")
    return OpenedNetwork(network, threshold, digest, seed, kept_back)


def unlike_training(config: ExperimentConfig, checkpoint: Path) -> list[str]:
    """Say in which ways a network would see other images than it was trained on."""
    found = trained_with(checkpoint)
    if found is None:
        return []
    then, now = found.data.loader, config.data.loader.model_dump(mode="json")
    unlike = [
        f"trained with data.loader.{name} {then[name]}, here it is {now[name]}"
        for name in SEEN_BY_THE_NETWORK
        if name in then and then[name] != now[name]
    ]
    masks, masks_here = found.data.vehicle_masks, config.data.vehicle_masks
    if (masks is None) != (masks_here is None):
        unlike.append(f"trained {_with_masks(masks)}, here it is {_with_masks(masks_here)}")
    return [f"{checkpoint}: {what}: the network sees images unlike those that it learned from" for what in unlike]


def _with_masks(masks: object) -> str:
    return "without data.vehicle_masks" if masks is None else f"with data.vehicle_masks {masks}"


def about_options(config: ExperimentConfig, checkpoint: Path, written: Path, *, part: Part = "all") -> list[str]:
    """Say what of an experiment a trained network was trained without: images that are others, options that do nothing.

    `written` is the file of the configuration, or of the network, that the command's options were changed from; `part` says which of the
    labelled rays are asked for.
    """
    return [
        *unlike_training(config, checkpoint),
        *unlike_held_back(config, checkpoint, part),
        *unused_calibration(config, checkpoint),
        *options_of_training(config, checkpoint, written),
    ]


def unlike_held_back(config: ExperimentConfig, checkpoint: Path, part: Part) -> list[str]:
    """Say where labels that are to be other than those trained on would be some of these."""
    found = trained_with(checkpoint)
    if found is None:
        return []
    with decoding(checkpoint, "a network of this project"):
        chooses_threshold = threshold_in(metadata := read_metadata(checkpoint)) is None
    scenes = () if kept_back_in(metadata, checkpoint) is not None else ("calibration_scenes",)
    asked = ("held_out_fraction", *scenes) if chooses_threshold else ("held_out_fraction",) if part != "all" else ()
    then, now = found.data.loader, config.data.loader.model_dump(mode="json")
    wanted = "the threshold is chosen on" if chooses_threshold else f"--part {part} takes"
    return [
        f"{checkpoint}: trained with data.loader.{name} {then[name]}, here it is {now[name]}: labels that {wanted} are not those held back"
        for name in asked
        if name in then and then[name] != now[name]
    ]


def options_of_training(config: ExperimentConfig, checkpoint: Path, written: Path) -> list[str]:
    """Say that what was changed of a training's options, and is not as in the training of the network, does nothing."""
    now = config.model_dump(mode="json")
    changed = differences(now, load_experiment(written).model_dump(mode="json"))
    with decoding(checkpoint, "a network with its experiment"):
        then = msgspec.json.decode(read_metadata(checkpoint).get(EXPERIMENT_KEY, "{}"), type=dict[str, Any])
    unlike = differences(now, {name: then.get(name, {}) for name in OF_TRAINING})
    idle = [f"{name} {value}" for name, value in changed.items() if name.partition(".")[0] in OF_TRAINING and name in unlike]
    return [f"{', '.join(idle)}: does nothing, only a training reads it"] if idle else []


def unused_calibration(config: ExperimentConfig, checkpoint: Path) -> list[str]:
    """Say that options of the calibration do nothing for a network that has its threshold."""
    found = trained_with(checkpoint)
    with decoding(checkpoint, "a network of this project"):
        threshold = threshold_in(read_metadata(checkpoint))
    if found is None or threshold is None:
        return []
    # Until ground had a threshold of its own, it had all of the others'
    now, then = config.calibration.model_dump(mode="json"), {"ground_ratio": 1.0} | found.calibration
    changed = [f"calibration.{name} {value}" for name, value in now.items() if name in then and then[name] != value]
    if not changed:
        return []
    return [f"{checkpoint}: its threshold {threshold} was chosen when it was trained: {', '.join(changed)} does nothing"]


def with_remembered_labels(config: ExperimentConfig, checkpoint: Path) -> ExperimentConfig:
    """Return the experiment with the label store that the network was trained from, where none is given and the data are the same."""
    found, now = trained_with(checkpoint), config.data
    if found is None or found.data.labels is None or now.labels is not None:
        return config
    with decoding(checkpoint, "a network with its experiment"):
        if (Path(found.data.dataroot).resolve(), found.data.version) != (now.dataroot.resolve(), now.version):
            return config
    return config.model_copy(update={"data": now.model_copy(update={"labels": Path(found.data.labels)})})


def training_seed(checkpoint: Path) -> int | None:
    """Return the seed that a network was trained with, where its file says so."""
    found = trained_with(checkpoint)
    return None if found is None else found.seed


def positions_to_test(config: ExperimentConfig, index: Index, split: str) -> list[int]:
    """Return the key frames of a split of which no file is missing, as far as `prepare` knows; none at all are a `ValueError`."""
    positions = index.of_split(split)
    if not positions:
        sizes = ", ".join(f"{name} {len(index.of_split(name))}" for name in sorted(index.splits))
        raise ValueError(f"split {split} of {index.version} has no key frames; there are {sizes} (splits.json beside the tables decides)")
    skipped = skipped_key_frames(config.data)
    left = [position for position in positions if index.tokens[position] not in skipped]
    if not left:
        raise ValueError(f"split {split} of {index.version}: files of all its {len(positions)} key frames are missing, as `prepare` found")
    return left


def frames_of(config: ExperimentConfig, index: Index, split: str) -> dict[int, CachedFrame]:
    """Return the names in a cache of the key frames of a split that can be tested, by position."""
    key_frames = {position: index[position] for position in positions_to_test(config, index, split)}
    return {position: CachedFrame(frame.scene, frame.index_in_scene, frame.token) for position, frame in key_frames.items()}


def predict(
    config: ExperimentConfig, checkpoint: Path | OpenedNetwork, out: Path, *, split: str, index: Index, fresh: bool = False
) -> PredictionCache:
    """Write the predicted occupancy of a split into a cache; frames that are there already, decided by all the same, are kept.

    A cache that something else decided is a `ValueError`, unless `fresh` says to predict anew.
    """
    opened = open_once(config, checkpoint) if isinstance(checkpoint, Path) else checkpoint
    network, threshold = opened.network, opened.threshold
    frames = frames_of(config, index, split)
    if threshold is None:
        # Of one process: others may round the last digit otherwise
        as_trained = dataclasses.replace(index, kept_back=opened.kept_back)
        threshold = gather(calibrate(config, network, as_trained).occupancy_threshold if rank() == 0 else None)[0]
        assert threshold is not None
    provenance = Provenance(
        config=config.name,
        checkpoint_hash=opened.digest,
        commit=commit(),
        threshold=threshold.others,
        ground_threshold=threshold.ground,
        split=split,
        decided_by=what_decides(config, opened.digest, threshold, split, index),
        seed=opened.seed,
        grid=GridRecord.of(config.grid.voxels),
    )
    writer = PredictionWriter(out, provenance)
    if not fresh:
        writer.refuse_others()
    gather(None)
    with sole_writer(out) if rank() == 0 else nullcontext():
        if rank() == 0:
            writer.begin(fresh=fresh)
        gather(None)  # no process may look into the cache before it is opened
        # What one process found: others may be writing already, and what is there already is no work to be shared
        missing = share(gather([position for position in frames if not writer.has(frames[position])] if rank() == 0 else [])[0])
        samples = predict_fields(network, build_prediction_loader(config, index, missing))
        for (_, field), position in zip(track(samples, f"predicting {escape(split)}", total=len(missing), disable=rank() > 0), missing):
            occupancy = threshold.read_out(field, config.grid.voxels)
            writer.write(frames[position], occupancy.semantics.cpu(), occupancy.probabilities.cpu())
        gather(None)
        if rank() == 0:
            writer.finish(list(frames.values()))
        gather(None)
    return read_predictions(out)


def check_tables_of(cache: PredictionCache, config: ExperimentConfig, index: Index) -> None:
    """Raise a `ValueError` where predictions were made with other calibration, poses or files than the tables tell of now."""
    provenance = cache.manifest.provenance
    then, now = provenance.decided_by.get("tables"), index.digest(positions_to_test(config, index, provenance.split))
    if then is not None and then != now:
        raise ValueError(f"{cache.directory}: was predicted from other tables than {index.version} has now; predict again")


def with_data_of(config: ExperimentConfig, provenance: Provenance) -> ExperimentConfig:
    """Return the experiment on the data that predictions were made from, where they say which: a test may have been of others."""
    if not {"data.dataroot", "data.version"} <= provenance.decided_by.keys():
        return config
    dataroot, version = Path(provenance.decided_by["data.dataroot"]), provenance.decided_by["data.version"]
    if (dataroot, version) == (config.data.dataroot.resolve(), config.data.version):
        return config
    data = config.data.model_copy(update={"dataroot": dataroot, "version": version, "labels": None, "gts": None})
    return config.model_copy(update={"data": data})


def what_is_seen(config: ExperimentConfig, index: Index) -> dict[str, str]:
    """Return, by name, what decides how the network sees its images."""
    masks = open_masks(config.data, index)
    return {
        **{f"data.loader.{name}": str(getattr(config.data.loader, name)) for name in SEEN_BY_THE_NETWORK},
        "data.vehicle_masks": "none" if masks is None else masks.describe(index),
    }


def seen_in(provenance: Provenance) -> dict[str, str]:
    """Return `what_is_seen` as predictions remember it."""
    names = [*(f"data.loader.{name}" for name in SEEN_BY_THE_NETWORK), "data.vehicle_masks"]
    return {name: provenance.decided_by[name] for name in names if name in provenance.decided_by}


def what_decides(config: ExperimentConfig, checkpoint: str, threshold: OccupancyThreshold, split: str, index: Index) -> dict[str, str]:
    """Return, by name, all that decides what is predicted of a split, but for the contents of the image files.

    Of the checkpoint it is the sha256 of its file.
    """
    data = config.data
    return {
        "checkpoint": checkpoint,
        "split": split,
        "data.dataroot": str(data.dataroot.resolve()),
        "data.version": data.version,
        **what_is_seen(config, index),
        "grid": config.grid.model_dump_json(),
        "network": config.network.model_dump_json(exclude={"backbone": {"weights", "allow_partial"}}),
        "threshold": repr(threshold.others),
        "ground_threshold": repr(threshold.ground),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "tables": index.digest(positions_to_test(config, index, split)),
        "code": source_hash(),
    }
