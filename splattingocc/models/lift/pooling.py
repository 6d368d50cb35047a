"""Pool what pixels say into cells, differentiably. `pool_reference` says what is computed, `kernels/frustum_pooling.py` how."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from einops import repeat
from jaxtyping import Float, Int32
from torch import Tensor

from splattingocc.kernels.frustum_pooling import pool, pool_backward


def pool_frustum(
    depth: Float[Tensor, "view bin row width"],
    context: Float[Tensor, "view height width channel"],
    cells: Int32[Tensor, "view bin row width"],
    num_cells: int,
) -> Float[Tensor, "cell channel"]:
    """Return what `pool_reference` says, within float32 rounding, without the product of depth and context in memory.

    Gradients flow to depth and context, once. Forward and backward repeat to the last digit. Works in float32. Raises `ValueError` naming
    the argument that is wrong.
    """
    _check(depth, context, cells)
    return _pool_op(depth, context, cells, num_cells)


def pool_reference(
    depth: Float[Tensor, "view bin row width"],
    context: Float[Tensor, "view height width channel"],
    cells: Int32[Tensor, "view bin row width"],
    num_cells: int,
) -> Float[Tensor, "cell channel"]:
    """Put the context of each pixel, times its depth of each bin, into the cell of that point, and sum.

    A row of the context belongs to as many rows of the depth as there are for each. What lies in cells from `num_cells` on is dropped.
    """
    fine = repeat(context, "view height width channel -> view 1 (height row) width channel", row=depth.shape[2] // context.shape[1])
    product = (depth[..., None] * fine).flatten(0, 3)
    with_dropped = product.new_zeros(num_cells + 1, context.shape[-1])
    return with_dropped.index_add(0, cells.flatten().clamp(max=num_cells), product)[:num_cells]


def _check(depth: Tensor, context: Tensor, cells: Tensor) -> None:
    """Raise `ValueError` for what the kernels do not check themselves."""
    for name, tensor in (("depth", depth), ("context", context)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name}: dtype is {tensor.dtype}, pooling works in torch.float32")
    for name, tensor in (("context", context), ("cells", cells)):
        if tensor.device != depth.device:
            raise ValueError(f"{name}: is on {tensor.device}, depth on {depth.device}; move them together")
    if cells.shape != depth.shape:
        raise ValueError(f"cells: shape is {tuple(cells.shape)}, expected that of depth, {tuple(depth.shape)}")
    views, _, rows, width = depth.shape
    if (context.shape[0], context.shape[2]) != (views, width) or context.shape[1] == 0 or rows % context.shape[1]:
        expected = f"({views}, a divisor of {rows}, {width}, channels)"
        raise ValueError(f"context: shape is {tuple(context.shape)}, expected {expected} for depth of {tuple(depth.shape)}")


@torch.library.custom_op("splattingocc::pool_frustum", mutates_args=())
@no_type_check  # torch reads the annotations, which a checking wrapper would hide
def _pool_op(depth: Tensor, context: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    return pool(depth, context, cells, num_cells).contiguous()


@_pool_op.register_fake
def _(depth, context, cells, num_cells):
    return context.new_empty(num_cells, context.shape[-1])


@torch.library.custom_op("splattingocc::pool_frustum_backward", mutates_args=())
@no_type_check
def _backward_op(depth: Tensor, context: Tensor, cells: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    of_depth, of_context = pool_backward(depth, context, cells, gradient)
    return of_depth, of_context.contiguous()


@_backward_op.register_fake
def _(depth, context, cells, gradient):
    return depth.new_empty(depth.shape), context.new_empty(context.shape)


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    depth, context, cells, _ = inputs
    ctx.save_for_backward(depth, context, cells)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return *_backward_op(*ctx.saved_tensors, gradient), None, None


_pool_op.register_autograd(_backward, setup_context=_save_for_backward)
