"""Index Gaussians and composite them along rays: kernels as functions of tensors, without autograd or checks of shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import (
    BAD_MEANS,
    BAD_OPACITIES,
    BAD_QUATS,
    BAD_REACH,
    BAD_SCALES,
    GridSpec,
    describe,
    lateral_cells,
    pack,
)
from splattingocc.kernels.gaussian_render import (
    HITS_PER_RAY,
    GeometryGradients,
    Hits,
    RayInputs,
    RayOutputs,
    collect_geometry,
    render_kernels,
)
from splattingocc.kernels.gaussian_walk import Scene
from splattingocc.kernels.launch import launch

MAX_REACH_CELLS = 4.0
"""Largest support radius, in cells; beyond it the walk would look at most of the volume."""
LATERAL_SLACK = 1e-3
"""Cells, far above the rounding of a lateral reach."""
MAX_SKIP = 8
"""Slabs that a ray passes over at most in one step."""
SORTING_DISTANCE = 20.0
"""Metres along the rays where they are compared to find those that pass through the same cells."""
MAX_GRADIENT_BUFFERS = 8
"""CPU threads that a backward pass uses at most: each needs a buffer of its own, which keeps the sum in one order."""

_COMPLAINTS = {
    BAD_MEANS: "means: must be finite",
    BAD_QUATS: "quats: must be unit quaternions (w, x, y, z)",
    BAD_SCALES: "scales: must be finite and above 0 m",
    BAD_OPACITIES: "opacities: must be in [0, 1]",
}


class BadGaussians(ValueError):
    """Gaussians that cannot be rendered: numbers that are not finite, or outside of what they may be."""


@dataclass(frozen=True)
class SceneIndex:
    """Gaussians above the smallest alpha and inside the grid, in cell order."""

    records: Float[Tensor, "active 4"]
    """Mean and squared support radius."""
    whitenings: Float[Tensor, "active 3 3"]
    """diag(1/s)·Rᵀ."""
    opacities: Float[Tensor, " active"]
    ids: Int32[Tensor, " active"]
    """Place in the caller's order."""
    starts: Int32[Tensor, " cells_and_one"]
    skips: UInt8[Tensor, " cells"]
    reach: float
    """Largest support radius, metres."""


def grid_spec(grid: VoxelGrid) -> Any:
    """Return the grid as kernels see it, a `GridSpec`."""
    spec = GridSpec()
    spec.lower = wp.vec3(*grid.lower)
    spec.cell_size = grid.cell_size
    spec.shape = wp.vec3i(*grid.shape)
    return spec


def as_array(tensor: Tensor, dtype: type) -> wp.array:
    """Return a tensor as kernels see it, to read from."""
    return wp.from_torch(tensor.detach().contiguous(), dtype=dtype)


def as_output(tensor: Tensor, dtype: type) -> wp.array:
    """Return a tensor as kernels see it, to write to."""
    assert tensor.is_contiguous(), f"kernels would write to a copy of what has the strides {tensor.stride()}"
    return wp.from_torch(tensor.detach(), dtype=dtype)


def index_gaussians(
    means: Float[Tensor, "gaussian 3"],
    quats: Float[Tensor, "gaussian 4"],
    scales: Float[Tensor, "gaussian 3"],
    opacities: Float[Tensor, " gaussian"],
    grid: VoxelGrid,
) -> SceneIndex:
    """Sort Gaussians into cells. Raises `ValueError` naming the field that holds a bad value."""
    device = means.device
    spec = grid_spec(grid)
    arrays = [as_array(means, wp.vec3), as_array(quats, wp.vec4), as_array(scales, wp.vec3), as_array(opacities, wp.float32)]
    cells, reach = _cells_of_valid(arrays, len(means), grid, device)
    ids = (cells >= 0).nonzero().squeeze(1)
    cells_of_ids = cells[ids]
    # A GPU sorts in less time than it takes to hear from it whether it has to
    if device.type != "cpu" or bool((cells_of_ids[1:] < cells_of_ids[:-1]).any()):
        cells_of_ids, order = cells_of_ids.sort(stable=True)
        ids = ids[order]
    # Not `bincount`, which asks a GPU for the largest first
    counts = torch.zeros(grid.num_cells, dtype=torch.int32, device=device).index_add_(0, cells_of_ids, torch.ones_like(cells_of_ids))
    starts = torch.zeros(grid.num_cells + 1, dtype=torch.int32, device=device)
    torch.cumsum(counts, 0, out=starts[1:])
    ids = ids.int()
    active = len(ids)
    records, whitenings, packed_opacities = (torch.empty(active, *shape, device=device) for shape in ((4,), (3, 3), ()))
    packed = [
        as_array(ids, wp.int32),
        *arrays,
        as_output(records, wp.vec4),
        as_output(whitenings, wp.mat33),
        as_output(packed_opacities, wp.float32),
    ]
    launch(pack, active, packed, device=device)
    num_cells = torch.zeros(grid.num_cells, dtype=torch.uint8, device=device)
    if active:
        inputs = [as_array(records, wp.vec4), as_array(starts, wp.int32), spec.cell_size, as_output(num_cells, wp.uint8)]
        launch(lateral_cells, grid.num_cells, inputs, device=device)
    skips = _skips(num_cells.reshape(grid.shape), most_lateral_cells(reach, grid.cell_size))
    return SceneIndex(records, whitenings, packed_opacities, ids, starts, skips.flatten(), reach)


def _cells_of_valid(arrays: list[wp.array], count: int, grid: VoxelGrid, device: torch.device) -> tuple[Int32[Tensor, " gaussian"], float]:
    """Return the cell of each Gaussian, -1 for those never rendered, and the largest support radius."""
    cells = torch.empty(count, dtype=torch.int32, device=device)
    chunks = 1 if device.type != "cpu" else 4 * torch.get_num_threads()
    status = torch.zeros(chunks, dtype=torch.int32, device=device)
    reach = torch.zeros(chunks, device=device)
    max_reach = MAX_REACH_CELLS * grid.cell_size
    fixed = [*arrays, grid_spec(grid), max_reach, as_output(cells, wp.int32)]
    launch(
        describe,
        count,
        lambda chunk: [*fixed, as_output(status[chunk : chunk + 1], wp.int32), as_output(reach[chunk : chunk + 1], wp.float32)],
        device=device,
        num_chunks=chunks,
    )
    # All at once: the host waits for a GPU here. The bits are small numbers, which a float32 holds exactly
    numbers = torch.stack([status.to(reach.dtype), reach]).tolist()
    bits = 0
    for chunk_bits in numbers[0]:
        bits |= int(chunk_bits)
    largest = max(numbers[1])
    for bit, complaint in _COMPLAINTS.items():
        if bits & bit:
            raise BadGaussians(f"gaussians.{complaint}")
    if bits & BAD_REACH:
        raise ValueError(
            f"gaussians.scales: a Gaussian reaches {largest:.3g} m before its alpha falls below 1/255, "
            f"at most {MAX_REACH_CELLS:g} cells of the grid ({max_reach:.3g} m) can be searched; bound the scales, or take cells of at "
            f"least {largest / MAX_REACH_CELLS:.3g} m"
        )
    return cells, largest


def dilate(mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the mask grown by one cell along each of the axes in turn: a square, or a cube."""
    for axis in axes:
        grown = mask.clone()
        size = mask.shape[axis]
        grown.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
        mask = grown
    return mask


def most_lateral_cells(reach: float, cell_size: float) -> int:
    """Return a bound of what `lateral_cells` says of any Gaussian that reaches no further than so many metres."""
    return math.ceil(math.sqrt(2) * reach / cell_size + 0.5 + LATERAL_SLACK)


def _skips(lateral: UInt8[Tensor, "x y z"], largest: int) -> UInt8[Tensor, "x y z"]:
    """Turn the lateral reach of each cell's Gaussians, at most the `largest`, into how many empty slabs a ray can skip from each cell."""
    occupied = torch.zeros_like(lateral, dtype=torch.bool)
    for plane in ((1, 2), (0, 2), (0, 1)):
        reached = torch.zeros_like(occupied)
        for count in range(largest, 0, -1):
            reached = dilate(reached | (lateral == count), plane)
        occupied |= reached
    skips = torch.zeros_like(lateral)
    for _ in range(MAX_SKIP):
        skips += ~occupied
        # One slab further along the main axis is at most one cell further along any axis.
        occupied = dilate(occupied, (0, 1, 2))
    return skips


def scene_of(index: SceneIndex, grid: VoxelGrid, near: float, far: float) -> Any:
    """Return an index as kernels see it, a `Scene`."""
    scene = Scene()
    scene.grid = grid_spec(grid)
    scene.reach = index.reach
    scene.records = as_array(index.records, wp.vec4)
    scene.whitenings = as_array(index.whitenings, wp.mat33)
    scene.opacities = as_array(index.opacities, wp.float32)
    scene.ids = as_array(index.ids, wp.int32)
    scene.starts = as_array(index.starts, wp.int32)
    scene.skips = as_array(index.skips, wp.uint8)
    scene.near = near
    scene.far = far
    return scene


@dataclass(frozen=True)
class RayBundle:
    """Rays with their labels, and how far along them Gaussians count."""

    origins: Float[Tensor, "ray 3"]
    directions: Float[Tensor, "ray 3"]
    label_distances: Float[Tensor, " ray"]
    near: float
    far: float
    margin: float


def visiting_order(rays: RayBundle) -> Int32[Tensor, " ray"]:
    """Return an order in which rays through the same part of the volume follow each other, so that they share the caches."""
    ahead = (rays.origins + SORTING_DISTANCE * rays.directions).long()
    ahead = ahead - ahead.amin(0)
    code = torch.zeros_like(ahead[:, 0])
    for bit in range(8):
        for axis in range(3):
            code |= ((ahead[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code.argsort().int()


def ray_inputs(rays: RayBundle, order: Int32[Tensor, " ray"]) -> Any:
    """Return rays as kernels see them, `RayInputs`."""
    inputs = RayInputs()
    inputs.order = as_array(order, wp.int32)
    inputs.origins = as_array(rays.origins, wp.vec3)
    inputs.directions = as_array(rays.directions, wp.vec3)
    inputs.label_distances = as_array(rays.label_distances, wp.float32)
    inputs.margin = rays.margin
    return inputs


def _ray_outputs(*scalars: Tensor, as_kernels_see: Callable[[Tensor, type], wp.array]) -> Any:
    """Return distances, alphas, in_front and at_hit, or gradients to them, as kernels read or write them."""
    outputs = RayOutputs()
    arrays = (as_kernels_see(values, wp.float32) for values in scalars)
    outputs.distances, outputs.alphas, outputs.in_front, outputs.at_hit = arrays
    return outputs


@dataclass(frozen=True)
class RayHits:
    """The Gaussians that each ray met, for the backward pass; without length where there will be none."""

    counts: Int32[Tensor, " ray"]
    indices: Int32[Tensor, "ray hit"]


def hit_arrays(hits: RayHits) -> Any:
    """Return hits as kernels see them, `Hits`."""
    struct = Hits()
    struct.counts = as_output(hits.counts, wp.int32)
    struct.indices = as_output(hits.indices.view(-1), wp.int32)
    return struct


def composite(
    index: SceneIndex,
    features: Float[Tensor, "gaussian channel"],
    rays: RayBundle,
    grid: VoxelGrid,
    *,
    for_backward: bool,
    known: RayHits | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], RayHits]:
    """Return features, distances, alphas, in_front and at_hit of every ray, and what `composite_backward` asks for beside them.

    Where it is `known` what the rays meet, nothing is looked for, and the same is what the backward pass asks for.
    """
    count, channels, device = len(rays.origins), features.shape[1], features.device
    composited = torch.zeros(count, channels, device=device)
    scalars = tuple(torch.zeros(count, device=device) for _ in range(4))
    num_noted = count if for_backward and known is None else 0
    counts = torch.zeros(num_noted, dtype=torch.int32, device=device)
    hits = RayHits(counts, torch.empty(num_noted, HITS_PER_RAY, dtype=torch.int32, device=device))
    if count and len(index.ids):
        kernels = render_kernels(channels)
        vector = wp.types.vector(length=channels, dtype=wp.float32)
        order = visiting_order(rays)
        scene, inputs = scene_of(index, grid, rays.near, rays.far), ray_inputs(rays, order)
        arguments = [
            scene,
            inputs,
            as_array(features, vector),
            _ray_outputs(*scalars, as_kernels_see=as_output),
            as_output(composited, vector),
        ]
        launch(kernels.forward, count, [*arguments, hit_arrays(known or hits), known is not None], device=device)
    return (composited, scalars[0], scalars[1], scalars[2], scalars[3]), known or hits


@dataclass(frozen=True)
class CompositeGradients:
    """Gradients to the fields of the Gaussians, in the caller's order."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    features: Tensor


def composite_backward(
    index: SceneIndex,
    quats: Float[Tensor, "gaussian 4"],
    scales: Float[Tensor, "gaussian 3"],
    features: Float[Tensor, "gaussian channel"],
    rays: RayBundle,
    grid: VoxelGrid,
    hits: RayHits,
    outputs: tuple[Tensor, ...],
    output_gradients: tuple[Tensor, ...],
) -> CompositeGradients:
    """Return the gradients of a loss, given those to the results of `composite` (for_backward)."""
    count, channels, device, active = len(rays.origins), features.shape[1], features.device, len(index.ids)
    results = CompositeGradients(*(torch.zeros(len(features), *shape, device=device) for shape in ((3,), (4,), (3,), (), (channels,))))
    if not (count and active):
        return results
    buffers = 1 if device.type != "cpu" else min(torch.get_num_threads(), MAX_GRADIENT_BUFFERS)
    sums = [torch.zeros(buffers, active, *shape, device=device) for shape in ((3,), (3, 3), (), (channels,))]
    vector = wp.types.vector(length=channels, dtype=wp.float32)
    dtypes = (wp.vec3, wp.mat33, wp.float32, vector)
    kernels = render_kernels(channels)
    order = visiting_order(rays)
    scene = scene_of(index, grid, rays.near, rays.far)
    fixed = [scene, ray_inputs(rays, order), as_array(features, vector), hit_arrays(hits)]
    for features_of, *scalars in (outputs, output_gradients):
        fixed += [_ray_outputs(*scalars, as_kernels_see=as_array), as_array(features_of, vector)]

    def arguments(chunk: int) -> list:
        means_sum, whitenings_sum, opacities_sum, features_sum = (as_output(s[chunk], t) for s, t in zip(sums, dtypes))
        geometry = GeometryGradients()
        geometry.means, geometry.whitenings, geometry.opacities = means_sum, whitenings_sum, opacities_sum
        return [*fixed, geometry, features_sum]

    launch(kernels.backward, count, arguments, device=device, num_chunks=buffers)
    collected = [as_array(s, t) for s, t in zip(sums, dtypes)]
    targets = [(results.means, wp.vec3), (results.quats, wp.vec4), (results.scales, wp.vec3), (results.opacities, wp.float32)]
    geometry_inputs = [scene, as_array(quats, wp.vec4), as_array(scales, wp.vec3), *collected[:3]]
    launch(collect_geometry, active, [*geometry_inputs, *(as_output(*target) for target in targets)], device=device)
    launch(kernels.collect_features, active, [scene, collected[3], as_output(results.features, vector)], device=device)
    return results
