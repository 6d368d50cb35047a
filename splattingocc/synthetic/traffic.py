"""Who and what moves along a street or is parked at its side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic import people, vehicles
from splattingocc.synthetic.driving import Driver, RedLight, draw_lights, simulate
from splattingocc.synthetic.layout import Lane, Layout
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.motion import Motion, motion_times, steady
from splattingocc.synthetic.things import SceneBuilder

Maker = Callable[[Generator], Mesh]

_TRAFFIC: tuple[tuple[str, Maker, float], ...] = (
    ("vehicle.car", vehicles.car, 0.70),
    ("vehicle.truck", vehicles.truck, 0.15),
    ("vehicle.bus.rigid", vehicles.bus, 0.025),
    ("vehicle.bus.bendy", vehicles.bendy_bus, 0.006),
    ("vehicle.motorcycle", people.motorcyclist, 0.035),
    ("vehicle.bicycle", people.cyclist, 0.01),
    ("vehicle.construction", vehicles.construction_vehicle, 0.008),
    ("vehicle.emergency.police", vehicles.emergency_vehicle, 0.006),
)
_PARKED: tuple[tuple[str, Maker, float], ...] = (
    ("vehicle.car", vehicles.car, 0.76),
    ("vehicle.truck", vehicles.truck, 0.13),
    ("vehicle.trailer", vehicles.trailer, 0.08),
    ("vehicle.motorcycle", vehicles.motorcycle, 0.035),
    ("vehicle.bus.rigid", vehicles.bus, 0.045),
    ("vehicle.construction", vehicles.construction_vehicle, 0.014),
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
CYCLES = ("vehicle.bicycle", "vehicle.motorcycle")
"""What has a rider while it drives or waits."""
EGO_LENGTH, EGO_CENTER = 4.1, 1.35
"""Metres: of the ego vehicle, and from its rear axle to its middle."""
EGO_CLEARANCE = 8.0
"""Metres between the middle of the ego vehicle and the end of another vehicle in its lane, at first."""
HALF_VEHICLE, SAFE_DISTANCE = 1.3, 0.5
"""Metres: half the width of a broad vehicle, and what people keep away from one, from their middle."""
CROSSING_SPEED = 1.4
"""Of people, metres per second."""
INFLOW = 120.0
"""How far before the built street traffic comes from, metres."""


def _draw(rng: Generator, mix: tuple[tuple[str, Maker, float], ...]) -> tuple[str, Mesh, float]:
    """Draw a category, a shape and the shape's length."""
    shares = np.array([share for _, _, share in mix])
    category, maker, _ = mix[rng.choice(len(mix), p=shares / shares.sum())]
    shape = maker(rng)
    return category, shape, float(np.ptp(shape.corners[..., 0]))


@dataclass(frozen=True)
class Vehicle:
    """A vehicle of the traffic and its way through the scene."""

    category: str
    shape: Mesh
    motion: Motion


@dataclass(frozen=True)
class Traffic:
    """All that drives through a scene."""

    ego: Motion
    """Of the ego vehicle's rear axle."""
    vehicles: tuple[Vehicle, ...]
    lights: tuple[RedLight, ...]

    def runs_over(self, walk: Motion) -> bool:
        """Say whether a vehicle comes to where somebody walks."""
        for motion, shape in [(self.ego, None), *((vehicle.motion, vehicle.shape) for vehicle in self.vehicles)]:
            ends = (EGO_CENTER - EGO_LENGTH / 2, EGO_CENTER + EGO_LENGTH / 2) if shape is None else _ends(shape)
            cos, sin = np.cos(motion.places[:, 2]), np.sin(motion.places[:, 2])
            s, l = (walk.places - motion.places)[:, :2].T
            along, aside = cos * s + sin * l, np.abs(cos * l - sin * s)
            if ((along > ends[0] - SAFE_DISTANCE) & (along < ends[1] + SAFE_DISTANCE) & (aside < HALF_VEHICLE + SAFE_DISTANCE)).any():
                return True
        return False


def _ends(shape: Mesh) -> tuple[float, float]:
    """Return where a vehicle ends behind and ahead of its origin, metres."""
    return float(shape.corners[..., 0].min()), float(shape.corners[..., 0].max())


def draw_traffic(rng: Generator, layout: Layout, ego_s: float, duration: float) -> Traffic:
    """Fill the lanes with traffic and let it drive; the ego vehicle begins near `ego_s` metres along the street."""
    own = [lane for lane in layout.lanes if lane.direction > 0]
    lane = own[rng.integers(len(own))]
    ego = Driver(EGO_LENGTH, lane, ego_s + EGO_CENTER, lane.speed, may_leave=False)
    drivers, kinds = [ego], []
    for other in layout.lanes:
        gap = rng.uniform(*layout.kind.traffic_gap)
        way = -INFLOW if other.direction > 0 else -layout.length - INFLOW
        while way < (layout.length if other.direction > 0 else 0.0) + INFLOW / 2:
            category, shape, length = _draw(rng, _TRAFFIC)
            middle = way + length / 2
            if other is not lane or abs(middle - ego.way) > EGO_CLEARANCE + length / 2:
                drivers.append(_driver(rng, other, category, length, middle))
                kinds.append((category, shape))
            way += length + 4.0 + rng.exponential(gap)
    lights = draw_lights(rng, layout, duration)
    motions = simulate(rng, layout, drivers, lights, duration)
    axle = Motion(motions[0].places - np.array([EGO_CENTER, 0.0, 0.0]))
    return Traffic(axle, tuple(Vehicle(category, shape, motion) for (category, shape), motion in zip(kinds, motions[1:])), lights)


def _driver(rng: Generator, lane: Lane, category: str, length: float, way: float) -> Driver:
    is_cycle = category in CYCLES
    slow = category in ("vehicle.construction", "vehicle.bicycle")
    desired = min(lane.speed, 5.0) if slow else lane.speed * rng.uniform(0.8, 1.25)
    shift = rng.uniform(-0.9, 0.9) if is_cycle else rng.uniform(-0.25, 0.25)
    return Driver(length, lane, way, desired, shift=shift, may_leave=category != "vehicle.bicycle")


def add_traffic(builder: SceneBuilder, traffic: Traffic) -> None:
    """Put the traffic into the scene."""
    for vehicle in traffic.vehicles:
        attribute = "cycle.with_rider" if vehicle.category in CYCLES else ""
        builder.place_moving(vehicle.category, vehicle.shape, vehicle.motion, attribute=attribute)


def add_parked(builder: SceneBuilder) -> None:
    """Park vehicles in the bays along the street."""
    rng, layout = builder.rng, builder.layout
    for left in (False, True):
        side = layout.side(left)
        if not side.parking:
            continue
        middle = layout.curb(left) + side.parking / 2 * (-1 if left else 1)
        occupancy = rng.uniform(0.05, 0.45)
        s = builder.span[0] + rng.uniform(2.0, 10.0)
        while s < builder.span[1]:
            category, shape, length = _draw(rng, _PARKED)
            place = s + length / 2
            reach = length / 2 + 5.0
            on_crosswalk = any(road.has_crosswalk and abs(place - road.s) < road.half_width + reach for road in layout.side_roads)
            if rng.random() < occupancy and not on_crosswalk and not builder.is_on_side_road(place, middle, reach):
                yaw = rng.normal(0, 0.03) + (0.0 if left == (layout.drives_on_left == (rng.random() < 0.9)) else np.pi)
                builder.place(category, shape, place, middle, yaw)
            s += length + rng.uniform(0.7, 2.5)


def add_waiting(builder: SceneBuilder) -> None:
    """Let vehicles wait where side roads meet the street."""
    rng, layout = builder.rng, builder.layout
    keep = 1 if layout.drives_on_left else -1
    for road in layout.side_roads:
        for left in (False, True):
            if not (road.left if left else road.right):
                continue
            sign = 1 if left else -1
            # Not on the sidewalk.
            l = layout.curb(left) + sign * max(rng.uniform(4.5, 9.0), layout.side(left).verge + layout.side(left).sidewalk + 0.8)
            while abs(l) < 50.0 and rng.random() < 0.5:
                category, shape, length = _draw(rng, _TRAFFIC)
                place = l + sign * length / 2
                attribute = "cycle.with_rider" if category in CYCLES else "vehicle.stopped"
                builder.place(category, shape, road.s + keep * sign * road.half_width * 0.45, place, -sign * np.pi / 2, attribute=attribute)
                l += sign * (length + rng.uniform(1.5, 4.0))


def add_pedestrians(builder: SceneBuilder, traffic: Traffic) -> None:
    """Let people walk and stand on the outer part of the sidewalks, clear of what stands at the curb and of who turns off."""
    rng, layout = builder.rng, builder.layout
    reach = builder.span[1] - builder.span[0]
    density = 0.5 * layout.kind.people * rng.uniform(0.5, 1.5)
    for left in (False, True):
        sign, side = (1 if left else -1), layout.side(left)
        for _ in range(rng.poisson(density * reach)):
            category, shape, _ = _draw(rng, _WALKERS)
            outward = side.verge + side.sidewalk - rng.uniform(0.4, max(min(1.2, side.sidewalk / 2), 0.4))
            s, l = rng.uniform(*builder.span), layout.curb(left) + sign * outward
            if rng.random() < 0.7:
                direction = rng.choice([-1, 1])
                velocity = (direction * rng.uniform(0.8, 1.6), 0.0)
                walk = steady(s, l, 0.0 if direction > 0 else np.pi, velocity, builder.duration)
                if not traffic.runs_over(walk):
                    builder.place_moving(category, shape, walk)
            elif not builder.is_on_side_road(s, l):
                builder.place(category, shape, s, l, rng.uniform(-np.pi, np.pi))


def add_crossing_people(builder: SceneBuilder, traffic: Traffic) -> None:
    """Let people cross the street while its traffic waits at a red light for long enough, and stand at crosswalks otherwise."""
    rng, layout = builder.rng, builder.layout
    low, high = layout.curb(False), layout.curb(True)
    for road in layout.side_roads:
        red = [light for light in traffic.lights if light.s == road.s]
        for end in (-1, 1):
            s = road.s + end * (road.half_width + 3.0)
            if not road.has_crosswalk or not builder.span[0] < s < builder.span[1]:
                continue
            for _ in range(rng.poisson(min(20 * layout.kind.people, 2.0))):
                category, shape, _ = _draw(rng, _WALKERS[:4])
                direction, place = int(rng.choice([-1, 1])), s + rng.uniform(-1, 1)
                start = red[0].red_from + rng.uniform(0.5, 2.5) if red else np.inf
                walk = _crossing(place, (low, high), direction, start, builder.duration)
                if red and not traffic.runs_over(walk):
                    builder.place_moving(category, shape, walk)
                else:
                    curb = high + 0.5 if direction < 0 else low - 0.5
                    builder.place(category, shape, place, curb, direction * np.pi / 2)


def _crossing(s: float, curbs: tuple[float, float], direction: int, start: float, duration: float) -> Motion:
    """Return the motion of somebody who waits at the curb, crosses in `direction` from `start` on, and stops at the other curb."""
    wait, goal = (curbs[0] - 0.5, curbs[1] + 0.6) if direction > 0 else (curbs[1] + 0.5, curbs[0] - 0.6)
    walked = np.clip((motion_times(duration) - start) * CROSSING_SPEED, 0.0, abs(goal - wait))
    l = wait + direction * walked
    return Motion(np.stack([np.full(len(l), s), l, np.full(len(l), direction * np.pi / 2)], axis=-1))
