# Warp needs float(0.0) and int(0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018, RUF046
# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Walk one ray through the grid slab by slab and meet its Gaussians in order of t_c, the distance of their centres along the ray.

A slab is one layer of cells across the ray's main axis, so each Gaussian is met in exactly one. In it only the cells within the largest
support radius of the ray's path are looked at. t_c is not monotonic over slabs: met Gaussians wait in a small sorted buffer until no
later slab can hold an earlier one. For a Gaussian whose support the ray enters, with support radius ρ and angle θ between the ray and
its main axis, t_c lies within ρ·tan θ of the stretch of the ray inside the Gaussian's own slab, and its lateral offset from the ray at
its own height of the slab is at most ρ·√(1 + slope²) along each of the two lateral axes.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from splattingocc.kernels.gaussian_index import GridSpec

PENDING = 96
"""Gaussians that can wait. More at once cost rescans of the last slabs, nothing else."""
SLACK = 1e-3
"""Metres added to every bound, far above the rounding of coordinates within a grid."""

_PENDING = wp.constant(PENDING)
_SLACK = wp.constant(SLACK)
_FAR_AWAY = wp.constant(1.0e30)


@wp.struct
@no_type_check
class Scene:
    """The Gaussians in cell order, as `gaussian_index` packs them."""

    grid: GridSpec
    reach: float
    """Largest support radius, metres."""
    records: wp.array(dtype=wp.vec4)
    whitenings: wp.array(dtype=wp.mat33)
    opacities: wp.array(dtype=float)
    ids: wp.array(dtype=int)
    """Where each stands in the caller's order."""
    starts: wp.array(dtype=int)
    """First Gaussian of each cell, and the end of the last."""
    skips: wp.array(dtype=wp.uint8)
    """Slabs that a ray can pass over from the middle of each cell without meeting a Gaussian."""
    near: float
    far: float


@wp.struct
@no_type_check
class Path:
    """One ray, and what the slabs it crosses have in common. Axes: 0, 1, 2 for x, y, z."""

    origin: wp.vec3
    direction: wp.vec3
    main: int
    side: int
    other: int
    step: int
    """+1 or -1: the direction of travel along the main axis."""
    first: int
    """First slab."""
    count: int
    """Number of slabs."""
    back: int
    """How many slabs before the current one can still have Gaussians waiting."""
    hold: float
    """Largest difference, in metres along the ray, between t_c and the stretch inside the Gaussian's slab."""
    side_reach: float
    other_reach: float


@wp.struct
@no_type_check
class Response:
    """How a Gaussian responds to a ray."""

    alpha: float
    """Unclamped."""
    distance: float
    """t*, where it responds most."""
    offset: wp.vec3
    """From the centre to the point at t*."""
    whitened_offset: wp.vec3
    """r = W · offset."""
    whitened_direction: wp.vec3
    """b = W · direction."""


@wp.func
@no_type_check
def respond(scene: Scene, path: Path, index: int, center_distance: float) -> Response:
    """Evaluate a Gaussian on a ray from the foot of its centre, which is well conditioned however far the origin is."""
    record = scene.records[index]
    whitening = scene.whitenings[index]
    foot = path.origin + center_distance * path.direction - wp.vec3(record[0], record[1], record[2])
    response = Response()
    response.whitened_direction = whitening * path.direction
    whitened_foot = whitening * foot
    shift = -wp.dot(whitened_foot, response.whitened_direction) / wp.dot(response.whitened_direction, response.whitened_direction)
    response.distance = center_distance + shift
    response.offset = foot + shift * path.direction
    response.whitened_offset = whitened_foot + shift * response.whitened_direction
    response.alpha = scene.opacities[index] * wp.exp(-0.5 * wp.dot(response.whitened_offset, response.whitened_offset))
    return response


@wp.func
@no_type_check
def center_distance(scene: Scene, path: Path, index: int) -> float:
    """Return t_c of a Gaussian, as `gather_cells` computes it."""
    record = scene.records[index]
    return wp.dot(wp.vec3(record[0], record[1], record[2]) - path.origin, path.direction)


@wp.func
@no_type_check
def crossing(origin: float, direction: float, low: float, high: float) -> wp.vec2:
    """Stretch of the ray, in metres, between two planes of one axis."""
    if wp.abs(direction) < 1.0e-9:
        if origin < low or origin > high:
            return wp.vec2(_FAR_AWAY, -_FAR_AWAY)
        return wp.vec2(-_FAR_AWAY, _FAR_AWAY)
    a = (low - origin) / direction
    b = (high - origin) / direction
    return wp.vec2(wp.min(a, b), wp.max(a, b))


@wp.func
@no_type_check
def slab_of(scene: Scene, axis: int, coordinate: float) -> int:
    """Layer of cells that a coordinate falls into, clamped to the grid."""
    position = wp.floor((coordinate - scene.grid.lower[axis]) / scene.grid.cell_size)
    return int(wp.clamp(position, 0.0, float(scene.grid.shape[axis] - 1)))


@wp.func
@no_type_check
def plan(scene: Scene, origin: wp.vec3, direction: wp.vec3) -> Path:
    """Choose the main axis and the slabs that can hold a Gaussian of this ray with t_c in [near, far]."""
    path = Path()
    path.origin = origin
    path.direction = direction
    size = wp.vec3(wp.abs(direction[0]), wp.abs(direction[1]), wp.abs(direction[2]))
    main = int(0)
    if size[1] > size[0]:
        main = 1
    if size[2] > size[main]:
        main = 2
    path.main = main
    path.side = 0
    if main == 0:
        path.side = 1
    path.other = 3 - main - path.side
    side_slope = direction[path.side] / direction[main]
    other_slope = direction[path.other] / direction[main]
    path.hold = scene.reach * wp.sqrt(side_slope * side_slope + other_slope * other_slope) + _SLACK
    path.side_reach = scene.reach * wp.sqrt(1.0 + side_slope * side_slope) + _SLACK
    path.other_reach = scene.reach * wp.sqrt(1.0 + other_slope * other_slope) + _SLACK

    start = scene.near - path.hold
    end = scene.far + path.hold
    for axis in range(3):
        margin = float(_SLACK)
        if axis == path.side:
            margin = path.side_reach
        if axis == path.other:
            margin = path.other_reach
        low = scene.grid.lower[axis] - margin
        high = scene.grid.lower[axis] + float(scene.grid.shape[axis]) * scene.grid.cell_size + margin
        stretch = crossing(origin[axis], direction[axis], low, high)
        start = wp.max(start, stretch[0])
        end = wp.min(end, stretch[1])
    path.step = 1
    if direction[main] < 0.0:
        path.step = -1
    path.first = slab_of(scene, main, origin[main] + (start - _SLACK) * direction[main])
    last = slab_of(scene, main, origin[main] + (end + _SLACK) * direction[main])
    path.count = 0
    if start <= end:
        path.count = (last - path.first) * path.step + 1
    path.back = int(2.0 * path.hold * size[main] / scene.grid.cell_size) + 2
    return path


@wp.func
@no_type_check
def slab_stretch(scene: Scene, path: Path, slab: int) -> wp.vec2:
    """Stretch of the ray, in metres, inside a slab (counted from the ray's first)."""
    low = scene.grid.lower[path.main] + float(path.first + slab * path.step) * scene.grid.cell_size - path.origin[path.main]
    a = low / path.direction[path.main]
    b = (low + scene.grid.cell_size) / path.direction[path.main]
    return wp.vec2(wp.min(a, b), wp.max(a, b))


@wp.func
@no_type_check
def empty_slabs(scene: Scene, path: Path, slab: int, stretch: wp.vec2) -> int:
    """Number of slabs, from this one on, that hold nothing for the ray."""
    middle = 0.5 * (stretch[0] + stretch[1])
    side = slab_of(scene, path.side, path.origin[path.side] + middle * path.direction[path.side])
    other = slab_of(scene, path.other, path.origin[path.other] + middle * path.direction[path.other])
    main = path.first + slab * path.step
    # side < other always, so with main x: (main, side, other); y: (side, main, other); z: (side, other, main)
    x = side
    y = main
    z = other
    if path.main == 0:
        x = main
        y = side
    if path.main == 2:
        y = other
        z = main
    return int(scene.skips[(x * scene.grid.shape[1] + y) * scene.grid.shape[2] + z])


@wp.func
@no_type_check
def insert(keys: wp.array(dtype=float), indices: wp.array(dtype=int), count: int, key: float, index: int) -> int:
    """Insert into the sorted buffer, ties by index, and return the new count. When it is full, the last one gives way."""
    hole = wp.min(count, _PENDING - 1)
    if count == _PENDING and (keys[hole] < key or (keys[hole] == key and indices[hole] < index)):
        return count
    while hole > 0 and (keys[hole - 1] > key or (keys[hole - 1] == key and indices[hole - 1] > index)):
        keys[hole] = keys[hole - 1]
        indices[hole] = indices[hole - 1]
        hole -= 1
    keys[hole] = key
    indices[hole] = index
    return wp.min(count + 1, _PENDING)


@wp.func
@no_type_check
def gather_cells(
    scene: Scene,
    path: Path,
    begin: int,
    end: int,
    last_key: float,
    last_index: int,
    keys: wp.array(dtype=float),
    indices: wp.array(dtype=int),
    count: int,
) -> int:
    """Add the Gaussians of a run of cells that the ray may meet after the last; return the count, PENDING + 1 if some were lost."""
    number = wp.min(count, _PENDING)
    lost = bool(count > _PENDING)
    for index in range(begin, end):
        record = scene.records[index]
        to_center = wp.vec3(record[0], record[1], record[2]) - path.origin
        key = wp.dot(to_center, path.direction)
        across = to_center - key * path.direction
        if wp.dot(across, across) <= record[3] and key >= scene.near and key <= scene.far:  # noqa: SIM102 (Warp evaluates both sides of `and`)
            if key > last_key or (key == last_key and index > last_index):
                lost = lost or number == _PENDING
                number = insert(keys, indices, number, key, index)
    if lost:
        return _PENDING + 1
    return number


@wp.func
@no_type_check
def gather_slab(
    scene: Scene,
    path: Path,
    slab: int,
    last_key: float,
    last_index: int,
    keys: wp.array(dtype=float),
    indices: wp.array(dtype=int),
    count: int,
) -> int:
    """Add the Gaussians of one slab, as `gather_cells`."""
    stretch = slab_stretch(scene, path, slab)
    side_a = path.origin[path.side] + stretch[0] * path.direction[path.side]
    side_b = path.origin[path.side] + stretch[1] * path.direction[path.side]
    other_a = path.origin[path.other] + stretch[0] * path.direction[path.other]
    other_b = path.origin[path.other] + stretch[1] * path.direction[path.other]
    layer = path.first + slab * path.step
    low = wp.vec3i(layer, layer, layer)
    high = wp.vec3i(layer, layer, layer)
    low[path.side] = slab_of(scene, path.side, wp.min(side_a, side_b) - path.side_reach)
    high[path.side] = slab_of(scene, path.side, wp.max(side_a, side_b) + path.side_reach)
    low[path.other] = slab_of(scene, path.other, wp.min(other_a, other_b) - path.other_reach)
    high[path.other] = slab_of(scene, path.other, wp.max(other_a, other_b) + path.other_reach)
    # Cells along z are neighbours in memory: each column is one run of records.
    for x in range(low[0], high[0] + 1):
        for y in range(low[1], high[1] + 1):
            column = (x * scene.grid.shape[1] + y) * scene.grid.shape[2]
            begin = scene.starts[column + low[2]]
            end = scene.starts[column + high[2] + 1]
            count = gather_cells(scene, path, begin, end, last_key, last_index, keys, indices, count)
    return count


@wp.struct
@no_type_check
class Cursor:
    """Where a walk stands."""

    key: float
    """t_c of the Gaussian met last."""
    index: int
    """The Gaussian met last, in cell order; -1 before the first and after the last."""
    ended: bool
    slab: int
    """The slab whose Gaussians were gathered last."""
    limit: float
    """No later slab holds a smaller t_c."""
    waiting: int
    """Gaussians in the buffer, PENDING + 1 if some were lost."""
    done: int
    """How many of them were met already."""
    rescan: int
    """First slab to gather again after some were lost, else -1."""
    settled: int
    """Last slab after which nothing was lost."""


@wp.func
@no_type_check
def begin_walk() -> Cursor:
    """Stand before the first slab."""
    cursor = Cursor()
    cursor.key = -_FAR_AWAY
    cursor.index = -1
    cursor.slab = -1
    cursor.limit = -_FAR_AWAY
    cursor.rescan = -1
    return cursor


@wp.func
@no_type_check
def leave_slab(path: Path, cursor: Cursor, keys: wp.array(dtype=float), indices: wp.array(dtype=int)) -> Cursor:
    """Make room in the buffer, and choose the slabs to gather next."""
    if cursor.waiting > _PENDING:
        # Look again at every slab that can still hold any of the lost ones; at one slab more, if nothing could be done with those kept.
        cursor.rescan = wp.max(cursor.settled - path.back, 0)
        cursor.waiting = 0
        if cursor.done == 0:
            cursor.slab += 1
    else:
        for i in range(cursor.done, cursor.waiting):
            keys[i - cursor.done] = keys[i]
            indices[i - cursor.done] = indices[i]
        cursor.waiting -= cursor.done
        cursor.rescan = -1
        cursor.settled = wp.max(cursor.slab, 0)
        cursor.slab += 1
    cursor.done = 0
    return cursor


@wp.func
@no_type_check
def enter_slab(scene: Scene, path: Path, cursor: Cursor, keys: wp.array(dtype=float), indices: wp.array(dtype=int)) -> Cursor:
    """Skip empty slabs and gather the next; behind the last, everything that waits can be met."""
    cursor.limit = _FAR_AWAY
    skip = int(1)
    while skip > 0 and cursor.slab < path.count:
        stretch = slab_stretch(scene, path, cursor.slab)
        cursor.limit = stretch[1] - path.hold
        skip = 0
        if cursor.rescan < 0:
            skip = empty_slabs(scene, path, cursor.slab, stretch)
            cursor.slab += skip
    if cursor.slab >= path.count:
        cursor.slab = path.count
        cursor.limit = _FAR_AWAY
    begin = cursor.slab
    if cursor.rescan >= 0:
        begin = cursor.rescan
    for slab in range(begin, wp.min(cursor.slab + 1, path.count)):
        cursor.waiting = gather_slab(scene, path, slab, cursor.key, cursor.index, keys, indices, cursor.waiting)
    return cursor


@wp.func
@no_type_check
def meet_next(scene: Scene, path: Path, cursor: Cursor, keys: wp.array(dtype=float), indices: wp.array(dtype=int)) -> Cursor:
    """Advance to the next Gaussian in order of (t_c, index): `cursor.index`, until `cursor.ended`."""
    found = bool(False)
    while not found and not cursor.ended:
        if cursor.done < wp.min(cursor.waiting, _PENDING) and keys[cursor.done] < cursor.limit:
            cursor.key = keys[cursor.done]
            cursor.index = indices[cursor.done]
            cursor.done += 1
            found = True
        elif cursor.slab >= path.count and cursor.waiting <= _PENDING:
            cursor.ended = True
        else:
            cursor = leave_slab(path, cursor, keys, indices)
            cursor = enter_slab(scene, path, cursor, keys, indices)
    return cursor
