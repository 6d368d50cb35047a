"""What stands at the curb and on the median."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splattingocc.synthetic import furniture, vehicles
from splattingocc.synthetic.layout import HALF_WIDTH, SideRoad
from splattingocc.synthetic.lots import MANMADE, STATIC_OTHER, VEGETATION, fill_lot
from splattingocc.synthetic.mesh import Color
from splattingocc.synthetic.street_kinds import LotKind
from splattingocc.synthetic.things import SceneBuilder

FLANK_DISTANCE = 2.8
"""From the edge of a side road to the walls that close the lots beside it, metres."""
FLANK_LENGTH = 6.0
"""Metres of one piece of such a wall."""
USED_LOTS = (LotKind.PARKING, LotKind.PLAZA, LotKind.WORKS)
"""Where people and vehicles are, which a building at the flank would swallow."""


def add_scenery(builder: SceneBuilder) -> None:
    """Furnish both sides of the street, its median and its lots."""
    leaves = furniture.leaf_color(builder.rng)
    for left in (False, True):
        _furnish_sidewalk(builder, left, leaves)
        if not builder.layout.side(left).parking and builder.rng.random() < builder.layout.kind.works:
            _close_off(builder, left)
    if builder.layout.median:
        _furnish_median(builder, leaves)
    for road in builder.layout.side_roads:
        if not builder.span[0] + 5.0 < road.s < builder.span[1] - 5.0:
            continue
        for left in (False, True):
            if road.left if left else road.right:
                _close_flanks(builder, road, left, leaves)
            edge = builder.layout.curb(left) + (0.5 if left else -0.5)
            for end in (-1, 1):
                post = furniture.traffic_light if road.has_crosswalk else furniture.sign
                s = road.s + end * (road.half_width + 4.8)
                builder.fix(MANMADE, post(builder.rng), s, edge, 0.0 if end > 0 else np.pi)
    for lot in builder.layout.lots:
        if lot.s_range[1] > builder.span[0] + 5.0 and lot.s_range[0] < builder.span[1] - 5.0:
            fill_lot(builder, lot, leaves)


def _close_flanks(builder: SceneBuilder, road: SideRoad, left: bool, leaves: Color) -> None:
    """Close the lots at both sides of a side road with walls, hedges or the flanks of buildings."""
    rng, line = builder.rng, builder.layout.lot_line(left)
    sign = 1.0 if left else -1.0
    for end in (-1, 1):
        s = road.s + end * (road.half_width + FLANK_DISTANCE)
        is_used = any(lot.left == left and lot.s_range[0] < s < lot.s_range[1] and lot.kind in USED_LOTS for lot in builder.layout.lots)
        what = rng.choice(["building", "wall", "hedge"], p=[0.0, 0.4, 0.6] if is_used else [0.4, 0.25, 0.35])
        color, brick, height = furniture.facade_color(rng), bool(rng.random() < 0.5), rng.uniform(2.2, 3.2)
        # Fronts look at the side road.
        yaw = -end * np.pi / 2
        for l in np.arange(abs(line) + 0.2, HALF_WIDTH - 5.0, FLANK_LENGTH):
            middle = sign * (l + FLANK_LENGTH / 2)
            if what == "building":
                shape = furniture.building(rng, FLANK_LENGTH, 3.0, rng.uniform(4.0, 12.0))
                builder.fix(MANMADE, shape, s, middle, yaw)
            elif what == "wall":
                builder.fix(MANMADE, furniture.wall(FLANK_LENGTH, height, color, brick), s, middle, yaw)
            else:
                builder.fix(VEGETATION, furniture.hedge(rng, FLANK_LENGTH, height, leaves), s, middle, yaw)


def _furnish_sidewalk(builder: SceneBuilder, left: bool, leaves: Color) -> None:
    rng, layout = builder.rng, builder.layout
    sign = 1.0 if left else -1.0
    side = layout.side(left)
    # Trees grow in the verge where there is one.
    l = layout.curb(left) + sign * 0.6
    inward = -np.pi / 2 * sign
    tree_spacing, tree_l = rng.uniform(*layout.kind.tree_spacing), layout.curb(left) + sign * max(0.8, side.verge / 2)
    _every(builder, rng.uniform(18, 32), l, lambda s: builder.fix(MANMADE, furniture.lamp_post(rng), s, l, inward))
    _every(builder, tree_spacing, l, lambda s: builder.fix(VEGETATION, furniture.tree(rng, leaves), s, tree_l))
    _every(builder, 26.0, l, lambda s: builder.fix(MANMADE, furniture.sign(rng), s, l, rng.choice([0.0, np.pi])))
    if not side.sidewalk:
        return
    _every(builder, 300.0, l, lambda s: builder.fix(STATIC_OTHER, furniture.bench(rng), s, l, inward))
    _every(builder, 260.0, l, lambda s: builder.fix(STATIC_OTHER, furniture.post_box(rng), s, l))
    _every(builder, 700.0, l, lambda s: builder.place("movable_object.debris", furniture.debris(rng), s, l + sign * 0.5))
    _every(
        builder, 350.0, l, lambda s: builder.place("movable_object.pushable_pullable", furniture.container(rng), s, l, rng.normal(0, 0.3))
    )
    _every(builder, 900.0, l, lambda s: builder.place("static_object.bicycle_rack", furniture.bicycle_rack(rng), s, l + sign * 0.6, inward))
    _every(builder, 300.0, l, lambda s: builder.place("vehicle.bicycle", vehicles.bicycle(rng), s, l, rng.normal(0, 0.5)))
    _every(
        builder, 60.0, l, lambda s: builder.place("movable_object.trafficcone", furniture.cone(rng), s, l - sign * rng.uniform(0.0, 0.7))
    )
    if side.sidewalk > 2.6:
        shelter = layout.curb(left) + sign * (side.verge + 1.2)
        _every(builder, 150.0, l, lambda s: builder.fix(MANMADE, furniture.bus_shelter(rng), s, shelter, inward))


def _close_off(builder: SceneBuilder, left: bool) -> None:
    """Close the edge of the carriageway for works: a row of barriers or cones, with a gap here and there."""
    rng, layout = builder.rng, builder.layout
    # On the curb, not in the lane: vehicles pass close by.
    l = layout.curb(left) - (0.1 if left else -0.1)
    start = rng.uniform(*builder.span)
    end, is_barred = min(start + rng.uniform(12.0, 35.0), builder.span[1] - 3.0), rng.random() < 0.7
    for s in np.arange(max(start, builder.span[0] + 3.0), end, 2.2 if is_barred else 3.0):
        if builder.is_on_side_road(s, l, 2.0) or rng.random() < 0.1:
            continue
        if is_barred:
            builder.place("movable_object.barrier", furniture.barrier(rng), float(s), l, rng.normal(0, 0.03))
        else:
            builder.place("movable_object.trafficcone", furniture.cone(rng), float(s), l)


def _every(builder: SceneBuilder, spacing: float, l: float, put: Callable[[float], None]) -> None:
    """Call `put(s)` about every `spacing` metres along the street, away from side roads."""
    s = builder.span[0] + builder.rng.uniform(0.0, spacing)
    while s < builder.span[1] - 3.0:
        if s > builder.span[0] + 3.0 and not builder.is_on_side_road(s, l, 4.0):
            put(float(s))
        s += spacing * builder.rng.uniform(0.7, 1.3)


def _furnish_median(builder: SceneBuilder, leaves: Color) -> None:
    rng, layout = builder.rng, builder.layout
    l = layout.median_center
    what = rng.choice(["trees", "hedge", "barriers", "lamps"], p=[0.3, 0.15, 0.15, 0.4])
    s = builder.span[0] + rng.uniform(2.0, 8.0)
    while s < builder.span[1] - 4.0:
        free = all(abs(s - road.s) > road.half_width + 4.0 for road in layout.side_roads)
        if free and what == "trees":
            builder.fix(VEGETATION, furniture.tree(rng, leaves), s, l)
        elif free and what == "hedge":
            builder.fix(VEGETATION, furniture.hedge(rng, 3.0, rng.uniform(0.4, 0.7), leaves), s, l)
        elif free and what == "barriers":
            builder.place("movable_object.barrier", furniture.barrier(rng), s, l)
        elif free:
            builder.fix(MANMADE, furniture.lamp_post(rng), s, l, np.pi / 2)
        s += {"trees": 9.0, "hedge": 3.0, "barriers": 2.4, "lamps": 22.0}[what] * (1.0 if what == "hedge" else rng.uniform(0.95, 1.3))
