"""How traffic drives: it follows the vehicle ahead, waits at red lights, overtakes and turns off.

Vehicles follow each other by the intelligent driver model (Treiber, Hennecke & Helbing 2000) in steps of a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.layout import Lane, Layout, SideRoad
from splattingocc.synthetic.motion import MOTION_INTERVAL, MOTION_START, Motion, motion_times

STRONGEST_START, COMFORTABLE_BRAKING = 1.6, 2.2
"""Metres per second²."""
STANDING_GAP, TIME_GAP = 2.0, 1.3
"""What a driver keeps to the vehicle ahead: metres while standing, and seconds of way on top."""
HARDEST_BRAKING = 4.0
"""Metres per second²; who would need more to stop at a light that turns red drives on."""
WARM_UP = 8.0
"""Seconds of driving before a scene's motions begin, in which queues form."""
LANE_CHANGE_SECONDS = 3.0
ROOM_AHEAD, ROOM_BEHIND = 10.0, 9.0
"""Free metres in the other lane that an overtaking vehicle wants."""
TURN_RADIUS = 5.5
"""Metres."""
TURN_SPEED = 4.5
"""Metres per second."""
TURNING_OFF = 0.25
"""Share of the vehicles of an outermost lane that turn off at a side road that they come to."""
OVERTAKING_INTERVAL = 1.0
"""How often drivers look for a better lane, seconds."""


@dataclass(frozen=True)
class RedLight:
    """A traffic light's red time on the street, at both stop lines of a junction."""

    s: float
    """Of the side road, metres."""
    stop: float
    """How far before the side road's middle vehicles stop, metres."""
    red_from: float
    red_until: float
    """Seconds since the start of the scene."""

    def is_red(self, time: float) -> bool:
        return self.red_from <= time < self.red_until


@dataclass(eq=False)
class Driver:
    """A vehicle in the simulation; `way` is its place along its own direction, metres."""

    length: float
    lane: Lane
    way: float
    desired_speed: float
    speed: float = 0.0
    shift: float = 0.0
    """Metres left of its lane's middle."""
    may_leave: bool = True
    """Overtakes and turns off; the ego vehicle stays in its lane."""
    leaves_at: SideRoad | None = None
    leaves_to: float = 0.0
    """+1 where it turns off to the left of the course, −1 to the right."""
    lane_before: Lane | None = None
    changed: float = 0.0
    """Since when it has been changing lanes, seconds."""
    turned: float | None = None
    """Metres driven since it began to turn off."""
    places: list[tuple[float, float, float]] = field(default_factory=list)

    def place(self, time: float) -> tuple[float, float, float]:
        """Return s, l and yaw."""
        direction = self.lane.direction
        l, slant = self.lane.l + self.shift, 0.0
        if self.lane_before is not None:
            passed = min((time - self.changed) / LANE_CHANGE_SECONDS, 1.0)
            across = self.lane.l - self.lane_before.l
            l -= across * (1 - passed * passed * (3 - 2 * passed))
            slant = np.arctan2(across * 6 * passed * (1 - passed) / LANE_CHANGE_SECONDS, max(self.speed, 2.0)) * direction
        yaw = (0.0 if direction > 0 else np.pi) + slant
        if self.turned is None or self.leaves_at is None:
            return self.way * direction, l, yaw
        side = self.leaves_to
        angle = min(self.turned / TURN_RADIUS, np.pi / 2)
        beyond = max(self.turned - TURN_RADIUS * np.pi / 2, 0.0)
        s = direction * (_turn_start(self) + TURN_RADIUS * np.sin(angle))
        return (
            s,
            l + side * (TURN_RADIUS * (1 - np.cos(angle)) + beyond),
            (0.0 if direction > 0 else np.pi) + side * direction * angle,
        )


def _turn_start(driver: Driver) -> float:
    """Return the way at which a driver begins to turn: it ends in the lane of the side road that is next to it."""
    road = driver.leaves_at
    assert road is not None
    return road.s * driver.lane.direction - 0.45 * road.half_width - TURN_RADIUS


def _acceleration(speed: float, desired: float, gap: float, speed_ahead: float) -> float:
    wanted = STANDING_GAP + speed * TIME_GAP + speed * (speed - speed_ahead) / (2 * (STRONGEST_START * COMFORTABLE_BRAKING) ** 0.5)
    return STRONGEST_START * (1 - (speed / desired) ** 4 - (max(wanted, STANDING_GAP) / max(gap, 0.3)) ** 2)


def draw_lights(rng: Generator, layout: Layout, duration: float) -> tuple[RedLight, ...]:
    """Draw when the lights of a street's junctions are red; some never are while the scene lasts."""
    lights = []
    for road in layout.side_roads:
        start, lasts, is_used = rng.uniform(-8.0, duration), rng.uniform(5.0, 16.0), rng.random() < 0.45
        if road.has_crosswalk and is_used:
            lights.append(RedLight(road.s, road.half_width + 5.0, float(start), float(start + lasts)))
    return tuple(lights)


def simulate(rng: Generator, layout: Layout, drivers: Sequence[Driver], lights: tuple[RedLight, ...], duration: float) -> list[Motion]:
    """Let the drivers drive through a scene; `way` is where they are `WARM_UP` seconds before motions begin."""
    for driver in drivers:
        driver.speed = 0.7 * driver.desired_speed
    for step in range(round(WARM_UP / MOTION_INTERVAL)):
        _advance(rng, layout, drivers, lights, MOTION_START - WARM_UP + step * MOTION_INTERVAL)
    times = motion_times(duration)
    for time in times:
        for driver in drivers:
            driver.places.append(driver.place(float(time)))
        _advance(rng, layout, drivers, lights, float(time))
    return [Motion(np.array(driver.places)) for driver in drivers]


def _advance(rng: Generator, layout: Layout, drivers: Sequence[Driver], lights: tuple[RedLight, ...], time: float) -> None:
    lanes: dict[float, list[Driver]] = {}
    for driver in drivers:
        if driver.turned is None:
            lanes.setdefault(driver.lane.l, []).append(driver)
            if driver.lane_before is not None and time < driver.changed + LANE_CHANGE_SECONDS:
                # Who changes lanes still holds up those behind in the old one.
                lanes.setdefault(driver.lane_before.l, []).append(driver)
    for queue in lanes.values():
        queue.sort(key=lambda driver: -driver.way)
    if round(time / MOTION_INTERVAL) % round(OVERTAKING_INTERVAL / MOTION_INTERVAL) == 0:
        _change_lanes(layout, lanes, time)
    for driver in drivers:
        if driver.turned is not None:
            driver.speed = min(driver.speed + STRONGEST_START * MOTION_INTERVAL, max(TURN_SPEED, 0.1))
            driver.turned += driver.speed * MOTION_INTERVAL
            continue
        queue = lanes[driver.lane.l]
        place = queue.index(driver)
        ahead = queue[place - 1] if place else None
        acceleration = _follow(driver, ahead, lights, time)
        driver.speed = max(driver.speed + acceleration * MOTION_INTERVAL, 0.0)
        before = driver.way
        driver.way += driver.speed * MOTION_INTERVAL
        _turn_off(rng, layout, driver, before)


def _follow(driver: Driver, ahead: Driver | None, lights: tuple[RedLight, ...], time: float) -> float:
    front, desired = driver.way + driver.length / 2, driver.desired_speed
    if driver.leaves_at is not None and _turn_start(driver) - driver.way < 25.0:
        desired = min(desired, TURN_SPEED)
    acceleration = _acceleration(driver.speed, desired, np.inf, 0.0)
    if ahead is not None:
        acceleration = _acceleration(driver.speed, desired, ahead.way - ahead.length / 2 - front, ahead.speed)
    for light in lights:
        gap = light.s * driver.lane.direction - light.stop - front
        if light.is_red(time) and gap > max(driver.speed**2 / (2 * HARDEST_BRAKING) - 0.5, -0.5):
            acceleration = min(acceleration, _acceleration(driver.speed, desired, gap + STANDING_GAP - 0.5, 0.0))
    return max(acceleration, -2 * HARDEST_BRAKING)


def _turn_off(rng: Generator, layout: Layout, driver: Driver, before: float) -> None:
    """Decide well before a side road whether to turn off there, and begin to turn where the bend begins."""
    if not driver.may_leave:
        return
    if driver.leaves_at is not None:
        if driver.way >= _turn_start(driver):
            driver.turned = driver.way - _turn_start(driver)
        return
    centers = [lane.l for lane in layout.lanes]
    left = (driver.lane.direction < 0) != layout.drives_on_left
    if driver.lane.l != (max(centers) if left else min(centers)):
        return
    for road in layout.side_roads:
        decision = road.s * driver.lane.direction - 35.0
        if before < decision <= driver.way and (road.left if left else road.right) and rng.random() < TURNING_OFF:
            driver.leaves_at, driver.leaves_to = road, 1.0 if left else -1.0


def _change_lanes(layout: Layout, lanes: dict[float, list[Driver]], time: float) -> None:
    """Let those who are held up change to a free lane of the same direction beside them."""
    for queue in list(lanes.values()):
        for ahead, driver in zip(queue, list(queue)[1:]):
            is_free = driver.may_leave and driver.leaves_at is None and (driver.lane_before is None or time > driver.changed + 8.0)
            if not is_free or ahead.speed > 0.75 * driver.desired_speed or ahead.way - driver.way > 30.0 or driver.speed < 3.0:
                continue
            for lane in layout.lanes:
                beside = lane.direction == driver.lane.direction and 0 < abs(lane.l - driver.lane.l) < 1.5 * layout.lane_width
                if beside and _has_room(lanes.get(lane.l, []), driver):
                    driver.lane_before, driver.lane, driver.changed = driver.lane, lane, time
                    lanes.setdefault(lane.l, []).append(driver)
                    lanes[lane.l].sort(key=lambda other: -other.way)
                    break


def _has_room(queue: list[Driver], driver: Driver) -> bool:
    for other in queue:
        apart = abs(other.way - driver.way) - (other.length + driver.length) / 2
        if other is driver or apart < (ROOM_AHEAD if other.way > driver.way else ROOM_BEHIND + max(other.speed - driver.speed, 0.0) * 2):
            return False
    return True
