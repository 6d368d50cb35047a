"""Bring a data set of one's own: describe its key frames, and every command works on it.

Any number of cameras with images of any sizes, a LiDAR or none. Labels come from LiDAR points with a class each (`.npy` files, see
`labels/lidar.py`) or from dense maps (`labels/dense.py`). `docs/prepare_datasets.md` has a worked example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from splattingocc.data.index_file import load_columns, save_columns
from splattingocc.data.key_frames import Index, KeyFrame, Scene, SensorFrame

OWN_INDEX = "key_frames.msgpack"
"""In the folder of the version, where nuScenes has its tables."""
RIGID_TOLERANCE = 1e-3
"""How far R Rᵀ of a pose may be from the identity."""
_KEY = "own data"


def write_index(dataroot: Path, version: str, key_frames: Iterable[KeyFrame], splits: Mapping[str, Sequence[str]]) -> Path:
    """Write the index of a data set into `dataroot/version`, where `read_index` finds it, and return the file's path.

    Key frames come scene by scene and in order of time within each; `splits` names the scenes of each split, at least `train`. All key
    frames have the same sensors in the same order. Any fault is a `ValueError` that names the key frame and the sensor.
    """
    frames = list(key_frames)
    if not frames:
        raise ValueError("no key frames were given")
    for frame in frames:
        _check(frame, frames[0], dataroot)
    scenes = _scenes(frames)
    _check_splits(splits, {name for name, _, _ in scenes})
    sensors = [sensor for frame in frames for sensor in frame.sensors]
    cameras = [camera for frame in frames for camera in frame.cameras]
    by_sensor, by_camera = (len(frames), len(frames[0].sensors)), (len(frames), len(frames[0].cameras))
    columns: dict[str, Any] = {
        "scenes": scenes,
        "splits": {split: list(names) for split, names in splits.items()},
        "channels": [sensor.channel for sensor in frames[0].sensors],
        "has_lidar": frames[0].lidar is not None,
        "tokens": [frame.token for frame in frames],
        "timestamps": np.array([frame.timestamp for frame in frames], dtype=np.int64),
        "world_from_key_ego": _stack([frame.world_from_ego for frame in frames]),
        "sensor_tokens": [sensor.token for sensor in sensors],
        "filenames": [sensor.filename for sensor in sensors],
        "point_classes": [frame.point_classes for frame in frames],
        "sensor_timestamps": np.array([sensor.timestamp for sensor in sensors], dtype=np.int64).reshape(by_sensor),
        "image_sizes": np.array([camera.image_size for camera in cameras], dtype=np.int64).reshape(*by_camera, 2),
        "K": _stack([camera.K for camera in cameras]).reshape(*by_camera, 3, 3),
        "ego_from_sensor": _stack([sensor.ego_from_sensor for sensor in sensors]).reshape(*by_sensor, 4, 4),
        "world_from_ego": _stack([sensor.world_from_ego for sensor in sensors]).reshape(*by_sensor, 4, 4),
    }
    path = dataroot / version / OWN_INDEX
    save_columns(path, _KEY, columns)
    return path


def read_own_index(folder: Path, version: str) -> Index:
    """Read what `write_index` wrote."""
    columns = load_columns(folder / OWN_INDEX, _KEY)
    if columns is None:
        raise ValueError(f"{folder / OWN_INDEX}: damaged, or written by another version of this program; write it again")
    scenes = tuple(Scene(*scene) for scene in columns.pop("scenes"))
    splits = {split: tuple(names) for split, names in columns.pop("splits").items()}
    return Index(version=version, scenes=scenes, splits=splits, **columns)


def _stack(matrices: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.stack([np.asarray(matrix, dtype=np.float64) for matrix in matrices])


def _check(frame: KeyFrame, first: KeyFrame, dataroot: Path) -> None:
    where = f"key frame {frame.token} of {frame.scene}"
    channels, expected = ([sensor.channel for sensor in one.sensors] for one in (frame, first))
    if channels != expected or (frame.lidar is None) != (first.lidar is None):
        raise ValueError(f"{where}: has the sensors {', '.join(channels)}, the first key frame has {', '.join(expected)}")
    if not frame.cameras:
        raise ValueError(f"{where}: has no cameras")
    _check_pose(frame.world_from_ego, f"{where}: world_from_ego")
    for sensor in frame.sensors:
        _check_pose(sensor.ego_from_sensor, f"{where}, {sensor.channel}: ego_from_sensor")
        _check_pose(sensor.world_from_ego, f"{where}, {sensor.channel}: world_from_ego")
    for camera in frame.cameras:
        _check_camera(camera, f"{where}, {camera.channel}")
    for name in (*(sensor.filename for sensor in frame.sensors), frame.point_classes):
        if name is not None and not (dataroot / name).is_file():
            raise ValueError(f"{where}: {dataroot / name}: no such file")


def _check_camera(camera: SensorFrame, where: str) -> None:
    if camera.K is None or np.shape(camera.K) != (3, 3) or not np.isfinite(camera.K).all() or min(camera.K[0, 0], camera.K[1, 1]) <= 0:
        raise ValueError(f"{where}: K is not a 3×3 matrix with positive focal lengths")
    if camera.image_size is None or min(camera.image_size) <= 0:
        raise ValueError(f"{where}: image_size is {camera.image_size}, expected height and width in pixels")


def _check_pose(pose: np.ndarray, where: str) -> None:
    pose = np.asarray(pose)
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or not np.array_equal(pose[3], [0, 0, 0, 1]):
        raise ValueError(f"{where} is not a finite 4×4 transform with the last row 0 0 0 1")
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where} does not hold a rotation (determinant {np.linalg.det(rotation):.4g}, rows of norm one expected)")


def _scenes(frames: Sequence[KeyFrame]) -> list[tuple[str, int, int]]:
    """Return (name, first, count) of each scene."""
    tokens = {frame.token for frame in frames}
    if len(tokens) != len(frames):
        raise ValueError(f"{len(frames)} key frames have {len(tokens)} different tokens; each needs its own")
    scenes: list[tuple[str, int, int]] = []
    for name, group in groupby(frames, key=lambda frame: frame.scene):
        members = list(group)
        if name in {scene[0] for scene in scenes}:
            raise ValueError(f"scene {name}: its key frames are not given one after the other")
        for i, (before, after) in enumerate(pairwise(members), start=1):
            if after.timestamp <= before.timestamp:
                raise ValueError(f"key frame {after.token} of {name}: is number {i} but not later than the one before it")
        first = scenes[-1][1] + scenes[-1][2] if scenes else 0
        scenes.append((name, first, len(members)))
    return scenes


def _check_splits(splits: Mapping[str, Sequence[str]], known: set[str]) -> None:
    if "train" not in splits:
        raise ValueError(f"splits: names {', '.join(splits) or 'nothing'}, expected at least train")
    split_of: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if name not in known:
                raise ValueError(f"splits: {split}: scene {name} has no key frames")
            if name in split_of:
                raise ValueError(f"splits: scene {name} is listed twice (in {split_of[name]} and {split})")
            split_of[name] = split
