# Warp needs float(0.0) and int(0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018
# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Collect what the pixels of all views say of each cell, one thread a cell. `models/evidence.py` says in plain torch what is computed."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

_MIN_LEFT = wp.constant(1.0e-3)
_MIN_SURFACE = wp.constant(1.0e-6)


@wp.struct
@no_type_check
class PixelMaps:
    """What the pixels of each view say. Channels come last: those of one pixel are read together."""

    spans: wp.array(dtype=wp.vec2, ndim=4)
    """(view, row, column, bin): how likely the surface lies within a cell at the depth of a bin, and how likely not before it."""
    classes: wp.array(dtype=float, ndim=4)
    """(view, row, column, class): probabilities."""
    ground: wp.array(dtype=float, ndim=3)
    """(view, row, column): probability of any ground class."""
    log_nearest: float
    """Logarithm of the depth in metres at which the first bin begins."""
    bins_per_log: float
    """Number of bins per unit of log depth."""


@wp.struct
@no_type_check
class ViewCameras:
    K: wp.array(dtype=wp.mat33)
    cam_from_ego: wp.array(dtype=wp.mat44)
    width: float
    height: float
    near_plane: float
    """Smallest depth in metres at which a camera sees anything."""


@wp.struct
@no_type_check
class Taps:
    """The two samples on each side of a position along one axis, and the share of the second."""

    low: int
    high: int
    share: float


@wp.func
@no_type_check
def taps_of(position: float, size: int) -> Taps:
    """Interpolate between the centres of samples; `position` counts samples from the border, which extends outwards."""
    clamped = wp.clamp(position - 0.5, 0.0, float(size - 1))
    taps = Taps()
    taps.low = int(wp.floor(clamped))
    taps.high = wp.min(taps.low + 1, size - 1)
    taps.share = clamped - float(taps.low)
    return taps


@wp.func
@no_type_check
def spans_at(maps: PixelMaps, view: int, row: int, column: int, depths: Taps) -> wp.vec2:
    """Interpolate the spans of one pixel along the bins."""
    return (1.0 - depths.share) * maps.spans[view, row, column, depths.low] + depths.share * maps.spans[view, row, column, depths.high]


@wp.kernel
@no_type_check
def collect_evidence(
    first: int,
    centers: wp.array(dtype=wp.vec3),
    half_cell: float,
    maps: PixelMaps,
    cameras: ViewCameras,
    surface: wp.array(dtype=float),
    classes: wp.array2d(dtype=float),
):
    """Write the probability of a surface in one cell, and those of its class; both start at zero."""
    cell = first + wp.tid()
    center = centers[cell]
    # Level ground passes through the cell
    holds_ground = wp.abs(center[2]) <= half_cell
    total = float(0.0)
    num_views = float(0.0)
    for view in range(cameras.K.shape[0]):
        from_camera = wp.transform_point(cameras.cam_from_ego[view], center)
        depth = from_camera[2]
        if depth > cameras.near_plane:
            pixel = cameras.K[view] * (from_camera / depth)
            if pixel[0] >= 0.0 and pixel[0] < cameras.width and pixel[1] >= 0.0 and pixel[1] < cameras.height:
                x = taps_of(pixel[0] / cameras.width * float(maps.spans.shape[2]), maps.spans.shape[2])
                y = taps_of(pixel[1] / cameras.height * float(maps.spans.shape[1]), maps.spans.shape[1])
                depths = taps_of((wp.log(depth) - maps.log_nearest) * maps.bins_per_log, maps.spans.shape[3])
                # Of the pixel's neighbours above left, above right, below left, below right
                shares = wp.vec4(
                    (1.0 - y.share) * (1.0 - x.share),
                    (1.0 - y.share) * x.share,
                    y.share * (1.0 - x.share),
                    y.share * x.share,
                )
                upper = shares[0] * spans_at(maps, view, y.low, x.low, depths) + shares[1] * spans_at(maps, view, y.low, x.high, depths)
                lower = shares[2] * spans_at(maps, view, y.high, x.low, depths) + shares[3] * spans_at(maps, view, y.high, x.high, depths)
                span = upper + lower
                left = span[1]
                seen = span[0] / wp.max(left, _MIN_LEFT)
                if holds_ground:
                    above = shares[0] * maps.ground[view, y.low, x.low] + shares[1] * maps.ground[view, y.low, x.high]
                    below = shares[2] * maps.ground[view, y.high, x.low] + shares[3] * maps.ground[view, y.high, x.high]
                    seen = wp.max(seen, above + below)
                total += seen
                num_views += 1.0
                weight = seen * left
                for k in range(maps.classes.shape[3]):
                    above = shares[0] * maps.classes[view, y.low, x.low, k] + shares[1] * maps.classes[view, y.low, x.high, k]
                    below = shares[2] * maps.classes[view, y.high, x.low, k] + shares[3] * maps.classes[view, y.high, x.high, k]
                    classes[cell, k] += weight * (above + below)
    surface[cell] = wp.min(total / wp.max(num_views, 1.0), 1.0)
    if num_views > 0.0:
        for k in range(maps.classes.shape[3]):
            classes[cell, k] /= wp.max(total, _MIN_SURFACE)
