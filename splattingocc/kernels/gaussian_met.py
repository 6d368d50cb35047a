# Warp needs float(0.0) and int(0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018, RUF046
# Annotations of kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Find the Gaussians that rays meet at all, one thread a ray: the walk of `gaussian_render.py`, without what is composited."""

from __future__ import annotations

import dataclasses
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Int64
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_render import HITS_PER_RAY, MAX_ALPHA, MIN_TRANSMITTANCE, Hits, RayInputs
from splattingocc.kernels.gaussian_scene import (
    RayBundle,
    RayHits,
    SceneIndex,
    as_array,
    as_output,
    hit_arrays,
    ray_inputs,
    scene_of,
    visiting_order,
)
from splattingocc.kernels.gaussian_walk import PENDING, Scene, begin_walk, meet_next, plan, respond
from splattingocc.kernels.launch import launch

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

ROUNDING = 1e-4
"""Share by which thresholds are missed here and still count: who computes the Gaussians again may round otherwise."""

_ALPHA = wp.constant(MIN_ALPHA * (1.0 - ROUNDING))
_MAX_ALPHA = wp.constant(MAX_ALPHA)
_TRANSMITTANCE = wp.constant(MIN_TRANSMITTANCE * (1.0 - ROUNDING))
_PENDING = wp.constant(PENDING)
_HITS_PER_RAY = wp.constant(HITS_PER_RAY)


@wp.kernel
@no_type_check
def note_met(first: int, scene: Scene, rays: RayInputs, hits: Hits, met: wp.array(dtype=wp.bool)):
    """Write down what a ray composites, and mark it. Threads write the same value to `met`, in whatever order."""
    ray = rays.order[first + wp.tid()]
    path = plan(scene, rays.origins[ray], rays.directions[ray])
    keys = wp.zeros(shape=_PENDING, dtype=float)
    indices = wp.zeros(shape=_PENDING, dtype=int)
    transmittance = float(1.0)
    num_hits = int(0)
    cursor = meet_next(scene, path, begin_walk(), keys, indices)
    while not cursor.ended and transmittance >= _TRANSMITTANCE:
        response = respond(scene, path, cursor.index, cursor.key)
        if response.alpha >= _ALPHA:
            transmittance *= 1.0 - wp.min(response.alpha, _MAX_ALPHA)
            met[cursor.index] = True
            if num_hits < _HITS_PER_RAY:
                hits.indices[ray * _HITS_PER_RAY + num_hits] = cursor.index
                num_hits += 1
        cursor = meet_next(scene, path, cursor, keys, indices)
    hits.counts[ray] = num_hits


@wp.kernel
@no_type_check
def renumber(first: int, numbers: wp.array(dtype=int), hits: Hits):
    """Replace what was written down of one ray by its new numbers."""
    ray = first + wp.tid()
    for hit in range(hits.counts[ray]):
        place = ray * _HITS_PER_RAY + hit
        hits.indices[place] = numbers[hits.indices[place]]


def find_met(index: SceneIndex, rays: RayBundle, grid: VoxelGrid) -> tuple[Bool[Tensor, " active"], RayHits]:
    """Return which Gaussians of an index any ray composites, or would but for rounding, and those of each ray.

    Label distances are not looked at.
    """
    device, count = index.records.device, len(rays.origins)
    met = torch.zeros(len(index.ids), dtype=torch.bool, device=device)
    hits = RayHits(*(torch.zeros(shape, dtype=torch.int32, device=device) for shape in ((count,), (count, HITS_PER_RAY))))
    if count and len(met):
        inputs = [scene_of(index, grid, rays.near, rays.far), ray_inputs(rays, visiting_order(rays)), hit_arrays(hits)]
        launch(note_met, count, [*inputs, as_output(met, wp.bool)], device=device)
    return met, hits


def keep(index: SceneIndex, hits: RayHits, met: Int64[Tensor, " met"], ids: Int64[Tensor, " met"]) -> tuple[SceneIndex, RayHits]:
    """Return an index of those alone that were met, in its order, whose places in the caller's order are now `ids`, and their hits.

    It is as good as a new one: the slabs that a ray passed over are still empty.
    """
    are_met = torch.zeros(len(index.ids), dtype=torch.int32, device=met.device).index_fill_(0, met, 1)
    before = torch.zeros(len(are_met) + 1, dtype=torch.int32, device=met.device)
    torch.cumsum(are_met, 0, out=before[1:])
    kept = dataclasses.replace(
        index,
        records=index.records[met],
        whitenings=index.whitenings[met],
        opacities=index.opacities[met],
        ids=ids.int(),
        starts=before[index.starts.long()],
    )
    renumbered = RayHits(hits.counts, hits.indices.clone())
    launch(renumber, len(hits.counts), [as_array(before, wp.int32), hit_arrays(renumbered)], device=met.device)
    return kept, renumbered
