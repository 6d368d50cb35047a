"""How far the thresholds that 2D labels choose are from the best that 3D truth would choose, for each way to read Gaussians out.

    python benchmarks/calibration.py NETWORK --dataroot DIR [--every 3] [--ground-clearance 0]

Prints JSON lines. One says how often the labels of the kept-back scenes call a cell free that truth fills, and of which class it is. Then,
for each way to read out: how often cells of a predicted probability are filled, by labels and by truth; the threshold that each criterion
chooses (`calibration.criterion`); and what each threshold, of all classes alike, scores on the val split. The last one says what the
network's own read-out would score there with one threshold for cells whose class is ground and another for all others. What is best by
truth is an oracle's: it is not to be used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from comparison_scores import ReadOut, Tally, own, read_outs_of
from comparison_variants import changed
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.occ3d import OccupancyTruth, read_truth
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.calibrate import ThresholdCalibration
from splattingocc.evaluation.ray_iou import cast_grid, ray_origins
from splattingocc.experiment import ExperimentConfig, build_index, build_prediction_loader
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.calibration import calibration_frames, calibration_rays
from splattingocc.pipeline.networks import load_experiment
from splattingocc.pipeline.prediction import open_network, positions_to_test
from splattingocc.provenance import environment
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.taxonomy import CLASSES, FREE

CRITERIA = ("cells", "rays")
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Among which truth chooses."""
PAIRED = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Among which it chooses that of ground and that of all others."""
NUM_CANDIDATES = 100
"""As few as calibration takes; more than there are classes."""
NUM_BINS = 10
"""Of probabilities, of which it is told how often they come true."""


def on_kept_back(
    config: ExperimentConfig, network: OccupancyNetwork, index: Index, read_outs: dict[str, ReadOut]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what labels and truth say of the same cells, and what each way to read out is told by them."""
    store = LabelStore.open(config.data.label_folder)
    index = store.labelled_part(index)
    positions, part = calibration_frames(config, index)
    grid = config.grid.voxels
    chosen = {
        name: {c: ThresholdCalibration(config.calibration.model_copy(update={"criterion": c}), grid) for c in CRITERIA}
        for name in read_outs
    }
    filled, seen = ({name: torch.zeros(NUM_BINS, dtype=torch.int64) for name in read_outs} for _ in range(2))
    known = torch.zeros(2, FREE + 1, dtype=torch.int64)
    for (_, predicted), position in zip(predict_fields(network, build_prediction_loader(config, index, positions)), positions):
        rays, labels = calibration_rays(config, index, position, store, part)
        truth = read_truth(config.data.truth_folder, index[position].scene, index[position].token)
        in_mask = truth.mask_camera.flatten()
        is_filled = (truth.semantics != FREE).flatten()
        for name, read_out in read_outs.items():
            probabilities = read_out(predicted).probabilities.cpu()
            for calibration in chosen[name].values():
                calibration.update(probabilities, rays, labels)
            bins = (probabilities.flatten() * NUM_BINS).long().clamp(max=NUM_BINS - 1)
            filled[name] += torch.bincount(bins[in_mask & is_filled], minlength=NUM_BINS)
            seen[name] += torch.bincount(bins[in_mask], minlength=NUM_BINS)
        known += _label_against_truth(config, rays, labels, truth)
    computed = {name: {c: calibration.compute() for c, calibration in of.items()} for name, of in chosen.items()}
    of_labels = {
        "key_frames": len(positions),
        "hit": computed["own"]["cells"].num_occupied,
        "crossed": computed["own"]["cells"].num_free,
        "filled_of_crossed_percent": round(100 * float(known[0, :FREE].sum() / known[0].sum()), 2),
        "crossed_of_filled_percent": round(100 * float(known[0, :FREE].sum() / known[:, :FREE].sum()), 2),
        "free_of_hit_percent": round(100 * float(known[1, FREE] / known[1].sum()), 2),
        "crossed_and_hit_by_class": {name: known[:, label].tolist() for label, name in enumerate(CLASSES) if known[:, label].any()},
    }
    told = {
        name: {
            "thresholds": {c: found.threshold for c, found in of.items()},
            "hit_by_probability": [round(bin["hit"], 3) for bin in of["cells"].reliability(NUM_BINS)],
            "filled_by_probability": [round(float(f / s), 3) if s else None for f, s in zip(filled[name], seen[name])],
        }
        for name, of in computed.items()
    }
    return of_labels, told


def _label_against_truth(config: ExperimentConfig, rays: Rays, labels: RayLabels, truth: OccupancyTruth) -> Tensor:
    """Count the cells that labels know, inside mask_camera, by whether they are hit (or crossed) and by what truth fills them with."""
    # Of as many candidates as there are classes, each cell says its own: the counts by candidate are those by class
    options = config.calibration.model_copy(update={"criterion": "cells", "num_bins": NUM_CANDIDATES})
    calibration = ThresholdCalibration(options, config.grid.voxels)
    told = torch.where(truth.mask_camera, truth.semantics, FREE + 1)
    calibration.update((told + 0.5) / NUM_CANDIDATES, rays, labels)
    return torch.stack([calibration._free, calibration._occupied])[:, : FREE + 1]


def on_val(
    config: ExperimentConfig,
    network: OccupancyNetwork,
    index: Index,
    read_outs: dict[str, ReadOut],
    thresholds: dict[str, tuple[float, ...]],
    every: int,
) -> dict[str, dict[float, dict[str, float]]]:
    """Return the figures of each way to read out at each threshold, on every n-th key frame of the val split."""
    positions = positions_to_test(config, index, "val")[::every]
    tallies = {name: {threshold: Tally() for threshold in thresholds[name]} for name in read_outs}
    for (_, predicted), position in zip(predict_fields(network, build_prediction_loader(config, index, positions)), positions):
        truth = read_truth(config.data.truth_folder, index[position].scene, index[position].token)
        origins = ray_origins(index, position)
        cast = cast_grid(truth.semantics, origins)
        for name, read_out in read_outs.items():
            occupancy = read_out(predicted)
            probabilities, classes = occupancy.probabilities.cpu(), occupancy.semantics.cpu()
            for threshold, tally in tallies[name].items():
                tally.add(torch.where(probabilities >= threshold, classes, FREE).to(torch.uint8), truth, origins, cast)
    return {name: {threshold: tally.figures() for threshold, tally in of.items()} for name, of in tallies.items()}


def with_two_thresholds(config: ExperimentConfig, network: OccupancyNetwork, index: Index, every: int) -> dict[str, list[list[float]]]:
    """Return figures on the val split by the threshold of cells whose class is ground (rows) and that of all others (columns)."""
    positions = positions_to_test(config, index, "val")[::every]
    tallies = [[Tally() for _ in PAIRED] for _ in PAIRED]
    for (_, predicted), position in zip(predict_fields(network, build_prediction_loader(config, index, positions)), positions):
        truth = read_truth(config.data.truth_folder, index[position].scene, index[position].token)
        origins = ray_origins(index, position)
        cast = cast_grid(truth.semantics, origins)
        occupancy = own(predicted).map(Tensor.cpu)
        for row, of_ground in zip(tallies, PAIRED):
            for tally, of_others in zip(row, PAIRED):
                by = OccupancyThreshold(ground=of_ground, others=of_others)
                tally.add(by.applied_to(occupancy).semantics, truth, origins, cast)
    figures = [[tally.figures() for tally in row] for row in tallies]
    return {name: [[round(of[name], 2) for of in row] for row in figures] for name in ("miou_17", "iou", "ray_iou")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--dataroot", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="score every n-th key frame of the val split")
    parser.add_argument("--ground-clearance", type=float, help="metres, in place of the network's own calibration.ground_clearance")
    arguments = parser.parse_args()
    config = load_experiment(arguments.network)
    config = changed(config, {"data.dataroot": arguments.dataroot, "data.labels": None, "data.gts": None})
    if arguments.ground_clearance is not None:
        config = changed(config, {"calibration.ground_clearance": arguments.ground_clearance})
    network, _ = open_network(config, arguments.network)
    index, read_outs = build_index(config.data, arguments.network.parent), read_outs_of(network)
    of_labels, told = on_kept_back(config, network, index, read_outs)
    around = {key: environment()[key] for key in ("commit", "device")}
    print(json.dumps({"what": "labels of the kept-back scenes against truth", **of_labels, **around}), flush=True)
    tried = {name: tuple(sorted({*THRESHOLDS, *of["thresholds"].values()})) for name, of in told.items()}
    figures = on_val(config, network, index, read_outs, tried, arguments.every)
    for name, of in figures.items():
        shown = ("miou_17", "iou", "iou_middle", "ray_iou")
        at = {c: {key: round(of[threshold][key], 2) for key in shown} for c, threshold in told[name]["thresholds"].items()}
        best = {key: max(of, key=lambda threshold, key=key: of[threshold][key]) for key in shown}
        oracle = {key: {"threshold": threshold, "value": round(of[threshold][key], 2)} for key, threshold in best.items()}
        print(json.dumps({"read_out": name, **told[name], "val": at, "oracle": oracle, **around}), flush=True)

    pairs = with_two_thresholds(config, network, index, arguments.every)
    print(json.dumps({"thresholds_of_ground_and_of_others": PAIRED, **pairs, **around}), flush=True)


if __name__ == "__main__":
    main()
