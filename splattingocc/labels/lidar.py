"""2D labels from LiDAR: which camera pixel sees each point, how far away, and as what class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from pydantic import Field, model_validator

from splattingocc.config import Config, KeyFrameOffsets
from splattingocc.data.key_frames import KeyFrame, SensorFrame, inverse
from splattingocc.data.label_store import MAX_DISTANCE, RayTable
from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.files import BadFile, read_array, read_arrays, read_bytes, read_only_array
from splattingocc.geometry.cameras import NEAR_PLANE
from splattingocc.labels.occlusion import hidden_points
from splattingocc.labels.source import MissingInput
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES, NUM_CLASSES

ARRAY_SUFFIXES = (".npy", ".npz")
POINTS_KEY = "points"
"""Of an archive that holds more than one array."""
LARGEST_COORDINATE = 10_000.0
"""Metres from the sensor, along an axis; no LiDAR measures that far."""
LARGEST_SWEEP = 2**30
"""Bytes."""
LARGEST_RING = 1024
_CLASS_OF_CATEGORY = np.array(CLASS_OF_LIDARSEG, dtype=np.uint8)


class LidarLabelConfig(Config):
    """Which LiDAR points become labels."""

    min_depth: Annotated[float, Field(ge=0, le=MAX_DISTANCE)] = 1.0
    """Metres in front of the camera (z) that a point must exceed, and 0.1 m in any case."""
    max_distance: Annotated[float, Field(gt=0, le=MAX_DISTANCE)] = 120.0
    """Metres from the camera beyond which points are dropped; the store holds up to 131 m."""
    drop_hidden: bool = True
    """Drop points that something nearer hides from the camera (`occlusion.hidden_points`)."""
    other_key_frames: KeyFrameOffsets = ()
    """Key frames before (-1, -2) and after (1) whose points are projected too, without the classes that move."""
    with_classes: bool = True
    """Whether points have classes (lidarseg, or an own rig's). False makes labels of distances alone, whose class is unknown: they train
    geometry where there is no annotation."""
    point_columns: Literal[3, 4, 5, 6] = 5
    """float32 numbers of a point in a `.bin` sweep: x, y, z, then intensity, ring, time; nuScenes has 5."""

    @model_validator(mode="after")
    def _check(self) -> LidarLabelConfig:
        if self.min_depth >= self.max_distance:
            raise ValueError(f"lidar.min_depth is {self.min_depth} m, expected less than lidar.max_distance, {self.max_distance} m")
        if self.other_key_frames and not self.with_classes:
            raise ValueError(
                f"lidar.other_key_frames is {self.other_key_frames}, but without classes (lidar.with_classes) nothing says which points "
                "of other key frames have moved; expected none"
            )
        return self


@dataclass(frozen=True)
class LidarLabels:
    """The label source of LiDAR points, with or without classes."""

    config: LidarLabelConfig = field(default_factory=LidarLabelConfig)

    def describe(self) -> str:
        """Return the one line that the manifest keeps."""
        config = self.config
        hidden = "without" if config.drop_hidden else "with"
        offsets = ", ".join(f"{offset:+d}" for offset in config.other_key_frames)
        more = f", sweeps of key frames {offsets}" if offsets else ""
        more += "" if config.with_classes else ", distances only"
        more += f", {config.point_columns} columns" if config.point_columns != 5 else ""
        return f"lidar points, min_depth {config.min_depth} m, max_distance {config.max_distance} m, {hidden} hidden ones{more}"

    def label(self, key_frame: KeyFrame, dataroot: Path, *, others: Mapping[int, KeyFrame]) -> RayTable:
        """Return the labelled pixels of a key frame, from its own sweep and those of other key frames that the options name."""
        neighbours = [others[offset] for offset in self.config.other_key_frames if offset in others]
        return project_lidar(key_frame, dataroot, self.config, neighbours=neighbours)

    def input_files(self, key_frame: KeyFrame, dataroot: Path) -> list[Path]:
        """Return the sweep and the classes of its points."""
        paths = [dataroot / key_frame.lidar.filename] if key_frame.lidar else []
        if not self.config.with_classes:
            return paths
        if key_frame.point_classes is None:
            raise MissingInput("the classes of its points")
        return [*paths, dataroot / key_frame.point_classes]


@dataclass(frozen=True)
class PointPixels:
    """LiDAR points as the cameras see them, camera by camera; a point seen by two cameras is there twice."""

    camera_indices: UInt8[np.ndarray, " hit"]
    point_indices: Int64[np.ndarray, " hit"]
    pixels: Float32[np.ndarray, "hit 2"]
    distances: Float32[np.ndarray, " hit"]
    """Metres from the camera centre to the point."""


def read_points(path: Path, columns: int = 5) -> Float32[np.ndarray, "point 3"]:
    """Read the points of a sweep, sensor frame, metres.

    A `.npy` holds (point, 3 or more) numbers, x, y, z first; so does a `.npz` as its only array or under the key `points`. Anything else
    is a binary file like nuScenes', which does not say how many columns it has, so they are checked against what they should hold.
    """
    if path.suffix in ARRAY_SUFFIXES:
        named = read_arrays(path, [POINTS_KEY], limit=LARGEST_SWEEP).get(POINTS_KEY) if path.suffix == ".npz" else None
        points = read_only_array(path, limit=LARGEST_SWEEP) if named is None else named
        if points.ndim != 2 or points.shape[1] < 3 or len(points) == 0 or not np.issubdtype(points.dtype, np.floating):
            raise BadFile(path, f"{points.dtype} {points.shape}, expected floating-point (point, 3 or more): x, y, z first")
        with np.errstate(over="ignore"):  # becomes inf, which is refused
            points = points[:, :3].astype(np.float32)
    else:
        points = _read_columns(path, columns)[:, :3]
    usable = (np.abs(points) <= LARGEST_COORDINATE).all(axis=1)  # nan is not
    if not usable.all():
        first = int(np.flatnonzero(~usable)[0])
        found = points[first].tolist()
        raise BadFile(path, f"point {first} is {found}, expected finite metres, at most {LARGEST_COORDINATE:g} from the sensor")
    return points


def _read_columns(path: Path, columns: int) -> Float32[np.ndarray, "point column"]:
    content = read_bytes(path, limit=LARGEST_SWEEP)
    names = ", ".join(("x", "y", "z", "intensity", "ring", "time")[:columns])
    if len(content) == 0 or len(content) % (columns * 4):
        raise BadFile(path, f"{len(content)} bytes, expected a positive multiple of {columns * 4} ({names} as float32)")
    table = np.frombuffer(content, dtype="<f4").reshape(-1, columns)
    if columns >= 5:
        rings = table[:, 4:]
        holds = ((rings >= 0) & (rings < LARGEST_RING) & (rings == np.floor(rings))).all(axis=0).any()
        expected = f"ring numbers (0 to {LARGEST_RING - 1})"
    else:
        holds, expected = bool((table[:, 3:] >= 0).all()), "intensities"
    if not holds:
        raise BadFile(
            path,
            f"column {min(columns, 5)} begins with {table[0, min(columns, 5) - 1]:g} and does not hold {expected}: a point seems not to be "
            f"{columns} numbers ({names}); --lidar.point-columns or --dense.point-columns says how many it is",
        )
    return table


def read_point_classes(path: Path, num_points: int, *, sweep: Path | None = None) -> UInt8[np.ndarray, " point"]:
    """Read the class of each point; IGNORE for what is not trained. Errors name the sweep, whose fault a wrong number of them may be.

    A `.npy` (point,) of uint8 holds Occ3D's class indices, or IGNORE. Anything else is a lidarseg file, one byte per point: nuScenes'
    categories, of which noise and the ego vehicle are not trained.
    """
    is_own = path.suffix == ".npy"
    categories = read_array(path) if is_own else np.frombuffer(read_bytes(path, limit=LARGEST_SWEEP), dtype=np.uint8)
    if categories.shape != (num_points,) or categories.dtype != np.uint8:
        is_list = categories.dtype == np.uint8 and categories.ndim == 1
        found = f"{len(categories)} categories" if is_list else f"{categories.dtype} {categories.shape}"
        of = "" if sweep is None else f" ({sweep})"
        raise BadFile(path, f"{found} for a sweep of {num_points} points{of}, expected one byte per point")
    if is_own:
        unknown = np.flatnonzero((categories >= NUM_CLASSES) & (categories != IGNORE))
        if len(unknown):
            first = int(unknown[0])
            raise BadFile(path, f"class {categories[first]} of point {first} is out of range 0..{NUM_CLASSES - 1} or {IGNORE}")
        return categories
    if num_points and categories.max() >= len(CLASS_OF_LIDARSEG):
        first = int(np.argmax(categories >= len(CLASS_OF_LIDARSEG)))
        raise BadFile(path, f"category {categories[first]} of point {first} is out of range 0..{len(CLASS_OF_LIDARSEG) - 1}")
    return _CLASS_OF_CATEGORY[categories]


def find_pixels(points_world: Float64[np.ndarray, "point 3"], key_frame: KeyFrame, config: LidarLabelConfig) -> PointPixels:
    """Project points of the world frame into the cameras of a key frame.

    The vehicle moves between the sweep and each image, so points go through the world: LiDAR, ego at the sweep, world, ego at the
    image, camera. Nothing is hidden by anything else: a point behind another one keeps its own distance.
    """
    hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for camera in key_frame.cameras:
        assert camera.K is not None
        assert camera.image_size is not None
        cam_from_world = inverse(camera.world_from_ego @ camera.ego_from_sensor)
        points_cam = points_world @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
        in_front = np.flatnonzero(points_cam[:, 2] > max(config.min_depth, NEAR_PLANE))
        points_cam = points_cam[in_front]
        pixels = ((points_cam / points_cam[:, 2:]) @ camera.K.T)[:, :2]
        distances = np.linalg.norm(points_cam, axis=1)
        height, width = camera.image_size
        # Compared in the precision that is handed on, where a pixel a hair inside may round onto the border.
        pixels = pixels.astype(np.float32)
        seen = (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1) & (distances <= min(config.max_distance, MAX_DISTANCE))
        hits.append((in_front[seen], pixels[seen], distances[seen].astype(np.float32)))
    counts = [len(hit[0]) for hit in hits]
    return PointPixels(
        camera_indices=np.repeat(np.arange(len(hits), dtype=np.uint8), counts),
        point_indices=np.concatenate([hit[0] for hit in hits]),
        pixels=np.concatenate([hit[1] for hit in hits]),
        distances=np.concatenate([hit[2] for hit in hits]),
    )


def to_world(points_lidar: Float32[np.ndarray, "point 3"], lidar: SensorFrame) -> Float64[np.ndarray, "point 3"]:
    """Move the points of a sweep from the sensor frame to the world, in double precision: world coordinates are thousands of metres."""
    world_from_lidar = lidar.world_from_ego @ lidar.ego_from_sensor
    return points_lidar.astype(np.float64) @ world_from_lidar[:3, :3].T + world_from_lidar[:3, 3]


def find_shown_pixels(points_world: Float64[np.ndarray, "point 3"], key_frame: KeyFrame, config: LidarLabelConfig) -> PointPixels:
    """Project points into the cameras of a key frame, without what something nearer hides, unless the options keep that."""
    hits = find_pixels(points_world, key_frame, config)
    if not config.drop_hidden:
        return hits
    shown = np.ones(len(hits.distances), dtype=bool)
    for view, camera in enumerate(key_frame.cameras):
        assert camera.K is not None
        assert camera.image_size is not None
        own = hits.camera_indices == view
        shown[own] = ~hidden_points(hits.pixels[own], hits.distances[own], camera.image_size, float(camera.K[0, 0]))
    return PointPixels(hits.camera_indices[shown], hits.point_indices[shown], hits.pixels[shown], hits.distances[shown])


def read_labelled_points(
    key_frame: KeyFrame, dataroot: Path, config: LidarLabelConfig
) -> tuple[Float64[np.ndarray, "point 3"], UInt8[np.ndarray, " point"]]:
    """Return the points of a key frame's sweep in the world frame, and their classes; without those that are never trained on.

    Without classes all points are there, their class IGNORE.
    """
    if key_frame.lidar is None:
        raise ValueError("the data set has no LiDAR: make labels from maps, with --dense.semantics and --dense.depth")
    if not config.with_classes:
        points_lidar = read_points(dataroot / key_frame.lidar.filename, config.point_columns)
        return to_world(points_lidar, key_frame.lidar), np.full(len(points_lidar), IGNORE, dtype=np.uint8)
    if key_frame.point_classes is None:
        raise ValueError(
            f"LiDAR frame {key_frame.lidar.token}: no classes of its points (in nuScenes, no row in lidarseg.json, which the lidarseg "
            "release brings; panoptic.json is not read); --lidar.with-classes False makes labels of distances alone"
        )
    sweep = dataroot / key_frame.lidar.filename
    points_lidar = read_points(sweep, config.point_columns)
    classes = read_point_classes(dataroot / key_frame.point_classes, len(points_lidar), sweep=sweep)
    # Points that are not trained are left out before the projection, which costs more than reading them.
    trained = np.flatnonzero(classes != IGNORE)
    return to_world(points_lidar[trained], key_frame.lidar), classes[trained]


def project_lidar(
    key_frame: KeyFrame, dataroot: Path, config: LidarLabelConfig | None = None, *, neighbours: Sequence[KeyFrame] = ()
) -> RayTable:
    """Return the labelled pixels of a key frame: class and distance of every LiDAR point that a camera sees.

    Noise and points on the ego vehicle are left out. Of the sweeps of neighbours, so are points of classes that move.
    """
    config = config or LidarLabelConfig()
    assert config.with_classes or not neighbours, "without classes nothing says which points of other key frames have moved"
    points, classes = read_labelled_points(key_frame, dataroot, config)
    for neighbour in neighbours:
        more_points, more_classes = read_labelled_points(neighbour, dataroot, config)
        is_static = ~np.isin(more_classes, MOVING_CLASSES)
        points, classes = np.concatenate([points, more_points[is_static]]), np.concatenate([classes, more_classes[is_static]])
    hits = find_shown_pixels(points, key_frame, config)
    return RayTable(hits.camera_indices, classes[hits.point_indices], hits.pixels, hits.distances)
