import math

import numpy as np
import pytest

from splattingocc.data.key_frames import ego_from_other_ego, inverse


def pose(x: float, y: float, yaw: float, pitch: float = 0.0) -> np.ndarray:
    cos, sin, up, ahead = math.cos(yaw), math.sin(yaw), math.sin(pitch), math.cos(pitch)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ np.array([[ahead, 0.0, up], [0.0, 1.0, 0.0], [-up, 0.0, ahead]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, (x, y, 0.3)
    return matrix


@pytest.mark.parametrize("far", [0.0, 1_234.567, 4.5e6])
def test_equal_poses_give_exactly_the_identity_wherever_they_are(far: float):
    world_from_ego = pose(far, -far / 3, 0.7, 0.01)
    assert np.array_equal(ego_from_other_ego(world_from_ego, world_from_ego.copy()), np.eye(4))
    others = np.stack([world_from_ego, pose(far + 1, far, 0.2), world_from_ego])
    same = (ego_from_other_ego(world_from_ego, others) == np.eye(4)).all(axis=(1, 2))
    assert same.tolist() == [True, False, True]


def test_the_other_ego_is_found_where_both_poses_say():
    world_from_ego, world_from_other = pose(10.0, -4.0, 0.7, 0.02), pose(13.0, -2.0, 0.9, -0.01)
    np.testing.assert_allclose(ego_from_other_ego(world_from_ego, world_from_other), inverse(world_from_ego) @ world_from_other, atol=1e-14)
    both = ego_from_other_ego(world_from_ego, np.stack([world_from_other, world_from_ego]))
    np.testing.assert_array_equal(both[0], ego_from_other_ego(world_from_ego, world_from_other))
    ahead = ego_from_other_ego(pose(5.0, 7.0, math.pi / 2), pose(5.0, 9.0, math.pi / 2))
    np.testing.assert_allclose(ahead[:3, 3], [2.0, 0.0, 0.0], atol=1e-15)


def test_the_error_is_that_of_metres_and_not_of_world_coordinates():
    # The same motion near the world's origin and 2**22 m away, whose coordinates both hold exactly
    near = ego_from_other_ego(pose(0.0, 0.0, 0.7, 0.02), pose(1.5, 0.25, 0.9))
    far = ego_from_other_ego(pose(2.0**22, -(2.0**22), 0.7, 0.02), pose(2.0**22 + 1.5, 0.25 - 2.0**22, 0.9))
    np.testing.assert_array_equal(far, near)
    product = inverse(pose(2.0**22, -(2.0**22), 0.7, 0.02)) @ pose(2.0**22 + 1.5, 0.25 - 2.0**22, 0.9)
    assert np.abs(product - near).max() > 1e-11
