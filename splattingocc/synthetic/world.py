"""A whole scene: street, things, light, vehicle."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from splattingocc.synthetic.driving import WARM_UP
from splattingocc.synthetic.ground import Ground, ground_mesh
from splattingocc.synthetic.layout import draw_layout
from splattingocc.synthetic.light import Light, draw_light
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.rig import EgoMotion
from splattingocc.synthetic.scenery import add_scenery
from splattingocc.synthetic.street_kinds import STREET_KINDS, StreetKind
from splattingocc.synthetic.things import SceneBuilder, Thing
from splattingocc.synthetic.traffic import add_crossing_people, add_parked, add_pedestrians, add_traffic, add_waiting, draw_traffic

VIEW_MARGIN = 95.0
"""Metres of street before the first and after the last place of the ego vehicle."""


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
        return [thing for thing in self.things if thing.motion.moves]


def draw_world(rng: Generator, duration: float, kind: StreetKind | None = None) -> World:
    """Draw a scene that lasts `duration` seconds, in a street of a given kind or of any."""
    kind = kind or STREET_KINDS[rng.integers(len(STREET_KINDS))]
    # The vehicle may be fast while queues form, too.
    layout = draw_layout(rng, kind, 2 * VIEW_MARGIN + kind.speed[1] * (duration + WARM_UP))
    traffic = draw_traffic(rng, layout, VIEW_MARGIN - 0.7 * WARM_UP * kind.speed[0], duration)
    ego = EgoMotion(layout, traffic.ego, float(rng.uniform(0.05, 0.4)), float(rng.uniform(25, 60)), float(rng.uniform(0, 6)))
    places = traffic.ego.places[:, 0]
    ground = Ground(rng, layout)
    span = (max(float(places.min()) - VIEW_MARGIN, 0.0), min(float(places.max()) + VIEW_MARGIN, layout.length))
    builder = SceneBuilder(rng, ground, span, duration)
    builder.add_ground(ground_mesh(ground, span))
    add_scenery(builder)
    add_traffic(builder, traffic)
    add_parked(builder)
    add_waiting(builder)
    add_pedestrians(builder, traffic)
    add_crossing_people(builder, traffic)
    return World(ground, builder.static_mesh(), tuple(builder.things), draw_light(rng), ego)
