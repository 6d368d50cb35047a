"""What stands on the lots beside a street. Every lot is closed at the back, so that nobody looks over empty land."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splattingocc.synthetic import furniture, people, vehicles
from splattingocc.synthetic.layout import Lot
from splattingocc.synthetic.mesh import Color
from splattingocc.synthetic.street_kinds import LotKind
from splattingocc.synthetic.things import SceneBuilder

MANMADE, VEGETATION, STATIC_OTHER = "static.manmade", "static.vegetation", "static.other"


def fill_lot(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Put what belongs on a lot there."""
    _FILL[lot.kind](builder, lot, leaves)


def _line(builder: SceneBuilder, lot: Lot) -> tuple[float, float, float, float, float]:
    """Return a lot's middle, its width, its front line, the sign of outwards, and the yaw that turns −y to the street."""
    sign = 1.0 if lot.left else -1.0
    start, end = lot.s_range
    return (start + end) / 2, end - start, builder.layout.lot_line(lot.left), sign, 0.0 if lot.left else np.pi


def _along(lot: Lot, step: float) -> list[float]:
    """Return the middles of pieces `step` metres long that fill a lot's width."""
    count = max(round((lot.s_range[1] - lot.s_range[0]) / step), 1)
    return [float(s) for s in lot.s_range[0] + (np.arange(count) + 0.5) * (lot.s_range[1] - lot.s_range[0]) / count]


def _row(builder: SceneBuilder, lot: Lot, leaves: Color, what: str, depth: float, height: float) -> None:
    """Close a lot over its whole width, `depth` metres behind its front line, with a hedge, a wall, a fence, a thicket or a building."""
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    l = line + sign * depth
    color, brick = furniture.facade_color(rng), bool(rng.random() < 0.4)
    if what == "building":
        builder.fix(MANMADE, furniture.building(rng, width, 8.0, max(height, 5.0)), middle, l, yaw)
    elif what == "thicket":
        for s in _along(lot, 1.5):
            builder.fix(VEGETATION, furniture.bush(rng, leaves), s, l + sign * rng.uniform(0.0, 1.2))
        # What is behind the bushes is dark and dense.
        builder.fix(VEGETATION, furniture.hedge(rng, width, rng.uniform(2.4, 4.0), leaves), middle, l + sign * 1.8)
        for s in _along(lot, rng.uniform(3.0, 5.0)):
            builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l + sign * rng.uniform(1.5, 4.0))
    else:
        step = (lot.s_range[1] - lot.s_range[0]) / max(round((lot.s_range[1] - lot.s_range[0]) / 2.5), 1)
        for s in _along(lot, 2.5):
            if what == "hedge":
                builder.fix(VEGETATION, furniture.hedge(rng, step, height, leaves), s, l)
            else:
                shape = furniture.wall(step, height, color, brick) if what == "wall" else furniture.fence(step, min(height, 2.0), color)
                builder.fix(MANMADE, shape, s, l)


def _draw_row(builder: SceneBuilder, shares: dict[str, float]) -> str:
    return str(builder.rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def _fill_building(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    setback = rng.uniform(*builder.layout.kind.setback)
    gap = float(rng.choice([0.0, 0.1, 3.0], p=[0.5, 0.25, 0.25]))
    height = float(rng.choice([rng.uniform(4, 8), rng.uniform(8, 16), rng.uniform(16, 32)]))
    builder.fix(MANMADE, furniture.building(rng, width - gap, rng.uniform(12, 22), height), middle, line + sign * setback, yaw)
    if gap > 1.0:
        _row(builder, lot, leaves, _draw_row(builder, {"wall": 0.6, "hedge": 0.4}), setback + 0.6, rng.uniform(2.2, 3.0))
    if setback > 1.5 and rng.random() < 0.5:
        for s in _along(lot, 2.5):
            if rng.random() < 0.6:
                builder.fix(VEGETATION, furniture.bush(rng, leaves), s, line + sign * (setback - 0.7))


def _fill_house(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    setback = rng.uniform(*builder.layout.kind.setback)
    builder.fix(MANMADE, furniture.house(rng, min(width - 2.0, rng.uniform(8, 16)), rng.uniform(7, 10)), middle, line + sign * setback, yaw)
    _row(builder, lot, leaves, _draw_row(builder, {"wall": 0.3, "hedge": 0.7}), setback + 0.8, rng.uniform(2.2, 3.0))
    _add_front(builder, lot, leaves)
    for _ in range(int(rng.integers(1, 6))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(0.9, max(setback - 1.0, 1.0))
        builder.fix(VEGETATION, furniture.bush(rng, leaves), s, l)
    if rng.random() < 0.6:
        builder.fix(VEGETATION, furniture.tree(rng, leaves), lot.s_range[0] + 1.5, line + sign * 2.5)


def _add_front(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Close a lot towards the sidewalk with a hedge, a wall or a fence that has a gap for the gate."""
    rng = builder.rng
    _, _, line, sign, _ = _line(builder, lot)
    what = rng.choice(["hedge", "wall", "fence", "none"], p=[0.4, 0.2, 0.2, 0.2])
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
    depth = rng.uniform(3.0, 10.0)
    if rng.random() < 0.5:
        _add_front(builder, lot, leaves)
    for _ in range(int(width * rng.uniform(0.15, 0.35))):
        builder.fix(VEGETATION, furniture.tree(rng, leaves), rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, depth))
    for _ in range(int(width * 0.3)):
        builder.fix(VEGETATION, furniture.bush(rng, leaves), rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, depth))
    behind = _draw_row(builder, {"thicket": 0.7, "hedge": 0.15, "building": 0.15})
    _row(builder, lot, leaves, behind, depth, rng.uniform(4.0, 9.0) if behind == "building" else rng.uniform(3.0, 4.5))
    if rng.random() < 0.1:
        builder.fix(STATIC_OTHER, furniture.bench(rng), middle, line + sign * 2.0, -np.pi / 2 * sign)
    if rng.random() < 0.08:
        builder.place("animal", people.dog(rng), rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 3.0), rng.uniform(-3, 3))


def _fill_parking(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    _, width, line, sign, _ = _line(builder, lot)
    rows = (3.5, 13.5) if rng.random() < 0.5 else (3.5,)
    for row in rows:
        for s in np.arange(lot.s_range[0] + 2.3, lot.s_range[1] - 2.3, 2.8):
            if rng.random() < 0.6:
                shape, category = (
                    (vehicles.car(rng), "vehicle.car") if rng.random() < 0.95 else (vehicles.motorcycle(rng), "vehicle.motorcycle")
                )
                builder.place(category, shape, float(s), line + sign * row, rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.04))
    depth = rows[-1] + rng.uniform(3.0, 8.0)
    if rng.random() < 0.35 and width > 14.0:
        builder.place("vehicle.trailer", vehicles.trailer(rng), sum(lot.s_range) / 2, line + sign * 8.5, rng.normal(0, 0.05))
        depth = max(depth, 11.0)
    closing = _draw_row(builder, {"building": 0.4, "hedge": 0.2, "thicket": 0.25, "wall": 0.15})
    _row(builder, lot, leaves, closing, depth, rng.uniform(1.8, 9.0) if closing == "building" else rng.uniform(2.5, 4.0))


def _fill_plaza(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, width, line, sign, yaw = _line(builder, lot)
    depth = rng.uniform(5.0, 14.0)
    builder.fix(MANMADE, furniture.building(rng, width, 12.0, rng.uniform(8, 24)), middle, line + sign * depth, yaw)
    for _ in range(int(rng.integers(1, 4))):
        s, l = rng.uniform(lot.s_range[0] + 1, lot.s_range[1] - 1), line + sign * rng.uniform(2.0, depth - 2.0)
        builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l)
    for _ in range(int(rng.integers(0, 4))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(0.8, depth - 1.0)
        builder.place("human.pedestrian.adult", people.person(rng), s, l, rng.uniform(-3, 3))
    if rng.random() < 0.1:
        builder.fix(STATIC_OTHER, furniture.bench(rng), middle, line + sign * 2.0, -np.pi / 2 * sign)


def _fill_works(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    rng = builder.rng
    middle, _, line, sign, _ = _line(builder, lot)
    fenced = rng.random() < 0.7
    for s in np.arange(lot.s_range[0] + 2.1, lot.s_range[1] - 2.1, 2.3):
        if fenced and rng.random() < 0.9:
            builder.place("movable_object.barrier", furniture.barrier(rng), float(s), line + sign * 0.3, rng.normal(0, 0.05))
        elif rng.random() < 0.6:
            builder.place("movable_object.trafficcone", furniture.cone(rng), float(s), line + sign * rng.uniform(-0.3, 0.6))
    if rng.random() < 0.25:
        machine = vehicles.construction_vehicle(rng)
        builder.place("vehicle.construction", machine, middle, line + sign * rng.uniform(4, 6), rng.uniform(-3, 3))
    for _ in range(int(rng.integers(0, 3))):
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 4.0)
        builder.place("human.pedestrian.construction_worker", people.worker(rng), s, l, rng.uniform(-3, 3))
    if rng.random() < 0.2:
        s, l = rng.uniform(*lot.s_range), line + sign * rng.uniform(1.5, 6.0)
        builder.place("movable_object.debris", furniture.debris(rng), s, l)
    _row(builder, lot, leaves, _draw_row(builder, {"building": 0.7, "wall": 0.3}), rng.uniform(8.0, 12.0), rng.uniform(2.5, 8.0))


def _fill_green(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Plant a thicket behind a strip of grass."""
    _row(builder, lot, leaves, "thicket", builder.rng.uniform(1.5, 7.0), 3.0)


def _fill_walled(builder: SceneBuilder, lot: Lot, leaves: Color) -> None:
    """Close a lot with a wall, a fence or a hedge of more than a person's height, without a gap; trees look over it."""
    rng = builder.rng
    _, _, line, sign, _ = _line(builder, lot)
    strip, depth = rng.uniform(0.3, 2.0), rng.uniform(4.0, 7.0)
    _row(builder, lot, leaves, _draw_row(builder, {"wall": 0.45, "fence": 0.1, "hedge": 0.45}), strip, rng.uniform(1.6, 3.2))
    behind = _draw_row(builder, {"building": 0.6, "hedge": 0.4})
    _row(builder, lot, leaves, behind, strip + depth, rng.uniform(4.0, 9.0) if behind == "building" else rng.uniform(3.0, 4.5))
    for s in _along(lot, rng.uniform(3.5, 9.0)):
        builder.fix(VEGETATION, furniture.tree(rng, leaves), s, line + sign * (strip + rng.uniform(1.5, 4.0)))


_FILL: dict[LotKind, Callable[[SceneBuilder, Lot, Color], None]] = {
    LotKind.BUILDING: _fill_building,
    LotKind.HOUSE: _fill_house,
    LotKind.PARK: _fill_park,
    LotKind.PARKING: _fill_parking,
    LotKind.PLAZA: _fill_plaza,
    LotKind.WORKS: _fill_works,
    LotKind.GREEN: _fill_green,
    LotKind.WALLED: _fill_walled,
}
