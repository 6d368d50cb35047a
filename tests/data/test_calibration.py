import warnings
from typing import Any

import numpy as np
import pytest

from splattingocc.data.calibration import (
    FARTHEST_MOUNT,
    FARTHEST_POSITION,
    check_image_size,
    check_intrinsics,
    check_pose,
    check_timestamp,
    check_translation,
    principal_points_doubtful,
)

SIZE = (900, 1600)


def intrinsics(**numbers: float) -> np.ndarray:
    K = np.array([[1260.0, 0.0, 800.0], [0.0, 1260.0, 450.0], [0.0, 0.0, 1.0]])
    for place, number in numbers.items():
        K[int(place[1]), int(place[2])] = number
    return K


@pytest.mark.parametrize(
    "K",
    [
        intrinsics(),
        intrinsics().tolist(),
        intrinsics().astype(np.float32),
        intrinsics(_00=1.0, _11=1e6),
        intrinsics(_02=-1600.0, _12=1800.0),
        intrinsics(_01=-120.0),
    ],
)
def test_a_pinhole_matrix_is_accepted(K: Any):
    check_intrinsics(K, SIZE, "K")


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (None, "here: K is None, expected a 3×3 matrix of numbers"),
        ([[1, 2], [3]], "here: K is [[1, 2], [3]], expected a 3×3 matrix of numbers"),
        (np.eye(4), "expected a 3×3 matrix of numbers"),
        ([["f", 0, 0], [0, 1, 0], [0, 0, 1]], "expected a 3×3 matrix of numbers"),
        (intrinsics() * 1j, "expected a 3×3 matrix of numbers"),
        ([[10**400, 0, 0], [0, 1, 0], [0, 0, 1]], "expected a 3×3 matrix of numbers"),
        (intrinsics(_12=np.nan), "expected finite numbers"),
        (intrinsics(_00=np.inf), "expected finite numbers"),
        (intrinsics(_10=0.5), "expected a pinhole matrix: rows fx s cx, 0 fy cy, 0 0 1"),
        (intrinsics(_22=2.0), "expected a pinhole matrix"),
        (intrinsics().T, "expected a pinhole matrix"),
        (intrinsics(_00=0.0), "here: K has the focal lengths 0 and 1260, expected 1 to 1e+06 pixels"),
        (intrinsics(_11=-1260.0), "focal lengths 1260 and -1260"),
        (intrinsics(_11=0.002), "focal lengths 1260 and 0.002"),
        (intrinsics(_00=1e300), "focal lengths 1e+300 and 1260"),
        (intrinsics(_02=16_001.0), "here: K has its principal point at u 16001, v 450: far outside of an image of 900×1600 pixels"),
        (intrinsics(_02=3_201.0), "principal point at u 3201, v 450: far outside of an image of 900×1600 pixels"),
        (intrinsics(_12=-1e12), "principal point at u 800, v -1e+12"),
        (intrinsics(_01=800.0), "here: K has a skew of 800 at a focal length of 1260, expected at most 0.1 of it"),
    ],
)
def test_other_matrices_are_named(K: Any, message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        check_intrinsics(K, SIZE, "here: K")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image_size", [(900, 1600), [1, 1], np.array([40, 60]), (16_384, 6_000)])
def test_sizes_that_cameras_have_are_accepted(image_size: Any):
    check_image_size(image_size, "image_size")


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (None, "here: image_size is None, expected height and width in whole pixels"),
        (900, "is 900, expected height and width"),
        ((900,), "expected height and width"),
        ((900, 1600, 3), "expected height and width"),
        ((900.5, 1600), "expected height and width in whole pixels"),
        (("900", "1600"), "expected height and width"),
        ((float("inf"), 1), "expected height and width"),
        ((0, 1600), "here: image_size is 0 × 1600 pixels, expected sides of 1 to 16,384"),
        ((900, -1), "900 × -1 pixels"),
        ((100_000, 100), "100000 × 100 pixels"),
        ((16_000, 16_000), "16000 × 16000 pixels, expected sides of 1 to 16,384 and at most 100,000,000 pixels in all"),
    ],
)
def test_other_sizes_are_named(image_size: Any, message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        check_image_size(image_size, "here: image_size")
    assert message in str(caught.value)


def pose(*translation: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    matrix[:3, 3] = translation
    return matrix


def test_rigid_transforms_within_reach_are_accepted():
    check_pose(pose(100.0, -100.0, 1.5), "pose", farthest=FARTHEST_MOUNT)
    check_pose(pose(6.9e5, 5.3e6, 12.0), "pose", farthest=FARTHEST_POSITION)
    check_translation([6.9e5, 5.3e6, 12.0], "pose", farthest=FARTHEST_POSITION)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "expected a 4×4 matrix of numbers"),
        (pose(np.nan, 0, 0), "expected finite numbers"),
        (pose(0, 0, 0).T + pose(0, 0, 1).T, "here: mount has the last row [0.0, 0.0, 1.0, 2.0], expected 0 0 0 1"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "here: mount does not hold a rotation (determinant -1;"),
        (np.diag([1.0, 1.0, 0.9, 1.0]), "does not hold a rotation (determinant 0.9;"),
        (np.diag([1e200, 1e200, 1e200, 1.0]), "does not hold a rotation (numbers up to 1e+200;"),
        (pose(0, 101.0, 0), "here: mount is at [0.0, 101.0, 0.0], expected finite metres up to 100"),
        (pose(1e12, 0, 0), "here: mount is at [1000000000000.0, 0.0, 0.0], expected finite metres up to 100"),
    ],
)
def test_other_transforms_are_named(matrix: np.ndarray, message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        check_pose(matrix, "here: mount", farthest=FARTHEST_MOUNT)
    assert message in str(caught.value)


def test_a_translation_that_is_not_finite_or_too_far_is_named():
    for wrong in ([np.inf, 0, 0], [0, np.nan, 0], [0, 0, -2e8]):
        with pytest.raises(ValueError, match=r"row 3: translation is at .*, expected finite metres up to 1e\+08"):
            check_translation(wrong, "row 3: translation", farthest=FARTHEST_POSITION)


def test_timestamps_are_whole_and_fit_64_bits():
    for timestamp in (0, -1, 1_533_151_603_512_404, 2**63 - 1, np.int64(5)):
        check_timestamp(timestamp, "timestamp")
    for wrong in (2**63, -(2**63) - 1, 1.5, "noon", None, True):
        with pytest.raises(ValueError, match=r"here: timestamp is .*, expected whole microseconds within 64 bits"):
            check_timestamp(wrong, "here: timestamp")


def test_a_camera_that_is_not_there_is_not_doubted():
    K, sizes = np.stack([intrinsics(), np.zeros((3, 3)), intrinsics(_02=400.0, _12=225.0)]), np.array([[900, 1600], [0, 0], [900, 1600]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert principal_points_doubtful(K, sizes).tolist() == [False, False, True]
