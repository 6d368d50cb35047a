"""Voxel scores of a whole split from one confusion matrix: mean IoU and geometric IoU.

Definition: Occ3D-nuScenes. IoU of class c = TP / (TP + FP + FN) over all voxels of all key frames, averaged over the classes that
truth or prediction hold at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from splattingocc.data.occ3d import read_truth
from splattingocc.data.taxonomy import CLASSES_OUTSIDE_M15, FREE, NUM_CLASSES
from splattingocc.evaluation.predictions import PredictionCache

NUM_LABELS = NUM_CLASSES + 1
"""The semantic classes and FREE."""


@dataclass(frozen=True)
class OccupancyScores:
    """Percentages; nan where neither truth nor prediction holds anything to score."""

    miou_17: float
    """Mean IoU of all semantic classes."""
    miou_15: float
    """The same without others and other_flat, as self-supervised papers report it."""
    geometric_iou: float
    """Occupied against free, whatever the class."""
    class_ious: tuple[float, ...]
    """By class index, 0 to 16."""


@dataclass(frozen=True)
class ScoredOccupancy:
    """One method's scores on a split."""

    name: str
    camera: OccupancyScores
    """Voxels inside mask_camera: the protocol of published numbers."""
    unmasked: OccupancyScores
    """All voxels."""


def confusion(
    prediction: UInt8[Tensor, "*voxel"], truth: UInt8[Tensor, "*voxel"], mask: Bool[Tensor, "*voxel"] | None = None
) -> Int64[Tensor, "18 18"]:
    """Count voxels by (truth, prediction); rows are truth. Only voxels where `mask` is True count; without a mask all do."""
    for name, labels in (("prediction", prediction), ("truth", truth)):
        if labels.numel() and labels.max() > FREE:
            raise ValueError(f"{name} holds class {labels.max().item()}; classes are 0 to {FREE} (free)")
    # 18² = 324 pairs, and one more bin that the masked-out voxels fall into: quicker than gathering the others first.
    pairs = truth.to(torch.int32).mul_(NUM_LABELS).add_(prediction)
    if mask is not None:
        pairs.masked_fill_(~mask, NUM_LABELS**2)
    counts = torch.bincount(pairs.reshape(-1), minlength=NUM_LABELS**2 + 1)
    return counts[: NUM_LABELS**2].reshape(NUM_LABELS, NUM_LABELS)


def scores(confusion: Int64[Tensor, "18 18"]) -> OccupancyScores:
    """Turn the confusion matrix of a split into percentages."""
    counts = confusion.to(torch.float64)
    hits = counts.diagonal()
    unions = counts.sum(dim=0) + counts.sum(dim=1) - hits
    class_ious = (100 * hits / unions)[:NUM_CLASSES]  # 0 / 0 is nan: a class that is nowhere has no score
    inside_m15 = torch.ones(NUM_CLASSES, dtype=torch.bool, device=counts.device)
    inside_m15[list(CLASSES_OUTSIDE_M15)] = False
    occupied_in_both = counts[:FREE, :FREE].sum()
    occupied_in_either = counts.sum() - counts[FREE, FREE]
    return OccupancyScores(
        miou_17=class_ious.nanmean().item(),
        miou_15=class_ious[inside_m15].nanmean().item(),
        geometric_iou=(100 * occupied_in_both / occupied_in_either).item() if occupied_in_either else math.nan,
        class_ious=tuple(class_ious.tolist()),
    )


def score_cache(
    cache: PredictionCache, gts: Path, *, name: str = "model", baselines: Mapping[str, UInt8[Tensor, "200 200 16"]] | None = None
) -> Sequence[ScoredOccupancy]:
    """Score cached predictions against the truth under `gts`, each frame once, beside baselines that predict one grid for every frame.

    The first result is the cache's, the others are in the order of `baselines`.
    """
    fixed = dict(baselines or {})
    names = [name, *fixed]
    camera = torch.zeros(len(names), NUM_LABELS, NUM_LABELS, dtype=torch.int64)
    unmasked = torch.zeros_like(camera)
    for prediction in cache:
        truth = read_truth(gts, prediction.frame.scene, prediction.frame.token)
        for row, semantics in enumerate([prediction.semantics, *fixed.values()]):
            camera[row] += confusion(semantics, truth.semantics, truth.mask_camera)
            unmasked[row] += confusion(semantics, truth.semantics)
    return [ScoredOccupancy(name, scores(camera[row]), scores(unmasked[row])) for row, name in enumerate(names)]
