"""What stands at the curb, on the median and on the lots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splattingocc.synthetic import furniture, people, vehicles
from splattingocc.synthetic.layout import HALF_WIDTH, Lot, LotKind
from splattingocc.synthetic.mesh import Color
from splattingocc.synthetic.things import SceneBuilder

MANMADE, VEGETATION, STATIC_OTHER = "static.manmade", "static.vegetation", "static.other"


def add_scenery(builder: SceneBuilder) -> None:
    """Furnish both sides of the street, its median and its lots."""
    leaves = furniture.leaf_color(builder.rng)
    for left in (False, True):
        _furnish_sidewalk(builder, left, leaves)
    if builder.layout.median:
        _furnish_median(builder, leaves)
    for road in builder.layout.side_roads:
        for left in (False, True):
            edge = builder.layout.curb(left) + (0.5 if left else -0.5)
            for end in (-1, 1):
                post = furniture.traffic_light if road.has_crosswalk else furniture.sign
                s = road.s + end * (road.half_width + 4.8)
                builder.fix(MANMADE, post(builder.rng), s, edge, 0.0 if end > 0 else np.pi)
    for lot in builder.layout.lots:
        _FILL[lot.kind](builder, lot, leaves)
        if builder.rng.random() < 0.75 and lot.kind != LotKind.BUILDING:
            _add_back_row(builder, lot, leaves)


def _furnish_sidewalk(builder: SceneBuilder, left: bool, leaves: Color) -> None:
    rng, layout = builder.rng, builder.layout
    sign = 1.0 if left else -1.0
    l = layout.curb(left) + sign * 0.6
    inward = -np.pi / 2 * sign
    lamp_spacing, tree_spacing = rng.uniform(18, 32), rng.choice([7.0, 11.0, 16.0, 1000.0], p=[0.25, 0.3, 0.2, 0.25])
    _every(builder, lamp_spacing, l, lambda s: builder.fix(MANMADE, furniture.lamp_post(rng), s, l, inward))
    _every(builder, tree_spacing, l, lambda s: builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l))
    _every(builder, 26.0, l, lambda s: builder.fix(MANMADE, furniture.sign(rng), s, l, rng.choice([0.0, np.pi])))
    _every(builder, 24.0, l, lambda s: builder.fix(STATIC_OTHER, furniture.bench(rng), s, l, inward))
    _every(builder, 28.0, l, lambda s: builder.fix(STATIC_OTHER, furniture.post_box(rng), s, l))
    _every(builder, 34.0, l, lambda s: builder.place("movable_object.debris", furniture.debris(rng), s, l))
    _every(
        builder, 38.0, l, lambda s: builder.place("movable_object.pushable_pullable", furniture.container(rng), s, l, rng.normal(0, 0.3))
    )
    _every(builder, 42.0, l, lambda s: builder.place("static_object.bicycle_rack", furniture.bicycle_rack(rng), s, l + sign * 0.4, 0.3))
    _every(builder, 22.0, l, lambda s: builder.place("vehicle.bicycle", vehicles.bicycle(rng), s, l, rng.normal(0, 0.5)))
    _every(
        builder, 20.0, l, lambda s: builder.place("movable_object.trafficcone", furniture.cone(rng), s, l - sign * rng.uniform(0.0, 1.0))
    )
    if layout.side(left).sidewalk > 2.6:
        shelter = layout.curb(left) + sign * (layout.side(left).verge + 1.2)
        _every(builder, 90.0, l, lambda s: builder.fix(MANMADE, furniture.bus_shelter(rng), s, shelter, inward))


def _every(builder: SceneBuilder, spacing: float, l: float, put: Callable[[float], None]) -> None:
    """Call `put(s)` about every `spacing` metres along the street, away from side roads."""
    s = builder.rng.uniform(0.0, min(spacing, 60.0))
    while s < builder.layout.length - 3.0:
        if s > 3.0 and not builder.is_on_side_road(s, l, 4.0):
            put(float(s))
        s += spacing * builder.rng.uniform(0.7, 1.3)


def _furnish_median(builder: SceneBuilder, leaves: Color) -> None:
    rng, layout = builder.rng, builder.layout
    l = layout.median_center
    what = rng.choice(["trees", "hedge", "barriers", "lamps"])
    s = rng.uniform(2.0, 8.0)
    while s < layout.length - 4.0:
        free = all(abs(s - road.s) > road.half_width + 4.0 for road in layout.side_roads)
        if free and what == "trees":
            builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l)
        elif free and what == "hedge":
            builder.fix(VEGETATION, furniture.hedge(rng, 3.0, 0.9, leaves), s, l)
        elif free and what == "barriers":
            builder.place("movable_object.barrier", furniture.barrier(rng), s, l)
        elif free:
            builder.fix(MANMADE, furniture.lamp_post(rng), s, l, np.pi / 2)
        s += {"trees": 9.0, "hedge": 3.0, "barriers": 2.4, "lamps": 22.0}[what] * (1.0 if what == "hedge" else rng.uniform(0.95, 1.3))


def _line(builder: SceneBuilder, lot: Lot) -> tuple[float, float, float, float, float]:
    """Return a lot's middle, its width, its front line, the sign of outwards, and the yaw that turns −y to the street."""
    sign = 1.0 if lot.left else -1.0
    start, end = lot.s_range
    return (start + end) / 2, end - start, builder.layout.lot_line(lot.left), sign, 0.0 if lot.left else np.pi


def _fill_building(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    height = float(rng.choice([rng.uniform(4, 8), rng.uniform(8, 16), rng.uniform(16, 32)]))
    shape = furniture.building(rng, width - rng.choice([0.2, 2.0, 4.0]), rng.uniform(12, 22), height)
    builder.fix(MANMADE, shape, middle, line + sign * rng.choice([0.3, 1.5, 4.0]), yaw)


def _fill_house(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    setback = rng.uniform(3.5, 8.0)
    builder.fix(MANMADE, furniture.house(rng, min(width - 3.0, rng.uniform(8, 14)), rng.uniform(7, 10)), middle, line + sign * setback, yaw)
    _add_front(builder, lot, leaves)
    for _ in range(int(rng.integers(1, 5))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(0.9, setback - 1.0)
        builder.fix(VEGETATION, furniture.bush(rng, leaves), s, l)
    if rng.random() < 0.5:
        builder.fix(VEGETATION, furniture.tree(rng, leaves), lot.s_range[0] + 1.5, line + sign * 2.5)


def _add_front(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Close a lot towards the sidewalk with a hedge, a wall or a fence that has a gap for the gate."""
    rng = builder.rng
    _, _, line, sign, _ = _line(builder, lot)
    what = rng.choice(["hedge", "wall", "fence", "none"], p=[0.32, 0.26, 0.27, 0.15])
    height = rng.uniform(0.8, 2.1)
    brick = bool(rng.random() < 0.5)
    color = furniture.facade_color(rng)
    gate = rng.uniform(*lot.s_range)
    for s in np.arange(lot.s_range[0] + 1.25, lot.s_range[1] - 1.0, 2.5):
        if abs(s - gate) < 2.0 or what == "none":
            continue
        if what == "hedge":
            builder.fix(VEGETATION, furniture.hedge(rng, 2.5, height, leaves), s, line + sign * 0.5)
        else:
            shape = furniture.wall(2.5, height, color, brick) if what == "wall" else furniture.fence(2.5, min(height, 1.5), color)
            builder.fix(MANMADE, shape, s, line + sign * 0.3)


def _fill_park(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, _ = _line(builder, lot)
    _add_front(builder, lot, leaves)
    for _ in range(int(width * rng.uniform(0.15, 0.4))):
        builder.fix(VEGETATION, furniture.tree(rng, leaves), rng.uniform(*lot.s_range), line + sign * rng.uniform(2.0, 28.0))
    for _ in range(int(width * 0.3)):
        builder.fix(VEGETATION, furniture.bush(rng, leaves), rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 20.0))
    builder.fix(STATIC_OTHER, furniture.bench(rng), middle, line + sign * 3.0, -np.pi / 2 * sign)
    builder.place("animal", people.dog(rng), rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 6.0), rng.uniform(-3, 3))


def _fill_parking(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    _, _, line, sign, _ = _line(builder, lot)
    for row in (3.5, 13.5, 20.0):
        for s in np.arange(lot.s_range[0] + 2.0, lot.s_range[1] - 1.5, 2.8):
            if rng.random() < 0.6:
                shape, category = (
                    (vehicles.car(rng), "vehicle.car") if rng.random() < 0.92 else (vehicles.motorcycle(rng), "vehicle.motorcycle")
                )
                builder.place(category, shape, float(s), line + sign * row, rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.04))
    if rng.random() < 0.6 and lot.s_range[1] - lot.s_range[0] > 14.0:
        builder.place("vehicle.trailer", vehicles.trailer(rng), sum(lot.s_range) / 2, line + sign * 8.5, rng.normal(0, 0.05))


def _fill_plaza(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    builder.fix(MANMADE, furniture.building(rng, width - 1.0, 12.0, rng.uniform(8, 24)), middle, line + sign * 15.0, yaw)
    for _ in range(int(rng.integers(1, 4))):
        s, l = rng.uniform(lot.s_range[0] + 1, lot.s_range[1] - 1), line + sign * rng.uniform(2.0, 12.0)
        builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l)
    for _ in range(int(rng.integers(1, 7))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(0.8, 11.0)
        builder.place("human.pedestrian.adult", people.person(rng), s, l, rng.uniform(-3, 3))
    builder.fix(STATIC_OTHER, furniture.bench(rng), middle, line + sign * 2.0, -np.pi / 2 * sign)
    builder.place("static_object.bicycle_rack", furniture.bicycle_rack(rng), lot.s_range[0] + 2.0, line + sign * 3.0)


def _fill_works(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, _, line, sign, _ = _line(builder, lot)
    fenced = rng.random() < 0.5
    for s in np.arange(lot.s_range[0] + 1.3, lot.s_range[1] - 1.0, 2.3):
        if fenced and rng.random() < 0.9:
            builder.place("movable_object.barrier", furniture.barrier(rng), float(s), line + sign * 0.3, rng.normal(0, 0.05))
        elif rng.random() < 0.6:
            builder.place("movable_object.trafficcone", furniture.cone(rng), float(s), line + sign * rng.uniform(-0.3, 0.6))
    builder.place("vehicle.construction", vehicles.construction_vehicle(rng), middle, line + sign * rng.uniform(5, 9), rng.uniform(-3, 3))
    for _ in range(int(rng.integers(1, 4))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 4.0)
        builder.place("human.pedestrian.construction_worker", people.worker(rng), s, l, rng.uniform(-3, 3))
    for _ in range(3):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 12.0)
        builder.place("movable_object.debris", furniture.debris(rng), s, l)
    # The works reach into the carriageway: a row of barriers or cones along its edge.
    edge = builder.layout.curb(lot.left) - sign * 0.35
    blocks = rng.random() < 0.5
    for s in np.arange(lot.s_range[0] + 1.0, lot.s_range[1] - 1.0, 2.4):
        if builder.layout.side(lot.left).parking:
            continue
        if blocks:
            builder.place("movable_object.barrier", furniture.barrier(rng), float(s), edge, rng.normal(0, 0.03))
        else:
            builder.place("movable_object.trafficcone", furniture.cone(rng), float(s), edge)


def _add_back_row(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Close the view behind a lot with a taller building or a row of trees."""
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    front = line + sign * 30.0
    if abs(front) > HALF_WIDTH - 8.0:
        return
    if rng.random() < 0.6:
        builder.fix(MANMADE, furniture.building(rng, width - rng.uniform(0.5, 5.0), 8.0, rng.uniform(7, 30)), middle, front, yaw)
    else:
        for s in np.arange(*lot.s_range, 6.0):
            builder.fix(VEGETATION, furniture.tree(rng, leaves), float(s), front + sign * rng.uniform(0, 5))


_FILL = {
    LotKind.BUILDING: _fill_building,
    LotKind.HOUSE: _fill_house,
    LotKind.PARK: _fill_park,
    LotKind.PARKING: _fill_parking,
    LotKind.PLAZA: _fill_plaza,
    LotKind.WORKS: _fill_works,
}
