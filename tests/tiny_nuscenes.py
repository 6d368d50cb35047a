"""A hand-made data set in the nuScenes layout: a vehicle on a curve between a road and a wall, whose surfaces are known exactly."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS, LIDARSEG_CATEGORIES
from splattingocc.geometry.transforms import rotation_from_quat

VERSION = "v1.0-tiny"
IMAGE_SIZE = (180, 320)
WALL_Y = 12.0
"""World metres."""
ORIGIN = (400.0, 0.0, 0.0)
CAMERA_YAWS = (55.0, 0.0, -55.0, -110.0, 180.0, 110.0)
"""Degrees, in the order of CAMERA_CHANNELS."""
FORWARD_QUAT = np.array([0.5, -0.5, 0.5, -0.5])
"""Ego from a camera that looks ahead."""
DRIVEABLE, MANMADE, CAR, NOISE, EGO = 24, 28, 17, 0, 31
"""lidarseg categories."""


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w, x, y, z = a
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]) @ b


def _yaw_quat(degrees: float) -> np.ndarray:
    half = np.deg2rad(degrees) / 2
    return np.array([np.cos(half), 0.0, 0.0, np.sin(half)])


def _pose(timestamp: int) -> tuple[np.ndarray, np.ndarray]:
    """World from ego: 5 m/s along a curve of 6 degrees a second."""
    seconds = timestamp / 1e6
    return _yaw_quat(6 * seconds), np.array([ORIGIN[0] + 5 * seconds, ORIGIN[1] + 0.2 * seconds**2, ORIGIN[2]])


def _sweep(timestamp: int, rng: np.random.Generator, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (sensor frame at 1.8 m over the ego origin, unrotated) on road, wall and a car-like blob, with noise and ego points."""
    quat, position = _pose(timestamp)
    on_road = rng.uniform(-35, 35, size=(num_points, 3)) + position
    on_road[:, 2] = 0
    on_wall = rng.uniform((-30, 0, 0), (30, 0, 4), size=(num_points // 2, 3)) + position
    on_wall[:, 1] = WALL_Y
    others = rng.uniform((5, -3, 0), (8, 3, 2), size=(60, 3)) + position
    categories = np.concatenate([np.full(num_points, DRIVEABLE), np.full(num_points // 2, MANMADE), np.repeat([CAR, NOISE, EGO], 20)])
    rotation = rotation_from_quat(torch.from_numpy(quat)).numpy()
    points_ego = (np.concatenate([on_road, on_wall, others]) - position) @ rotation
    return points_ego - (0.0, 0.0, 1.8), categories.astype(np.uint8)


def _image(channel: str) -> Image.Image:
    """Red grows with u, green with v, blue tells the camera."""
    height, width = IMAGE_SIZE
    content = np.empty((height, width, 3), dtype=np.uint8)
    content[..., 0] = ((np.arange(width) + 0.5) / width * 255)[None, :]
    content[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    content[..., 2] = 40 * CAMERA_CHANNELS.index(channel)
    return Image.fromarray(content)


class _Writer:
    def __init__(self, dataroot: Path):
        self.dataroot = dataroot
        self.tables: dict[str, list] = {
            name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "lidarseg", "category")
        }
        self.rng = np.random.default_rng(0)

    def add_rig(self) -> None:
        for i, (name, _) in enumerate(LIDARSEG_CATEGORIES):
            self.tables["category"].append({"token": f"category-{i}", "name": name, "description": "", "index": i})
        for channel in ("LIDAR_TOP", "RADAR_FRONT", *CAMERA_CHANNELS):
            is_camera = channel in CAMERA_CHANNELS
            yaw = CAMERA_YAWS[CAMERA_CHANNELS.index(channel)] if is_camera else 0.0
            rotation = _multiply(_yaw_quat(yaw), FORWARD_QUAT) if is_camera else _yaw_quat(0.0)
            K = [[190.0, 0.0, 163.0], [0.0, 190.0, 88.0], [0.0, 0.0, 1.0]] if is_camera else []
            self.tables["sensor"].append({"token": f"sensor-{channel}", "channel": channel, "modality": "any"})
            self.tables["calibrated_sensor"].append(
                {
                    "token": f"mount-{channel}",
                    "sensor_token": f"sensor-{channel}",
                    "translation": [0.5, 0.1 * (yaw > 0), 1.5] if is_camera else [0.0, 0.0, 1.8],
                    "rotation": rotation.tolist(),
                    "camera_intrinsic": K,
                }
            )

    def add_sensor_frame(self, sample: str, channel: str, timestamp: int, *, is_key_frame: bool = True) -> None:
        token = f"{sample}-{channel}" + ("" if is_key_frame else "-sweep")
        folder = "samples" if is_key_frame else "sweeps"
        is_camera = channel in CAMERA_CHANNELS
        filename = f"{folder}/{channel}/{token}" + (".jpg" if is_camera else ".pcd.bin")
        quat, position = _pose(timestamp)
        self.tables["ego_pose"].append(
            {"token": token, "timestamp": timestamp, "rotation": quat.tolist(), "translation": position.tolist()}
        )
        height, width = IMAGE_SIZE if is_camera else (0, 0)
        self.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": f"mount-{channel}",
                "timestamp": timestamp,
                "fileformat": "jpg" if is_camera else "pcd",
                "is_key_frame": is_key_frame,
                "height": height,
                "width": width,
                "filename": filename,
                "prev": "",
                "next": "",
            }
        )
        if not is_key_frame:
            return
        path = self.dataroot / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_camera:
            _image(channel).save(path, quality=95)
        elif channel == "LIDAR_TOP":
            self._add_sweep(path, token, timestamp)

    def _add_sweep(self, path: Path, token: str, timestamp: int) -> None:
        points, categories = _sweep(timestamp, self.rng, num_points=1500)
        np.concatenate([points, np.zeros((len(points), 2))], axis=1).astype("<f4").tofile(path)
        filename = f"lidarseg/{VERSION}/{token}_lidarseg.bin"
        self.tables["lidarseg"].append({"token": token, "sample_data_token": token, "filename": filename})
        (self.dataroot / filename).parent.mkdir(parents=True, exist_ok=True)
        categories.tofile(self.dataroot / filename)

    def add_scene(self, name: str, num_key_frames: int) -> None:
        self.tables["scene"].append({"token": f"token-{name}", "name": name, "nbr_samples": num_key_frames})
        # Written last first: a reader has to go by time.
        for i in reversed(range(num_key_frames)):
            sample, timestamp = f"{name}-{i}", 1_000_000 + 500_000 * i
            self.tables["sample"].append({"token": sample, "scene_token": f"token-{name}", "timestamp": timestamp, "prev": "", "next": ""})
            for offset, channel in enumerate(("LIDAR_TOP", "RADAR_FRONT", *CAMERA_CHANNELS)):
                self.add_sensor_frame(sample, channel, timestamp - 6_000 * offset)
            self.add_sensor_frame(sample, "CAM_FRONT", timestamp + 80_000, is_key_frame=False)


def write(dataroot: Path, *, scenes: dict[str, int]) -> Path:
    """Write a data set of the named scenes with so many key frames each; the last scene is for validation."""
    writer = _Writer(dataroot)
    writer.add_rig()
    for name, num_key_frames in scenes.items():
        writer.add_scene(name, num_key_frames)
    folder = dataroot / VERSION
    folder.mkdir(parents=True)
    names = list(scenes)
    for name, content in {**writer.tables, "splits": {"train": names[:-1], "val": names[-1:]}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return dataroot
