"""Reading and summing rows of a tensor so that a run repeats to the last digit."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor


def gather_rows(values: Float[Tensor, "row channel"], index: Int64[Tensor, " point"]) -> Float[Tensor, "point channel"]:
    """Return `values[index]`, with a gradient that repeats: indexing's own adds up the points of one row in any order of the threads."""
    return values.gather(0, index[:, None].expand(-1, values.shape[1]))


def sum_rows(values: Float[Tensor, "point *channel"], index: Int64[Tensor, " point"], num_rows: int) -> Float[Tensor, "row *channel"]:
    """Return the sums of the points of each row, also in what ONNX runtimes make of it.

    `index_add` would be exported as ScatterND, whose additions onnxruntime's threads lose where they meet in one row.
    """
    places = index.view(-1, *(1,) * (values.ndim - 1)).expand_as(values)
    return values.new_zeros(num_rows, *values.shape[1:]).scatter_add(0, places, values)
