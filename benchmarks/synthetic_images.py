"""What the pictures of a data set look like, in figures to hold a synthetic one against a real one.

    python benchmarks/synthetic_images.py DATAROOT [--version v1.0-mini] [--max-scenes N]

DATAROOT is any folder in the layout of nuScenes with lidarseg. Prints one JSON line. Values are of 8-bit pixels divided by 255; each figure
is taken within an image and averaged over the images.

brightness      mean grey value (Rec. 601 weights)
contrast        standard deviation of the grey values
saturation      mean of HSV's S, (max − min) / max over a pixel's three channels
blown           share of pixels whose largest channel is at least 250/255

Of the definitions in use, S and the largest channel are those under which the six images of nuScenes-mini's first key frame come out
nearest to the averages known of nuScenes (saturation 0.09, blown 2.6 %).

color_accuracy says how much of a label's class its colour alone gives away: each LiDAR label of the project (`labels/lidar.py`, default
options) has the mean colour of the 3 × 3 pixels around it. On every second scene a Bayes classifier with equal class weights is built
from smoothed colour histograms of each class, for several bin widths; it is tested on the other scenes. The figure is the recall averaged
over the classes, of the bin width that tells most. Classes with fewer than MIN_LABELS labels in either half are left out, and named.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.nuscenes import only_version, read_index
from splattingocc.labels.lidar import project_lidar
from splattingocc.taxonomy import CLASSES, NUM_CLASSES

BLOWN = 250
"""8-bit value from which on a pixel counts as blown."""
GREY_WEIGHTS = (0.299, 0.587, 0.114)
MIN_LABELS = 50
BIN_COUNTS = (8, 12, 16, 24, 32)
"""Bins of each colour axis of the classifiers that are tried."""


def image_statistics(image: UInt8[np.ndarray, "height width 3"]) -> dict[str, float]:
    """Return brightness, contrast, saturation and blown share of one image, as defined above."""
    values = image.astype(np.float64) / 255
    grey = values @ GREY_WEIGHTS
    largest, smallest = values.max(axis=-1), values.min(axis=-1)
    saturation = (largest - smallest) / np.maximum(largest, 1 / 255)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": float(saturation.mean()),
        "blown": float((image.max(axis=-1) >= BLOWN).mean()),
    }


def colors_around(image: UInt8[np.ndarray, "height width 3"], pixels: Float[np.ndarray, "label 2"]) -> Float[np.ndarray, "label 3"]:
    """Return the mean 8-bit colour of the 3 × 3 pixels around each position (x, y); at the border, of those that exist."""
    height, width = image.shape[:2]
    column, row = pixels.astype(np.int64).T
    total, count = np.zeros((len(pixels), 3)), np.zeros((len(pixels), 1))
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y, x = row + down, column + right
            exists = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            total[exists] += image[y[exists], x[exists]]
            count[exists] += 1
    return total / count


def color_accuracy(
    train: tuple[Float[np.ndarray, "label 3"], Int[np.ndarray, " label"]],
    test: tuple[Float[np.ndarray, "label 3"], Int[np.ndarray, " label"]],
    classes: Sequence[int],
    *,
    num_bins: int,
) -> float:
    """Return the recall, averaged over `classes`, of the Bayes classifier with equal class weights on 8-bit colours."""
    likelihoods = np.stack([_histogram(train[0][train[1] == c], num_bins) for c in classes])
    guesses = np.array(classes)[likelihoods.argmax(axis=0)][_bins(test[0], num_bins)]
    return float(np.mean([(guesses[test[1] == c] == c).mean() for c in classes]))


def _bins(colors: Float[np.ndarray, "label 3"], num_bins: int) -> tuple[np.ndarray, ...]:
    return tuple(np.minimum(colors * (num_bins / 256), num_bins - 1).astype(np.int64).T)


def _histogram(colors: Float[np.ndarray, "label 3"], num_bins: int) -> Float[np.ndarray, "red green blue"]:
    """Return a density over the bins, smoothed by (1, 2, 1) / 4 along each axis, never quite zero."""
    counts = np.zeros((num_bins,) * 3)
    np.add.at(counts, _bins(colors, num_bins), 1.0)
    for axis in range(3):
        padding = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        padded = np.moveaxis(np.pad(counts, padding), axis, 0)
        counts = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return counts / counts.sum() + 1e-9


def measure(index: Index, dataroot: Path, *, max_scenes: int | None = None) -> dict:
    """Return all figures of a data set, or of its first scenes."""
    statistics: list[dict[str, float]] = []
    halves: tuple[list, list] = ([], [])
    scenes = index.scenes[:max_scenes]
    for number, scene in enumerate(scenes):
        for position in range(scene.first, scene.first + scene.count):
            key_frame = index[position]
            images = [np.asarray(Image.open(dataroot / camera.filename).convert("RGB")) for camera in key_frame.cameras]
            statistics += [image_statistics(image) for image in images]
            halves[number % 2].append(_label_colors(key_frame, images, dataroot))
    means = {name: round(float(np.mean([row[name] for row in statistics])), 4) for name in statistics[0]}
    return {"scenes": len(scenes), "images": len(statistics), **means, **_accuracy(halves)}


def _label_colors(key_frame: KeyFrame, images: Sequence[np.ndarray], dataroot: Path) -> tuple[np.ndarray, np.ndarray]:
    labels = project_lidar(key_frame, dataroot)
    colors = [colors_around(image, labels.pixels[labels.camera_indices == view]) for view, image in enumerate(images)]
    semantics = [labels.semantics[labels.camera_indices == view] for view in range(len(images))]
    return np.concatenate(colors), np.concatenate(semantics).astype(np.int64)


def _accuracy(halves: tuple[list, list]) -> dict:
    if not all(halves):
        return {"color_accuracy": None, "color_accuracy_why_not": "it takes two scenes"}
    train, test = ((np.concatenate([half[0] for half in rows]), np.concatenate([half[1] for half in rows])) for rows in halves)
    counts = np.stack([np.bincount(half[1], minlength=NUM_CLASSES) for half in (train, test)])
    kept = [c for c in range(NUM_CLASSES) if counts[:, c].min() >= MIN_LABELS]
    if len(kept) < 2:
        return {"color_accuracy": None, "color_accuracy_why_not": f"fewer than two classes have {MIN_LABELS} labels in both halves"}
    best = max((color_accuracy(train, test, kept, num_bins=count), count) for count in BIN_COUNTS)
    left_out = [CLASSES[c] for c in range(NUM_CLASSES) if c not in kept]
    return {"color_accuracy": round(best[0], 4), "color_bins": best[1], "labels": int(counts.sum()), "classes_left_out": left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataroot", type=Path)
    parser.add_argument("--version", help="Folder of the tables; not needed where there is only one.")
    parser.add_argument("--max-scenes", type=int)
    arguments = parser.parse_args()
    version = arguments.version or only_version(arguments.dataroot)
    index = read_index(arguments.dataroot, version)
    figures = measure(index, arguments.dataroot, max_scenes=arguments.max_scenes)
    print(json.dumps({"what": "pictures", "dataroot": str(arguments.dataroot), **figures}))


if __name__ == "__main__":
    main()
