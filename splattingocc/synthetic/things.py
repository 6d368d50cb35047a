"""Annotated things, moving or not, and the builder that puts everything of a scene in its place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from numpy.random import Generator

from splattingocc.data.nuscenes_taxonomy import LIDARSEG_CATEGORIES
from splattingocc.synthetic.ground import Ground
from splattingocc.synthetic.layout import Course, Layout, street_pose
from splattingocc.synthetic.mesh import EMPTY, Mesh, join

CATEGORY_INDEX = {name: index for index, (name, _) in enumerate(LIDARSEG_CATEGORIES)}
"""nuScenes-lidarseg index of each category name."""
HEIGHT_INTERVAL = 0.1
"""How often the ground under something that moves is looked up, seconds."""


@dataclass(frozen=True)
class Thing:
    """One annotated instance: a shape and how it moves along the street."""

    number: int
    category: str
    attribute: str
    """nuScenes attribute name; empty where the category has none."""
    shape: Mesh
    """In its own frame: x forward, the origin on the ground."""
    s: float
    """Place along the course at time 0, metres."""
    l: float
    """Metres left of the course."""
    yaw: float
    """Heading, radians left of the course."""
    speed: float
    """Metres per second along the course, negative against it."""
    heights: tuple[tuple[float, float], ...]
    """How high above the road it stands, metres, from each time (seconds, ascending) on: walkers step down where they cross a road."""

    def world_from_thing(self, course: Course, time: float) -> Float[ndarray, "4 4"]:
        """Return its pose at a time in seconds since the start of the scene."""
        return street_pose(course, self.s + self.speed * time, self.l, self.height_at(time), self.yaw)

    def height_at(self, time: float) -> float:
        """Return how high above the road it stands, metres."""
        return [height for start, height in self.heights if start <= max(time, 0.0)][-1]

    def box(self) -> tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]:
        """Return the centre and the size (x, y, z) of its bounding box in its own frame, metres."""
        points = self.shape.corners.reshape(-1, 3).astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        return (low + high) / 2, high - low


class SceneBuilder:
    """Collects what stands in a scene. `duration` is how long the scene lasts, seconds."""

    def __init__(self, rng: Generator, ground: Ground, duration: float) -> None:
        self.rng = rng
        self.ground = ground
        self.duration = duration
        self.things: list[Thing] = []
        self._parts: list[Mesh] = []

    @property
    def layout(self) -> Layout:
        return self.ground.layout

    def add_ground(self, mesh: Mesh) -> None:
        """Add a mesh that is labelled and in its place already."""
        self._parts.append(mesh)

    def fix(self, category: str, shape: Mesh, s: float, l: float, yaw: float = 0.0) -> None:
        """Stand something that is not annotated at (s, l)."""
        pose = street_pose(self.layout.course, s, l, self.ground.height_at(s, l), yaw)
        self._parts.append(shape.labelled(CATEGORY_INDEX[category]).moved(pose))

    def place(self, category: str, shape: Mesh, s: float, l: float, yaw: float = 0.0, *, speed: float = 0.0, attribute: str = "") -> None:
        """Put an annotated thing at (s, l); one that would leave the street within the scene's duration is left out."""
        ends = (s, s + speed * self.duration)
        if min(ends) < 2.0 or max(ends) > self.layout.length - 2.0:
            return
        number = len(self.things)
        labelled = shape.labelled(CATEGORY_INDEX[category], number)
        attribute = attribute or default_attribute(category, speed)
        self.things.append(Thing(number, category, attribute, labelled, s, l, yaw, speed, self._heights(s, l, speed)))

    def _heights(self, s: float, l: float, speed: float) -> tuple[tuple[float, float], ...]:
        times = np.arange(0.0, self.duration + HEIGHT_INTERVAL, HEIGHT_INTERVAL) if speed else np.zeros(1)
        heights = np.array([surface.height for surface in self.ground.surfaces])[
            self.ground.kinds_at(s + speed * times, np.full(len(times), l))
        ]
        changes = np.flatnonzero(np.diff(heights, prepend=np.nan) != 0.0)
        return tuple((float(times[i]), float(heights[i])) for i in changes)

    def is_on_side_road(self, s: float, l: float, margin: float = 1.0) -> bool:
        """Say whether a place beside the street lies in the mouth of a side road or within `margin` metres of it."""
        return any(abs(s - road.s) < road.half_width + margin and (road.left if l > 0 else road.right) for road in self.layout.side_roads)

    def static_mesh(self) -> Mesh:
        """Return everything that stands still, annotated things included."""
        standing = [thing.shape.moved(thing.world_from_thing(self.layout.course, 0.0)) for thing in self.things if thing.speed == 0.0]
        return join([EMPTY, *self._parts, *standing])


def default_attribute(category: str, speed: float) -> str:
    """Return the nuScenes attribute that fits something that moves at `speed` or stands."""
    if category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.with_rider" if speed else "cycle.without_rider"
    if category.startswith("vehicle."):
        return "vehicle.moving" if speed else "vehicle.parked"
    if category.startswith("human.pedestrian.") and category.rsplit(".", 1)[1] not in ("stroller", "wheelchair", "personal_mobility"):
        return "pedestrian.moving" if speed else "pedestrian.standing"
    return ""


class MovingThings:
    """The things of a scene that move, all at once."""

    def __init__(self, things: list[Thing], course: Course) -> None:
        self._things, self._course = things, course
        self._shapes = join([EMPTY, *(thing.shape for thing in things)])
        self._thing_of_triangle = np.repeat(np.arange(len(things)), [len(thing.shape) for thing in things])
        self._s, self._l, self._yaw, self._speed = (
            np.array([getattr(thing, name) for thing in things]) for name in ("s", "l", "yaw", "speed")
        )

    def mesh(self) -> Mesh:
        """Return them at time 0."""
        return dataclasses.replace(self._shapes, corners=self.corners_at(0.0))

    def corners_at(self, time: float) -> Float32[ndarray, "triangle 3 3"]:
        """Return their corners at a time in seconds, in the order of the mesh, moved as `Thing.world_from_thing` says."""
        s = self._s + self._speed * time
        xy = self._course.xy(s, self._l)
        z = self._course.hill(xy) + np.array([thing.height_at(time) for thing in self._things])
        angle = self._course.heading(s) + self._yaw
        cos, sin = (values.astype(np.float32)[self._thing_of_triangle, None] for values in (np.cos(angle), np.sin(angle)))
        shift = np.concatenate([xy, z[:, None]], axis=-1).astype(np.float32)[self._thing_of_triangle, None]
        x, y, up = np.moveaxis(self._shapes.corners, -1, 0)
        return np.stack([cos * x - sin * y, sin * x + cos * y, up], axis=-1) + shift
