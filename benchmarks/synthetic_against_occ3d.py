"""The synthetic world beside Occ3D-nuScenes: every figure that says whether what is measured on it can hold on the real data.

    python benchmarks/synthetic_against_occ3d.py [--seed 777] [--scenes 40] [--frames 1] [--dataroot FOLDER] [--processes 2]

Writes the synthetic data set of a seed into a temporary folder (or measures the data set in FOLDER, which may be a genuine one with
lidarseg and Occ3D's `gts`) and prints a table in Markdown: the figure, the genuine value, their ratio.

Genuine values: voxel and LiDAR point counts of each class over Occ3D-nuScenes' training split as published with its baselines; the masks
and distances of the one genuine grid and key frame that are public (one place: a wide open junction, so that its masks are no average);
brightness, contrast, saturation and blown pixels of nuScenes' images. `benchmarks/synthetic_images.py` defines the figures of pictures.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from synthetic_images import measure as measure_images

from splattingocc.data.key_frames import Index
from splattingocc.data.nuscenes import only_version, read_index
from splattingocc.data.occ3d import read_truth
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.lidar import project_lidar
from splattingocc.provenance import environment
from splattingocc.synthetic.writer import SynthConfig, write_dataset
from splattingocc.taxonomy import CLASSES, FREE, NUM_CLASSES

GENUINE_VOXELS = (
    1163161, 2309034, 188743, 2997643, 20317180, 852476, 243808, 2457947, 497017, 2731022, 7224789, 214411435, 5565043, 63191967, 76098082,
    128860031, 141625221,
)  # fmt: skip
"""Occupied voxels of each class in the training split of Occ3D-nuScenes."""
GENUINE_FRAMES = 28_130
GENUINE_POINTS = (
    2854504, 7291443, 141614, 4239939, 32248552, 1583610, 364372, 2346381, 582961, 4829021, 14073691, 191019309, 6249651, 55095657,
    58484771, 193834360, 131378779,
)  # fmt: skip
"""LiDAR points of each class in the images of nuScenes' training split."""
ROAD = CLASSES.index("driveable_surface")
FAR = 20.0
"""Metres."""
TOLERANCE = 1.5


@dataclass
class Counts:
    """What is added up over key frames."""

    voxels: Int[np.ndarray, " class"] = field(default_factory=lambda: np.zeros(NUM_CLASSES, dtype=np.int64))
    points: Int[np.ndarray, " class"] = field(default_factory=lambda: np.zeros(NUM_CLASSES, dtype=np.int64))
    road_heights: Int[np.ndarray, " z"] = field(default_factory=lambda: np.zeros(OCC3D_GRID.shape[2], dtype=np.int64))
    distances: list[Shaped[np.ndarray, " label"]] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)

    def add_truth(self, semantics: UInt8[np.ndarray, "x y z"], mask_lidar: np.ndarray, mask_camera: np.ndarray) -> None:
        """Count a key frame's truth."""
        occupied = semantics != FREE
        centers = OCC3D_GRID.centers().reshape(*OCC3D_GRID.shape, 3).numpy()
        seen = occupied & mask_camera
        far = np.hypot(centers[..., 0], centers[..., 1]) > FAR
        self.voxels += np.bincount(semantics[occupied], minlength=NUM_CLASSES)[:NUM_CLASSES]
        self.road_heights += (semantics == ROAD).sum(axis=(0, 1))
        self.shares.append({
            "occupied voxels of a frame": float(occupied.sum()),
            "occupied share of mask_camera": float(seen.sum() / max(mask_camera.sum(), 1)),
            "share of the occupied voxels inside mask_camera": float(seen.sum() / max(occupied.sum(), 1)),
            "of those, beyond 20 m": float((seen & far).sum() / max(seen.sum(), 1)),
            "mask_lidar, share of the grid": float(mask_lidar.mean()),
            "mask_camera, share of the grid": float(mask_camera.mean()),
        })  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    synthetic: float
    genuine: float
    form: str = "{:.2f}"

    @property
    def ratio(self) -> float:
        return self.synthetic / self.genuine

    def __str__(self) -> str:
        mark = "" if 1 / TOLERANCE <= self.ratio <= TOLERANCE else " **out**"
        return f"| {self.name} | {self.form.format(self.synthetic)} | {self.form.format(self.genuine)} | {self.ratio:.2f}{mark} |"


def count(index: Index, dataroot: Path) -> Counts:
    """Count the truths and the LiDAR labels of all key frames."""
    counts = Counts()
    for position in range(len(index)):
        key_frame = index[position]
        truth = read_truth(dataroot / "gts", key_frame.scene, key_frame.token)
        counts.add_truth(truth.semantics.numpy(), truth.mask_lidar.numpy().astype(bool), truth.mask_camera.numpy().astype(bool))
        labels = project_lidar(key_frame, dataroot)
        counts.points += np.bincount(labels.semantics[labels.semantics < NUM_CLASSES], minlength=NUM_CLASSES)
        counts.distances.append(labels.distances)
    return counts


def rows_of(counts: Counts, images: dict) -> list[Row]:
    """Return the table."""
    genuine_voxels, genuine_points = (np.array(values) / sum(values) * 100 for values in (GENUINE_VOXELS, GENUINE_POINTS))
    voxels, points = (values / values.sum() * 100 for values in (counts.voxels, counts.points))
    share = {name: float(np.mean([row[name] for row in counts.shares])) for name in counts.shares[0]}
    percentiles = np.percentile(np.concatenate(counts.distances), [10, 50, 90])
    genuine = {
        "occupied share of mask_camera": 23.0,
        "share of the occupied voxels inside mask_camera": 74.0,
        "of those, beyond 20 m": 67.0,
    }
    genuine |= {"mask_lidar, share of the grid": 16.8, "mask_camera, share of the grid": 15.6}
    occupied = share.pop("occupied voxels of a frame")
    heights = counts.road_heights / counts.road_heights.sum()
    rows = [Row("occupied voxels of a frame (mean of the training split)", occupied, sum(GENUINE_VOXELS) / GENUINE_FRAMES, "{:.0f}")]
    rows += [Row(f"{name}, %", 100 * value, genuine[name], "{:.1f}") for name, value in share.items()]
    rows.append(Row("road within z index 0–3, %", 100 * float(heights[:4].sum()), 100.0, "{:.1f}"))
    genuine_distances = ((10, 5.7), (50, 11.7), (90, 37.3))
    rows += [Row(f"distance of LiDAR labels, {q} %, m", float(v), g, "{:.1f}") for v, (q, g) in zip(percentiles, genuine_distances)]
    pictures = {"brightness": 0.42, "contrast": 0.20, "saturation": 0.09, "blown": 0.026}
    rows += [Row(f"images: {name}", images[name], value, "{:.3f}") for name, value in pictures.items()]
    rows += [Row(f"{name}, % of the occupied voxels", voxels[i], genuine_voxels[i]) for i, name in enumerate(CLASSES)]
    rows += [Row(f"{name}, % of the LiDAR labels", points[i], genuine_points[i]) for i, name in enumerate(CLASSES)]
    return rows


def report(dataroot: Path) -> Sequence[str]:
    """Return the table of a data set, line by line."""
    index = read_index(dataroot, only_version(dataroot))
    images = measure_images(index, dataroot)
    rows = rows_of(count(index, dataroot), images)
    outside = [row.name for row in rows if not 1 / TOLERANCE <= row.ratio <= TOLERANCE]
    color = images["color_accuracy"]
    return [
        f"{len(index)} key frames of {len(index.scenes)} scenes", "", "| figure | here | genuine | ratio |", "|---|---|---|---|",
        *map(str, rows), "", f"Outside of a factor of {TOLERANCE}: {', '.join(outside) or 'none'}.",
        f"Class from a label's mean colour alone, at equal class weights: {100 * color:.1f} %." if color is not None else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--frames", type=int, default=1, help="Key frames of each scene.")
    parser.add_argument("--dataroot", type=Path, help="Measure this data set instead.")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.dataroot is not None:
        print("\n".join(report(arguments.dataroot)))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = SynthConfig(
            num_scenes=arguments.scenes, num_val_scenes=0, frames_per_scene=arguments.frames, image_size=(180, 320), seed=arguments.seed
        )
        write_dataset(config, Path(folder) / "data", num_workers=arguments.processes)
        print(json.dumps(environment() | {"config": config.model_dump(mode="json")}))
        print("\n".join(report(Path(folder) / "data")))


if __name__ == "__main__":
    main()
