"""Voxel scores of a whole split from confusion matrices: mean IoU and geometric IoU.

Definition: Occ3D-nuScenes. IoU of class c = TP / (TP + FP + FN) over all voxels of all key frames, averaged over the classes that
truth or prediction hold at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.taxonomy import CLASSES_OUTSIDE_M15, FREE, NUM_CLASSES

NUM_LABELS = NUM_CLASSES + 1
"""The semantic classes and FREE."""
DISTANCE_BANDS = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, math.inf))
"""Metres from the ego frame's vertical axis to the voxel's centre; the last one is what is left in the corners of the grid."""
HEIGHT_BANDS = ((-1.0, 0.6), (0.6, 2.2), (2.2, 5.4))
"""Metres above the ego frame: ground, the height of cars and people, above."""


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


def confusion(
    prediction: UInt8[Tensor, "*voxel"], truth: UInt8[Tensor, "*voxel"], mask: Bool[Tensor, "*voxel"] | None = None
) -> Int64[Tensor, "18 18"]:
    """Count voxels by (truth, prediction); rows are truth. Only voxels where `mask` is True count; without a mask all do."""
    _check_labels(prediction=prediction, truth=truth)
    # 18² = 324 pairs, and one more bin that the masked-out voxels fall into: quicker than gathering the others first.
    pairs = truth.to(torch.int32).mul_(NUM_LABELS).add_(prediction)
    if mask is not None:
        pairs.masked_fill_(~mask, NUM_LABELS**2)
    counts = torch.bincount(pairs.reshape(-1), minlength=NUM_LABELS**2 + 1)
    return counts[: NUM_LABELS**2].reshape(NUM_LABELS, NUM_LABELS)


def _check_labels(**labels: UInt8[Tensor, "*voxel"]) -> None:
    for name, values in labels.items():
        if values.numel() and values.max() > FREE:
            raise ValueError(f"{name} holds class {values.max().item()}; classes are 0 to {FREE} (free)")


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


@cache
def _region_offsets() -> Tensor:
    """Return, for each voxel, where the pairs of its distance and height band begin in the count of all pairs."""
    centers = OCC3D_GRID.centers()
    distance, height = centers[..., :2].norm(dim=-1), centers[..., 2].contiguous()
    band = torch.bucketize(distance, torch.tensor([low for low, _ in DISTANCE_BANDS[1:]]), right=True, out_int32=True)
    level = torch.bucketize(height, torch.tensor([low for low, _ in HEIGHT_BANDS[1:]]), right=True, out_int32=True)
    return (band * len(HEIGHT_BANDS) + level) * NUM_LABELS**2


def count_voxels(prediction: UInt8[Tensor, "200 200 16"], truth: OccupancyTruth) -> Int64[Tensor, "mask distance height 18 18"]:
    """Count the voxels of one key frame by (truth, prediction), in each distance and height band: inside mask_camera, and all of them."""
    shape = (len(DISTANCE_BANDS), len(HEIGHT_BANDS), NUM_LABELS, NUM_LABELS)
    _check_labels(prediction=prediction, truth=truth.semantics)
    pairs = (truth.semantics.to(torch.int32) * NUM_LABELS).add_(prediction).add_(_region_offsets())
    every = torch.bincount(pairs.flatten(), minlength=math.prod(shape))
    seen = torch.bincount(pairs[truth.mask_camera], minlength=math.prod(shape))
    return torch.stack([seen, every]).reshape(2, *shape)
