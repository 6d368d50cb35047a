"""Places along a street at even steps of time: how everything that moves is described."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MOTION_START = -0.5
"""Seconds since the start of the scene at which every motion begins: a camera's picture may be a little older than its key frame."""
MOTION_INTERVAL = 0.1
"""Seconds between the places of a motion."""
MOTION_MARGIN = 1.0
"""Seconds by which a motion is longer than its scene, the half second before it included."""


def motion_times(duration: float) -> Float[ndarray, " time"]:
    """Return the times of the places of every motion of a scene that lasts `duration` seconds."""
    return MOTION_START + MOTION_INTERVAL * np.arange(round((duration + MOTION_MARGIN) / MOTION_INTERVAL) + 1)


@dataclass(frozen=True)
class Motion:
    """Where something is at each time, in street coordinates; a single place is for ever."""

    places: Float[ndarray, "time 3"]
    """s and l (metres) and the yaw (radians left of the course) at the times that `motion_times` gives."""

    @property
    def moves(self) -> bool:
        return len(self.places) > 1

    def at(self, time: float) -> Float[ndarray, " 3"]:
        """Return s, l and yaw at a time in seconds since the start of the scene; beyond its ends a motion stands still."""
        index, share = _step_of(time, len(self.places))
        return self.places[index] if share == 0 else (1 - share) * self.places[index] + share * self.places[index + 1]

    def speed_at(self, time: float) -> float:
        """Return the metres per second over ground at a time."""
        half = MOTION_INTERVAL / 2
        step = (self.at(time + half) - self.at(time - half))[:2]
        return float(np.hypot(*step)) / MOTION_INTERVAL


def places_at(places: Float[ndarray, "thing time 3"], time: float) -> Float[ndarray, "thing 3"]:
    """Return where many things are at a time, as `Motion.at` does for one."""
    index, share = _step_of(time, places.shape[1])
    return places[:, index] if share == 0 else (1 - share) * places[:, index] + share * places[:, index + 1]


def place_number(time: float, count: int) -> int:
    """Return which of a motion's `count` places is the last one before a time."""
    return _step_of(time, count)[0]


def _step_of(time: float, count: int) -> tuple[int, float]:
    """Return the place before a time and how much of the way to the next has passed."""
    step = min(max((time - MOTION_START) / MOTION_INTERVAL, 0.0), count - 1.0)
    index = int(step)
    return (index, 0.0) if index == count - 1 else (index, step - index)


def standing(s: float, l: float, yaw: float) -> Motion:
    """Return the motion of something that stands."""
    return Motion(np.array([[s, l, yaw]]))


def steady(s: float, l: float, yaw: float, velocity: tuple[float, float], duration: float) -> Motion:
    """Return a motion at a constant velocity along s and l, metres per second; (s, l) is the place at time 0."""
    times = motion_times(duration)
    return Motion(np.stack([s + velocity[0] * times, l + velocity[1] * times, np.full(len(times), yaw)], axis=-1))
