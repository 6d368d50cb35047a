"""Baselines that see no image. A model that does not clearly beat them has learned nothing from its pictures."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.evaluation.miou import NUM_LABELS
from splattingocc.evaluation.scoring import ScoredOccupancy
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.taxonomy import FREE


def all_free() -> UInt8[Tensor, "200 200 16"]:
    """Predict nothing anywhere."""
    return torch.full(OCC3D_GRID.shape, FREE, dtype=torch.uint8)


class TrainingPrior:
    """The most frequent label of each voxel over the training scenes' 3D truth: an oracle, since no model here may see that truth.

    There are two ways to count, and neither is better on every split: every voxel of every frame, or only voxels inside mask_camera,
    as the headline score does. Score both and report the better (`better_of`), so that the comparison is fair to the baseline.
    """

    def __init__(self) -> None:
        self._counts: Int32[Tensor, "x y z 18"] = torch.zeros(*OCC3D_GRID.shape, NUM_LABELS, dtype=torch.int32)
        self._observed_counts: Int32[Tensor, "x y z 18"] = torch.zeros_like(self._counts)

    def update(self, truth: OccupancyTruth) -> None:
        """Count one training frame."""
        labels = truth.semantics.long()[..., None]
        ones = torch.ones_like(labels, dtype=torch.int32)
        self._counts.scatter_add_(-1, labels, ones)
        self._observed_counts.scatter_add_(-1, labels, ones * truth.mask_camera[..., None])

    def majority(self) -> UInt8[Tensor, "200 200 16"]:
        """Return the most frequent label over all frames; of equally frequent ones the semantic class before free."""
        return self._counts.argmax(dim=-1).to(torch.uint8)

    def majority_of_observed(self) -> UInt8[Tensor, "200 200 16"]:
        """Return the most frequent label over the frames in which a camera sees the voxel; free where none ever does."""
        observed: Bool[Tensor, "x y z"] = self._observed_counts.sum(dim=-1) > 0
        labels = self._observed_counts.argmax(dim=-1).to(torch.uint8)
        return torch.where(observed, labels, torch.full_like(labels, FREE))


def better_of(first: ScoredOccupancy, second: ScoredOccupancy) -> ScoredOccupancy:
    """Return the one of higher masked mean IoU over 17 classes."""
    return second if second.camera.miou_17 > first.camera.miou_17 else first
