"""The errors of people who label LiDAR points: which points of a sweep have a wrong category in its lidarseg file.

How often real labels are wrong has not been published for nuScenes; the rates here are chosen, so that all errors together change a
fortieth of the labels, `WRONG_SHARE`. An instance and a patch of ground are wrong in all key frames of a scene, because people copy what
they labelled before; a border is drawn anew in each sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from numpy.random import Generator

from splattingocc.synthetic.lidar_sweeps import EGO_CATEGORY, NOISE_CATEGORY, Sweep
from splattingocc.synthetic.things import CATEGORY_INDEX, Thing

WRONG_SHARE = (0.003, 0.08)
"""Bounds of the share of wrong labels of a sweep: it depends on what stands there, and is 0.025 on average."""
BORDER_RADIUS = 0.2
"""How far a label reaches into its neighbour where the border between them is drawn wrong, metres."""
BORDER_SHARE = 0.5
"""Share of the borders that are drawn wrong, to either side."""
BORDER_WAVELENGTH = 2.0
"""Metres along which a border is drawn wrong to the same side."""
FOOT_SHARE = 0.4
"""Share of the things in a sweep whose lowest points have the label of the ground."""
FOOT_HEIGHT = 0.2
"""How high above the ground those points reach at most, metres."""
PATCH_SHARE = 0.03
"""Share of the area of a confusable surface that has a wrong label."""
PATCH_WAVELENGTH = 8.0
"""Metres."""
FAR = 45.0
"""Metres from the sensor beyond which points look like noise to people."""
FAR_NOISE_SHARE, BORDER_NOISE_SHARE = 0.02, 0.01
"""Shares of the far points, and of those at borders, that are called noise."""
_ADULT, _STROLLER = "human.pedestrian.adult", "human.pedestrian.stroller"
CONFUSED_THINGS = {
    "vehicle.car": {"vehicle.truck": 0.02},
    "vehicle.truck": {"vehicle.car": 0.05, "vehicle.trailer": 0.04, "vehicle.construction": 0.03},
    "vehicle.trailer": {"vehicle.truck": 0.12},
    "vehicle.construction": {"vehicle.truck": 0.1},
    "vehicle.bus.rigid": {"vehicle.truck": 0.03},
    "vehicle.bus.bendy": {"vehicle.truck": 0.03},
    "vehicle.bicycle": {"vehicle.motorcycle": 0.08},
    "vehicle.motorcycle": {"vehicle.bicycle": 0.08},
    _ADULT: {"movable_object.pushable_pullable": 0.02, "human.pedestrian.personal_mobility": 0.02},
    _STROLLER: {_ADULT: 0.15},
    "human.pedestrian.wheelchair": {_ADULT: 0.15},
    "human.pedestrian.personal_mobility": {_ADULT: 0.15},
    "movable_object.barrier": {"static.manmade": 0.05},
    "movable_object.trafficcone": {"movable_object.barrier": 0.04},
}
"""How likely a whole instance of a category is labelled as another one."""
CONFUSED_SURFACES = {
    "flat.sidewalk": ("flat.terrain", "flat.other"),
    "flat.terrain": ("flat.sidewalk", "flat.sidewalk"),
    "flat.other": ("flat.sidewalk", "flat.driveable_surface"),
    "static.manmade": ("static.vegetation", "static.vegetation"),
    "static.vegetation": ("static.manmade", "static.manmade"),
}
"""The two categories that patches of a surface are labelled as, each on half of the wrong area."""
_GROUND = [index for name, index in CATEGORY_INDEX.items() if name.startswith("flat.")]
_UNLABELLED = (NOISE_CATEGORY, EGO_CATEGORY)
_NUM_WAVES = 16


class SmoothField:
    """A random function of place, of mean 0 and variance 1: a sum of plane waves about as long as `wavelength`, metres."""

    def __init__(self, rng: Generator, wavelength: float) -> None:
        directions = rng.normal(size=(_NUM_WAVES, 3))
        lengths = wavelength * rng.uniform(0.7, 1.5, (_NUM_WAVES, 1))
        self._waves = 2 * np.pi / lengths * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self._phases = rng.uniform(0, 2 * np.pi, _NUM_WAVES)

    def at(self, points: Float[ndarray, "point 3"]) -> Float[ndarray, " point"]:
        """Return its values."""
        return np.sqrt(2 / _NUM_WAVES) * np.cos(points @ self._waves.T + self._phases).sum(axis=1)


class LabelErrors:
    """The errors in the labels of one scene; `rng` draws those that all its key frames share."""

    def __init__(self, things: Sequence[Thing], rng: Generator) -> None:
        self._wrong_categories = {
            thing.number: wrong for thing in things if (wrong := _labelled_as(thing.category, rng)) != CATEGORY_INDEX[thing.category]
        }
        self._patches = SmoothField(rng, PATCH_WAVELENGTH)

    def categories(self, sweep: Sweep, world_from_lidar: Float[ndarray, "4 4"], rng: Generator) -> UInt8[ndarray, " point"]:
        """Return the categories that people give the points of a sweep; `rng` draws the errors of this sweep alone."""
        points = sweep.points[:, :3].astype(np.float64) @ world_from_lidar[:3, :3].T + world_from_lidar[:3, 3]
        labelled = ~np.isin(sweep.categories, _UNLABELLED)
        categories = np.where(sweep.things < 0, self._with_patches(sweep.categories, points), sweep.categories)
        for thing, wrong in self._wrong_categories.items():
            categories[sweep.things == thing] = wrong
        categories = _with_feet_on_the_ground(categories, np.where(labelled, sweep.things, -1), points, rng)
        categories, at_border = _with_moved_borders(categories, points, labelled, rng)
        is_far = np.linalg.norm(sweep.points[:, :3], axis=1) > FAR
        noise_share = np.where(is_far, FAR_NOISE_SHARE, 0.0) + np.where(at_border, BORDER_NOISE_SHARE, 0.0)
        is_noise = labelled & (rng.random(len(points)) < noise_share)
        return np.where(is_noise, NOISE_CATEGORY, categories).astype(np.uint8)

    def _with_patches(self, categories: UInt8[ndarray, " point"], points: Float[ndarray, "point 3"]) -> UInt8[ndarray, " point"]:
        values, threshold = self._patches.at(points), _exceeded_by(PATCH_SHARE)
        patched = categories.copy()
        for name, (low, high) in CONFUSED_SURFACES.items():
            own = categories == CATEGORY_INDEX[name]
            patched[own & (values < -threshold)] = CATEGORY_INDEX[low]
            patched[own & (values > threshold)] = CATEGORY_INDEX[high]
        return patched


def _labelled_as(category: str, rng: Generator) -> int:
    draw = rng.random()
    for other, probability in CONFUSED_THINGS.get(category, {}).items():
        if draw < probability:
            return CATEGORY_INDEX[other]
        draw -= probability
    return CATEGORY_INDEX[category]


def _exceeded_by(share: float) -> float:
    """Return what the magnitude of a standard normal variable exceeds with this probability."""
    return NormalDist().inv_cdf(1 - share / 2)


def _with_feet_on_the_ground(
    categories: UInt8[ndarray, " point"], things: ndarray, points: Float[ndarray, "point 3"], rng: Generator
) -> UInt8[ndarray, " point"]:
    """Give the lowest points of some things the label of the ground point that is nearest to them, seen from above."""
    ground = np.flatnonzero(np.isin(categories, _GROUND) & (things < 0))
    changed = categories.copy()
    for thing in np.unique(things[things >= 0]):
        has_wrong_feet, height = rng.random() < FOOT_SHARE, rng.uniform(0, FOOT_HEIGHT)
        if not has_wrong_feet or not len(ground):
            continue
        own = np.flatnonzero(things == thing)
        nearest = ground[np.square(points[ground, :2] - points[own, :2].mean(axis=0)).sum(axis=1).argmin()]
        changed[own[points[own, 2] < points[nearest, 2] + height]] = categories[nearest]
    return changed


def _with_moved_borders(
    categories: UInt8[ndarray, " point"], points: Float[ndarray, "point 3"], labelled: ndarray, rng: Generator
) -> tuple[UInt8[ndarray, " point"], ndarray]:
    """Let labels reach into their neighbours; the second result is True for all points near enough to another label for that."""
    values, threshold = SmoothField(rng, BORDER_WAVELENGTH).at(points), _exceeded_by(BORDER_SHARE)
    rows, neighbours = nearest_of_another_category(points, np.where(labelled, categories, NOISE_CATEGORY), BORDER_RADIUS)
    # A border moves to one side: of two neighbours one grows, the other shrinks.
    grows = np.where(categories[neighbours] > categories[rows], values[rows] > threshold, values[rows] < -threshold)
    changed = categories.copy()
    changed[rows[grows]] = categories[neighbours[grows]]
    at_border = np.zeros(len(points), dtype=bool)
    at_border[rows] = True
    return changed, at_border


def nearest_of_another_category(
    points: Float[ndarray, "point 3"], categories: UInt8[ndarray, " point"], radius: float
) -> tuple[Int64[ndarray, " near"], Int64[ndarray, " near"]]:
    """Return the points within `radius` metres of one of another category, and for each of them the nearest such one.

    Points of the noise category neither have neighbours nor are any.
    """
    chosen = np.flatnonzero(categories != NOISE_CATEGORY)
    if not len(chosen):
        return chosen, chosen
    cells = np.floor(points[chosen] / radius).astype(np.int64)
    cells += 1 - cells.min(axis=0)
    size = cells.max(axis=0) + 2
    keys = (cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]
    order = np.argsort(keys, kind="stable")
    pairs = []
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            # The three cells above each other have consecutive keys
            middle = keys + (x * size[1] + y) * size[2]
            starts, ends = np.searchsorted(keys[order], middle - 1, "left"), np.searchsorted(keys[order], middle + 1, "right")
            counts = ends - starts
            rows = np.repeat(np.arange(len(keys)), counts)
            others = order[np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)]
            differ = categories[chosen[rows]] != categories[chosen[others]]
            pairs.append((chosen[rows[differ]], chosen[others[differ]]))
    rows, others = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    distances = np.linalg.norm(points[rows] - points[others], axis=1)
    near = distances <= radius
    rows, others, distances = rows[near], others[near], distances[near]
    nearest_first = np.lexsort((distances, rows))
    rows, first = np.unique(rows[nearest_first], return_index=True)
    return rows, others[nearest_first][first]
