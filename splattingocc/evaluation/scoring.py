"""Score predictions of a split in one pass: every metric is made of counts that add up over key frames, and over processes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.occ3d import OccupancyTruth, read_truth
from splattingocc.evaluation.fscore import f_score
from splattingocc.evaluation.miou import DISTANCE_BANDS, HEIGHT_BANDS, OccupancyScores, count_voxels, scores
from splattingocc.evaluation.predictions import CachedPrediction
from splattingocc.evaluation.ray_iou import CastGrid, RayCounts, RayIoUScores, cast_grid, count_rays, ray_iou, ray_origins
from splattingocc.taxonomy import CLASSES, FREE


@dataclass(frozen=True)
class SplitCounts:
    """What one method's scores are made of; adds up."""

    voxels: Int64[Tensor, "mask distance height 18 18"]
    """As `count_voxels` gives them."""
    f_scores: tuple[tuple[float, float], ...]
    """Of each key frame: inside mask_camera, and of all voxels."""
    rays: RayCounts | None
    """None where RayIoU was not asked for."""

    def __add__(self, other: SplitCounts) -> SplitCounts:
        rays = None if self.rays is None or other.rays is None else self.rays + other.rays
        return SplitCounts(self.voxels + other.voxels, self.f_scores + other.f_scores, rays)


@dataclass(frozen=True)
class ScoredOccupancy:
    """One method's scores on a split."""

    name: str
    camera: OccupancyScores
    """Voxels inside mask_camera: the protocol of published numbers."""
    unmasked: OccupancyScores
    """All voxels."""
    by_distance: dict[str, OccupancyScores] = dataclasses.field(default_factory=dict)
    """Inside mask_camera, by metres from the vehicle."""
    by_height: dict[str, OccupancyScores] = dataclasses.field(default_factory=dict)
    """Inside mask_camera, by metres above the ego frame."""
    f_score: float = math.nan
    """Percent, inside mask_camera; mean over key frames."""
    f_score_unmasked: float = math.nan
    rays: RayIoUScores | None = None
    """None where it was not asked for."""
    num_frames: int = 0
    warnings: tuple[str, ...] = ()
    """What makes one doubt that the predictions number the classes as Occ3D does."""


def count_split(
    predictions: Iterable[CachedPrediction],
    gts: Path,
    *,
    index: Index | None = None,
    baselines: Mapping[str, UInt8[Tensor, "200 200 16"]] | None = None,
) -> list[SplitCounts]:
    """Count predictions against the truth under `gts`, each key frame once, and after them the baselines, one grid for every frame each.

    With an index, which knows where the LiDAR was, rays are counted too.
    """
    fixed = list((baselines or {}).values())
    counts: list[list[SplitCounts]] = [[] for _ in range(1 + len(fixed))]
    for prediction in predictions:
        truth = read_truth(gts, prediction.frame.scene, prediction.frame.token)
        origins = None if index is None else ray_origins(index, index.position_of(prediction.frame.token))
        seen = None if origins is None else cast_grid(truth.semantics, origins)
        for row, semantics in zip(counts, [prediction.semantics, *fixed]):
            row.append(_count(semantics, truth, origins, seen))
    return [reduce(add, row) if row else none_counted(rays=index is not None) for row in counts]


def none_counted(*, rays: bool) -> SplitCounts:
    """Return the counts of no key frames: what a process without any adds."""
    shape = (2, len(DISTANCE_BANDS), len(HEIGHT_BANDS), 18, 18)
    return SplitCounts(torch.zeros(shape, dtype=torch.int64), (), RayCounts.none() if rays else None)


def _count(semantics: UInt8[Tensor, "200 200 16"], truth: OccupancyTruth, origins: Tensor | None, seen: CastGrid | None) -> SplitCounts:
    f_scores = (f_score(semantics, truth.semantics, truth.mask_camera), f_score(semantics, truth.semantics))
    rays = None if origins is None or seen is None else count_rays(cast_grid(semantics, origins), seen)
    return SplitCounts(count_voxels(semantics, truth), (f_scores,), rays)


def scored(name: str, counts: SplitCounts) -> ScoredOccupancy:
    """Turn the counts of a split into scores."""
    inside, every = counts.voxels
    return ScoredOccupancy(
        name=name,
        camera=scores(inside.sum(dim=(0, 1))),
        unmasked=scores(every.sum(dim=(0, 1))),
        by_distance={_band(band): scores(matrix) for band, matrix in zip(DISTANCE_BANDS, inside.sum(dim=1)) if band[1] < math.inf},
        by_height={_band(band): scores(matrix) for band, matrix in zip(HEIGHT_BANDS, inside.sum(dim=0))},
        f_score=_mean_percent([frame[0] for frame in counts.f_scores]),
        f_score_unmasked=_mean_percent([frame[1] for frame in counts.f_scores]),
        rays=None if counts.rays is None else ray_iou(counts.rays),
        num_frames=len(counts.f_scores),
        warnings=tuple(numbering_warnings(every.sum(dim=(0, 1)))),
    )


def numbering_warnings(confusion: Int64[Tensor, "18 18"]) -> Iterator[str]:
    """Say what hints at another numbering of the classes, from the counts of all voxels by (truth, prediction).

    A grid of 0 for empty and 1 to 16 for classes (SurroundOcc, OpenOccupancy) has the right shape and range, and scores next to nothing,
    but for m15, which does not count false *others*.
    """
    in_truth, predicted = confusion.sum(dim=1), confusion.sum(dim=0)
    total = int(predicted.sum())
    if total and not predicted[FREE]:
        label = int(predicted.argmax())
        share = 100 * predicted[label].item() / total
        yield (
            f"not one voxel is predicted free ({FREE}), and {share:.0f} % are {label}: does {label} mean empty there? "
            f"Occ3D's classes are 0 ({CLASSES[0]}) to {FREE - 1} ({CLASSES[-1]}), and {FREE} is free"
        )
    strange = [label for label in range(FREE) if predicted[label] and not in_truth[label]]
    if strange and in_truth[:FREE].sum():
        named = ", ".join(f"{label} ({CLASSES[label]})" for label in strange)
        yield f"the truth has no voxel of classes that are predicted: {named}; are classes numbered as in Occ3D, 0 ({CLASSES[0]}) first?"


def score_split(
    predictions: Iterable[CachedPrediction],
    gts: Path,
    *,
    name: str = "model",
    index: Index | None = None,
    baselines: Mapping[str, UInt8[Tensor, "200 200 16"]] | None = None,
) -> Sequence[ScoredOccupancy]:
    """Score predictions; the first result is theirs, the others are in the order of `baselines`. Arguments as of `count_split`."""
    names = [name, *(baselines or {})]
    return [scored(*row) for row in zip(names, count_split(predictions, gts, index=index, baselines=baselines))]


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]:g} to {band[1]:g} m"


def _mean_percent(values: Sequence[float]) -> float:
    """Return the mean in percent of those that are not nan; exactly the same in whatever order they come."""
    known = [value for value in values if not math.isnan(value)]
    return 100 * math.fsum(known) / len(known) if known else math.nan
