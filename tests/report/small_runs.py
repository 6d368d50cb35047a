"""Folders of runs as `test` leaves them, small ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splattingocc.evaluation.predictions import CachedFrame, PredictionCache, PredictionWriter, Provenance
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.taxonomy import FREE

CHECKPOINT = "ab" * 32
CAR, PEDESTRIAN, TREE = 4, 7, 16
Block = tuple[int, tuple[float, float, float], tuple[float, float, float]]
"""Class, and two opposite corners in metres."""


def grid_of(*blocks: Block) -> Tensor:
    """Return a grid that is free but for blocks."""
    semantics, centers = torch.full(OCC3D_GRID.shape, FREE, dtype=torch.uint8), OCC3D_GRID.centers()
    for kind, lower, upper in blocks:
        inside = ((centers > torch.tensor(lower)) & (centers < torch.tensor(upper))).all(dim=-1)
        semantics[inside] = kind
    return semantics


def write_cache(
    folder: Path,
    frames: dict[str, int],
    split: str = "val",
    grids: Mapping[str, Tensor] | None = None,
    decided_by: Mapping[str, str] | None = None,
) -> PredictionCache:
    """Write a cache of so many key frames of each scene: grids by token, which is `<scene>-<number>`, or a car of one cell."""
    provenance = Provenance("config", CHECKPOINT, "c" * 40, 0.3, split, {"what": "test", **(decided_by or {})})
    writer = PredictionWriter(folder, provenance)
    writer.begin()
    cached = [CachedFrame(scene, number, f"{scene}-{number}") for scene, count in frames.items() for number in range(count)]
    for frame in cached:
        writer.write(frame, (grids or {}).get(frame.token, grid_of((CAR, (0.0, 0.0, 0.2), (0.4, 0.4, 0.6)))))
    return writer.finish(cached)


def write_truth(gts: Path, scene: str, token: str, semantics: Tensor, seen: Tensor | None = None) -> None:
    """Write the truth of a key frame as Occ3D has it; cameras see all of it, or where they are said to."""
    mask = (torch.ones_like(semantics) if seen is None else seen).to(torch.uint8).numpy()
    (gts / scene / token).mkdir(parents=True)
    np.savez_compressed(gts / scene / token / "labels.npz", semantics=semantics.numpy(), mask_camera=mask, mask_lidar=mask)


def write_scores(folder: Path, checkpoint: str = CHECKPOINT) -> None:
    scores = {"model": {"camera_mask": {"miou_17": 12.5}}, "markdown": f"| model | val | config | 0 | {checkpoint[:12]} |"}
    (folder / "metrics_val.json").write_text(json.dumps(scores))
