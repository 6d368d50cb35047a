"""The key frames of a nuScenes-layout data set: which files, taken when, from where.

The tables are decoded once, cut to key frames and to the sensors used here, and cached as columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from splattingocc.data.nuscenes_columns import CHANNELS, LIDAR_CHANNEL, build_columns
from splattingocc.data.nuscenes_splits import read_splits
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.files import write_atomically
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid

INDEX_FORMAT = 1
"""Raised when the cached columns change, so that older caches are rebuilt."""


@dataclass(frozen=True)
class SensorFrame:
    """What one sensor took for one key frame."""

    token: str
    channel: str
    filename: str
    """Relative to the data root."""
    timestamp: int
    """Microseconds."""
    image_size: tuple[int, int] | None
    """Height and width in pixels; None for a LiDAR."""
    K: Float64[np.ndarray, "3 3"] | None
    """Intrinsics in pixels, as the table gives them; None for a LiDAR."""
    ego_from_sensor: Float64[np.ndarray, "4 4"]
    """Metres."""
    world_from_ego: Float64[np.ndarray, "4 4"]
    """Metres, at the time of this sensor."""


@dataclass(frozen=True)
class KeyFrame:
    """One annotated moment. Its ego frame is that of the LiDAR's own pose."""

    token: str
    scene: str
    index_in_scene: int
    timestamp: int
    """Microseconds."""
    lidar: SensorFrame
    lidarseg: str | None
    """File with a category per LiDAR point, relative to the data root; None where the data set has none."""
    cameras: tuple[SensorFrame, ...]
    """In the order of CAMERA_CHANNELS."""

    @property
    def key_ego_from_world(self) -> Float64[np.ndarray, "4 4"]:
        return inverse(self.lidar.world_from_ego)


@dataclass(frozen=True)
class Scene:
    """Consecutive key frames `first` .. `first + count - 1` of an index."""

    name: str
    first: int
    count: int


@dataclass(frozen=True)
class Index:
    """The key frames of a data set, grouped by scene and in order of time.

    Columns rather than objects: 34 k key frames of trainval take about 150 MB and load in a fraction of a second; `index[i]`
    assembles one `KeyFrame`.
    """

    version: str
    scenes: tuple[Scene, ...]
    splits: dict[str, tuple[str, ...]]
    """Scene names by split."""
    tokens: list[str]
    timestamps: Int64[np.ndarray, " keyframe"]
    sensor_tokens: list[str]
    """One for each (key frame, sensor), sensors fastest; likewise `filenames`."""
    filenames: list[str]
    lidarsegs: list[str | None]
    sensor_timestamps: Int64[np.ndarray, "keyframe sensor"]
    image_sizes: Int64[np.ndarray, "keyframe camera 2"]
    K: Float64[np.ndarray, "keyframe camera 3 3"]
    ego_from_sensor: Float64[np.ndarray, "keyframe sensor 4 4"]
    world_from_ego: Float64[np.ndarray, "keyframe sensor 4 4"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, position: int) -> KeyFrame:
        scene = self._scene_at(position)
        lidar, *cameras = (self._sensor_frame(position, sensor) for sensor in range(len(CHANNELS)))
        return KeyFrame(
            token=self.tokens[position],
            scene=scene.name,
            index_in_scene=position - scene.first,
            timestamp=int(self.timestamps[position]),
            lidar=lidar,
            lidarseg=self.lidarsegs[position],
            cameras=tuple(cameras),
        )

    def position_of(self, token: str) -> int:
        """Return the position of a key frame in this index; `KeyError` where it has none."""
        return self._positions[token]

    def neighbour(self, position: int, offset: int) -> int | None:
        """Return the position of the key frame `offset` steps away in the same scene, if there is one."""
        scene = self._scene_at(position)
        return position + offset if scene.first <= position + offset < scene.first + scene.count else None

    def of_scenes(self, names: Iterable[str]) -> list[int]:
        """Return the positions of all key frames of the named scenes, in index order."""
        wanted = set(names)
        unknown = wanted - {scene.name for scene in self.scenes}
        if unknown:
            raise ValueError(
                f"scene {min(unknown)} is not in {self.version}; it has {len(self.scenes)} scenes from {self.scenes[0].name} on"
            )
        return [scene.first + i for scene in self.scenes if scene.name in wanted for i in range(scene.count)]

    def of_split(self, split: str) -> list[int]:
        """Return the positions of all key frames of a split, in index order."""
        if split not in self.splits:
            raise ValueError(f"split {split!r} is not known for {self.version}; it has {', '.join(sorted(self.splits))}")
        return self.of_scenes(self.splits[split])

    def _sensor_frame(self, position: int, sensor: int) -> SensorFrame:
        flat = position * len(CHANNELS) + sensor
        is_camera = CHANNELS[sensor] != LIDAR_CHANNEL
        height_width = self.image_sizes[position, sensor - 1]
        return SensorFrame(
            token=self.sensor_tokens[flat],
            channel=CHANNELS[sensor],
            filename=self.filenames[flat],
            timestamp=int(self.sensor_timestamps[position, sensor]),
            image_size=(int(height_width[0]), int(height_width[1])) if is_camera else None,
            K=self.K[position, sensor - 1] if is_camera else None,
            ego_from_sensor=self.ego_from_sensor[position, sensor],
            world_from_ego=self.world_from_ego[position, sensor],
        )

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {token: position for position, token in enumerate(self.tokens)}

    @cached_property
    def _scene_starts(self) -> list[int]:
        return [scene.first for scene in self.scenes]

    def _scene_at(self, position: int) -> Scene:
        if not 0 <= position < len(self):
            raise IndexError(f"key frame {position} of {len(self)}")
        return self.scenes[int(np.searchsorted(self._scene_starts, position, side="right")) - 1]


def inverse(dst_from_src: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Return `src_from_dst` of a rigid transform, in double precision."""
    return invert_rigid(torch.from_numpy(dst_from_src)).numpy()


def cameras_of(key_frame: KeyFrame, *, in_ego_of: KeyFrame | None = None) -> Cameras:
    """Return the cameras (view,) of a key frame, seen from its ego frame or from that of another key frame of the scene.

    Each camera stands where the vehicle was when it took its image. The chain is multiplied in double precision, because world
    coordinates are thousands of metres; the result is float32.
    """
    key_ego_from_world = (in_ego_of or key_frame).key_ego_from_world
    sizes = {camera.image_size for camera in key_frame.cameras}
    if len(sizes) != 1:
        raise ValueError(f"key frame {key_frame.token}: cameras of different image sizes {sorted(map(str, sizes))}, expected one size")
    cam_from_ego = [inverse(key_ego_from_world @ camera.world_from_ego @ camera.ego_from_sensor) for camera in key_frame.cameras]
    K = np.stack([camera.K for camera in key_frame.cameras])  # type: ignore[arg-type]
    image_size = sizes.pop()
    assert image_size is not None
    return Cameras(K=_float32(K), cam_from_ego=_float32(np.stack(cam_from_ego)), image_size=image_size)


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()


def read_index(dataroot: Path, version: str, *, cache_dir: Path | None = None) -> Index:
    """Read the key-frame index of `dataroot/version`, from the cache where the tables have not changed since.

    The cache lives in `cache_dir`, by default `dataroot/.splattingocc`; a default folder that cannot be written is done without.
    """
    folder = dataroot / version
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; the tables of {version} are expected there")
    cache = (cache_dir or dataroot / ".splattingocc") / f"index-{version}.msgpack"
    key = _tables_key(folder)
    columns = _load_columns(cache, key)
    if columns is None:
        columns = build_columns(folder)
        try:
            _save_columns(cache, key, columns)
        except OSError as error:
            if cache_dir is not None:
                raise ValueError(f"{cache}: the index cannot be cached there: {error.strerror}") from None
    scenes = tuple(Scene(*scene) for scene in columns.pop("scenes"))
    splits = read_splits(folder, version, [scene.name for scene in scenes])
    return Index(version=version, scenes=scenes, splits=splits, **columns)


def _tables_key(folder: Path) -> str:
    """Return a digest that changes whenever a table is added, removed or rewritten."""
    state: list[Any] = [INDEX_FORMAT]
    for name in TABLES:
        path = folder / f"{name}.json"
        if path.exists():
            stat = path.stat()
            state.append((name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(msgspec.json.encode(state)).hexdigest()


def _save_columns(cache: Path, key: str, columns: dict[str, Any]) -> None:
    arrays = {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in columns.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in columns.items() if name not in arrays}
    content = msgspec.msgpack.encode({"key": key, "plain": plain, "arrays": arrays})
    write_atomically(cache, lambda temporary: temporary.write_bytes(content))


def _load_columns(cache: Path, key: str) -> dict[str, Any] | None:
    """Return the cached columns, or None where there are none for these tables."""
    try:
        content = msgspec.msgpack.decode(cache.read_bytes())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    arrays = {name: np.frombuffer(values, dtype).reshape(shape).copy() for name, (dtype, shape, values) in content["arrays"].items()}
    return {**content["plain"], **arrays}
