# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Sum what pixels say over the cells that their frustums' points lie in. `models/lift/pooling.py` says in plain torch what is computed.

A point is one depth bin of one pixel of the depth maps. Points are numbered as the depths lie in memory, (view, bin, row, column), and are
never made: a kernel computes the cell of each, a stable sort brings the points of a cell together, and each result has one thread that
sums in this order. So nothing is as large as depths times channels, and every result repeats to the last digit. On CUDA nothing here
waits for the device: points outside of the grid are sorted behind the others, so that no size depends on values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import GridSpec
from splattingocc.kernels.gaussian_scene import as_array, as_output, grid_spec
from splattingocc.kernels.launch import launch

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

BLOCK = 8
"""Channels that one thread sums: 32 bytes, what a GPU reads at once and a CPU adds in one instruction."""
MAX_POINTS = 2**30
"""Points are numbered in 32 bits, with room for what is added to their numbers."""

ChannelBlock = wp.types.vector(length=BLOCK, dtype=wp.float32)


@wp.struct
@no_type_check
class FrustumShape:
    """Sizes of the depth maps, and of the context, which has as many columns and fewer rows."""

    bins: int
    rows: int
    columns: int
    rows_per_context: int
    """Rows of the depths for each row of the context."""


@wp.func
@no_type_check
def context_pixel(shape: FrustumShape, point: int) -> int:
    """Return the pixel of the context whose part the point is."""
    column = point % shape.columns
    row = (point // shape.columns) % shape.rows
    view = point // (shape.columns * shape.rows * shape.bins)
    return (view * (shape.rows // shape.rows_per_context) + row // shape.rows_per_context) * shape.columns + column


@wp.kernel
@no_type_check
def find_cells(
    first: int,
    origins: wp.array(dtype=wp.vec3),
    ego_from_pixels: wp.array(dtype=wp.mat33),
    depths: wp.array(dtype=float),
    pixel_width: float,
    pixel_height: float,
    views_per_element: int,
    outside: int,
    grid: GridSpec,
    cells: wp.array(dtype=int, ndim=4),
):
    """Write the cell of each point of one pixel, counted through all elements of the batch, or `outside`."""
    item = first + wp.tid()
    column = item % cells.shape[3]
    row = (item // cells.shape[3]) % cells.shape[2]
    view = item // (cells.shape[3] * cells.shape[2])
    pixel = wp.vec3((float(column) + 0.5) * pixel_width, (float(row) + 0.5) * pixel_height, 1.0)
    # Per metre of z-depth
    direction = ego_from_pixels[view] * pixel
    first_cell = view // views_per_element * grid.shape[0] * grid.shape[1] * grid.shape[2]
    for k in range(cells.shape[1]):
        position = (origins[view] + depths[k] * direction - grid.lower) / grid.cell_size
        x = wp.floor(position[0])
        y = wp.floor(position[1])
        z = wp.floor(position[2])
        cell = outside
        # Compared before they are integers: a position may be too far away for one
        if x >= 0.0 and x < float(grid.shape[0]) and y >= 0.0 and y < float(grid.shape[1]) and z >= 0.0 and z < float(grid.shape[2]):
            cell = first_cell + (int(x) * grid.shape[1] + int(y)) * grid.shape[2] + int(z)
        cells[view, k, row, column] = cell


@wp.kernel
@no_type_check
def look_up(
    first: int,
    order: wp.array(dtype=int),
    shape: FrustumShape,
    depth: wp.array(dtype=float),
    sorted_depths: wp.array(dtype=float),
    sorted_pixels: wp.array(dtype=int),
):
    """Write the depth and the pixel of the context of the point at one place of the order."""
    index = first + wp.tid()
    point = order[index]
    sorted_depths[index] = depth[point]
    sorted_pixels[index] = context_pixel(shape, point)


@wp.func
@no_type_check
def end_of_slice(part: int, num_slices: int, num_points: int) -> int:
    """Return the point at which a slice ends and the next one begins."""
    return wp.min((part + 1) * ((num_points + num_slices - 1) // num_slices), num_points)


@wp.kernel
@no_type_check
def count_points(first: int, cells: wp.array(dtype=int), counts: wp.array2d(dtype=int)):
    """Count the points of one slice in each cell, (cell, slice); the counts start at zero."""
    part = first + wp.tid()
    for point in range(
        end_of_slice(part - 1, counts.shape[1], cells.shape[0]),
        end_of_slice(part, counts.shape[1], cells.shape[0]),
    ):
        cell = cells[point]
        if cell < counts.shape[0]:
            # Not +=, which Warp makes atomic: the counter is this slice's own
            counts[cell, part] = counts[cell, part] + 1


@wp.kernel
@no_type_check
def place_points(
    first: int,
    cells: wp.array(dtype=int),
    places: wp.array2d(dtype=int),
    shape: FrustumShape,
    depth: wp.array(dtype=float),
    sorted_depths: wp.array(dtype=float),
    sorted_pixels: wp.array(dtype=int),
):
    """Write depth and pixel of the points of one slice, from the places on where its points of each cell begin, (cell, slice)."""
    part = first + wp.tid()
    for point in range(
        end_of_slice(part - 1, places.shape[1], cells.shape[0]),
        end_of_slice(part, places.shape[1], cells.shape[0]),
    ):
        cell = cells[point]
        if cell < places.shape[0]:
            place = places[cell, part]
            places[cell, part] = place + 1
            sorted_depths[place] = depth[point]
            sorted_pixels[place] = context_pixel(shape, point)


@wp.kernel
@no_type_check
def sum_over_points(
    first: int,
    starts: wp.array(dtype=int),
    sorted_depths: wp.array(dtype=float),
    sorted_pixels: wp.array(dtype=int),
    context: wp.array2d(dtype=ChannelBlock),
    pooled: wp.array2d(dtype=ChannelBlock),
):
    """Write a block of channels of one cell: the sum over its points of depth times context."""
    item = first + wp.tid()
    block = item % context.shape[1]
    cell = item // context.shape[1]
    total = ChannelBlock()
    for index in range(starts[cell], starts[cell + 1]):
        total += sorted_depths[index] * context[sorted_pixels[index], block]
    pooled[cell, block] = total


@wp.kernel
@no_type_check
def context_gradient(
    first: int,
    cells: wp.array(dtype=int),
    shape: FrustumShape,
    depth: wp.array(dtype=float),
    gradient: wp.array2d(dtype=ChannelBlock),
    result: wp.array2d(dtype=ChannelBlock),
):
    """Write the gradient to a block of channels of one pixel of the context, given that to the pooled cells."""
    item = first + wp.tid()
    block = item % result.shape[1]
    pixel = item // result.shape[1]
    rows = shape.rows // shape.rows_per_context
    column = pixel % shape.columns
    row = (pixel // shape.columns) % rows
    view = pixel // (shape.columns * rows)
    total = ChannelBlock()
    for k in range(shape.bins):
        for i in range(shape.rows_per_context):
            point = ((view * shape.bins + k) * shape.rows + row * shape.rows_per_context + i) * shape.columns + column
            cell = cells[point]
            if cell < gradient.shape[0]:
                total += depth[point] * gradient[cell, block]
    result[pixel, block] = total


@wp.kernel
@no_type_check
def depth_gradient(
    first: int,
    cells: wp.array(dtype=int),
    shape: FrustumShape,
    context: wp.array2d(dtype=ChannelBlock),
    gradient: wp.array2d(dtype=ChannelBlock),
    result: wp.array(dtype=float),
):
    """Write the gradient to the depth of one point, which starts at zero, given that to the pooled cells."""
    point = first + wp.tid()
    cell = cells[point]
    if cell < gradient.shape[0]:
        pixel = context_pixel(shape, point)
        total = float(0.0)  # noqa: UP018 — a bare literal is a constant to Warp
        for block in range(context.shape[1]):
            total += wp.dot(context[pixel, block], gradient[cell, block])
        result[point] = total


@torch.no_grad()
def frustum_cells(
    cameras: Cameras, depths: Float[Tensor, " bin"], size: tuple[int, int], grid: VoxelGrid
) -> Int32[Tensor, "batch view bin row width"]:
    """Return the cell of every point: at the z-depth of each bin on the ray through the centre of each pixel of a map of `size`.

    The cameras are (batch, view). Cells are counted through the elements of the batch; points outside of the grid, and so all of a camera
    that is nowhere, have the number behind the last cell.
    """
    batch, views = cameras.K.shape[:2]
    num_cells = batch * grid.num_cells
    ego_from_cam = invert_rigid(cameras.cam_from_ego.flatten(0, 1))
    # Unlike inv, inv_ex does not wait to see whether there is an inverse
    ego_from_pixels = ego_from_cam[:, :3, :3] @ torch.linalg.inv_ex(cameras.K.flatten(0, 1)).inverse
    cells = torch.empty(batch * views, len(depths), *size, dtype=torch.int32, device=depths.device)
    if max(cells.numel(), num_cells) > MAX_POINTS:
        raise ValueError(f"lift: {cells.numel():,} points of pixels and {num_cells:,} cells in a batch, expected at most {MAX_POINTS:,}")
    if not cells.numel():
        return cells.unflatten(0, (batch, views))
    inputs = [as_array(ego_from_cam[:, :3, 3], wp.vec3), as_array(ego_from_pixels, wp.mat33), as_array(depths, wp.float32)]
    inputs += [cameras.image_size[1] / size[1], cameras.image_size[0] / size[0], views, num_cells, grid_spec(grid)]
    launch(find_cells, batch * views * size[0] * size[1], [*inputs, as_output(cells, wp.int32)], device=depths.device)
    return cells.unflatten(0, (batch, views))


@dataclass(frozen=True)
class SortedPoints:
    """The points of all cells, one cell after the other, each cell's in the order of the depths."""

    starts: Int32[Tensor, " cells_and_one"]
    depths: Float[Tensor, " point"]
    """Undefined behind the last cell's points."""
    pixels: Int32[Tensor, " point"]
    """Of the context, counted through all views."""


def sort_on_device(cells: Int32[Tensor, " point"], depth: Float[Tensor, " point"], shape: Any, num_cells: int) -> SortedPoints:
    """Sort points, whose `FrustumShape` is given, as a GPU does best."""
    in_order, order = cells.sort(stable=True)
    order = order.int()
    bounds = torch.arange(num_cells + 1, dtype=torch.int32, device=cells.device)
    points = SortedPoints(torch.searchsorted(in_order, bounds, out_int32=True), torch.empty_like(depth), torch.empty_like(order))
    sorted_arrays = [as_output(points.depths, wp.float32), as_output(points.pixels, wp.int32)]
    launch(look_up, len(order), [as_array(order, wp.int32), shape, as_array(depth, wp.float32), *sorted_arrays], device=cells.device)
    return points


def sort_by_counting(cells: Int32[Tensor, " point"], depth: Float[Tensor, " point"], shape: Any, num_cells: int) -> SortedPoints:
    """Return the same as `sort_on_device`, several times as fast on a CPU: a slice of points a thread, counted and then placed."""
    num_slices = torch.get_num_threads()
    counts = torch.zeros(num_cells, num_slices, dtype=torch.int32)
    launch(count_points, num_slices, [as_array(cells, wp.int32), as_output(counts, wp.int32)], device=cells.device)
    ends = counts.flatten().cumsum(0, dtype=torch.int32)
    places = ends.view_as(counts) - counts
    points = SortedPoints(torch.cat([places[:, 0], ends[-1:]]), torch.empty_like(depth), torch.empty_like(cells))
    inputs = [as_array(cells, wp.int32), as_output(places, wp.int32), shape, as_array(depth, wp.float32)]
    sorted_arrays = [as_output(points.depths, wp.float32), as_output(points.pixels, wp.int32)]
    launch(place_points, num_slices, [*inputs, *sorted_arrays], device=cells.device)
    return points


def pool(
    depth: Float[Tensor, "view bin row width"],
    context: Float[Tensor, "view height width channel"],
    cells: Int32[Tensor, "view bin row width"],
    num_cells: int,
) -> Float[Tensor, "cell channel"]:
    """Return the sum over the points of each cell of depth times context; the points of cells from `num_cells` on count nowhere."""
    blocks, shape = _in_blocks(context), _shape_of(depth, context)
    sort = sort_by_counting if context.device.type == "cpu" else sort_on_device
    points = sort(cells.flatten(), depth.flatten(), shape, num_cells)
    pooled = torch.empty(num_cells, *blocks.shape[1:], device=context.device)
    inputs = [as_array(points.starts, wp.int32), as_array(points.depths, wp.float32), as_array(points.pixels, wp.int32)]
    inputs += [as_array(blocks, ChannelBlock), as_output(pooled, ChannelBlock)]
    launch(sum_over_points, num_cells * blocks.shape[1], inputs, device=context.device)
    return pooled.flatten(1)[:, : context.shape[-1]]


def pool_backward(
    depth: Float[Tensor, "view bin row width"],
    context: Float[Tensor, "view height width channel"],
    cells: Int32[Tensor, "view bin row width"],
    gradient: Float[Tensor, "cell channel"],
) -> tuple[Float[Tensor, "view bin row width"], Float[Tensor, "view height width channel"]]:
    """Return the gradients to depth and context, given that to the result of `pool`."""
    blocks, gradient_blocks, shape = _in_blocks(context), _in_blocks(gradient), _shape_of(depth, context)
    of_depth = torch.zeros(depth.numel(), device=depth.device)
    # Not like the blocks: with one view these may be a view of the caller's context, with its strides
    of_context = torch.empty(blocks.shape, device=depth.device)
    given = as_array(gradient_blocks, ChannelBlock)
    points = [as_array(cells.flatten(), wp.int32), shape]
    inputs = [*points, as_array(depth.flatten(), wp.float32), given, as_output(of_context, ChannelBlock)]
    launch(context_gradient, len(blocks) * blocks.shape[1], inputs, device=depth.device)
    inputs = [*points, as_array(blocks, ChannelBlock), given, as_output(of_depth, wp.float32)]
    launch(depth_gradient, depth.numel(), inputs, device=depth.device)
    return of_depth.view(depth.shape), of_context.flatten(1)[:, : context.shape[-1]].reshape(context.shape)


def _in_blocks(values: Float[Tensor, "*row channel"]) -> Float[Tensor, "flat_row block 8"]:
    """Return rows of channels in blocks, the last of which is filled up with zeros."""
    padded = functional.pad(values, (0, -values.shape[-1] % BLOCK))
    return padded.reshape(-1, padded.shape[-1] // BLOCK, BLOCK)


def _shape_of(depth: Tensor, context: Tensor) -> Any:
    shape = FrustumShape()
    _, shape.bins, shape.rows, shape.columns = depth.shape
    shape.rows_per_context = depth.shape[2] // max(context.shape[1], 1)
    return shape
