"""The weather and the time of day of a scene: which light falls on it.

Radiances are linear RGB without a unit: cameras set their exposure by what they see (`camera_effects.py`), so only ratios matter. A sunlit
white wall has about 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.random import Generator

Triple = tuple[float, float, float]


class Weather(StrEnum):
    """A kind of weather and time of day."""

    CLEAR = "clear"
    LOW_SUN = "low sun"
    """A low sun that blinds cameras facing it."""
    OVERCAST = "overcast"
    RAIN = "rain"
    """Overcast, the ground wet, drops on the lenses."""
    DUSK = "dusk"
    NIGHT = "night"


WEATHER_SHARES = {
    Weather.CLEAR: 0.30,
    Weather.LOW_SUN: 0.12,
    Weather.OVERCAST: 0.20,
    Weather.RAIN: 0.18,
    Weather.DUSK: 0.08,
    Weather.NIGHT: 0.12,
}
"""Chosen, not fitted: about as much night (12 %) and, with the wet nights, as much rain (20 %) as nuScenes is known to have."""
WET_NIGHTS = 0.17
"""Share of the nights whose ground is wet."""


@dataclass(frozen=True)
class Light:
    """What lights a scene."""

    weather: Weather
    sun: Triple
    """Unit vector towards the sun, world frame."""
    sun_color: Triple
    """Irradiance on a surface that faces the sun; zero where it has set or does not come through."""
    sky_color: Triple
    """At the zenith; also the light in the shade."""
    horizon_color: Triple
    cloud_color: Triple
    cloudiness: float
    """0 (clear) to 1 (overcast)."""
    haze: float
    """Distance at which 63 % of the contrast is lost, metres."""
    glare: float
    """How strongly the sun scatters in the lenses; 0 to 1."""
    wetness: float
    """Of the ground: 0 (dry) to 1 (a film of water everywhere, puddles in the hollows)."""
    lamps: float
    """0 while street lamps and windows are off, 1 when all are on."""
    headlights: float
    """0 while vehicles drive without lights, 1 with."""
    camera_seed: int
    """Draws how the cameras of the scene are set and how dirty their lenses are."""

    @property
    def has_sun(self) -> bool:
        """Whether the sun throws shadows."""
        return max(self.sun_color) > 0.3

    @property
    def is_dark(self) -> bool:
        """Whether lamps give more light than the sky."""
        return self.weather in (Weather.DUSK, Weather.NIGHT)


def draw_light(rng: Generator, weather: Weather | None = None) -> Light:
    """Draw the weather and the time of day; `weather` fixes its kind."""
    drawn = list(WEATHER_SHARES)[int(rng.choice(len(WEATHER_SHARES), p=list(WEATHER_SHARES.values())))]
    return _DRAW[weather or drawn](rng)


def _clear(rng: Generator) -> Light:
    elevation, cloudiness = np.deg2rad(rng.uniform(25, 70)), rng.uniform(0.0, 0.65)
    sky = np.array([0.62, 0.86, 1.25]) * rng.uniform(0.8, 1.1) * (1 - cloudiness) + np.array([1.1, 1.15, 1.2]) * cloudiness
    return _light(
        rng, Weather.CLEAR, elevation, rng.uniform(2.2, 3.4) * np.array([1.0, 0.95, 0.88]), sky,
        horizon=sky * 0.5 + 1.2, clouds=3.2, cloudiness=cloudiness, haze=rng.uniform(350, 1000), glare=0.25,
    )  # fmt: skip


def _low_sun(rng: Generator) -> Light:
    elevation, cloudiness = np.deg2rad(rng.uniform(5, 18)), rng.uniform(0.0, 0.45)
    sky = np.array([0.5, 0.58, 0.7]) * rng.uniform(0.7, 1.0)
    horizon = np.array([1.3, 1.12, 0.9]) * rng.uniform(0.7, 1.1)
    return _light(
        rng, Weather.LOW_SUN, elevation, rng.uniform(1.6, 2.6) * np.array([1.0, 0.84, 0.62]), sky,
        horizon=horizon, clouds=1.7, cloudiness=cloudiness, haze=rng.uniform(250, 700), glare=rng.uniform(0.6, 1.0),
    )  # fmt: skip


def _overcast(rng: Generator) -> Light:
    gray = np.array([0.63, 0.66, 0.70]) * rng.uniform(0.8, 1.1)
    return _light(
        rng, Weather.OVERCAST, np.deg2rad(rng.uniform(20, 65)), rng.uniform(0.0, 0.2) * np.ones(3), gray,
        horizon=gray, clouds=1.0, cloudiness=rng.uniform(0.8, 1.0), haze=rng.uniform(300, 900), glare=0.0,
    )  # fmt: skip


def _rain(rng: Generator) -> Light:
    gray = np.array([0.46, 0.49, 0.53]) * rng.uniform(0.6, 1.0)
    return _light(
        rng, Weather.RAIN, np.deg2rad(45), np.zeros(3), gray, horizon=gray, clouds=0.7, cloudiness=1.0,
        haze=rng.uniform(130, 450), glare=0.0, wetness=rng.uniform(0.5, 1.0), headlights=1.0,
    )  # fmt: skip


def _dusk(rng: Generator) -> Light:
    level = rng.uniform(0.06, 0.16)
    sky, horizon = np.array([0.55, 0.66, 0.92]) * level, np.array([1.25, 1.0, 0.92]) * level * rng.uniform(0.9, 1.6)
    return _light(
        rng, Weather.DUSK, np.deg2rad(-3), np.zeros(3), sky, horizon=horizon, clouds=0.9 * level, cloudiness=rng.uniform(0.1, 0.9),
        haze=rng.uniform(150, 500), glare=0.0, lamps=rng.uniform(0.4, 1.0), headlights=1.0,
    )  # fmt: skip


def _night(rng: Generator) -> Light:
    level = rng.uniform(0.0012, 0.006)
    sky, horizon = np.array([0.9, 0.8, 0.85]) * level, np.array([1.9, 1.5, 1.2]) * level
    wetness = rng.uniform(0.5, 1.0) if rng.random() < WET_NIGHTS else 0.0
    return _light(
        rng, Weather.NIGHT, np.deg2rad(-30), np.zeros(3), sky, horizon=horizon, clouds=1.2 * level, cloudiness=rng.uniform(0.2, 0.9),
        haze=rng.uniform(200, 600), glare=0.0, wetness=wetness, lamps=1.0, headlights=1.0,
    )  # fmt: skip


_DRAW = {
    Weather.CLEAR: _clear,
    Weather.LOW_SUN: _low_sun,
    Weather.OVERCAST: _overcast,
    Weather.RAIN: _rain,
    Weather.DUSK: _dusk,
    Weather.NIGHT: _night,
}


def _light(
    rng: Generator,
    weather: Weather,
    elevation: float,
    sun_color: np.ndarray,
    sky: np.ndarray,
    *,
    horizon: np.ndarray,
    clouds: float,
    cloudiness: float,
    haze: float,
    glare: float,
    wetness: float = 0.0,
    lamps: float = 0.0,
    headlights: float = 0.0,
) -> Light:
    azimuth = rng.uniform(-np.pi, np.pi)
    sun = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    return Light(
        weather=weather, sun=_triple(np.array(sun)), sun_color=_triple(sun_color), sky_color=_triple(sky), horizon_color=_triple(horizon),
        cloud_color=_triple(clouds * np.array([1.0, 1.0, 1.01])), cloudiness=float(cloudiness), haze=float(haze), glare=float(glare),
        wetness=float(wetness), lamps=float(lamps), headlights=float(headlights), camera_seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
