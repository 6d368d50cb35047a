"""Score predictions against 3D truth, and a network's renderings against 2D labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path

from rich.markup import escape
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import Part, inside, labelled_rays
from splattingocc.data.occ3d import read_truth, truth_path
from splattingocc.engine.distributed import gather, rank, share
from splattingocc.engine.inference import predict_fields, render_labelled
from splattingocc.evaluation.predictions import CachedFrame, Predictions
from splattingocc.evaluation.prior import TrainingPrior, all_free
from splattingocc.evaluation.rendering import RenderingScores
from splattingocc.evaluation.scoring import ScoredOccupancy, count_split, scored
from splattingocc.experiment import (
    ExperimentConfig,
    build_prediction_loader,
)
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.pipeline.prediction import OpenedNetwork, open_network, positions_to_test


def check_truth(config: ExperimentConfig, frames: Sequence[CachedFrame]) -> bool:
    """Say whether there is 3D truth of these key frames to score against; truth of only some of them is a `ValueError`.

    Occ3D's truth scores Occ3D's grid only.
    """
    if config.grid.voxels != OCC3D_GRID:
        return False
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


def labels_to_test(config: ExperimentConfig, index: Index, split: str) -> tuple[LabelStore, list[int], int]:
    """Return the store, the key frames of a split that have labels in it, by position, and how many have none.

    No labels at all, and labels made from other tables, are a `ValueError`.
    """
    store = LabelStore.open(config.data.label_folder)
    every = positions_to_test(config, index, split)
    for name in dict.fromkeys(index[position].scene for position in every):
        store.check_tables(index, name)
    labelled = [position for position in every if index.tokens[position] in store]
    if not labelled:
        raise ValueError(f"{store.folder}: has labels of none of the {len(every)} key frames of split {split}; make them with `prepare`")
    return store, labelled, len(every) - len(labelled)


def score_rendering(
    config: ExperimentConfig, checkpoint: Path | OpenedNetwork, *, split: str, part: Part, index: Index
) -> dict[str, float | int]:
    """Render a trained network along labelled rays of a split and compare with the labels. Processes share the work."""
    network = open_network(config, checkpoint)[0] if isinstance(checkpoint, Path) else checkpoint.network
    store, labelled, _ = labels_to_test(config, index, split)
    positions = share(labelled)
    scores = RenderingScores()
    samples = predict_fields(network, build_prediction_loader(config, index, positions))
    for (_, field), position in zip(track(samples, f"rendering {escape(split)}", total=len(positions), disable=rank() > 0), positions):
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=config.data.loader.held_out_fraction)
        rays, labels = inside(rays, labels, config.grid.voxels)
        device = field.opacities.device
        rays, labels = rays.to(device), labels.to(device)
        scores.update(render_labelled(field, rays, labels, config.render), labels)
    return reduce(add, gather(scores)).compute()


def prior_predictions(config: ExperimentConfig, index: Index) -> dict[str, Tensor]:
    """Return the baselines' grids: all free, and the two ways to take the training scenes' majority (an oracle on 3D truth)."""
    prior = TrainingPrior()
    for position in track(index.of_split("train"), "training prior"):
        key_frame = index[position]
        prior.update(read_truth(config.data.truth_folder, key_frame.scene, key_frame.token))
    return {"all free": all_free(), "training prior": prior.majority(), "training prior, observed": prior.majority_of_observed()}
