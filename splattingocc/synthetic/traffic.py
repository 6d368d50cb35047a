"""Who and what moves along a street or is parked at its side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic import people, vehicles
from splattingocc.synthetic.layout import Lane
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.things import SceneBuilder

Maker = Callable[[Generator], Mesh]

_TRAFFIC: tuple[tuple[str, Maker, float], ...] = (
    ("vehicle.car", vehicles.car, 0.53),
    ("vehicle.truck", vehicles.truck, 0.10),
    ("vehicle.bus.rigid", vehicles.bus, 0.09),
    ("vehicle.bus.bendy", vehicles.bendy_bus, 0.03),
    ("vehicle.motorcycle", people.motorcyclist, 0.08),
    ("vehicle.bicycle", people.cyclist, 0.08),
    ("vehicle.construction", vehicles.construction_vehicle, 0.06),
    ("vehicle.emergency.police", vehicles.emergency_vehicle, 0.03),
)
_PARKED: tuple[tuple[str, Maker, float], ...] = (
    ("vehicle.car", vehicles.car, 0.62),
    ("vehicle.truck", vehicles.truck, 0.12),
    ("vehicle.trailer", vehicles.trailer, 0.09),
    ("vehicle.motorcycle", vehicles.motorcycle, 0.09),
    ("vehicle.bus.rigid", vehicles.bus, 0.03),
    ("vehicle.construction", vehicles.construction_vehicle, 0.05),
)
_WALKERS: tuple[tuple[str, Maker, float], ...] = (
    ("human.pedestrian.adult", people.person, 0.72),
    ("human.pedestrian.child", people.child, 0.08),
    ("human.pedestrian.construction_worker", people.worker, 0.04),
    ("human.pedestrian.police_officer", people.officer, 0.03),
    ("human.pedestrian.stroller", people.stroller, 0.04),
    ("human.pedestrian.wheelchair", people.wheelchair, 0.02),
    ("human.pedestrian.personal_mobility", vehicles.small_scooter, 0.03),
    ("animal", people.dog, 0.04),
)
EGO_CLEARANCE = 7.0
"""Metres between the middle of the ego vehicle and the end of another vehicle in its lane."""


def _draw(rng: Generator, mix: tuple[tuple[str, Maker, float], ...]) -> tuple[str, Mesh, float]:
    """Draw a category, a shape and the shape's length."""
    shares = np.array([share for _, _, share in mix])
    category, maker, _ = mix[rng.choice(len(mix), p=shares / shares.sum())]
    shape = maker(rng)
    return category, shape, float(np.ptp(shape.corners[..., 0]))


def add_traffic(builder: SceneBuilder, ego_lane: Lane, ego_s: float) -> None:
    """Fill the lanes with vehicles that keep their lane's speed, so that none ever overtakes another. The ego vehicle starts at `ego_s`."""
    for lane in builder.layout.lanes:
        is_ego_lane = lane.l == ego_lane.l
        stands = not is_ego_lane and builder.rng.random() < 0.2
        speed = 0.0 if stands else lane.speed * lane.direction
        mean_gap = builder.rng.choice([8.0, 20.0, 40.0])
        s = builder.rng.uniform(2.0, 15.0)
        while s < builder.layout.length:
            category, shape, length = _draw(builder.rng, _TRAFFIC)
            middle = s + length / 2
            if not (is_ego_lane and abs(middle - ego_s) < EGO_CLEARANCE + length / 2):
                _add_vehicle(builder, lane, category, shape, middle, speed)
            s += length + 3.0 + builder.rng.exponential(mean_gap)


def _add_vehicle(builder: SceneBuilder, lane: Lane, category: str, shape: Mesh, s: float, speed: float) -> None:
    is_cycle = category in ("vehicle.bicycle", "vehicle.motorcycle")
    shift = builder.rng.uniform(-1.0, 1.0) if is_cycle else builder.rng.uniform(-0.25, 0.25)
    # Cycles in a lane have riders even while they wait.
    attribute = "cycle.with_rider" if is_cycle else "" if speed else "vehicle.stopped"
    builder.place(category, shape, s, lane.l + shift, 0.0 if lane.direction > 0 else np.pi, speed=speed, attribute=attribute)


def add_parked(builder: SceneBuilder) -> None:
    """Park vehicles in the bays along the street."""
    rng, layout = builder.rng, builder.layout
    for left in (False, True):
        side = layout.side(left)
        if not side.parking:
            continue
        middle = layout.curb(left) + side.parking / 2 * (-1 if left else 1)
        occupancy = rng.uniform(0.25, 0.9)
        s = rng.uniform(2.0, 10.0)
        while s < layout.length:
            category, shape, length = _draw(rng, _PARKED)
            place = s + length / 2
            if rng.random() < occupancy and not builder.is_on_side_road(place, middle, length / 2 + 5.0):
                yaw = rng.normal(0, 0.03) + (0.0 if left == (rng.random() < 0.15) else np.pi)
                builder.place(category, shape, place, middle, yaw)
            s += length + rng.uniform(0.7, 2.5)


def add_waiting(builder: SceneBuilder) -> None:
    """Let vehicles wait where side roads meet the street."""
    rng, layout = builder.rng, builder.layout
    for road in layout.side_roads:
        for left in (False, True):
            if not (road.left if left else road.right):
                continue
            sign = 1 if left else -1
            l = layout.curb(left) + sign * rng.uniform(4.5, 9.0)
            while abs(l) < 50.0 and rng.random() < 0.6:
                category, shape, length = _draw(rng, _TRAFFIC)
                place = l + sign * length / 2
                attribute = "cycle.with_rider" if category in ("vehicle.bicycle", "vehicle.motorcycle") else "vehicle.stopped"
                builder.place(category, shape, road.s + sign * road.half_width * 0.45, place, -sign * np.pi / 2, attribute=attribute)
                l += sign * (length + rng.uniform(1.5, 4.0))


def add_pedestrians(builder: SceneBuilder) -> None:
    """Let people walk and stand on the outer part of the sidewalks, clear of what stands at the curb."""
    rng, layout = builder.rng, builder.layout
    density = rng.choice([0.02, 0.06, 0.15])
    for left in (False, True):
        sign, side = (1 if left else -1), layout.side(left)
        for _ in range(rng.poisson(density * layout.length)):
            category, shape, _ = _draw(rng, _WALKERS)
            outward = side.verge + side.sidewalk - rng.uniform(0.4, min(1.2, side.sidewalk / 2))
            direction = rng.choice([-1, 1])
            walks = rng.random() < 0.75
            speed = direction * rng.uniform(0.8, 1.6) if walks else 0.0
            yaw = (0.0 if direction > 0 else np.pi) if walks else rng.uniform(-np.pi, np.pi)
            builder.place(category, shape, rng.uniform(0.0, layout.length), layout.curb(left) + sign * outward, yaw, speed=speed)


def add_crossing_people(builder: SceneBuilder, ego_s: float, reach: float) -> None:
    """Stand people on crosswalks that the ego vehicle does not drive over, between `ego_s` − 8 and `ego_s` + `reach` metres."""
    rng, layout = builder.rng, builder.layout
    for road in layout.side_roads:
        for end in (-1, 1):
            s = road.s + end * (road.half_width + 3.0)
            if not road.has_crosswalk or ego_s - 8.0 < s < ego_s + reach:
                continue
            for _ in range(rng.poisson(0.8)):
                category, shape, _ = _draw(rng, _WALKERS[:4])
                place = rng.choice([layout.curb(False) + rng.uniform(0.3, 1.2), layout.curb(True) - rng.uniform(0.3, 1.2)])
                builder.place(category, shape, s + rng.uniform(-1, 1), place, rng.choice([-1, 1]) * np.pi / 2)
