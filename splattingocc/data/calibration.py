"""What a table may say of sensors: bounds that no real rig exceeds, so that a wrong unit or a damaged number is named where it is read.

Each check takes `where`, what the value is called and where it stands ("…/calibrated_sensor.json: row 12ab: camera_intrinsic", "key frame
7 of drive-0, front: K"), with which its `ValueError` begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from splattingocc.files import images

FOCAL_LENGTHS = (1.0, 1e6)
"""Pixels."""
FAR_FROM_MIDDLE = 0.3
"""Of half the image, from its middle; those of a real key frame of nuScenes are within an eighth."""
FARTHEST_PRINCIPAL_POINT = 2
"""Widths and heights of the image, from its corner."""
LARGEST_SKEW = 0.1
"""Share of the focal length."""
FARTHEST_MOUNT = 100.0
"""Metres of a sensor from the origin of its vehicle, along each axis."""
FARTHEST_POSITION = 1e8
"""Metres of a vehicle from the origin of the world, along each axis; farther, double precision resolves no micrometre any more."""
RIGID_TOLERANCE = 1e-3
"""How far R Rᵀ of a pose may be from the identity."""


def check_image_size(image_size: Any, where: str) -> None:
    """Refuse what is not a height and a width in pixels that a camera has."""
    try:
        height, width = (int(length) for length in image_size)
        is_whole = (height, width) == tuple(image_size)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{where} is {_short(image_size)}, expected height and width in whole pixels")
    try:
        images.check_image_size(height, width)
    except ValueError as error:
        raise ValueError(f"{where} is {error}") from None


def check_intrinsics(K: Any, image_size: tuple[int, int], where: str) -> None:
    """Refuse what is not the matrix of a pinhole camera with images of this (height, width)."""
    matrix = _matrix(K, 3, where)
    height, width = image_size
    fx, skew, cx = matrix[0]
    zero, fy, cy = matrix[1]
    if zero != 0 or matrix[2].tolist() != [0, 0, 1]:
        raise ValueError(f"{where} is {_short(matrix.tolist())}, expected a pinhole matrix: rows fx s cx, 0 fy cy, 0 0 1")
    least, most = FOCAL_LENGTHS
    if not (least <= fx <= most and least <= fy <= most):
        raise ValueError(f"{where} has the focal lengths {fx:g} and {fy:g}, expected {least:g} to {most:g} pixels")
    if abs(cx) > FARTHEST_PRINCIPAL_POINT * width or abs(cy) > FARTHEST_PRINCIPAL_POINT * height:
        raise ValueError(f"{where} has its principal point at u {cx:g}, v {cy:g}: far outside of an image of {height}×{width} pixels")
    if abs(skew) > LARGEST_SKEW * fx:
        raise ValueError(f"{where} has a skew of {skew:g} at a focal length of {fx:g}, expected at most {LARGEST_SKEW:g} of it")


def principal_points_doubtful(
    K: Float64[np.ndarray, "*frame 3 3"], image_sizes: Int64[np.ndarray, "*frame 2"]
) -> Bool[np.ndarray, "*frame"]:
    """Say where a principal point hints at a matrix of images of another size.

    That is at or beyond the border of its image, or far from the middle along both axes to the same side; cut images have it along one.
    An image without pixels, of a camera that is not there, is no hint.
    """
    from_middle = K[..., :2, 2] / np.maximum(image_sizes[..., ::-1] / 2, 0.5) - 1
    before, behind = from_middle < -FAR_FROM_MIDDLE, from_middle > FAR_FROM_MIDDLE
    doubtful = (np.abs(from_middle) >= 1).any(axis=-1) | before.all(axis=-1) | behind.all(axis=-1)
    return np.asarray(doubtful & image_sizes.all(axis=-1))


def check_pose(pose: Any, where: str, *, farthest: float) -> None:
    """Refuse what is not a rigid 4×4 transform, or moves farther than so many metres."""
    matrix = _matrix(pose, 4, where)
    if matrix[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"{where} has the last row {_short(matrix[3].tolist())}, expected 0 0 0 1")
    rotation = matrix[:3, :3]
    # Larger numbers are no rotation either, and their product may overflow
    is_small = np.abs(rotation).max() < 2
    if not is_small or np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        kind = f"determinant {np.linalg.det(rotation):.4g}" if is_small else f"numbers up to {np.abs(rotation).max():.4g}"
        raise ValueError(f"{where} does not hold a rotation ({kind}; rows of norm one and determinant 1 expected)")
    check_translation(matrix[:3, 3], where, farthest=farthest)


def check_translation(translation: Any, where: str, *, farthest: float) -> None:
    """Refuse a position that is not finite, or farther than so many metres along an axis."""
    values = np.asarray(translation, dtype=np.float64)
    if not (np.abs(values) <= farthest).all():
        raise ValueError(f"{where} is at {_short(values.tolist())}, expected finite metres up to {farthest:g}")


def check_timestamp(timestamp: Any, where: str) -> None:
    """Refuse what is not a whole number of microseconds that 64 bits hold."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | np.integer) or not -(2**63) <= timestamp < 2**63:
        raise ValueError(f"{where} is {_short(timestamp)}, expected whole microseconds within 64 bits")


def _matrix(values: Any, size: int, where: str) -> Float64[np.ndarray, "size size"]:
    try:
        matrix = np.zeros(0) if np.iscomplexobj(values) else np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape != (size, size):
        raise ValueError(f"{where} is {_short(values)}, expected a {size}×{size} matrix of numbers")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{where} is {_short(matrix.tolist())}, expected finite numbers")
    return matrix


def _short(value: Any) -> str:
    """Return a value's text in one line of a bearable length."""
    text = " ".join(repr(value)[:1000].split())
    return text if len(text) <= 100 else f"{text[:97]}…"
