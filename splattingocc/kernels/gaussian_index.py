# Warp needs float(0.0) and int(0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018, RUF046
# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Describe Gaussians for the ray walk: which cell holds each, how far it reaches, and compact records in cell order."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

MIN_ALPHA = 1.0 / 255.0
"""A Gaussian whose alpha on a ray is below this does not count: one step of an 8-bit image, as in every splatting renderer."""
UNIT_TOLERANCE = 1e-3
"""Largest |norm² − 1| of a quaternion that passes as normalised."""
RADIUS_FACTOR, RADIUS_MARGIN = 1.0001, 1.0e-4
"""What a support radius is enlarged by for rounding, the second in metres: culling must never drop what the exact test would keep."""

BAD_MEANS = wp.constant(1)
BAD_QUATS = wp.constant(2)
BAD_SCALES = wp.constant(4)
BAD_OPACITIES = wp.constant(8)
BAD_REACH = wp.constant(16)
"""Bits of the status that `describe` reports."""

_MIN_ALPHA = wp.constant(MIN_ALPHA)
_RADIUS_FACTOR = wp.constant(RADIUS_FACTOR)
_RADIUS_MARGIN = wp.constant(RADIUS_MARGIN)
_UNIT_TOLERANCE = wp.constant(UNIT_TOLERANCE)


@wp.struct
@no_type_check
class GridSpec:
    """A `VoxelGrid` as kernels see it."""

    lower: wp.vec3
    cell_size: float
    shape: wp.vec3i


@wp.func
@no_type_check
def support_radius(scale: wp.vec3, opacity: float) -> float:
    """Metres from the centre beyond which alpha is below MIN_ALPHA in every direction."""
    return _RADIUS_FACTOR * wp.max(scale) * wp.sqrt(2.0 * wp.max(wp.log(opacity / _MIN_ALPHA), 0.0)) + _RADIUS_MARGIN


@wp.func
@no_type_check
def cell_of(grid: GridSpec, point: wp.vec3) -> int:
    """Index of the cell that holds a finite point, -1 outside of the grid."""
    x = wp.floor((point[0] - grid.lower[0]) / grid.cell_size)
    y = wp.floor((point[1] - grid.lower[1]) / grid.cell_size)
    z = wp.floor((point[2] - grid.lower[2]) / grid.cell_size)
    # Compared as floats: a far point overflows an int.
    if x < 0.0 or y < 0.0 or z < 0.0 or x >= float(grid.shape[0]) or y >= float(grid.shape[1]) or z >= float(grid.shape[2]):
        return -1
    return (int(x) * grid.shape[1] + int(y)) * grid.shape[2] + int(z)


@wp.func
@no_type_check
def rotation_of(quat: wp.vec4) -> wp.mat33:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w = quat[0]
    x = quat[1]
    y = quat[2]
    z = quat[3]
    return wp.mat33(
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@wp.kernel
@no_type_check
def describe(
    first: int,
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    opacities: wp.array(dtype=float),
    grid: GridSpec,
    max_reach: float,
    cells: wp.array(dtype=int),
    status: wp.array(dtype=int),
    reach: wp.array(dtype=float),
):
    """Validate one Gaussian and find its cell, -1 if it is never rendered. `status` collects BAD_ bits, `reach` the largest radius."""
    i = first + wp.tid()
    mean = means[i]
    quat = quats[i]
    scale = scales[i]
    opacity = opacities[i]
    bad = int(0)
    if not (wp.isfinite(mean[0]) and wp.isfinite(mean[1]) and wp.isfinite(mean[2])):
        bad |= BAD_MEANS
    # Negated so that nan fails too.
    if not (wp.abs(wp.dot(quat, quat) - 1.0) <= _UNIT_TOLERANCE):
        bad |= BAD_QUATS
    if not (wp.isfinite(scale[0]) and wp.isfinite(scale[1]) and wp.isfinite(scale[2]) and wp.min(scale) > 0.0):
        bad |= BAD_SCALES
    if not (opacity >= 0.0 and opacity <= 1.0):
        bad |= BAD_OPACITIES
    cell = int(-1)
    if bad == 0 and opacity >= _MIN_ALPHA:
        cell = cell_of(grid, mean)
    if cell >= 0:
        radius = support_radius(scale, opacity)
        if radius > max_reach:
            bad |= BAD_REACH
        if radius > reach[0]:
            wp.atomic_max(reach, 0, radius)
    if bad != 0:
        wp.atomic_or(status, 0, bad)
    cells[i] = cell


@wp.kernel
@no_type_check
def pack(
    first: int,
    ids: wp.array(dtype=int),
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    opacities: wp.array(dtype=float),
    records: wp.array(dtype=wp.vec4),
    whitenings: wp.array(dtype=wp.mat33),
    packed_opacities: wp.array(dtype=float),
):
    """Write what the walk reads, in cell order: (mean, squared support radius), W = diag(1/s)·Rᵀ, opacity."""
    i = first + wp.tid()
    source = ids[i]
    mean = means[source]
    s = scales[source]
    p = opacities[source]
    radius = support_radius(s, p)
    records[i] = wp.vec4(mean[0], mean[1], mean[2], radius * radius)
    whitenings[i] = wp.diag(wp.vec3(1.0 / s[0], 1.0 / s[1], 1.0 / s[2])) * wp.transpose(rotation_of(quats[source]))
    packed_opacities[i] = p


@wp.kernel
@no_type_check
def lateral_cells(
    first: int,
    records: wp.array(dtype=wp.vec4),
    starts: wp.array(dtype=int),
    cell_size: float,
    num_cells: wp.array(dtype=wp.uint8),
):
    """For each cell, how many cells away across its main axis a ray can pass and still meet one of its Gaussians; 0 when it is empty.

    A ray at lateral slope ≤ 1 meets a Gaussian only if, in the Gaussian's own slab, it passes within √2 support radii of the centre;
    half a cell more brings that to the middle of the slab.
    """
    cell = first + wp.tid()
    radius_squared = float(0.0)
    for i in range(starts[cell], starts[cell + 1]):
        radius_squared = wp.max(radius_squared, records[i][3])
    count = int(0)
    if radius_squared > 0.0:
        count = int(wp.ceil(wp.sqrt(2.0 * radius_squared) / cell_size + 0.5))
    num_cells[cell] = wp.uint8(count)
