"""From the label store to rays in the ego frame: parts, auxiliary key frames, and draws to a budget."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splattingocc.data.key_frames import KeyFrame, camera_of
from splattingocc.data.label_store import LabelStore
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES

LabelledRays: TypeAlias = tuple[Rays, RayLabels]
Part: TypeAlias = Literal["train", "held_out", "all"]
"""Rays to learn from, rays kept back to calibrate and to measure on, or both."""


def held_out_rays(token: str, num_rays: int, fraction: float) -> Bool[np.ndarray, " ray"]:
    """Say which of a key frame's stored rays are never trained on.

    The draw depends on the key frame's token and the place of the ray in its table, so that a ray is held out in every epoch, in every run
    from the same labels, and also where its key frame serves as an auxiliary one. It is of rays, not of points: a point that two cameras
    see, or that other key frames have too (`lidar.other_key_frames`), may be held out as one ray and learned from as another.
    """
    seed = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).random(num_rays) < fraction


def labelled_rays(
    key_frame: KeyFrame, store: LabelStore, *, part: Part = "all", held_out_fraction: float = 0.0, in_ego_of: KeyFrame | None = None
) -> LabelledRays:
    """Return the labelled rays of a key frame, with weight one, in its ego frame or in that of another key frame of the scene.

    Every label is there, camera by camera, also those whose surface lies outside a voxel grid; `inside` drops them.
    """
    table = store.read(key_frame.token)
    if part != "all":
        table = table[held_out_rays(key_frame.token, len(table), held_out_fraction) == (part == "held_out")]
    parts = []
    for view, sensor in enumerate(key_frame.cameras):
        own = table[table.camera_indices == view]
        camera, pixels = camera_of(sensor, in_ego_of=in_ego_of or key_frame), torch.from_numpy(own.pixels)
        rays = camera[None].rays_through(torch.zeros(len(own), dtype=torch.int64), pixels)
        distances = torch.from_numpy(own.distances)
        parts.append((rays, RayLabels(torch.from_numpy(own.semantics).long(), distances, torch.ones_like(distances))))
    return join(parts)


def auxiliary_rays(
    auxiliary: KeyFrame, key_frame: KeyFrame, store: LabelStore, *, weight: float, part: Part, held_out_fraction: float
) -> LabelledRays:
    """Return the rays of another key frame of the scene in the ego frame of `key_frame`, without those of classes that move.

    Those of unknown class, which may move, are left out as well.
    """
    rays, labels = labelled_rays(auxiliary, store, part=part, held_out_fraction=held_out_fraction, in_ego_of=key_frame)
    rays, labels = select(rays, labels, ~torch.isin(labels.semantics, torch.tensor([*MOVING_CLASSES, IGNORE])))
    return rays, dataclasses.replace(
        labels, weights=torch.full_like(labels.weights, weight), is_own=torch.zeros_like(labels.weights, dtype=torch.bool)
    )


def select(rays: Rays, labels: RayLabels, index: Tensor) -> LabelledRays:
    """Return the rays that a mask or a list of indices names."""
    return rays[index], labels[index]


def inside(rays: Rays, labels: RayLabels, grid: VoxelGrid) -> LabelledRays:
    """Return the rays whose labelled surface lies in the grid: nothing in the volume could render the others."""
    _, is_inside = grid.cells_of(rays.at(labels.distances))
    return select(rays, labels, is_inside)


def join(parts: Sequence[LabelledRays]) -> LabelledRays:
    """Return the rays of all parts, one part after the other."""
    rays, labels = [part[0] for part in parts], [part[1] for part in parts]
    return (
        Rays(torch.cat([part.origins for part in rays]), torch.cat([part.directions for part in rays])),
        RayLabels(
            torch.cat([part.semantics for part in labels]),
            torch.cat([part.distances for part in labels]),
            torch.cat([part.weights for part in labels]),
            torch.cat([part.is_own for part in labels]),
        ),
    )


def draw_rays(rays: Rays, labels: RayLabels, num_rays: int, *, class_balance: float, rng: np.random.Generator) -> LabelledRays:
    """Return exactly `num_rays` rays, drawn without replacement where there are more and padded with weight 0 where there are fewer.

    A ray is drawn with odds proportional to n^(-class_balance), n being how many rays of its class this sample has: 0 draws
    uniformly, 0.5 with the square root of the inverse frequency, 1 gives every class the same odds. Without replacement no odds can
    repeat a ray, so rare classes are kept whole at most.
    """
    available = len(labels.semantics)
    if available <= num_rays:
        return pad(rays, labels, num_rays)
    counts = torch.bincount(labels.semantics)
    odds = counts[labels.semantics].double().pow(-class_balance)
    # The smallest of exponential waiting times with these rates are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    waiting_times = torch.from_numpy(rng.exponential(size=available)) / odds
    chosen = waiting_times.topk(num_rays, largest=False, sorted=False).indices
    return select(rays, labels, chosen.sort().values)


def pad(rays: Rays, labels: RayLabels, num_rays: int) -> LabelledRays:
    """Append rays with weight 0, class IGNORE and no distance until there are `num_rays`."""
    missing = num_rays - len(labels.semantics)
    forward: Float[Tensor, "ray 3"] = rays.directions.new_tensor([1.0, 0.0, 0.0]).expand(missing, 3)
    padding = RayLabels(
        torch.full((missing,), IGNORE, dtype=torch.int64),
        torch.full((missing,), torch.nan),
        torch.zeros(missing),
    )
    return join([(rays, labels), (Rays(torch.zeros(missing, 3), forward), padding)])
