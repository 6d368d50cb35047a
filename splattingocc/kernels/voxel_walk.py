"""Walking rays through a grid of occupied cells, cell by cell (Amanatides & Woo 1987).

The walk runs in double precision whatever the precision of the rays, because RayIoU is defined so. Boundary distances are computed from
the cell index and never accumulated, so that long walks do not drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.launch import launch
from splattingocc.struct import Struct

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

NEVER = wp.constant(wp.float64(1.0e30))
"""Distance of a boundary that an axis-parallel ray does not meet."""


@dataclass(frozen=True)
class VoxelHits(Struct):
    """Where rays meet the first occupied cell."""

    cells: Int64[Tensor, " ray"]
    """Flat index (x·Y + y)·Z + z of the cell; −1 where the ray meets none."""
    enter_distances: Float[Tensor, " ray"]
    """Metres along the ray to where it enters that cell; 0 for an origin inside it. Of a ray that meets none: as `leave_distances`."""
    leave_distances: Float[Tensor, " ray"]
    """Metres along the ray to where it leaves that cell; of a ray that meets none: where it leaves the grid, 0 if it never crosses it."""


@wp.func
@no_type_check
def grid_span(origin: wp.vec3d, direction: wp.vec3d, lower: wp.vec3d, cell_size: wp.float64, shape: wp.vec3i) -> wp.vec2d:
    """Return the distances, 0 or more, at which the ray enters and leaves the grid; (0, 0) where it misses it."""
    enter = wp.float64(0.0)
    leave = NEVER
    for axis in range(3):
        low = lower[axis] - origin[axis]
        high = low + wp.float64(shape[axis]) * cell_size
        if direction[axis] != wp.float64(0.0):
            to_low = low / direction[axis]
            to_high = high / direction[axis]
            enter = wp.max(enter, wp.min(to_low, to_high))
            leave = wp.min(leave, wp.max(to_low, to_high))
        elif low > wp.float64(0.0) or high <= wp.float64(0.0):
            leave = wp.float64(-1.0)
    if enter >= leave:
        return wp.vec2d(wp.float64(0.0), wp.float64(0.0))
    return wp.vec2d(enter, leave)


@wp.func
@no_type_check
def cell_at(point: wp.vec3d, lower: wp.vec3d, cell_size: wp.float64, shape: wp.vec3i) -> wp.vec3i:
    """Return the cell of a point of the grid; rounding may have put the point a hair outside."""
    cell = wp.vec3i()
    for axis in range(3):
        cell[axis] = wp.clamp(int(wp.floor((point[axis] - lower[axis]) / cell_size)), 0, shape[axis] - 1)
    return cell


@wp.func
@no_type_check
def exit_spacing(direction: wp.vec3d, cell_size: wp.float64) -> wp.vec3d:
    """Return the metres along the ray from one boundary to the next on each axis, negative against the axis, 0 if it never crosses one."""
    spacing = wp.vec3d()
    for axis in range(3):
        if direction[axis] != wp.float64(0.0):
            spacing[axis] = cell_size / direction[axis]
    return spacing


@wp.func
@no_type_check
def exits_of_first_cell(origin: wp.vec3d, direction: wp.vec3d, lower: wp.vec3d, cell_size: wp.float64) -> wp.vec3d:
    """Return the metres along the ray to the boundary through which it would leave the cell (0, 0, 0) on each axis.

    For another cell, `exit_spacing` · index comes on top.
    """
    exits = wp.vec3d(NEVER, NEVER, NEVER)
    for axis in range(3):
        if direction[axis] > wp.float64(0.0):
            exits[axis] = (lower[axis] + cell_size - origin[axis]) / direction[axis]
        elif direction[axis] < wp.float64(0.0):
            exits[axis] = (lower[axis] - origin[axis]) / direction[axis]
    return exits


@wp.func
@no_type_check
def exits_of_cell(first_exits: wp.vec3d, spacing: wp.vec3d, cell: wp.vec3i) -> wp.vec3d:
    """Return the metres along the ray to the boundary through which it would leave a cell on each axis."""
    return first_exits + wp.cw_mul(spacing, wp.vec3d(wp.float64(cell[0]), wp.float64(cell[1]), wp.float64(cell[2])))


@wp.func
@no_type_check
def next_cell(cell: wp.vec3i, exits: wp.vec3d, spacing: wp.vec3d) -> wp.vec3i:
    """Return the neighbour behind the nearest of a cell's exits; it may lie outside the grid."""
    if exits[0] <= exits[1] and exits[0] <= exits[2]:
        return wp.vec3i(cell[0] + wp.where(spacing[0] > wp.float64(0.0), 1, -1), cell[1], cell[2])
    if exits[1] <= exits[2]:
        return wp.vec3i(cell[0], cell[1] + wp.where(spacing[1] > wp.float64(0.0), 1, -1), cell[2])
    return wp.vec3i(cell[0], cell[1], cell[2] + wp.where(spacing[2] > wp.float64(0.0), 1, -1))


@wp.func
@no_type_check
def is_inside(cell: wp.vec3i, shape: wp.vec3i) -> bool:
    return cell[0] >= 0 and cell[1] >= 0 and cell[2] >= 0 and cell[0] < shape[0] and cell[1] < shape[1] and cell[2] < shape[2]


@wp.kernel
@no_type_check
def _first_hit(
    first: int,
    origins: wp.array(dtype=wp.vec3d),
    directions: wp.array(dtype=wp.vec3d),
    occupied: wp.array3d(dtype=wp.uint8),
    lower: wp.vec3d,
    cell_size: wp.float64,
    shape: wp.vec3i,
    cells: wp.array(dtype=wp.int64),
    enter_distances: wp.array(dtype=wp.float64),
    leave_distances: wp.array(dtype=wp.float64),
):
    ray = first + wp.tid()
    origin = origins[ray]
    direction = directions[ray]
    span = grid_span(origin, direction, lower, cell_size, shape)
    cells[ray] = wp.int64(-1)
    enter_distances[ray] = span[1]
    leave_distances[ray] = span[1]
    if span[0] >= span[1]:
        return
    cell = cell_at(origin + span[0] * direction, lower, cell_size, shape)
    enter = span[0]
    spacing = exit_spacing(direction, cell_size)
    first_exits = exits_of_first_cell(origin, direction, lower, cell_size)
    while is_inside(cell, shape):
        exits = exits_of_cell(first_exits, spacing, cell)
        leave = wp.max(enter, wp.min(exits))
        if occupied[cell[0], cell[1], cell[2]] != wp.uint8(0):
            cells[ray] = wp.int64((cell[0] * shape[1] + cell[1]) * shape[2] + cell[2])
            enter_distances[ray] = enter
            leave_distances[ray] = leave
            return
        cell = next_cell(cell, exits, spacing)
        enter = leave


@wp.kernel
@no_type_check
def _mark_visited(
    first: int,
    origins: wp.array(dtype=wp.vec3d),
    directions: wp.array(dtype=wp.vec3d),
    max_distances: wp.array(dtype=wp.float64),
    occupied: wp.array3d(dtype=wp.uint8),
    lower: wp.vec3d,
    cell_size: wp.float64,
    shape: wp.vec3i,
    visited: wp.array3d(dtype=wp.uint8),
):
    ray = first + wp.tid()
    origin = origins[ray]
    direction = directions[ray]
    span = grid_span(origin, direction, lower, cell_size, shape)
    limit = max_distances[ray]
    if span[0] >= span[1] or span[0] > limit:
        return
    cell = cell_at(origin + span[0] * direction, lower, cell_size, shape)
    spacing = exit_spacing(direction, cell_size)
    first_exits = exits_of_first_cell(origin, direction, lower, cell_size)
    while is_inside(cell, shape):
        # Rays only ever write 1, so the order in which they write does not matter.
        visited[cell[0], cell[1], cell[2]] = wp.uint8(1)
        if occupied[cell[0], cell[1], cell[2]] != wp.uint8(0):
            return
        exits = exits_of_cell(first_exits, spacing, cell)
        if wp.min(exits) > limit:
            return
        cell = next_cell(cell, exits, spacing)


def cast_first_hit(occupied: UInt8[Tensor, "x y z"], grid: VoxelGrid, rays: Rays) -> VoxelHits:
    """Find the first cell with `occupied` ≠ 0 that each ray of a (ray, 3) batch meets; distances come in double precision."""
    num_rays, device = len(rays.origins), rays.origins.device
    hits = VoxelHits(
        torch.empty(num_rays, dtype=torch.int64, device=device),
        torch.empty(num_rays, dtype=torch.float64, device=device),
        torch.empty(num_rays, dtype=torch.float64, device=device),
    )
    outputs = [wp.from_torch(tensor) for tensor in (hits.cells, hits.enter_distances, hits.leave_distances)]
    launch(_first_hit, num_rays, [*_walk_inputs(occupied, grid, rays), *outputs], device=device)
    return hits


def mark_visited(
    occupied: UInt8[Tensor, "x y z"], grid: VoxelGrid, rays: Rays, max_distances: Float[Tensor, " ray"] | None = None
) -> UInt8[Tensor, "x y z"]:
    """Mark with 1 the cells that the rays cross up to and including the first occupied one, or the one in which each ray's greatest
    distance (metres) lies."""
    visited = torch.zeros_like(occupied)
    origins, directions, *walk = _walk_inputs(occupied, grid, rays)
    limits = torch.full((len(rays.origins),), torch.inf, device=occupied.device) if max_distances is None else max_distances
    inputs = [origins, directions, wp.from_torch(limits.detach().double().contiguous()), *walk, wp.from_torch(visited)]
    launch(_mark_visited, len(rays.origins), inputs, device=rays.origins.device)
    return visited


def _walk_inputs(occupied: Tensor, grid: VoxelGrid, rays: Rays) -> list:
    if tuple(occupied.shape) != grid.shape:
        raise ValueError(f"occupied: shape {tuple(occupied.shape)} does not fit the voxel grid's {grid.shape}")
    if occupied.device != rays.origins.device:
        raise ValueError(f"occupied: on {occupied.device}, but the rays are on {rays.origins.device}")
    origins, directions = (tensor.detach().double().contiguous() for tensor in (rays.origins, rays.directions))
    return [
        wp.from_torch(origins, dtype=wp.vec3d),
        wp.from_torch(directions, dtype=wp.vec3d),
        wp.from_torch(occupied.contiguous()),
        wp.vec3d(*grid.lower),
        wp.float64(grid.cell_size),
        wp.vec3i(*grid.shape),
    ]
