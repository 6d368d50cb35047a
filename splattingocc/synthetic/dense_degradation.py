"""Dense maps with the errors of foundation models: the segmentation and the metric depth of one image by a network.

The kinds of error are those that such maps are known for; how large they are is chosen, not measured on a model. Lengths in pixels are
shares of the image's width, because a network sees all images at about one size.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy import ndarray
from numpy.random import Generator
from torch.nn import functional

from splattingocc.synthetic.camera_images import VIEW_DISTANCE
from splattingocc.synthetic.dense_maps import DenseMaps, SeenSurfaces
from splattingocc.taxonomy import CLASSES, NUM_CLASSES, SKY

BORDER = 1 / 400
"""Radius of the blur of classes and depths, and standard deviation by which borders are shifted, in widths of the image."""
THIN = 1 / 200
"""What is narrower is not seen, in widths of the image."""
SMALL = 1 / 4000
"""A thing that covers less of the image is missing with a probability of `MISSING_SMALL`."""
MISSING_SMALL = 0.5
SCALE_DRIFT = 0.05
"""The depths of an image are all too small or too large by up to this share of them."""
DISTORTION = 0.02
"""Standard deviation of the slow distortion of depth over the image, as a share of depth."""
COMPRESSED_FROM, FARTHEST = 40.0, 80.0
"""Metres: depths beyond the first are compressed, so that they would never reach the second if their scale were right."""
CROWN_REACH = 1 / 100
"""How far around the crowns of trees sky is taken for leaves, in widths of the image, where it is: on half of the border."""
PATCH_SHARE = 0.05
"""Share of a confusable surface that has a wrong class."""
CONFUSED_THINGS = {
    "car": {"truck": 0.04},
    "truck": {"car": 0.08, "trailer": 0.06, "bus": 0.06},
    "bus": {"truck": 0.1},
    "trailer": {"truck": 0.25},
    "construction_vehicle": {"truck": 0.25},
    "bicycle": {"motorcycle": 0.15},
    "motorcycle": {"bicycle": 0.15},
    "pedestrian": {"others": 0.03},
    "others": {"pedestrian": 0.2, "manmade": 0.2},
    "barrier": {"manmade": 0.2},
    "traffic_cone": {"others": 0.1, "barrier": 0.05},
}
"""How likely a whole thing of a class has another one in an image."""
CONFUSED_SURFACES = {
    "sidewalk": "driveable_surface",
    "terrain": "sidewalk",
    "other_flat": "driveable_surface",
    "manmade": "vegetation",
    "vegetation": "manmade",
}
"""What patches of a surface are taken for."""
_INDEX = {name: index for index, name in enumerate(CLASSES)}
_SKY_CHANNEL = NUM_CLASSES
"""Where the sky is while classes are counted."""


def degraded_maps(seen: SeenSurfaces, rng: Generator) -> DenseMaps:
    """Return what a foundation model might say of an image; it has a depth everywhere, in the sky as well."""
    size, width = seen.semantics.shape, seen.semantics.shape[1]
    depths = np.where(seen.semantics == SKY, VIEW_DISTANCE, seen.depths).astype(np.float32)
    semantics = _with_confused_things(seen.semantics, seen.things, rng)
    semantics = _with_confused_surfaces(semantics, seen.things, rng)
    missing = _small_things(seen.things, rng) | thin_parts(depths, max(1, round(width * THIN / 2)))
    semantics, depths = taken_over_by_background(semantics, depths, missing)
    rows, columns = _shifted_pixels(size, width * BORDER, rng)
    semantics, depths = semantics[rows, columns], depths[rows, columns]
    semantics, depths = _with_grown_crowns(semantics, depths, max(1, round(width * CROWN_REACH)), rng)
    radius = max(1, round(width * BORDER))
    semantics, confidence = _blurred_classes(semantics, radius)
    depths = _blurred(compressed(depths), radius)
    return DenseMaps(semantics, depths * _wrong_scales(semantics.shape, rng), confidence)


def _smooth_field(rng: Generator, size: tuple[int, int], cells: int) -> Float32[ndarray, "height width"]:
    """Return a random function of mean 0 and variance 1 that changes `cells` times across the image."""
    shape = (max(2, round(cells * size[0] / size[1])) + 1, cells + 1)
    values = torch.from_numpy(rng.normal(size=shape).astype(np.float32))[None, None]
    rows, columns = (_deviations(*lengths) for lengths in zip(size, shape))
    return (functional.interpolate(values, size, mode="bicubic", align_corners=True)[0, 0] / (rows[:, None] * columns)).numpy()


def _deviations(length: int, num_nodes: int) -> Float32[torch.Tensor, " place"]:
    """Return the standard deviation at each place of a cubic interpolation between independent nodes of variance 1."""
    weights = functional.interpolate(torch.eye(num_nodes)[None, None], (length, num_nodes), mode="bicubic", align_corners=True)[0, 0]
    return weights.norm(dim=1)


def _with_confused_things(
    semantics: UInt8[ndarray, "height width"], things: Int32[ndarray, "height width"], rng: Generator
) -> UInt8[ndarray, "height width"]:
    confused = semantics.copy()
    for thing in np.unique(things[things >= 0]):
        own, draw = things == thing, rng.random()
        for other, probability in CONFUSED_THINGS.get(CLASSES[int(semantics[own][0])], {}).items():
            if 0 <= draw < probability:
                confused[own] = _INDEX[other]
            draw -= probability
    return confused


def _with_confused_surfaces(
    semantics: UInt8[ndarray, "height width"], things: Int32[ndarray, "height width"], rng: Generator
) -> UInt8[ndarray, "height width"]:
    is_patch = (_smooth_field(rng, semantics.shape, 12) > NormalDist().inv_cdf(1 - PATCH_SHARE)) & (things < 0)
    confused = semantics.copy()
    for name, other in CONFUSED_SURFACES.items():
        confused[is_patch & (semantics == _INDEX[name])] = _INDEX[other]
    return confused


def _small_things(things: Int32[ndarray, "height width"], rng: Generator) -> Bool[ndarray, "height width"]:
    numbers, counts = np.unique(things[things >= 0], return_counts=True)
    is_missing = (counts < things.size * SMALL) & (rng.random(len(numbers)) < MISSING_SMALL)
    return np.isin(things, numbers[is_missing])


def thin_parts(depths: Float32[ndarray, "height width"], radius: int) -> Bool[ndarray, "height width"]:
    """Say which pixels belong to what stands a tenth nearer than its background and holds no square of 2 `radius` + 1 pixels.

    A slope, such as the road, is not thin.
    """
    values = torch.from_numpy(depths)[None, None]
    closed = -_largest(-_largest(values, radius), radius)
    return (depths < 0.9 * closed[0, 0].numpy()).copy()


def _largest(values: torch.Tensor, radius: int) -> torch.Tensor:
    side = 2 * radius + 1
    return functional.max_pool2d(functional.max_pool2d(values, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))


def taken_over_by_background(
    semantics: UInt8[ndarray, "height width"], depths: Float32[ndarray, "height width"], missing: Bool[ndarray, "height width"]
) -> tuple[UInt8[ndarray, "height width"], Float32[ndarray, "height width"]]:
    """Fill missing pixels from their rims inwards, each from the farthest of its neighbours that are there."""
    semantics, depths, known = semantics.copy(), depths.copy(), ~missing
    height, width = missing.shape
    rows, columns = np.nonzero(missing)
    while len(rows) and known.any():
        around = [(np.clip(rows + y, 0, height - 1), np.clip(columns + x, 0, width - 1)) for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        offers = np.stack([np.where(known[place], depths[place], -np.inf) for place in around])
        best, fills = offers.argmax(axis=0), offers.max(axis=0) > -np.inf
        chosen = np.stack([np.stack(place) for place in around])[best, :, np.arange(len(rows))][fills].T
        filled = rows[fills], columns[fills]
        semantics[filled], depths[filled] = semantics[tuple(chosen)], depths[tuple(chosen)]
        known[filled] = True
        rows, columns = rows[~fills], columns[~fills]
    return semantics, depths


def _shifted_pixels(size: tuple[int, int], shift: float, rng: Generator) -> tuple[ndarray, ndarray]:
    """Return the row and the column whose content each pixel shows, some `shift` pixels away."""
    places = []
    for axis, index in enumerate(np.mgrid[: size[0], : size[1]]):
        moved = np.round(index + shift * _smooth_field(rng, size, 24)).astype(np.int64)
        places.append(np.clip(moved, 0, size[axis] - 1))
    return places[0], places[1]


def _with_grown_crowns(
    semantics: UInt8[ndarray, "height width"], depths: Float32[ndarray, "height width"], reach: int, rng: Generator
) -> tuple[UInt8[ndarray, "height width"], Float32[ndarray, "height width"]]:
    """Take the sky around some crowns of trees for leaves, as far away as the nearest ones there."""
    is_leaf = semantics == _INDEX["vegetation"]
    nearness = torch.from_numpy(np.where(is_leaf, 1 / depths, 0).astype(np.float32))[None, None]
    reached = _largest(nearness, reach)[0, 0].numpy()
    grown = (semantics == SKY) & (reached > 0) & (_smooth_field(rng, semantics.shape, 8) > 0)
    with np.errstate(divide="ignore"):
        return np.where(grown, _INDEX["vegetation"], semantics).astype(np.uint8), np.where(grown, 1 / reached, depths)


def _blurred(values: Float32[ndarray, "height width"], radius: int) -> Float32[ndarray, "height width"]:
    """Return the mean over a square around each pixel."""
    side = 2 * radius + 1
    mean = functional.avg_pool2d(torch.from_numpy(values)[None, None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return functional.avg_pool2d(mean, (1, side), 1, (0, radius), count_include_pad=False)[0, 0].numpy()


def _blurred_classes(
    semantics: UInt8[ndarray, "height width"], radius: int
) -> tuple[UInt8[ndarray, "height width"], UInt8[ndarray, "height width"]]:
    """Return the most frequent class around each pixel, and its share as a confidence of 0..255."""
    channels = np.where(semantics == SKY, _SKY_CHANNEL, semantics)
    best_share = np.full(semantics.shape, -1.0, dtype=np.float32)
    winners = semantics.copy()
    for channel in np.unique(channels):
        share = _blurred((channels == channel).astype(np.float32), radius)
        wins = share > best_share
        best_share[wins] = share[wins]
        winners[wins] = SKY if channel == _SKY_CHANNEL else channel
    return winners, np.round(255 * np.clip(best_share, 0, 1)).astype(np.uint8)


def compressed(depths: Float32[ndarray, "height width"]) -> Float32[ndarray, "height width"]:
    """Compress what is far."""
    reach = FARTHEST - COMPRESSED_FROM
    beyond = np.clip(depths - COMPRESSED_FROM, 0, None)
    return (np.minimum(depths, COMPRESSED_FROM) + reach * (1 - np.exp(-beyond / reach))).astype(np.float32)


def _wrong_scales(size: tuple[int, int], rng: Generator) -> Float32[ndarray, "height width"]:
    """Return what the depths of an image are multiplied by."""
    distortion = 1 + DISTORTION * np.clip(_smooth_field(rng, size, 3), -3, 3)
    return (rng.uniform(1 - SCALE_DRIFT, 1 + SCALE_DRIFT) * distortion).astype(np.float32)
