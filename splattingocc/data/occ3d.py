"""The 3D truth of Occ3D-nuScenes. Only evaluation and pictures read it; import-linter keeps training away from this module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from splattingocc.files import BadFile, child, read_arrays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.struct import Struct
from splattingocc.taxonomy import FREE

ARRAYS = ("semantics", "mask_camera", "mask_lidar")


@dataclass(frozen=True)
class OccupancyTruth(Struct):
    """What fills each voxel of one key frame, in the ego frame of that key frame."""

    token: str
    semantics: UInt8[Tensor, "200 200 16"]
    """Class index, or FREE."""
    mask_camera: Bool[Tensor, "200 200 16"]
    """True where some camera sees the voxel: the headline scores count these only."""
    mask_lidar: Bool[Tensor, "200 200 16"]
    """True where the LiDAR observed the voxel."""


def truth_path(gts: Path, scene: str, token: str) -> Path:
    """Return where Occ3D keeps the truth of one key frame."""
    return child(child(gts, scene), token) / "labels.npz"


def read_truth(gts: Path, scene: str, token: str) -> OccupancyTruth:
    """Read the truth of one key frame; anything that is not a whole Occ3D grid is a `ValueError` naming the file."""
    path = truth_path(gts, scene, token)
    arrays = _read_arrays(path)
    semantics = arrays["semantics"]
    if semantics.max() > FREE:
        raise BadFile(path, f"semantics holds class {semantics.max()}; Occ3D-nuScenes has classes 0 to {FREE}")
    masks = {}
    for key in ARRAYS[1:]:
        if arrays[key].max() > 1:
            raise BadFile(path, f"{key} holds {arrays[key].max()}; a mask is 0 or 1")
        masks[key] = torch.from_numpy(arrays[key].astype(bool))
    return OccupancyTruth(token, torch.from_numpy(semantics), **masks)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise BadFile(path, "no such file; Occ3D keeps its truth at <gts>/<scene name>/<sample token>/labels.npz")
    arrays = read_arrays(path, ARRAYS, limit=8 * OCC3D_GRID.num_cells)
    for key in ARRAYS:
        if key not in arrays:
            raise BadFile(path, f"has no array {key!r}; expected {', '.join(ARRAYS)}")
    for key, array in arrays.items():
        if array.shape != OCC3D_GRID.shape:
            raise BadFile(path, f"{key} has shape {array.shape}, should be {OCC3D_GRID.shape}")
        if array.dtype != np.uint8 and not (array.dtype == np.bool_ and key != "semantics"):
            raise BadFile(path, f"{key} has dtype {array.dtype}, should be uint8")
    return arrays
