"""Bring a data set of one's own: describe its key frames, and every command works on it.

Any number of cameras with images of any sizes, not necessarily the same ones in every key frame, a LiDAR or none. Labels come from LiDAR
points with a class each (`.npy` or `.npz` files, see `labels/lidar.py`) or from dense maps (`labels/dense.py`).
`docs/prepare_datasets.md` has a worked example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from splattingocc.data.calibration import (
    FARTHEST_MOUNT,
    FARTHEST_POSITION,
    check_image_size,
    check_intrinsics,
    check_pose,
    check_timestamp,
)
from splattingocc.data.index_file import load_columns, save_columns
from splattingocc.data.key_frames import Index, KeyFrame, Scene
from splattingocc.files import BadFile, check_name, check_relative, decoding

OWN_INDEX = "key_frames.msgpack"
"""In the folder of the version, where nuScenes has its tables."""
_KEY = "own data"


def write_index(dataroot: Path, version: str, key_frames: Iterable[KeyFrame], splits: Mapping[str, Iterable[str]]) -> Path:
    """Write the index of a data set into `dataroot/version`, where `read_index` finds it, and return the file's path.

    Key frames come scene by scene and in order of time within each; `splits` names the scenes of each split, at least `train`. Key
    frames may have different cameras, one or more each; a camera is known by its channel, and `read_index` gives them in the order in
    which their channels were first met. The LiDAR is in all key frames or in none. Any fault is a `ValueError` that names the key
    frame and the sensor.
    """
    frames = list(key_frames)
    if not frames:
        raise ValueError("no key frames were given")
    check_name(version, "version")
    if not isinstance(splits, Mapping):
        raise ValueError(f"splits is {type(splits).__name__}, expected the names of the scenes of each split, by its name")
    splits = {split: _names_of(split, names) for split, names in splits.items()}
    for frame in frames:
        _check(frame, frames[0], dataroot)
    scenes = _scenes(frames)
    _check_image_sizes(frames)
    _check_splits(splits, {name for name, _, _ in scenes})
    path = dataroot / version / OWN_INDEX
    splits_and_scenes = {"scenes": scenes, "splits": splits}
    save_columns(path, _KEY, {**splits_and_scenes, **_columns(frames)})
    return path


def _names_of(split: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"splits: {split}: is {names!r}, expected names of scenes")
    return list(names)  # a generator gives them once


def read_own_index(folder: Path, version: str) -> Index:
    """Read what `write_index` wrote."""
    path = folder / OWN_INDEX
    columns = load_columns(path, _KEY)
    if columns is None:
        raise BadFile(path, "damaged, or written by another version of this program; write it again")
    with decoding(path, "the index of a data set"):
        scenes = tuple(Scene(*scene) for scene in columns.pop("scenes"))
        splits = {split: tuple(names) for split, names in columns.pop("splits").items()}
        return Index(version=version, scenes=scenes, splits=splits, **columns)


def _columns(frames: Sequence[KeyFrame]) -> dict[str, Any]:
    """Return the columns of `Index` but for scenes and splits."""
    has_lidar = frames[0].lidar is not None
    # A dictionary keeps the order in which channels were first met; sensors begin with the LiDAR
    column_of = {channel: i for i, channel in enumerate({sensor.channel: None for frame in frames for sensor in frame.sensors})}
    num_frames, num_sensors = len(frames), len(column_of)
    num_cameras = num_sensors - has_lidar
    present = np.zeros((num_frames, num_sensors), dtype=np.bool_)
    tokens, filenames = [""] * present.size, [""] * present.size
    timestamps = np.zeros((num_frames, num_sensors), dtype=np.int64)
    image_sizes = np.zeros((num_frames, num_cameras, 2), dtype=np.int64)
    K = np.tile(np.eye(3), (num_frames, num_cameras, 1, 1))
    ego_from_sensor, world_from_ego = (np.tile(np.eye(4), (num_frames, num_sensors, 1, 1)) for _ in range(2))
    for row, frame in enumerate(frames):
        for sensor in frame.sensors:
            column = column_of[sensor.channel]
            present[row, column] = True
            tokens[row * num_sensors + column], filenames[row * num_sensors + column] = sensor.token, sensor.filename
            timestamps[row, column] = sensor.timestamp
            ego_from_sensor[row, column], world_from_ego[row, column] = sensor.ego_from_sensor, sensor.world_from_ego
            if sensor.K is not None and sensor.image_size is not None:
                image_sizes[row, column - has_lidar], K[row, column - has_lidar] = sensor.image_size, sensor.K
    return {
        "channels": list(column_of),
        "has_lidar": has_lidar,
        "tokens": [frame.token for frame in frames],
        "timestamps": np.array([frame.timestamp for frame in frames], dtype=np.int64),
        "world_from_key_ego": np.array([frame.world_from_ego for frame in frames], dtype=np.float64),
        "sensor_tokens": tokens,
        "filenames": filenames,
        "point_classes": [frame.point_classes for frame in frames],
        "sensor_timestamps": timestamps,
        "image_sizes": image_sizes,
        "K": K,
        "ego_from_sensor": ego_from_sensor,
        "world_from_ego": world_from_ego,
        "sensor_present": None if present.all() else present,
    }


def _check(frame: KeyFrame, first: KeyFrame, dataroot: Path) -> None:
    check_name(frame.scene, "scene")
    check_name(frame.token, f"{frame.scene}: key frame")
    where = f"key frame {frame.token} of {frame.scene}"
    _check_channels(frame, first, where)
    check_timestamp(frame.timestamp, f"{where}: timestamp")
    check_pose(frame.world_from_ego, f"{where}: world_from_ego", farthest=FARTHEST_POSITION)
    for sensor in frame.sensors:
        of_sensor = f"{where}, {sensor.channel}"
        check_timestamp(sensor.timestamp, f"{of_sensor}: timestamp")
        check_pose(sensor.ego_from_sensor, f"{of_sensor}: ego_from_sensor", farthest=FARTHEST_MOUNT)
        check_pose(sensor.world_from_ego, f"{of_sensor}: world_from_ego", farthest=FARTHEST_POSITION)
    for camera in frame.cameras:
        check_image_size(camera.image_size, f"{where}, {camera.channel}: image_size")
        assert camera.image_size is not None
        check_intrinsics(camera.K, camera.image_size, f"{where}, {camera.channel}: K")
    for name in (*(sensor.filename for sensor in frame.sensors), frame.point_classes):
        if name is not None and not (dataroot / check_relative(name, f"{where}: file")).is_file():
            raise ValueError(f"{where}: {dataroot / name}: no such file")


def _check_channels(frame: KeyFrame, first: KeyFrame, where: str) -> None:
    channels = [check_name(sensor.channel, f"{where}: channel") for sensor in frame.sensors]
    if not frame.cameras:
        raise ValueError(f"{where}: has no cameras")
    for channel in channels:
        if channels.count(channel) > 1:
            raise ValueError(f"{where}: has two sensors of the channel {channel}; each needs its own")
    own, expected = (one.lidar.channel if one.lidar is not None else None for one in (frame, first))
    if own != expected:
        raise ValueError(
            f"{where}: its LiDAR is {own or 'missing'}, that of the first key frame is {expected or 'missing'}; give all key frames one of "
            "the same channel, or none"
        )


def _check_image_sizes(frames: Sequence[KeyFrame]) -> None:
    """Within a scene, in which a sample may hold images of several key frames, a channel is one camera."""
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    for frame in frames:
        for camera in frame.cameras:
            assert camera.image_size is not None
            height, width = sizes.setdefault((frame.scene, camera.channel), camera.image_size)
            if (height, width) != tuple(camera.image_size):
                raise ValueError(
                    f"key frame {frame.token} of {frame.scene}, {camera.channel}: image_size is {tuple(camera.image_size)}, earlier in the "
                    f"scene it is {(height, width)}; give another camera another channel"
                )


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
        check_name(split, "splits: the name")
        for name in names:
            if name not in known:
                raise ValueError(f"splits: {split}: scene {name} has no key frames")
            if name in split_of:
                raise ValueError(f"splits: scene {name} is listed twice (in {split_of[name]} and {split})")
            split_of[name] = split
