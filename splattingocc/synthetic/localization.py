"""Where the ego vehicle believes to be."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

from splattingocc.synthetic.rig import EgoMotion, rigid_matrix, rotation_from_euler

POSITION_ERRORS = (0.03, 0.03, 0.03)
"""Standard deviation of the error ahead, to the left and upwards, metres; nuScenes locates its vehicles to within 10 cm."""
ANGLE_ERRORS = (0.06, 0.06, 0.08)
"""Standard deviation of the error in roll, pitch and yaw, degrees."""
WAVE_LENGTHS = (12.0, 60.0)
"""Metres of way on which an error comes and goes."""
NUM_WAVES = 4


class Localization:
    """Poses as a data set states them: the true ones with an error that drifts with the way, and stands still with the vehicle."""

    def __init__(self, rng: Generator, ego: EgoMotion, *, errors: bool = True) -> None:
        self._ego = ego
        deviations = np.array([*POSITION_ERRORS, *np.deg2rad(ANGLE_ERRORS)])
        self._amplitudes = rng.normal(size=(NUM_WAVES, 6)) * deviations * np.sqrt(2 / NUM_WAVES) * errors
        self._frequencies = 2 * np.pi / rng.uniform(*WAVE_LENGTHS, (NUM_WAVES, 6))
        self._phases = rng.uniform(0, 2 * np.pi, (NUM_WAVES, 6))

    def world_from_ego(self, time: float) -> Float[ndarray, "4 4"]:
        """Return the stated pose at a time in seconds since the start of the scene."""
        way = self._ego.motion.at(time)[0]
        x, y, z, roll, pitch, yaw = (self._amplitudes * np.sin(self._frequencies * way + self._phases)).sum(axis=0)
        return self._ego.world_from_ego(time) @ rigid_matrix(rotation_from_euler(roll, pitch, yaw), np.array([x, y, z]))
