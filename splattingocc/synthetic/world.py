"""A whole scene: street, things, light, vehicle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.driving import WARM_UP
from splattingocc.synthetic.ground import Ground, ground_mesh
from splattingocc.synthetic.layout import draw_layout
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.rig import EgoMotion
from splattingocc.synthetic.scenery import add_scenery
from splattingocc.synthetic.street_kinds import STREET_KINDS, StreetKind
from splattingocc.synthetic.things import SceneBuilder, Thing
from splattingocc.synthetic.traffic import add_crossing_people, add_parked, add_pedestrians, add_traffic, add_waiting, draw_traffic

VIEW_MARGIN = 95.0
"""Metres of street before the first and after the last place of the ego vehicle."""


@dataclass(frozen=True)
class Light:
    """The weather of a scene and how its cameras are set."""

    sun: tuple[float, float, float]
    """Unit vector towards the sun, world frame."""
    sun_color: tuple[float, float, float]
    sky_color: tuple[float, float, float]
    """At the zenith, linear RGB; also the light in the shade."""
    horizon_color: tuple[float, float, float]
    cloudiness: float
    """0 (clear) to 1 (overcast)."""
    haze: float
    """Distance at which 63 % of the contrast is lost, metres."""
    exposure: float
    white_balance: tuple[float, float, float]
    noise: float
    """Standard deviation of the sensor noise, in steps of 8-bit grey."""


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


def draw_light(rng: Generator) -> Light:
    """Draw the time of day and the weather."""
    elevation, azimuth = np.deg2rad(rng.uniform(18, 65)), rng.uniform(-np.pi, np.pi)
    sun = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    overcast = rng.random() < 0.3
    cloudiness = rng.uniform(0.75, 1.0) if overcast else rng.uniform(0.0, 0.6)
    warmth = np.clip((np.deg2rad(45) - elevation) / np.deg2rad(30), 0, 1)
    strength = rng.uniform(0.05, 0.3) if overcast else rng.uniform(2.2, 3.2)
    blue = np.array([0.24, 0.42, 0.85]) * rng.uniform(0.7, 1.1)
    gray = np.array([0.62, 0.66, 0.72]) * rng.uniform(0.8, 1.1)
    sky = blue * (1 - cloudiness) + gray * cloudiness
    return Light(
        sun=_triple(np.array(sun)),
        sun_color=_triple(strength * np.array([1.0, 0.93 - 0.15 * warmth, 0.82 - 0.35 * warmth])),
        sky_color=_triple(sky),
        horizon_color=_triple(sky * 0.4 + np.array([0.55, 0.57, 0.58])),
        cloudiness=float(cloudiness),
        haze=float(rng.uniform(150, 600)),
        exposure=float(rng.uniform(0.8, 1.25) * (1.5 if overcast else 1.0)),
        white_balance=_triple(rng.uniform(0.93, 1.07, 3)),
        noise=float(rng.uniform(0.5, 3.5)),
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def draw_world(rng: Generator, duration: float, kind: StreetKind | None = None) -> World:
    """Draw a scene that lasts `duration` seconds, in a street of a given kind or of any."""
    kind = kind or STREET_KINDS[rng.integers(len(STREET_KINDS))]
    layout = draw_layout(rng, kind, 2 * VIEW_MARGIN + kind.speed[1] * duration)
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
    add_pedestrians(builder)
    add_crossing_people(builder, traffic.lights)
    return World(ground, builder.static_mesh(), tuple(builder.things), draw_light(rng), ego)
