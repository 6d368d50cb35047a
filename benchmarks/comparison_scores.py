"""Scores of a trained network of a comparison: by each way to read it out, at the threshold of the 2D labels and at the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.occ3d import OccupancyTruth, read_truth
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.miou import HEIGHT_BANDS, count_voxels, scores
from splattingocc.evaluation.ray_iou import CastGrid, RayCounts, cast_grid, count_rays, ray_iou, ray_origins
from splattingocc.experiment import ExperimentConfig, build_prediction_loader
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.calibration import calibrate
from splattingocc.pipeline.prediction import positions_to_test
from splattingocc.splatting.field import Field, Occupancy, OccupancyThreshold
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.query import gaussian_of_cell
from splattingocc.splatting.read_out import read_out
from splattingocc.taxonomy import FREE

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Among which 3D truth chooses the best."""
LOWEST = 1e-6
"""A threshold at which every cell has its class."""
MIDDLE = HEIGHT_BANDS.index((0.6, 2.2))
"""The height of cars and people."""

BAND_NAMES = ("low", "middle", "high")
"""Of `HEIGHT_BANDS`."""

ReadOut: TypeAlias = Callable[[Field], Occupancy]


class ByOpacity(Gaussians):
    """Gaussians that are read out by their opacities: a cell is as probably filled as its Gaussian is opaque, wherever in it that lies."""

    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        if grid != self.grid:
            raise ValueError("grid: is not that of the Gaussians, expected theirs: each answers for its own cell")
        of_cell = gaussian_of_cell(self)
        there = of_cell >= 0
        of_cell = of_cell.clamp(min=0)
        probabilities = self.opacities[of_cell] * there
        classes = torch.where(probabilities >= threshold, self.features.argmax(dim=-1)[of_cell], FREE)
        return Occupancy(probabilities.reshape(grid.shape), classes.to(torch.uint8).reshape(grid.shape))


class AtCentres(Gaussians):
    """Gaussians that are read out by their response at the centres of cells, not widened by the cell."""

    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        return read_out(self, grid, threshold=threshold, widen_by_cell=False)


def own(field: Field) -> Occupancy:
    """Read a field out as `splattingocc test` does."""
    return field.read_out(field.grid, threshold=LOWEST)


READ_OUTS: dict[str, type[Gaussians]] = {"opacity": ByOpacity, "centre": AtCentres}
"""Other ways to read Gaussians out."""


def read_as(kind: type[Gaussians], field: Field) -> Gaussians:
    """Return Gaussians that are read out another way."""
    assert isinstance(field, Gaussians)
    return kind(**vars(field))


def read_outs_of(network: OccupancyNetwork) -> dict[str, ReadOut]:
    """Return the ways to read out what a network predicts; a density is its own opacity."""
    found: dict[str, ReadOut] = {"own": own}
    if network.config.head.kind == "gaussians":
        found |= {name: lambda field, kind=kind: own(read_as(kind, field)) for name, kind in READ_OUTS.items()}
    return found


def threshold_of(name: str, config: ExperimentConfig, network: OccupancyNetwork, index: Index) -> float:
    """Choose the threshold of another read-out from 2D labels, as `train` chooses that of the own."""
    kind = READ_OUTS[name]
    hook = network.head.register_forward_hook(lambda *call: read_as(kind, call[-1]))
    try:
        return calibrate(config, network, index).threshold
    finally:
        hook.remove()


def false_by_height(counts: Int64[Tensor, "distance height 18 18"]) -> list[float]:
    """Return, for each height band, how many percent of its free voxels are said to be filled."""
    free = counts.sum(dim=0)[:, FREE].double()
    return (100 * free[:, :FREE].sum(dim=-1) / free.sum(dim=-1)).tolist()


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
            **{f"false_{name}": share for name, share in zip(BAND_NAMES, false_by_height(in_camera))},
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

    The second is an oracle's, among `THRESHOLDS` and the chosen one: 3D truth of the split itself chooses. Ground has its share of
    each, as in the experiment.
    """
    candidates, ratio = {name: (thresholds[name], *THRESHOLDS) for name in read_outs}, config.calibration.ground_ratio
    tallies = {name: [Tally() for _ in candidates[name]] for name in read_outs}
    positions = positions_to_test(config, index, split)
    samples = predict_fields(network, build_prediction_loader(config, index, positions))
    for (_, predicted), position in zip(samples, positions):
        truth = read_truth(config.data.truth_folder, index[position].scene, index[position].token)
        origins = ray_origins(index, position)
        seen = cast_grid(truth.semantics, origins)
        for name, read in read_outs.items():
            occupancy = read(predicted).map(Tensor.cpu)
            for tally, threshold in zip(tallies[name], candidates[name]):
                by = OccupancyThreshold(ground=ratio * threshold, others=threshold)
                tally.add(by.applied_to(occupancy).semantics, truth, origins, seen)
    return {name: _chosen_and_best(candidates[name], [tally.figures() for tally in tallies[name]]) for name in read_outs}


def _chosen_and_best(thresholds: Sequence[float], figures: Sequence[Mapping[str, float]]) -> dict[str, object]:
    chosen, best = figures[0], {}
    for name in chosen:
        if name.startswith("false"):
            continue
        at = max(range(len(figures)), key=lambda i: figures[i][name])
        best[name] = {"value": figures[at][name], "threshold": thresholds[at]}
    return {"threshold": thresholds[0], "at_threshold": dict(chosen), "best": best}
