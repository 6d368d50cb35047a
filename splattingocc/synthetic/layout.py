"""The plan of a street: its course, its cross section, its side roads and the lots beside it.

Everything is laid out in street coordinates: `s` metres along the course, `l` metres to its left. The course is bent afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

from splattingocc.synthetic.street_kinds import LotKind, StreetKind

HALF_WIDTH = 60.0
"""How far to each side of its course a street is built, metres. The curves stay wider than this."""
MIN_CURVE_RADIUS = 85.0
"""Metres."""
BEYOND = 250.0
"""How far the course runs on before and behind the street that is built, metres: traffic comes from there."""
CAMBER = 0.02
"""Slope of a carriageway from its middle to its edges."""


class Course:
    """The curve that a street follows, with the hills under it."""

    def __init__(self, rng: Generator, length: float) -> None:
        self._s = np.arange(-BEYOND, length + BEYOND, 0.5)
        curvature = np.zeros_like(self._s)
        if rng.random() < 0.5:
            knots = np.arange(-BEYOND, length + BEYOND + 40.0, 40.0)
            bends = rng.uniform(-1, 1, len(knots)) * rng.choice([0.2, 0.5]) + rng.uniform(-0.5, 0.5)
            curvature = np.interp(self._s, knots, np.clip(bends, -1, 1)) / MIN_CURVE_RADIUS
        self._heading = rng.uniform(-np.pi, np.pi) + np.cumsum(curvature) * 0.5
        steps = np.stack([np.cos(self._heading), np.sin(self._heading)], axis=-1) * 0.5
        self._xy = np.cumsum(steps, axis=0)
        self._hill_waves = rng.normal(size=(3, 2)) / np.array([[75.0], [48.0], [30.0]])
        self._hill_heights = rng.uniform(0.3, 1.0, 3) * np.array([1.2, 0.4, 0.08]) * rng.choice([0.3, 0.8, 1.6], p=[0.25, 0.45, 0.3])
        self._hill_phases = rng.uniform(0, 2 * np.pi, 3)
        # Some streets climb a ramp somewhere.
        is_ramp = rng.random() < 0.2
        self._ramp_height = rng.choice([-1.0, 1.0]) * rng.uniform(1.5, 4.0) if is_ramp else 0.0
        self._ramp_start, self._ramp_length = rng.uniform(0.0, max(length - 120.0, 1.0)), rng.uniform(60.0, 110.0)

    def heading(self, s: ndarray | float) -> ndarray | float:
        """Return the direction of the course, radians from the x axis."""
        return np.interp(s, self._s, self._heading)

    def xy(self, s: ndarray | float, l: ndarray | float) -> ndarray:
        """Return the world positions (…, 2) of points of the street, metres."""
        heading = self.heading(s)
        x = np.interp(s, self._s, self._xy[:, 0]) - np.sin(heading) * l
        y = np.interp(s, self._s, self._xy[:, 1]) + np.cos(heading) * l
        return np.stack([x, y], axis=-1)

    def hill(self, s: ndarray | float, l: ndarray | float) -> ndarray:
        """Return the height of the land under points of the street, metres."""
        angles = self.xy(s, l) @ self._hill_waves.T + self._hill_phases
        climbed = np.clip((np.asarray(s) - self._ramp_start) / self._ramp_length, 0.0, 1.0)
        return np.asarray((self._hill_heights * np.sin(angles)).sum(-1) + self._ramp_height * climbed**2 * (3 - 2 * climbed))


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
    """What its traffic would like to drive, metres per second."""


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

    kind: StreetKind
    course: Course
    length: float
    """The street is built from s = 0 to here, metres."""
    drives_on_left: bool
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

    @cached_property
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

    def road_height(self, s: ndarray | float, l: ndarray | float) -> ndarray:
        """Return the height of the road, or of the land that the road's height goes on in, metres: hills, and the camber of the road."""
        right, left = self.curb(False), self.curb(True)
        middle, half = (right + left) / 2, (left - right) / 2
        return np.asarray(self.course.hill(s, l) - CAMBER * np.minimum(np.abs(np.asarray(l) - middle), half))

    def pose(self, s: float, l: float, height: float = 0.0, yaw: float = 0.0) -> Float[ndarray, "4 4"]:
        """Return `world_from_local` of something upright that stands `height` metres above the road at (s, l), turned `yaw` radians left
        of the course."""
        x, y = self.course.xy(s, l)
        angle = float(self.course.heading(s)) + yaw
        cos, sin = np.cos(angle), np.sin(angle)
        z = float(self.road_height(s, l)) + height
        return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


def draw_layout(rng: Generator, kind: StreetKind, length: float) -> Layout:
    """Draw the plan of a street `length` metres long."""
    lane_width = rng.uniform(*kind.lane_width)
    ahead, back = (int(rng.integers(low, high + 1)) for low, high in (kind.lanes_ahead, kind.lanes_back))
    median = rng.uniform(1.6, 4.0) if back and rng.random() < kind.median else 0.0
    # Some countries drive on the left.
    drives_on_left = bool(rng.random() < 0.4)
    keep = 1 if drives_on_left else -1
    center = rng.uniform(-2.0, 2.0)
    lanes = tuple(
        Lane(center + keep * direction * (median / 2 + (i + 0.5) * lane_width), direction, rng.uniform(*kind.speed))
        for direction, count in ((1, ahead), (-1, back))
        for i in range(count)
    )
    side_roads = _draw_side_roads(rng, kind, length)
    lots = tuple(lot for left in (False, True) for lot in _draw_lots(rng, kind, length, left, side_roads))
    sides = [_draw_side(rng, kind) for _ in range(2)]
    return Layout(
        kind, Course(rng, length), length, drives_on_left, lanes, lane_width, median, center, sides[0], sides[1], side_roads, lots
    )


def _draw_side(rng: Generator, kind: StreetKind) -> Side:
    return Side(
        parking=rng.uniform(2.2, 2.7) if rng.random() < kind.parking else 0.0,
        parking_is_other_flat=bool(rng.random() < 0.07),
        verge=rng.uniform(*kind.verge_width) if rng.random() < kind.verge else 0.0,
        sidewalk=rng.uniform(*kind.sidewalk),
    )


def _draw_side_roads(rng: Generator, kind: StreetKind, length: float) -> tuple[SideRoad, ...]:
    roads = []
    s = rng.uniform(10.0, kind.side_road_spacing[1])
    while s < length - 15.0:
        sides = rng.integers(1, 4)
        half_width = rng.uniform(*kind.side_road_half_width)
        roads.append(SideRoad(s, half_width, bool(sides & 1), bool(sides & 2), bool(rng.random() < 0.7)))
        s += 2 * half_width + rng.uniform(*kind.side_road_spacing)
    return tuple(roads)


def _draw_lots(rng: Generator, kind: StreetKind, length: float, left: bool, side_roads: tuple[SideRoad, ...]) -> list[Lot]:
    kinds, shares = list(kind.lots), np.array(list(kind.lots.values()))
    gaps = [(road.s - road.half_width - 2.0, road.s + road.half_width + 2.0) for road in side_roads if (road.left if left else road.right)]
    ends = [start for start, _ in gaps] + [length]
    starts = [0.0] + [end for _, end in gaps]
    lots = []
    for block_start, block_end in zip(starts, ends):
        s = block_start
        while block_end - s > 6.0:
            end = min(s + rng.uniform(11.0, 34.0), block_end)
            if block_end - end < 10.0:
                end = block_end
            lots.append(Lot((s, end), left, kinds[rng.choice(len(kinds), p=shares / shares.sum())]))
            s = end
    return lots
