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
from splattingocc.synthetic.layout import HALF_WIDTH, Layout
from splattingocc.synthetic.mesh import EMPTY, Mesh, join
from splattingocc.synthetic.motion import Motion, place_number, places_at, standing

CATEGORY_INDEX = {name: index for index, (name, _) in enumerate(LIDARSEG_CATEGORIES)}
"""nuScenes-lidarseg index of each category name."""
EDGE = 2.0
"""Metres from the end of what is built at which things come and go."""
HIDDEN = -300.0
"""Metres above the road at which things wait that have driven out of the street that is built."""


@dataclass(frozen=True)
class Thing:
    """One annotated instance: a shape and how it moves along the street."""

    number: int
    category: str
    attribute: str
    """nuScenes attribute name; empty where the category has none."""
    shape: Mesh
    """In its own frame: x forward, the origin on the ground."""
    motion: Motion
    heights: Float[ndarray, " time"]
    """How high above the road it stands at each place of its motion, metres: walkers step down where they cross a road."""

    def world_from_thing(self, layout: Layout, time: float) -> Float[ndarray, "4 4"]:
        """Return its pose at a time in seconds since the start of the scene."""
        s, l, yaw = self.motion.at(time)
        return layout.pose(s, l, self.height_at(time), yaw)

    def height_at(self, time: float) -> float:
        """Return how high above the road it stands, metres."""
        return float(self.heights[place_number(time, len(self.heights))])

    def is_there(self, time: float) -> bool:
        """Say whether it is on the street that is built."""
        return self.height_at(time) > HIDDEN

    def box(self) -> tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]:
        """Return the centre and the size (x, y, z) of its bounding box in its own frame, metres."""
        points = self.shape.corners.reshape(-1, 3).astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        return (low + high) / 2, high - low


class SceneBuilder:
    """Collects what stands in a scene. `span` is the piece of the street that is built, metres along it; `duration` how long the scene
    lasts, seconds."""

    def __init__(self, rng: Generator, ground: Ground, span: tuple[float, float], duration: float) -> None:
        self.rng = rng
        self.ground = ground
        self.span = span
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
        pose = self.layout.pose(s, l, self.ground.height_at(s, l), yaw)
        self._parts.append(shape.labelled(CATEGORY_INDEX[category]).moved(pose))

    def place(self, category: str, shape: Mesh, s: float, l: float, yaw: float = 0.0, *, attribute: str = "") -> None:
        """Stand an annotated thing at (s, l)."""
        self.place_moving(category, shape, standing(s, l, yaw), attribute=attribute)

    def place_moving(self, category: str, shape: Mesh, motion: Motion, *, attribute: str = "") -> None:
        """Put an annotated thing on its way; one that is never on the piece of the street that is built is left out."""
        heights = self._heights(motion)
        if (heights == HIDDEN).all():
            return
        number = len(self.things)
        labelled = shape.labelled(CATEGORY_INDEX[category], number)
        self.things.append(Thing(number, category, attribute or default_attribute(category, motion.moves), labelled, motion, heights))

    def _heights(self, motion: Motion) -> Float[ndarray, " time"]:
        s, l, _ = motion.places.T
        heights = np.array([surface.height for surface in self.ground.surfaces])[self.ground.kinds_at(s, l)]
        is_there = (s > self.span[0] + EDGE) & (s < self.span[1] - EDGE) & (np.abs(l) < HALF_WIDTH - EDGE)
        return np.where(is_there, heights, HIDDEN)

    def is_on_side_road(self, s: float, l: float, margin: float = 1.0) -> bool:
        """Say whether a place beside the street lies in the mouth of a side road or within `margin` metres of it."""
        return any(abs(s - road.s) < road.half_width + margin and (road.left if l > 0 else road.right) for road in self.layout.side_roads)

    def static_mesh(self) -> Mesh:
        """Return everything that stands still, annotated things included."""
        still = [thing.shape.moved(thing.world_from_thing(self.layout, 0.0)) for thing in self.things if not thing.motion.moves]
        return join([EMPTY, *self._parts, *still])


def default_attribute(category: str, moves: bool) -> str:
    """Return the nuScenes attribute that fits something that moves or stands."""
    if category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.with_rider" if moves else "cycle.without_rider"
    if category.startswith("vehicle."):
        return "vehicle.moving" if moves else "vehicle.parked"
    if category.startswith("human.pedestrian.") and category.rsplit(".", 1)[1] not in ("stroller", "wheelchair", "personal_mobility"):
        return "pedestrian.moving" if moves else "pedestrian.standing"
    return ""


class MovingThings:
    """The things of a scene that move, all at once."""

    def __init__(self, things: list[Thing], layout: Layout) -> None:
        self._layout = layout
        self._shapes = join([EMPTY, *(thing.shape for thing in things)])
        self._thing_of_triangle = np.repeat(np.arange(len(things)), [len(thing.shape) for thing in things])
        self._places = np.stack([thing.motion.places for thing in things]) if things else np.zeros((0, 1, 3))
        self._heights = np.stack([thing.heights for thing in things]) if things else np.zeros((0, 1))

    def mesh(self) -> Mesh:
        """Return them at time 0."""
        return dataclasses.replace(self._shapes, corners=self.corners_at(0.0))

    def poses_at(self, time: float) -> tuple[Float[ndarray, "thing 3"], Float[ndarray, " thing"]]:
        """Return where they are at a time in seconds, world frame, and which way they look, radians from the x axis: what
        `Thing.world_from_thing` says of each."""
        s, l, yaw = places_at(self._places, time).T
        z = self._layout.road_height(s, l) + self._heights[:, place_number(time, self._heights.shape[1])]
        return np.column_stack([self._layout.course.xy(s, l), z]), self._layout.course.heading(s) + yaw

    def corners_at(self, time: float) -> Float32[ndarray, "triangle 3 3"]:
        """Return their corners at a time in seconds, in the order of the mesh."""
        positions, angle = self.poses_at(time)
        cos, sin = (values.astype(np.float32)[self._thing_of_triangle, None] for values in (np.cos(angle), np.sin(angle)))
        shift = positions.astype(np.float32)[self._thing_of_triangle, None]
        x, y, up = np.moveaxis(self._shapes.corners, -1, 0)
        return np.stack([cos * x - sin * y, sin * x + cos * y, up], axis=-1) + shift
