"""The plan of a street: its course, its cross section, its side roads and the lots beside it.

Everything is laid out in street coordinates: `s` metres along the course, `l` metres to its left. The course is bent afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

HALF_WIDTH = 60.0
"""How far to each side of its course a street is built, metres. The curves stay wider than this."""
MIN_CURVE_RADIUS = 85.0
"""Metres."""


class Course:
    """The curve that a street follows, with the gentle hills under it."""

    def __init__(self, rng: Generator, length: float) -> None:
        self._s = np.arange(0.0, length + 0.5, 0.5)
        curvature = np.zeros_like(self._s)
        if rng.random() < 0.65:
            knots = np.arange(0.0, length + 40.0, 40.0)
            bends = rng.uniform(-1, 1, len(knots)) * rng.choice([0.4, 1.0]) + rng.uniform(-0.7, 0.7)
            curvature = np.interp(self._s, knots, np.clip(bends, -1, 1)) / MIN_CURVE_RADIUS
        self._heading = rng.uniform(-np.pi, np.pi) + np.cumsum(curvature) * 0.5
        steps = np.stack([np.cos(self._heading), np.sin(self._heading)], axis=-1) * 0.5
        self._xy = np.cumsum(steps, axis=0)
        self._hill_waves = rng.normal(size=(3, 2)) / np.array([[75.0], [48.0], [30.0]])
        self._hill_heights = rng.uniform(0.1, 1.0, 3) * np.array([0.35, 0.15, 0.05])
        self._hill_phases = rng.uniform(0, 2 * np.pi, 3)

    def heading(self, s: ndarray | float) -> ndarray | float:
        """Return the direction of the course, radians from the x axis."""
        return np.interp(s, self._s, self._heading)

    def xy(self, s: ndarray | float, l: ndarray | float) -> ndarray:
        """Return the world positions (…, 2) of points of the street, metres."""
        heading = self.heading(s)
        x = np.interp(s, self._s, self._xy[:, 0]) - np.sin(heading) * l
        y = np.interp(s, self._s, self._xy[:, 1]) + np.cos(heading) * l
        return np.stack([x, y], axis=-1)

    def hill(self, xy: ndarray) -> ndarray:
        """Return the height of the land under world positions (…, 2), metres; a road surface lies exactly on it."""
        angles = xy @ self._hill_waves.T + self._hill_phases
        return np.asarray((self._hill_heights * np.sin(angles)).sum(-1))


class LotKind(Enum):
    """What stands on a lot."""

    BUILDING = "building"
    HOUSE = "house"
    PARK = "park"
    PARKING = "parking"
    PLAZA = "plaza"
    WORKS = "works"


@dataclass(frozen=True)
class Lot:
    """A piece of land beside the street, from its sidewalk outwards."""

    s_range: tuple[float, float]
    left: bool
    kind: LotKind


@dataclass(frozen=True)
class SideRoad:
    """A road that leaves the street at a right angle."""

    s: float
    half_width: float
    left: bool
    right: bool
    has_crosswalk: bool


@dataclass(frozen=True)
class Lane:
    """A lane for moving traffic."""

    l: float
    """Its centre line, metres left of the course."""
    direction: int
    """+1 along the course, −1 against it."""
    speed: float
    """Metres per second; all the traffic of a lane keeps it."""


@dataclass(frozen=True)
class Side:
    """What lies between the outermost lane and the lots on one side; widths in metres, 0 where a part is missing."""

    parking: float
    parking_is_other_flat: bool
    verge: float
    sidewalk: float


@dataclass(frozen=True)
class Layout:
    """The plan of one scene's street."""

    course: Course
    length: float
    lanes: tuple[Lane, ...]
    lane_width: float
    median: float
    """Width of the raised strip between the directions, metres; 0 where there is none."""
    median_center: float
    """Metres left of the course."""
    left: Side
    right: Side
    side_roads: tuple[SideRoad, ...]
    lots: tuple[Lot, ...]

    @property
    def lane_edges(self) -> tuple[float, float]:
        """The right and the left edge of the lanes, metres left of the course."""
        centers = [lane.l for lane in self.lanes]
        return min(centers) - self.lane_width / 2, max(centers) + self.lane_width / 2

    def side(self, left: bool) -> Side:
        return self.left if left else self.right

    def curb(self, left: bool) -> float:
        """Return where the carriageway, parking included, ends; metres left of the course."""
        return self.lane_edges[1] + self.left.parking if left else self.lane_edges[0] - self.right.parking

    def lot_line(self, left: bool) -> float:
        """Return where the sidewalk ends and the lots begin; metres left of the course."""
        side = self.side(left)
        width = side.verge + side.sidewalk
        return self.curb(left) + width if left else self.curb(left) - width


def draw_layout(rng: Generator, length: float) -> Layout:
    """Draw the plan of a street `length` metres long."""
    lanes, lane_width, median, median_center = _draw_lanes(rng)
    side_roads = _draw_side_roads(rng, length)
    lots = tuple(lot for left in (False, True) for lot in _draw_lots(rng, length, left, side_roads))
    course = Course(rng, length)
    return Layout(course, length, lanes, lane_width, median, median_center, _draw_side(rng), _draw_side(rng), side_roads, lots)


def _draw_lanes(rng: Generator) -> tuple[tuple[Lane, ...], float, float, float]:
    lane_width = rng.uniform(3.1, 3.8)
    forward, backward = int(rng.integers(1, 4)), int(rng.integers(0, 4))
    median = rng.uniform(1.6, 4.0) if backward and rng.random() < 0.4 else 0.0
    # Some countries drive on the left.
    keep = -1 if rng.random() < 0.6 else 1
    center = rng.uniform(-2.0, 2.0)
    speeds = {1: rng.uniform(3.5, 9.5), -1: rng.uniform(4.0, 10.0)}
    lanes = [
        Lane(center + keep * direction * (median / 2 + (i + 0.5) * lane_width), direction, speeds[direction] * rng.uniform(0.85, 1.15))
        for direction, count in ((1, forward), (-1, backward))
        for i in range(count)
    ]
    return tuple(lanes), lane_width, median, center


def _draw_side(rng: Generator) -> Side:
    return Side(
        parking=rng.uniform(2.2, 2.7) if rng.random() < 0.6 else 0.0,
        parking_is_other_flat=bool(rng.random() < 0.4),
        verge=rng.uniform(1.0, 2.5) if rng.random() < 0.4 else 0.0,
        sidewalk=rng.uniform(1.8, 4.5),
    )


def _draw_side_roads(rng: Generator, length: float) -> tuple[SideRoad, ...]:
    roads = []
    s = rng.uniform(20.0, 60.0)
    while s < length - 15.0:
        sides = rng.integers(1, 4)
        roads.append(SideRoad(s, rng.uniform(2.8, 5.0), bool(sides & 1), bool(sides & 2), bool(rng.random() < 0.7)))
        s += rng.uniform(45.0, 95.0)
    return tuple(roads)


_LOT_KINDS = (LotKind.BUILDING, LotKind.HOUSE, LotKind.PARK, LotKind.PARKING, LotKind.PLAZA, LotKind.WORKS)
_LOT_MIXES = np.array(
    [
        [0.62, 0.05, 0.06, 0.09, 0.12, 0.06],
        [0.12, 0.55, 0.15, 0.06, 0.04, 0.08],
        [0.15, 0.12, 0.40, 0.16, 0.08, 0.09],
        [0.40, 0.12, 0.10, 0.20, 0.08, 0.10],
    ]
)
"""Shares of the lot kinds down town, among houses, by the park and among offices."""


def _draw_lots(rng: Generator, length: float, left: bool, side_roads: tuple[SideRoad, ...]) -> list[Lot]:
    mix = _LOT_MIXES[rng.integers(len(_LOT_MIXES))]
    gaps = [(road.s - road.half_width - 3.0, road.s + road.half_width + 3.0) for road in side_roads if (road.left if left else road.right)]
    ends = [start for start, _ in gaps] + [length]
    starts = [0.0] + [end for _, end in gaps]
    lots = []
    for block_start, block_end in zip(starts, ends):
        s = block_start
        while block_end - s > 6.0:
            end = min(s + rng.uniform(11.0, 34.0), block_end)
            if block_end - end < 10.0:
                end = block_end
            lots.append(Lot((s, end), left, _LOT_KINDS[rng.choice(len(_LOT_KINDS), p=mix)]))
            s = end
    return lots


def street_pose(course: Course, s: float, l: float, height: float = 0.0, yaw: float = 0.0) -> Float[ndarray, "4 4"]:
    """Return `world_from_local` of something upright that stands at (s, l), turned `yaw` radians left of the course."""
    xy = course.xy(s, l)
    angle = float(course.heading(s)) + yaw
    cos, sin = np.cos(angle), np.sin(angle)
    z = float(course.hill(xy)) + height
    return np.array([[cos, -sin, 0, xy[0]], [sin, cos, 0, xy[1]], [0, 0, 1, z], [0, 0, 0, 1.0]])
