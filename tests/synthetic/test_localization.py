"""Poses as a data set states them."""

import numpy as np

from splattingocc.synthetic.localization import Localization
from splattingocc.synthetic.motion import standing
from splattingocc.synthetic.rig import EgoMotion
from splattingocc.synthetic.world import draw_world

WORLD = draw_world(np.random.default_rng(2), 20.0)


def errors_of(localization: Localization, ego: EgoMotion, times: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.inv(ego.world_from_ego(time)) @ localization.world_from_ego(time) for time in times])


def test_errors_are_those_of_locating_a_vehicle():
    errors = np.concatenate(
        [errors_of(Localization(np.random.default_rng(i), WORLD.ego), WORLD.ego, np.arange(0.0, 20.0, 0.5)) for i in range(30)]
    )
    deviations = errors[:, :3, 3].std(axis=0)
    assert ((deviations > 0.02) & (deviations < 0.045)).all()
    angles = np.rad2deg(np.arccos(np.clip((np.trace(errors[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 0.03 < np.median(angles) < 0.2
    assert angles.max() < 1.0


def test_errors_drift_and_never_jump():
    localization = Localization(np.random.default_rng(1), WORLD.ego)
    errors = errors_of(localization, WORLD.ego, np.arange(0.0, 20.0, 0.05))
    assert np.linalg.norm(np.diff(errors[:, :3, 3], axis=0), axis=-1).max() < 0.05


def test_a_vehicle_that_stands_is_always_said_to_be_at_the_same_place():
    ego = EgoMotion(WORLD.ego.layout, standing(120.0, -2.0, 0.0), 0.2, 40.0, 1.0)
    localization = Localization(np.random.default_rng(1), ego)
    np.testing.assert_array_equal(localization.world_from_ego(1.0), localization.world_from_ego(9.0))


def test_without_errors_poses_are_the_true_ones():
    localization = Localization(np.random.default_rng(1), WORLD.ego, errors=False)
    np.testing.assert_allclose(localization.world_from_ego(3.3), WORLD.ego.world_from_ego(3.3), atol=1e-12)
