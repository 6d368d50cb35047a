"""The occupancy threshold, chosen from 2D labels alone.

Held-out rays of training frames are cast through what is occupied at a threshold, and the threshold is taken at which they are stopped
where their labels say: neither 3D truth nor the validation set is needed. Thresholds around the best one do nearly as well; of these the
highest is taken, which claims least.

That one threshold is not the best for every class. What a ray meets at a low angle it meets spread over many cells, of which each is less
probable than what stands upright; so the ground may have a share of the threshold (`ground_ratio`). Labels of a few key frames do not tell
which: they call too many of its cells free (docs/experiments.md).

A labelled ray also says two things about cells: those it crosses well before its hit are free, the cell of its hit is occupied, which gives
free and occupied samples of the predicted probability, and the threshold that separates them best (`criterion`). Just above the ground
nothing is free for sure: a ray that meets it at a low angle crosses, for metres, cells that it fills. One sweep hits few of the occupied
cells and crosses most of the free ones; the labels of neighbouring key frames make up for some of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor

from splattingocc.config import Config, Distance, LabelFrames, Share
from splattingocc.geometry.rays import RayLabels, Rays, free_distances
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit
from splattingocc.splatting.field import OccupancyThreshold

STEPS_PER_CELL = 4
"""Samples along a ray for each cell size: what slips between them is a corner clipped by less than a quarter cell."""
RAYS_PER_CHUNK = 4096
"""Rays sampled at once, about 2.5 million points in the Occ3D grid."""

RELIABILITY_BINS = 20
"""Ranges of predicted probability of which it is told how often their cells were hit."""
CURVE_POINTS = 100
"""Thresholds of which F1 is told: a multiple of these ranges and of `RAY_THRESHOLDS`' steps, which are candidates with them."""

RAY_THRESHOLDS = tuple(step / 50 for step in range(1, 50))
"""Thresholds at which rays are cast through what is occupied then."""
LARGEST_ERROR = 1.0
"""Of a ray's distance, relative: what a ray counts that meets nothing, or something twice as far away."""


class CalibrationConfig(Config):
    """How rays become samples, and what the threshold must separate."""

    criterion: Literal["cells", "rays"] = "rays"
    """What the threshold is best for. `rays`: where rays through what is occupied are stopped, the least mean of
    |distance − labelled| / labelled, each at most 1. `cells`: F1 of the cells that rays hit against those that they cross."""
    ray_tolerance: Share = 0.01
    """How much more than the least mean error of the rays, relative, is as good as that: the highest such threshold is taken."""

    ground_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The threshold of cells whose class is ground, as a share of the one that is chosen, which others keep."""

    label_frames: LabelFrames = 7
    """Key frames whose labels tell of each of the volumes, as many before it as after it; of the others what moves is left out."""
    margin: Distance = 0.6
    """Metres before the hit from which on a cell is neither free nor occupied."""
    ground_clearance: Distance = 0.4
    """Metres above a hit on the ground below which a cell on the way to it is neither: the ground may fill it."""
    free_weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Weight of a free cell beside an occupied one. At 1 every cell that the rays tell about counts once a frame, and the best F1 is
    also the best geometric IoU on those cells."""
    num_bins: Annotated[int, Field(ge=CURVE_POINTS, le=1_000_000, multiple_of=CURVE_POINTS)] = 1000
    """Candidate thresholds, evenly spaced in [0, 1): a multiple of 100, so that every hundredth, of which the curve is told, is one."""


@dataclass(frozen=True)
class Calibration:
    """The chosen threshold and how the others would have done."""

    threshold: float
    """A cell whose probability is at least this is occupied, but for the ground's."""
    f1: float
    """F1 of the occupied class at the threshold, all classes alike."""
    thresholds: Float64[Tensor, " bin"]
    f1_curve: Float64[Tensor, " bin"]
    free_by_bin: Int64[Tensor, " bin"]
    """Free cells seen over all frames, by predicted probability."""
    occupied_by_bin: Int64[Tensor, " bin"]
    ray_errors: Float64[Tensor, " ray_threshold"] | None = None
    """Mean relative error of the rays' distances at RAY_THRESHOLDS, where they choose."""
    ground_ratio: float = 1.0

    @property
    def occupancy_threshold(self) -> OccupancyThreshold:
        """Return what a network is read out by."""
        return OccupancyThreshold(ground=self.ground_ratio * self.threshold, others=self.threshold)

    @property
    def num_free(self) -> int:
        return int(self.free_by_bin.sum())

    @property
    def num_occupied(self) -> int:
        return int(self.occupied_by_bin.sum())

    def reliability(self, num_bins: int = RELIABILITY_BINS) -> list[dict[str, float]]:
        """Say how often the cells of each range of predicted probability were hit: of a well calibrated network, as often as predicted."""
        free, occupied = (counts.reshape(num_bins, -1).sum(dim=1).tolist() for counts in (self.free_by_bin, self.occupied_by_bin))
        return [{"from": i / num_bins, "cells": f + o, "hit": o / (f + o)} for i, (f, o) in enumerate(zip(free, occupied)) if f + o]

    def describe(self) -> dict[str, Any]:
        """Return the curve and the reliability as plain values, to write as JSON."""
        told = slice(None, None, len(self.thresholds) // CURVE_POINTS)
        curve = {f"{threshold:.2f}": f1 for threshold, f1 in zip(self.thresholds[told].tolist(), self.f1_curve[told].tolist())}
        counts = {"num_free": self.num_free, "num_occupied": self.num_occupied}
        chosen = {"threshold": self.threshold, "ground_threshold": self.occupancy_threshold.ground, "f1": self.f1}
        found = {**chosen, **counts, "f1_by_threshold": curve, "reliability": self.reliability()}
        if self.ray_errors is not None:
            found["ray_error_by_threshold"] = {f"{t:.2f}": error for t, error in zip(RAY_THRESHOLDS, self.ray_errors.tolist())}
        return found


class ThresholdCalibration:
    """Accumulates the probabilities of free and occupied cells over training frames."""

    def __init__(self, config: CalibrationConfig, grid: VoxelGrid) -> None:
        self.config = config
        self.grid = grid
        self._free = torch.zeros(config.num_bins, dtype=torch.int64)
        self._occupied = torch.zeros(config.num_bins, dtype=torch.int64)
        self._ray_errors = torch.zeros(len(RAY_THRESHOLDS), dtype=torch.float64)
        self._num_rays = 0

    def update(self, probabilities: Float[Tensor, "x y z"], rays: Rays, labels: RayLabels) -> None:
        """Add one frame, with rays that its training did not use. Each cell counts once, however many rays cross it."""
        if probabilities.shape != self.grid.shape:
            raise ValueError(f"probabilities have shape {tuple(probabilities.shape)}, the grid has {self.grid.shape}")
        usable = (labels.weights > 0) & labels.distances.isfinite()
        rays, labels = rays[usable], labels[usable]
        distances = labels.distances
        free_up_to = free_distances(rays, labels, margin=self.config.margin, ground_clearance=self.config.ground_clearance)
        occupied = torch.zeros(self.grid.num_cells, dtype=torch.bool, device=probabilities.device)
        self._mark(occupied, rays.at(distances))
        free = torch.zeros_like(occupied)
        for start in range(0, len(distances), RAYS_PER_CHUNK):
            chunk = slice(start, start + RAYS_PER_CHUNK)
            self._mark(free, _points_before(rays[chunk], free_up_to[chunk], self.grid.cell_size / STEPS_PER_CELL))
        free &= ~occupied
        bins = (probabilities.flatten() * self.config.num_bins).long().clamp(0, self.config.num_bins - 1)
        self._free += torch.bincount(bins[free], minlength=self.config.num_bins).cpu()
        self._occupied += torch.bincount(bins[occupied], minlength=self.config.num_bins).cpu()
        if self.config.criterion == "rays":
            self._cast(probabilities, rays, distances)

    def _cast(self, probabilities: Float[Tensor, "x y z"], rays: Rays, distances: Float[Tensor, " ray"]) -> None:
        """Add how far from their labels the rays of a frame are stopped, of those that end in the grid."""
        _, inside = self.grid.cells_of(rays.at(distances))
        rays, distances = rays[inside], distances[inside].double()
        self._num_rays += len(distances)
        for number, threshold in enumerate(RAY_THRESHOLDS):
            hit = cast_first_hit((probabilities >= threshold).to(torch.uint8), self.grid, rays)
            middles = 0.5 * (hit.enter_distances + hit.leave_distances)
            errors = ((middles - distances).abs() / distances).clamp(max=LARGEST_ERROR)
            self._ray_errors[number] += errors.where(hit.cells >= 0, torch.full_like(errors, LARGEST_ERROR)).sum().cpu()

    def compute(self) -> Calibration:
        """Choose the best threshold. Of cells it is in the middle, where several do equally well, and never 0: all would be occupied."""
        num_free, num_occupied = int(self._free.sum()), int(self._occupied.sum())
        if not num_occupied or not num_free:
            raise ValueError(f"calibration saw {num_free} free and {num_occupied} occupied cells; it needs held-out rays that give both")
        found = self._occupied.flip(0).cumsum(0).flip(0).double()
        false_alarms = self._free.flip(0).cumsum(0).flip(0).double() * self.config.free_weight
        f1_curve = 2 * found / (found + false_alarms + num_occupied)
        thresholds = torch.arange(self.config.num_bins, dtype=torch.float64) / self.config.num_bins
        ray_errors = None
        if self.config.criterion == "rays":
            ray_errors = self._ray_errors / self._num_rays
            as_good = ray_errors <= (1 + self.config.ray_tolerance) * ray_errors.min()
            threshold = RAY_THRESHOLDS[int(as_good.nonzero().max())]
            chosen = round(threshold * self.config.num_bins)
        else:
            chosen = 1 + _middle_of_best(f1_curve[1:])
            threshold = thresholds[chosen].item()
        return Calibration(
            threshold, f1_curve[chosen].item(), thresholds, f1_curve, self._free, self._occupied, ray_errors, self.config.ground_ratio
        )

    def _mark(self, cells: Tensor, points: Float[Tensor, "*batch 3"]) -> None:
        indices, inside = self.grid.cells_of(points)
        x, y, z = indices[inside].unbind(-1)
        cells[(x * self.grid.shape[1] + y) * self.grid.shape[2] + z] = True


def _middle_of_best(values: Float64[Tensor, " candidate"]) -> int:
    """Return where the largest value is; in the middle, where several are as large."""
    best = (values == values.max()).nonzero().flatten()
    return int(best[len(best) // 2])


def _points_before(rays: Rays, ends: Float[Tensor, " ray"], step: float) -> Float[Tensor, "point 3"]:
    """Return the points every `step` metres along each ray, up to its own end."""
    if not len(ends) or ends.max() <= 0:
        return rays.origins[:0]
    distances = torch.arange(step / 2, ends.max().item(), step, device=ends.device)
    before = distances < ends[:, None]
    return (rays.origins[:, None] + distances[:, None] * rays.directions[:, None])[before]
