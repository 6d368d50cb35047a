"""A whole scene: street, things, light, vehicle."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from splattingocc.synthetic.ground import Ground, ground_mesh
from splattingocc.synthetic.layout import Lane, draw_layout
from splattingocc.synthetic.light import Light, draw_light
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.rig import EgoMotion
from splattingocc.synthetic.scenery import add_scenery
from splattingocc.synthetic.things import SceneBuilder, Thing
from splattingocc.synthetic.traffic import add_crossing_people, add_parked, add_pedestrians, add_traffic, add_waiting

VIEW_MARGIN = 95.0
"""Metres of street before the first and after the last place of the ego vehicle."""
FASTEST = 11.0
"""Metres per second: no ego vehicle drives faster."""


@dataclass(frozen=True)
class World:
    """One scene."""

    ground: Ground
    static: Mesh
    """All that stands still, in the world frame."""
    things: tuple[Thing, ...]
    """All annotated things, moving or not, by number."""
    light: Light
    ego: EgoMotion

    @property
    def moving_things(self) -> list[Thing]:
        return [thing for thing in self.things if thing.speed != 0.0]


def draw_world(rng: Generator, duration: float) -> World:
    """Draw a scene that lasts `duration` seconds."""
    layout = draw_layout(rng, 2 * VIEW_MARGIN + FASTEST * duration)
    ground = Ground(rng, layout)
    ahead = [lane for lane in layout.lanes if lane.direction > 0]
    lane: Lane = ahead[rng.integers(len(ahead))]
    start_s = VIEW_MARGIN + float(rng.uniform(0.0, FASTEST * duration - lane.speed * duration))
    ego = EgoMotion(layout.course, lane, start_s, float(rng.uniform(0.05, 0.4)), float(rng.uniform(25, 60)), float(rng.uniform(0, 6)))
    builder = SceneBuilder(rng, ground, duration)
    builder.add_ground(ground_mesh(ground))
    add_scenery(builder)
    add_traffic(builder, lane, start_s + 1.0)
    add_parked(builder)
    add_waiting(builder)
    add_pedestrians(builder)
    add_crossing_people(builder, start_s, lane.speed * duration + 12.0)
    return World(ground, builder.static_mesh(), tuple(builder.things), draw_light(rng), ego)
