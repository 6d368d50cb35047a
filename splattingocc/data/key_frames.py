"""The nouns of a data set: sensor frames, key frames, scenes, and the index of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from splattingocc.data.calibration import principal_points_doubtful
from splattingocc.files import check_name, check_relative
from splattingocc.files.names import LONGEST_NAME
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid
from splattingocc.struct import stack

LEAST_UPRIGHT = 0.7
"""Cosine of the angle between a vehicle's z axis and the world's: no road is so steep."""


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
    """One annotated moment."""

    token: str
    scene: str
    index_in_scene: int
    timestamp: int
    """Microseconds."""
    world_from_ego: Float64[np.ndarray, "4 4"]
    """Metres; the ego frame of this key frame, in which everything is predicted. In nuScenes it is that of the LiDAR's own pose."""
    cameras: tuple[SensorFrame, ...]
    """Those that took an image for this key frame, at least one; in nuScenes always the same six."""
    lidar: SensorFrame | None = None
    """None where the data set has no LiDAR."""
    point_classes: str | None = None
    """File with the class of each LiDAR point, relative to the data root; None where the data set has none."""

    @property
    def key_ego_from_world(self) -> Float64[np.ndarray, "4 4"]:
        return inverse(self.world_from_ego)

    @property
    def sensors(self) -> tuple[SensorFrame, ...]:
        """The LiDAR, where there is one, and the cameras."""
        return self.cameras if self.lidar is None else (self.lidar, *self.cameras)


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
    channels: list[str]
    """Of all sensors of the data set: the LiDAR first, where there is one, then the cameras."""
    has_lidar: bool
    tokens: list[str]
    timestamps: Int64[np.ndarray, " keyframe"]
    world_from_key_ego: Float64[np.ndarray, "keyframe 4 4"]
    sensor_tokens: list[str]
    """One for each (key frame, sensor), sensors fastest; likewise `filenames`. Empty where a key frame lacks the sensor."""
    filenames: list[str]
    point_classes: list[str | None]
    sensor_timestamps: Int64[np.ndarray, "keyframe sensor"]
    image_sizes: Int64[np.ndarray, "keyframe camera 2"]
    K: Float64[np.ndarray, "keyframe camera 3 3"]
    ego_from_sensor: Float64[np.ndarray, "keyframe sensor 4 4"]
    world_from_ego: Float64[np.ndarray, "keyframe sensor 4 4"]
    incomplete: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Moments that the tables have and this index leaves out, because a sensor is missing: scene and reason, by token."""
    sensor_present: Bool[np.ndarray, "keyframe sensor"] | None = None
    """Which sensors each key frame has; None where each has them all. The LiDAR is there in all key frames or in none."""
    kept_back: tuple[str, ...] | None = None
    """Scenes that a training which has begun keeps back from itself; None where none has, and they are yet to be chosen."""

    def __post_init__(self) -> None:
        """Refuse names that lead out of the folders in which stores, caches and pictures get files named after them."""
        for names, what in (
            ([scene.name for scene in self.scenes], "scene"),
            (self.tokens, "key frame"),
            (self.channels, "channel"),
            (list(self.splits), "split"),
        ):
            if not _Lines(names).are_plain():
                for name in names:
                    check_name(name, f"{self.version}: {what}")
        for files in (self.filenames, self.point_classes):
            names = [name for name in files if name]
            if not _Lines(names).stay_inside():
                for name in names:
                    check_relative(name, f"{self.version}: file")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, position: int) -> KeyFrame:
        scene = self._scene_at(position)
        present = range(len(self.channels)) if self.sensor_present is None else np.flatnonzero(self.sensor_present[position])
        sensors = [self._sensor_frame(position, int(sensor)) for sensor in present]
        return KeyFrame(
            token=self.tokens[position],
            scene=scene.name,
            index_in_scene=position - scene.first,
            timestamp=int(self.timestamps[position]),
            world_from_ego=self.world_from_key_ego[position],
            cameras=tuple(sensors[self.has_lidar :]),
            lidar=sensors[0] if self.has_lidar else None,
            point_classes=self.point_classes[position],
        )

    @cached_property
    def num_views(self) -> int:
        """The largest number of cameras of any key frame."""
        if self.sensor_present is None:
            return len(self.channels) - self.has_lidar
        return int(self.sensor_present[:, self.has_lidar :].sum(axis=1).max())

    def has(self, token: str) -> bool:
        """Return whether a key frame of this token is here."""
        return token in self._positions

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

    def only(self, positions: Sequence[int]) -> Index:
        """Return the index of these key frames, in their order here. Scenes of which none is left are in no split any more."""
        keep = np.array(sorted(positions), dtype=np.int64)
        of_sensors = (keep[:, None] * len(self.channels) + np.arange(len(self.channels))).ravel()
        changes: dict[str, Any] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                changes[column.name] = value[keep]
            elif column.name in ("tokens", "point_classes"):
                changes[column.name] = [value[i] for i in keep]
            elif column.name in ("sensor_tokens", "filenames"):
                changes[column.name] = [value[i] for i in of_sensors]
        scenes: list[Scene] = []
        for scene in self.scenes:
            count = int(((keep >= scene.first) & (keep < scene.first + scene.count)).sum())
            if count:
                scenes.append(Scene(scene.name, scenes[-1].first + scenes[-1].count if scenes else 0, count))
        left = {scene.name for scene in scenes}
        splits = {split: tuple(name for name in names if name in left) for split, names in self.splits.items()}
        return replace(self, scenes=tuple(scenes), splits=splits, **changes)

    def doubts(self) -> list[str]:
        """Say what may be and hardly ever is: principal points far from the middle of their images, a vehicle that lies on its side."""
        found = self._doubtful_cameras()
        if (tilted := np.flatnonzero(self.world_from_key_ego[:, 2, 2] < LEAST_UPRIGHT)).size:
            where = f"in {tilted.size} of {len(self)} key frames, first in {self.tokens[tilted[0]]}"
            found.append(
                f"the vehicle is tilted by 45° and more {where}: are its quaternions in the order w x y z, and is the world's z up?"
            )
        return found

    def _doubtful_cameras(self) -> list[str]:
        doubtful = principal_points_doubtful(self.K, self.image_sizes)
        if self.sensor_present is not None:
            doubtful &= self.sensor_present[:, int(self.has_lidar) :]
        found = []
        for camera, channel in enumerate(self.channels[int(self.has_lidar) :]):
            if (frames := np.flatnonzero(doubtful[:, camera])).size:
                (u, v), (height, width) = self.K[frames[0], camera, :2, 2], self.image_sizes[frames[0], camera]
                where = f"u {u:g} v {v:g}, lies far from the middle of its images of {height}×{width} pixels"
                of = f"key frame {self.tokens[frames[0]]}"
                found.append(f"{channel}: the principal point, {where} ({of}): is its K one of images of another size?")
        return found

    def digest(self, positions: Sequence[int]) -> str:
        """Return a digest of all that the tables say of these key frames: files, channels, times, calibration and poses."""
        rows = np.array(positions, dtype=np.int64)
        of_sensors = (rows[:, None] * len(self.channels) + np.arange(len(self.channels))).ravel()
        found = hashlib.sha256(json.dumps([self.channels, self.has_lidar]).encode())
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                chosen = value[rows]
                found.update(f"{column.name} {chosen.shape}".encode())
                found.update(np.ascontiguousarray(chosen, dtype=chosen.dtype.newbyteorder("<")).tobytes())
            elif column.name in ("tokens", "point_classes", "sensor_tokens", "filenames"):
                places = rows if len(value) == len(self) else of_sensors
                found.update(json.dumps([column.name, [value[i] for i in places]]).encode())
        return found.hexdigest()

    def _sensor_frame(self, position: int, sensor: int) -> SensorFrame:
        flat = position * len(self.channels) + sensor
        camera = sensor - self.has_lidar
        height_width = self.image_sizes[position, camera]
        return SensorFrame(
            token=self.sensor_tokens[flat],
            channel=self.channels[sensor],
            filename=self.filenames[flat],
            timestamp=int(self.sensor_timestamps[position, sensor]),
            image_size=(int(height_width[0]), int(height_width[1])) if camera >= 0 else None,
            K=self.K[position, camera] if camera >= 0 else None,
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


class _Lines:
    """Many names at once, as bytes: a data set has a quarter of a million, too many to look at one by one each time it is opened."""

    def __init__(self, names: Sequence[str]) -> None:
        lines = "\n".join(["", *names, ""]).encode(errors="surrogatepass")
        content = np.frombuffer(lines, dtype=np.uint8)
        breaks = np.flatnonzero(content == ord("\n"))
        self.names, self.content = names, content
        self.firsts, self.lasts = content[breaks[:-1] + 1], content[breaks[1:] - 1]
        self.has_control = np.count_nonzero(content < ord(" ")) > len(names) + 1 or b"\x7f" in lines

    def stay_inside(self) -> bool:
        """Return whether `check_relative` accepts all of them; False also where only a closer look can tell."""
        dots = self.content == ord(".")
        return not (self.has_control or np.isin(self.firsts, list(b"/\\\n")).any() or (dots[1:] & dots[:-1]).any())

    def are_plain(self) -> bool:
        """Return whether `check_name` accepts all of them; False also where only a closer look can tell."""
        forbidden = (self.content == ord("/")) | (self.content == ord("\\")) | (self.content > 0x7F)
        at_ends = np.isin(self.firsts, list(b". \n")).any() or np.isin(self.lasts, list(b" ")).any()
        return not (self.has_control or forbidden.any() or at_ends) and max(map(len, self.names), default=0) <= LONGEST_NAME


def inverse(dst_from_src: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Return `src_from_dst` of a rigid transform, in double precision."""
    return invert_rigid(torch.from_numpy(dst_from_src)).numpy()


def ego_from_other_ego(
    world_from_ego: Float64[np.ndarray, "4 4"], world_from_other_ego: Float64[np.ndarray, "*other 4 4"]
) -> Float64[np.ndarray, "*other 4 4"]:
    """Return the transforms from other ego frames to one, such as that of the same vehicle at another time.

    Exactly the identity where the poses are equal. Positions are subtracted before anything is rotated: a product of the two
    transforms would round at the size of world coordinates, thousands of metres, and put a point that lies on a border of cells on
    either side of it.
    """
    rotation = world_from_ego[:3, :3].T
    result = np.zeros_like(world_from_other_ego)
    result[..., :3, :3] = rotation @ world_from_other_ego[..., :3, :3]
    result[..., :3, 3] = (world_from_other_ego[..., :3, 3] - world_from_ego[:3, 3]) @ rotation.T
    result[..., 3, 3] = 1.0
    same = (world_from_other_ego == world_from_ego).all(axis=(-2, -1))
    return np.where(same[..., None, None], np.eye(4), result)


def camera_of(sensor: SensorFrame, *, in_ego_of: KeyFrame) -> Cameras:
    """Return a camera (no batch axis) seen from the ego frame of a key frame of its scene.

    It stands where the vehicle was when it took its image. The chain is multiplied in double precision; the result is float32.
    """
    assert sensor.K is not None
    assert sensor.image_size is not None
    cam_from_ego = inverse(ego_from_other_ego(in_ego_of.world_from_ego, sensor.world_from_ego) @ sensor.ego_from_sensor)
    return Cameras(K=_float32(sensor.K), cam_from_ego=_float32(cam_from_ego), image_size=sensor.image_size)


def cameras_of(key_frame: KeyFrame, *, in_ego_of: KeyFrame | None = None) -> Cameras:
    """Return the cameras (view,) of a key frame, whose images are of one size, from its ego frame or from that of another key frame."""
    sizes = {camera.image_size for camera in key_frame.cameras}
    if len(sizes) != 1:
        raise ValueError(f"key frame {key_frame.token}: cameras of different image sizes {sorted(map(str, sizes))}, expected one size")
    return stack([camera_of(sensor, in_ego_of=in_ego_of or key_frame) for sensor in key_frame.cameras])


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
