# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Sum what pixels say over the cells that their frustums' points lie in. `models/lift/pooling.py` says in plain torch what is computed.

A point is one depth bin of one pixel of the depth maps. Points are numbered as the depths lie in memory, (view, bin, row, column), and are
never made: a kernel computes the cell of each, a stable sort brings the points of a cell together, and each result has one thread that
sums in this order. So nothing is as large as depths times channels, and every result repeats to the last digit. On CUDA nothing here
waits for the device: points outside of the grid are sorted behind the others, so that no size depends on values.
"""

from __future__ import annotations

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
from splattingocc.kernels.gaussian_scene import as_array, grid_spec
from splattingocc.kernels.launch import launch

BLOCK = 8
"""Channels that one thread sums: 32 bytes, what a GPU reads at once and a CPU adds in one instruction."""
MAX_POINTS = 2**31 - 1
"""Points are numbered in 32 bits."""

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
def sum_over_points(
    first: int,
    order: wp.array(dtype=int),
    starts: wp.array(dtype=int),
    shape: FrustumShape,
    depth: wp.array(dtype=float),
    context: wp.array2d(dtype=ChannelBlock),
    pooled: wp.array2d(dtype=ChannelBlock),
):
    """Write a block of channels of one cell: the sum over its points of depth times context."""
    item = first + wp.tid()
    block = item % context.shape[1]
    cell = item // context.shape[1]
    total = ChannelBlock()
    for index in range(starts[cell], starts[cell + 1]):
        point = order[index]
        total += depth[point] * context[context_pixel(shape, point), block]
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
    inputs = [as_array(ego_from_cam[:, :3, 3], wp.vec3), as_array(ego_from_pixels, wp.mat33), as_array(depths, wp.float32)]
    inputs += [cameras.image_size[1] / size[1], cameras.image_size[0] / size[0], views, num_cells, grid_spec(grid)]
    launch(find_cells, batch * views * size[0] * size[1], [*inputs, as_array(cells, wp.int32)], device=depths.device)
    return cells.unflatten(0, (batch, views))


def pool(
    depth: Float[Tensor, "view bin row width"],
    context: Float[Tensor, "view height width channel"],
    cells: Int32[Tensor, "view bin row width"],
    num_cells: int,
) -> Float[Tensor, "cell channel"]:
    """Return the sum over the points of each cell of depth times context; the points of cells from `num_cells` on count nowhere."""
    order, starts = _sorted_points(cells, num_cells)
    blocks, shape = _in_blocks(context), _shape_of(depth, context)
    pooled = torch.empty(num_cells, *blocks.shape[1:], device=context.device)
    inputs = [as_array(order, wp.int32), as_array(starts, wp.int32), shape, as_array(depth.flatten(), wp.float32)]
    inputs += [as_array(blocks, ChannelBlock), as_array(pooled, ChannelBlock)]
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
    of_depth, of_context = torch.zeros(depth.numel(), device=depth.device), torch.empty_like(blocks)
    given = as_array(gradient_blocks, ChannelBlock)
    points = [as_array(cells.flatten(), wp.int32), shape]
    inputs = [*points, as_array(depth.flatten(), wp.float32), given, as_array(of_context, ChannelBlock)]
    launch(context_gradient, len(blocks) * blocks.shape[1], inputs, device=depth.device)
    inputs = [*points, as_array(blocks, ChannelBlock), given, as_array(of_depth, wp.float32)]
    launch(depth_gradient, depth.numel(), inputs, device=depth.device)
    return of_depth.view(depth.shape), of_context.flatten(1)[:, : context.shape[-1]].reshape(context.shape)


def _sorted_points(cells: Tensor, num_cells: int) -> tuple[Int32[Tensor, " point"], Int32[Tensor, " cells_and_one"]]:
    """Return the points in the order of their cells, and where each cell begins."""
    in_order, order = cells.flatten().sort(stable=True)
    bounds = torch.arange(num_cells + 1, dtype=torch.int32, device=cells.device)
    return order.int(), torch.searchsorted(in_order, bounds, out_int32=True)


def _in_blocks(values: Float[Tensor, "*row channel"]) -> Float[Tensor, "flat_row block 8"]:
    """Return rows of channels in blocks, the last of which is filled up with zeros."""
    padded = functional.pad(values, (0, -values.shape[-1] % BLOCK))
    return padded.reshape(-1, padded.shape[-1] // BLOCK, BLOCK)


def _shape_of(depth: Tensor, context: Tensor) -> Any:
    shape = FrustumShape()
    _, shape.bins, shape.rows, shape.columns = depth.shape
    shape.rows_per_context = depth.shape[2] // max(context.shape[1], 1)
    return shape
