# Warp needs float(0.0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018
# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Evaluate Gaussians at the cells of a grid, one thread a cell. `splatting/reference.py` says what is computed."""

# Annotations are evaluated here: they name the vector type of the channel count, which is a local variable.
import math
from functools import cache
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, UInt8
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA, GridSpec
from splattingocc.kernels.gaussian_scene import SceneIndex, as_array, as_output, dilate, grid_spec
from splattingocc.kernels.launch import launch

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

_MIN_ALPHA = wp.constant(MIN_ALPHA)


@wp.struct
@no_type_check
class CellScene:
    """Gaussians in cell order, with covariances widened by the extent of a cell."""

    grid: GridSpec
    reach: int
    """Cells on either side that can hold a Gaussian that counts."""
    added_radius_squared: float
    """At most what widening adds to a squared support radius."""
    records: wp.array(dtype=wp.vec4)
    """Mean and squared support radius before widening."""
    opacities: wp.array(dtype=float)
    precisions: wp.array(dtype=wp.mat33)
    """Inverses of the widened covariances."""
    ids: wp.array(dtype=int)
    starts: wp.array(dtype=int)


@wp.kernel
@no_type_check
def widen(
    first: int,
    whitenings: wp.array(dtype=wp.mat33),
    variance: float,
    precisions: wp.array(dtype=wp.mat33),
):
    """Write (Σ + variance·I)⁻¹ with Σ⁻¹ = WᵀW: the rows of W, normalised, are the axes."""
    i = first + wp.tid()
    precision = wp.mat33()
    for k in range(3):
        row = whitenings[i][k]
        inverse_variance = wp.dot(row, row)
        # The axis has unit length, so its share of the inverse is 1 / (s² + variance).
        precision += wp.outer(row, row) / (1.0 + variance * inverse_variance)
    precisions[i] = precision


@cache
@no_type_check
def read_out_kernel(channels: int) -> wp.Kernel:
    """Return the kernel for a number of channels; each number is a Warp module of its own, compiled at first use."""
    module: Any = wp.get_module(f"{__name__}_{channels}_channels")
    wp.set_module_options({"enable_backward": False}, module)
    vector = wp.types.vector(length=channels, dtype=wp.float32)

    @wp.kernel(module=module)
    def read_cell(
        first: int,
        scene: CellScene,
        near_gaussians: wp.array(dtype=wp.uint8),
        features: wp.array(dtype=vector),
        probabilities: wp.array(dtype=float),
        classes: wp.array(dtype=wp.uint8),
    ):
        cell = first + wp.tid()
        if near_gaussians[cell] == wp.uint8(0):
            return
        size = scene.grid.shape
        z = cell % size[2]
        y = (cell // size[2]) % size[1]
        x = cell // (size[2] * size[1])
        center = scene.grid.lower + scene.grid.cell_size * wp.vec3(float(x) + 0.5, float(y) + 0.5, float(z) + 0.5)
        z_low = wp.max(z - scene.reach, 0)
        z_high = wp.min(z + scene.reach, size[2] - 1)
        free = float(1.0)
        scores = vector()
        for i in range(wp.max(x - scene.reach, 0), wp.min(x + scene.reach, size[0] - 1) + 1):
            for j in range(wp.max(y - scene.reach, 0), wp.min(y + scene.reach, size[1] - 1) + 1):
                column = (i * size[1] + j) * size[2]
                for index in range(scene.starts[column + z_low], scene.starts[column + z_high + 1]):
                    record = scene.records[index]
                    offset = center - wp.vec3(record[0], record[1], record[2])
                    # Most neighbours are too far away in any direction: the exponential is not needed to know.
                    if wp.dot(offset, offset) <= record[3] + scene.added_radius_squared:
                        alpha = scene.opacities[index] * wp.exp(-0.5 * wp.dot(offset, scene.precisions[index] * offset))
                        if alpha >= _MIN_ALPHA:
                            free *= 1.0 - alpha
                            scores += alpha * features[scene.ids[index]]
        probabilities[cell] = 1.0 - free
        best = int(0)  # noqa: RUF046
        for channel in range(1, channels):
            if scores[channel] > scores[best]:
                best = channel
        classes[cell] = wp.uint8(best)

    return read_cell


def read_cells(
    index: SceneIndex,
    features: Float[Tensor, "gaussian channel"],
    grid: VoxelGrid,
    variance: float,
) -> tuple[Float[Tensor, "x y z"], UInt8[Tensor, "x y z"]]:
    """Return the occupancy probability and the strongest channel at each cell centre, with `variance` (m²) added to every covariance."""
    device = features.device
    probabilities = torch.zeros(grid.shape, device=device)
    classes = torch.zeros(grid.shape, dtype=torch.uint8, device=device)
    active = len(index.ids)
    if not active:
        return probabilities, classes
    precisions = torch.empty(active, 3, 3, device=device)
    launch(widen, active, [as_array(index.whitenings, wp.mat33), variance, as_output(precisions, wp.mat33)], device=device)
    # |support radius|² = s²·k² with k² = 2·ln(p / MIN_ALPHA) becomes (s² + variance)·k².
    scene = CellScene()
    scene.added_radius_squared = 2.0 * math.log(float(index.opacities.max()) / MIN_ALPHA) * variance
    reach = math.sqrt(index.reach**2 + scene.added_radius_squared)
    scene.grid = grid_spec(grid)
    # A cell centre is at least half a cell from its neighbours.
    scene.reach = int(reach / grid.cell_size + 0.5)
    scene.records = as_array(index.records, wp.vec4)
    scene.opacities = as_array(index.opacities, wp.float32)
    scene.precisions = as_array(precisions, wp.mat33)
    scene.ids = as_array(index.ids, wp.int32)
    scene.starts = as_array(index.starts, wp.int32)
    near_gaussians = (index.starts[1:] > index.starts[:-1]).reshape(grid.shape)
    for _ in range(scene.reach):
        near_gaussians = dilate(near_gaussians, (0, 1, 2))
    vector = wp.types.vector(length=features.shape[1], dtype=wp.float32)
    inputs = [scene, as_array(near_gaussians.to(torch.uint8).flatten(), wp.uint8), as_array(features, vector)]
    inputs += [as_output(probabilities.view(-1), wp.float32), as_output(classes.view(-1), wp.uint8)]
    launch(read_out_kernel(features.shape[1]), grid.num_cells, inputs, device=device)
    return probabilities, classes
