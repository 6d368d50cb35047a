# Annotations of kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Find the Gaussians that rays meet at all, one thread a ray: the walk of `gaussian_render.py`, without what is composited."""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_render import MAX_ALPHA, MIN_TRANSMITTANCE, RayInputs
from splattingocc.kernels.gaussian_scene import RayBundle, SceneIndex, as_array, ray_inputs, scene_of, visiting_order
from splattingocc.kernels.gaussian_walk import PENDING, Scene, begin_walk, meet_next, plan, respond
from splattingocc.kernels.launch import launch

ROUNDING = 1e-4
"""Share by which thresholds are missed here and still count: who computes the Gaussians again may round otherwise."""

_ALPHA = wp.constant(MIN_ALPHA * (1.0 - ROUNDING))
_MAX_ALPHA = wp.constant(MAX_ALPHA)
_TRANSMITTANCE = wp.constant(MIN_TRANSMITTANCE * (1.0 - ROUNDING))
_PENDING = wp.constant(PENDING)


@wp.kernel
@no_type_check
def mark_met(first: int, scene: Scene, rays: RayInputs, met: wp.array(dtype=wp.bool)):
    """Mark each Gaussian, in cell order's numbers, that a ray composites. Threads write the same value, in whatever order."""
    ray = rays.order[first + wp.tid()]
    path = plan(scene, rays.origins[ray], rays.directions[ray])
    keys = wp.zeros(shape=_PENDING, dtype=float)
    indices = wp.zeros(shape=_PENDING, dtype=int)
    transmittance = float(1.0)  # noqa: UP018 (a bare literal is a constant to Warp)
    cursor = meet_next(scene, path, begin_walk(), keys, indices)
    while not cursor.ended and transmittance >= _TRANSMITTANCE:
        response = respond(scene, path, cursor.index, cursor.key)
        if response.alpha >= _ALPHA:
            transmittance *= 1.0 - wp.min(response.alpha, _MAX_ALPHA)
            met[cursor.index] = True
        cursor = meet_next(scene, path, cursor, keys, indices)


def find_met(index: SceneIndex, rays: RayBundle, grid: VoxelGrid) -> Bool[Tensor, " active"]:
    """Return which Gaussians of an index any ray composites, or would but for rounding; label distances are not looked at."""
    device = index.records.device
    met = torch.zeros(len(index.ids), dtype=torch.bool, device=device)
    if len(rays.origins) and len(met):
        arguments = [scene_of(index, grid, rays.near, rays.far), ray_inputs(rays, visiting_order(rays)), as_array(met, wp.bool)]
        launch(mark_met, len(rays.origins), arguments, device=device)
    return met
