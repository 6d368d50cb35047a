"""RayIoU: does a LiDAR that looks into the prediction see what it sees in the truth?

Source: Liu et al. 2024 (SparseOcc), the numbers as in their published evaluation. Rays start from where the LiDAR was at the key frames of
the scene; none is masked. A ray is a hit where the class agrees and the distances differ by less than a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from splattingocc.data.key_frames import Index, ego_from_other_ego
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.kernels.voxel_walk import cast_first_hit
from splattingocc.taxonomy import CLASSES_OUTSIDE_M15, FREE, NUM_CLASSES

THRESHOLDS = (1.0, 2.0, 4.0)
"""Metres."""
NUM_AZIMUTHS = 360
NUM_GROUND_RINGS = 10
"""Pitches at which a sensor one unit above flat ground sees it 1, 2, … units away."""
HIGHEST_PITCH = 0.21
"""Radians; pitches are added in equal steps while the last one is below."""
ORIGIN_RANGE = 39.0
"""Metres in x and in y within which an origin must lie."""
MAX_ORIGINS = 8


def ray_pattern() -> Float64[Tensor, "ray 3"]:
    """Return the 39 × 360 unit directions, pitch by pitch from the lowest."""
    pitches = [-(math.pi / 2 - math.atan(k + 1)) for k in range(NUM_GROUND_RINGS)]
    step = pitches[-1] - pitches[-2]
    while pitches[-1] < HIGHEST_PITCH:
        pitches.append(pitches[-1] + step)
    pitch = torch.tensor(pitches, dtype=torch.float64)[:, None]
    azimuth = torch.arange(NUM_AZIMUTHS, dtype=torch.float64) * (2 * math.pi / NUM_AZIMUTHS)
    flat = torch.cos(pitch)
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), torch.sin(pitch).expand(-1, NUM_AZIMUTHS)], dim=-1).flatten(0, 1)


def ray_origins(index: Index, position: int) -> Float64[Tensor, "origin 3"]:
    """Return where the LiDAR was at the key frames of the scene, in the ego frame of one of them: those near it, at most eight.

    Its own is exactly the calibration's: nuScenes' LiDAR stands at y = 0, on the border of two rows of voxels, where the last digit of
    a detour through the world would decide in which of them rays start.
    """
    if not index.has_lidar:
        raise ValueError(f"{index.version}: has no LiDAR, whose positions RayIoU's rays start from")
    scene = next(scene for scene in index.scenes if scene.first <= position < scene.first + scene.count)
    own = slice(scene.first, scene.first + scene.count)
    key_ego_from_ego = ego_from_other_ego(index.world_from_key_ego[position], index.world_from_ego[own, 0])
    origins = torch.from_numpy((key_ego_from_ego @ index.ego_from_sensor[own, 0])[:, :3, 3].copy())
    origins = origins[(origins[:, :2].abs() < ORIGIN_RANGE).all(dim=1)]
    if len(origins) > MAX_ORIGINS:
        origins = origins[torch.linspace(0, len(origins) - 1, MAX_ORIGINS, dtype=torch.float64).round().long()]
    return origins


@dataclass(frozen=True)
class CastGrid:
    """What the rays of one key frame see in a grid."""

    semantics: UInt8[Tensor, " ray"]
    """Class index, or FREE."""
    distances: Float64[Tensor, " ray"]
    """Metres to where the ray leaves the first occupied voxel, or the grid."""


def cast_grid(semantics: UInt8[Tensor, "200 200 16"], origins: Float64[Tensor, "origin 3"]) -> CastGrid:
    """Look into a grid along the ray pattern from each origin."""
    directions = ray_pattern().to(semantics.device)
    rays = Rays(
        origins.to(semantics.device)[:, None].expand(-1, len(directions), 3).flatten(0, 1),
        directions.expand(len(origins), -1, 3).flatten(0, 1),
    )
    hits = cast_first_hit((semantics != FREE).to(torch.uint8), OCC3D_GRID, rays)
    seen = semantics.flatten()[hits.cells.clamp(min=0)]
    return CastGrid(torch.where(hits.cells >= 0, seen, torch.full_like(seen, FREE)), hits.leave_distances)


@dataclass(frozen=True)
class RayIoUScores:
    """Percentages; nan where neither truth nor prediction shows anything."""

    at: dict[float, float]
    """Mean over the 17 classes, by threshold in metres."""
    mean: float
    """RayIoU: mean over classes and thresholds."""
    at_15: dict[float, float]
    """Without others and other_flat."""
    mean_15: float
    class_ious: tuple[tuple[float, ...], ...]
    """By threshold and class."""


@dataclass(frozen=True)
class RayCounts:
    """Rays of any number of key frames, counted; adds up."""

    hits: Int64[Tensor, "threshold class"]
    in_truth: Int64[Tensor, " class"]
    in_prediction: Int64[Tensor, " class"]

    @classmethod
    def none(cls) -> RayCounts:
        """Return the count of no rays."""
        zeros = torch.zeros(NUM_CLASSES, dtype=torch.int64)
        return cls(torch.zeros(len(THRESHOLDS), NUM_CLASSES, dtype=torch.int64), zeros, zeros.clone())

    def __add__(self, other: RayCounts) -> RayCounts:
        return RayCounts(self.hits + other.hits, self.in_truth + other.in_truth, self.in_prediction + other.in_prediction)


def count_rays(prediction: CastGrid, truth: CastGrid) -> RayCounts:
    """Compare what the same rays see; those that meet nothing in the truth do not count."""
    counted = truth.semantics != FREE
    true_class, predicted_class = truth.semantics[counted].long(), prediction.semantics[counted].long()
    errors = (prediction.distances - truth.distances)[counted].abs()
    agreed = predicted_class == true_class
    return RayCounts(
        torch.stack([torch.bincount(true_class[agreed & (errors < limit)], minlength=NUM_CLASSES) for limit in THRESHOLDS]).cpu(),
        torch.bincount(true_class, minlength=NUM_CLASSES).cpu(),
        torch.bincount(predicted_class, minlength=NUM_CLASSES + 1)[:NUM_CLASSES].cpu(),
    )


def ray_iou(counts: RayCounts) -> RayIoUScores:
    """Turn the counts of a split into percentages."""
    hits = counts.hits.double()
    ious = 100 * hits / (counts.in_truth + counts.in_prediction - hits)  # 0 / 0 is nan: a class that is nowhere has no score
    inside_m15 = torch.ones(NUM_CLASSES, dtype=torch.bool)
    inside_m15[list(CLASSES_OUTSIDE_M15)] = False
    return RayIoUScores(
        at=dict(zip(THRESHOLDS, ious.nanmean(dim=1).tolist())),
        mean=ious.nanmean().item(),
        at_15=dict(zip(THRESHOLDS, ious[:, inside_m15].nanmean(dim=1).tolist())),
        mean_15=ious[:, inside_m15].nanmean().item(),
        class_ious=tuple(tuple(row) for row in ious.tolist()),
    )
