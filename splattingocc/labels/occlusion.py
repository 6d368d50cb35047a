"""Which LiDAR points a camera cannot see, because something nearer stands in front of them.

The LiDAR stands higher than the cameras and looks past things that hide what is behind them from a camera. Projected into its image, such
a point lies on the nearer thing with a class and a distance that are not those of what the pixel shows.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float32

CELL_ANGLE = math.radians(0.36)
"""Width of the cells in which nearest points are kept: a little more than the angle between neighbouring firings of one beam."""
CELLS_ALONG_COLUMN = 4
"""How far to look up and down: a little more than the 1.33° between beams of a 32-beam LiDAR."""
CELLS_ALONG_ROW = 2
"""How far to look to the left and to the right."""
CELLS_ASIDE = 1
"""How far from that row or column a point may lie, because beams are not rows of an image."""
MIN_GAP = 1.0
"""Metres by which the other thing must be nearer, and"""
MIN_RELATIVE_GAP = 0.25
"""the share of the distance; a smaller error in a label does less harm than the label does good."""


def hidden_points(
    pixels: Float32[np.ndarray, "point 2"], distances: Float32[np.ndarray, " point"], image_size: tuple[int, int], focal_length: float
) -> Bool[np.ndarray, " point"]:
    """Return which points of one image lie between nearer ones: above and below, or to the left and to the right, close by.

    Both sides are asked for, so that the background beside a thing, and ground that nears continuously, stay. `focal_length` is in pixels.
    Measured against ray casting on the synthetic streets in `docs/prepare_datasets.md`.
    """
    if len(distances) == 0:
        return np.zeros(0, dtype=bool)
    cell = max(1.0, focal_length * CELL_ANGLE)
    num_rows, num_columns = (math.ceil(size / cell) for size in image_size)
    columns, rows = np.minimum((pixels / cell).astype(np.int64), (num_columns - 1, num_rows - 1)).T
    nearest = np.full((num_rows, num_columns), np.inf, dtype=np.float32)
    np.minimum.at(nearest, (rows, columns), distances)
    limits = distances - np.maximum(MIN_GAP, MIN_RELATIVE_GAP * distances)

    def is_between(axis: int, reach: int) -> Bool[np.ndarray, " point"]:
        beside = nearest
        for side in (-1, 1):
            beside = np.minimum(beside, nearest_towards(nearest, 1 - axis, side * CELLS_ASIDE))
        return np.logical_and.reduce([nearest_towards(beside, axis, side * reach)[rows, columns] < limits for side in (-1, 1)])

    return is_between(0, CELLS_ALONG_COLUMN) | is_between(1, CELLS_ALONG_ROW)


def nearest_towards(nearest: Float32[np.ndarray, "row column"], axis: int, reach: int) -> Float32[np.ndarray, "row column"]:
    """Return the smallest of the next `reach` cells along an axis, its own left out; towards smaller indices where `reach` is negative."""
    result = np.full_like(nearest, np.inf)
    for shift in range(1, min(abs(reach), nearest.shape[axis] - 1) + 1):
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
        to, source = (behind, ahead) if reach > 0 else (ahead, behind)
        result[tuple(to)] = np.minimum(result[tuple(to)], nearest[tuple(source)])
    return result
