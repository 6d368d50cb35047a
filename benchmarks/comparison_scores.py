"""Scores of a trained network of a comparison: by each way to read it out, at the threshold of the 2D labels and at the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import labelled_rays
from splattingocc.data.occ3d import OccupancyTruth, read_truth
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.calibrate import ThresholdCalibration
from splattingocc.evaluation.miou import HEIGHT_BANDS, count_voxels, scores
from splattingocc.evaluation.ray_iou import CastGrid, RayCounts, cast_grid, count_rays, ray_iou, ray_origins
from splattingocc.experiment import ExperimentConfig, build_prediction_loader
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.prediction import positions_to_test
from splattingocc.pipeline.training import calibration_frames
from splattingocc.splatting.field import Field, Occupancy
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.query import gaussian_of_cell
from splattingocc.taxonomy import FREE

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Among which 3D truth chooses the best."""
LOWEST = 1e-6
"""A threshold at which every cell has its class."""
MIDDLE = HEIGHT_BANDS.index((0.6, 2.2))
"""The height of cars and people."""

ReadOut: TypeAlias = Callable[[Field], Occupancy]


def own_read_out(field: Field) -> Occupancy:
    """Read a field out as `splattingocc test` does."""
    return field.read_out(field.grid, threshold=LOWEST)


def by_opacity(field: Field) -> Occupancy:
    """Read Gaussians out by their opacities: a cell is as probably filled as its Gaussian is opaque, wherever in the cell it lies."""
    assert isinstance(field, Gaussians)
    of_cell = gaussian_of_cell(field)
    there = of_cell >= 0
    of_cell = of_cell.clamp(min=0)
    probabilities = field.opacities[of_cell] * there
    classes = torch.where(probabilities >= LOWEST, field.features.argmax(dim=-1)[of_cell], FREE)
    return Occupancy(probabilities.reshape(field.grid.shape), classes.to(torch.uint8).reshape(field.grid.shape))


def read_outs_of(network: OccupancyNetwork) -> dict[str, ReadOut]:
    """Return the ways to read out what a network predicts; a density is its own opacity."""
    own: dict[str, ReadOut] = {"own": own_read_out}
    return own | ({"opacity": by_opacity} if network.config.head.kind == "gaussians" else {})


def calibrate_read_outs(
    config: ExperimentConfig, network: OccupancyNetwork, index: Index, read_outs: Mapping[str, ReadOut]
) -> dict[str, float]:
    """Choose the threshold of each read-out from 2D labels, as `pipeline.training.calibrate` does for its own."""
    store = LabelStore.open(config.data.label_folder)
    index = store.labelled_part(index)
    positions, part = calibration_frames(config, index)
    calibrations = {name: ThresholdCalibration(config.calibration, config.grid.voxels) for name in read_outs}
    samples = predict_fields(network, build_prediction_loader(config, index, positions))
    for (_, predicted), position in zip(samples, positions):
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=config.data.loader.held_out_fraction)
        for name, read_out in read_outs.items():
            calibrations[name].update(read_out(predicted).probabilities.cpu(), rays, labels)
    return {name: calibration.compute().threshold for name, calibration in calibrations.items()}


@dataclass
class Tally:
    """The counts of one read-out at one threshold."""

    voxels: Tensor | int = 0
    rays: RayCounts = field(default_factory=RayCounts.none)

    def add(self, semantics: Tensor, truth: OccupancyTruth, origins: Tensor, seen: CastGrid) -> None:
        """Add a key frame."""
        self.voxels = self.voxels + count_voxels(semantics, truth)
        self.rays = self.rays + count_rays(cast_grid(semantics, origins), seen)

    def figures(self) -> dict[str, float]:
        """Return percentages, inside mask_camera but for RayIoU."""
        assert isinstance(self.voxels, Tensor)
        in_camera = self.voxels[0]
        whole = scores(in_camera.sum(dim=(0, 1)))
        return {
            "miou_17": whole.miou_17,
            "miou_15": whole.miou_15,
            "iou": whole.geometric_iou,
            "iou_middle": scores(in_camera.sum(dim=0)[MIDDLE]).geometric_iou,
            "ray_iou": ray_iou(self.rays).mean,
        }


def score_read_outs(
    config: ExperimentConfig,
    network: OccupancyNetwork,
    index: Index,
    thresholds: Mapping[str, float],
    read_outs: Mapping[str, ReadOut],
    *,
    split: str,
) -> dict[str, dict[str, object]]:
    """Return, for each read-out, its figures at the threshold that 2D labels chose, and each figure at the threshold best for it.

    The second is an oracle's, among `THRESHOLDS` and the chosen one: 3D truth of the split itself chooses.
    """
    candidates = {name: (thresholds[name], *THRESHOLDS) for name in read_outs}
    tallies = {name: [Tally() for _ in candidates[name]] for name in read_outs}
    positions = positions_to_test(config, index, split)
    samples = predict_fields(network, build_prediction_loader(config, index, positions))
    for (_, predicted), position in zip(samples, positions):
        truth = read_truth(config.data.truth_folder, index[position].scene, index[position].token)
        origins = ray_origins(index, position)
        seen = cast_grid(truth.semantics, origins)
        for name, read_out in read_outs.items():
            occupancy = read_out(predicted)
            probabilities, classes = occupancy.probabilities.cpu(), occupancy.semantics.cpu()
            for tally, threshold in zip(tallies[name], candidates[name]):
                tally.add(torch.where(probabilities >= threshold, classes, FREE).to(torch.uint8), truth, origins, seen)
    return {name: _chosen_and_best(candidates[name], [tally.figures() for tally in tallies[name]]) for name in read_outs}


def _chosen_and_best(thresholds: Sequence[float], figures: Sequence[Mapping[str, float]]) -> dict[str, object]:
    chosen, best = figures[0], {}
    for name in chosen:
        at = max(range(len(figures)), key=lambda i: figures[i][name])
        best[name] = {"value": figures[at][name], "threshold": thresholds[at]}
    return {"threshold": thresholds[0], "at_threshold": dict(chosen), "best": best}
