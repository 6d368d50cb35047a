"""The sensors of the ego vehicle, nuScenes' rig, and the way the vehicle drives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator

from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.synthetic.layout import Layout
from splattingocc.synthetic.motion import Motion

NATIVE_IMAGE_SIZE = (900, 1600)
"""Height and width for which the intrinsics below hold."""
LIDAR_CHANNEL = "LIDAR_TOP"


@dataclass(frozen=True)
class CameraMount:
    """Where a camera of the rig sits and how it sees; close to the published nuScenes calibration."""

    position: tuple[float, float, float]
    """In the ego frame, metres."""
    yaw: float
    """Degrees left of straight ahead."""
    focal: float
    """Pixels at the native image size."""
    principal_point: tuple[float, float]
    """Pixels at the native image size."""
    delay: float
    """Seconds between the LiDAR's timestamp and the camera's."""


CAMERA_MOUNTS = {
    "CAM_FRONT_LEFT": CameraMount((1.52, 0.49, 1.51), 55.0, 1272.0, (826.0, 480.0), -0.046),
    "CAM_FRONT": CameraMount((1.70, 0.02, 1.51), 0.0, 1266.0, (816.0, 492.0), -0.038),
    "CAM_FRONT_RIGHT": CameraMount((1.55, -0.49, 1.50), -55.0, 1261.0, (808.0, 496.0), -0.029),
    "CAM_BACK_RIGHT": CameraMount((1.01, -0.48, 1.56), -110.0, 1260.0, (807.0, 502.0), -0.020),
    "CAM_BACK": CameraMount((0.03, 0.00, 1.57), 180.0, 809.0, (829.0, 482.0), -0.010),
    "CAM_BACK_LEFT": CameraMount((1.04, 0.48, 1.56), 110.0, 1257.0, (792.0, 493.0), 0.001),
}
LIDAR_POSITION = (0.94, 0.0, 1.84)
"""In the ego frame, metres."""
LIDAR_YAW = -90.0
"""Degrees: the sensor's y axis points ahead."""


@dataclass(frozen=True)
class Sensor:
    """One calibrated sensor of a scene's vehicle."""

    channel: str
    ego_from_sensor: Float[ndarray, "4 4"]
    K: Float[ndarray, "3 3"] | None
    """Intrinsics of the images as written, pixels; none for the LiDAR."""
    delay: float
    """Seconds between the key frame's time and the sensor's own."""


def draw_rig(rng: Generator, image_size: tuple[int, int]) -> tuple[Sensor, ...]:
    """Draw a vehicle's calibration: the nominal rig, mounted a little inaccurately. The six cameras come first, then the LiDAR."""
    sensors = []
    scale = np.array([image_size[1] / NATIVE_IMAGE_SIZE[1], image_size[0] / NATIVE_IMAGE_SIZE[0]])
    for channel in CAMERA_CHANNELS:
        mount = CAMERA_MOUNTS[channel]
        yaw = np.deg2rad(mount.yaw)
        right, down, ahead = [np.sin(yaw), -np.cos(yaw), 0.0], [0.0, 0.0, -1.0], [np.cos(yaw), np.sin(yaw), 0.0]
        rotation = np.array([right, down, ahead]).T @ rotation_from_euler(rng.normal(0, 0.007), rng.normal(0, 0.007), rng.normal(0, 0.007))
        focal = mount.focal + rng.normal(0, 4.0)
        center = np.array(mount.principal_point) + rng.normal(0, 5.0, 2)
        K = np.array([[focal * scale[0], 0, center[0] * scale[0]], [0, focal * scale[1], center[1] * scale[1]], [0, 0, 1]])
        position = np.array(mount.position) + rng.normal(0, 0.01, 3)
        sensors.append(Sensor(channel, rigid_matrix(rotation, position), K, mount.delay))
    rotation = rotation_from_euler(rng.normal(0, 0.005), rng.normal(0, 0.005), np.deg2rad(LIDAR_YAW) + rng.normal(0, 0.005))
    sensors.append(Sensor(LIDAR_CHANNEL, rigid_matrix(rotation, np.array(LIDAR_POSITION)), None, 0.0))
    return tuple(sensors)


@dataclass(frozen=True)
class EgoMotion:
    """How the ego vehicle drives: along its lane, weaving a little, following the hills on springs."""

    layout: Layout
    motion: Motion
    """Of the point of the road under the rear axle."""
    weave: float
    """Amplitude of the weaving, metres."""
    weave_length: float
    """Metres."""
    phase: float
    """Radians."""

    def world_from_ego(self, time: float) -> Float[ndarray, "4 4"]:
        """Return the pose at a time in seconds since the start of the scene. The ego frame lies on the road under the rear axle."""
        s, l = self._place(time)
        behind, ahead = (self._point(s + step, l + step * self._drift(s)) for step in (-0.5, 0.5))
        along, position = ahead - behind, self._point(s, l)
        yaw = np.arctan2(along[1], along[0])
        slope = np.arctan2(along[2], np.hypot(along[0], along[1]))
        bank = float(self.layout.road_height(s, l + 0.5) - self.layout.road_height(s, l - 0.5))
        # Springs work while it moves.
        sway = 0.004 * min(self.motion.speed_at(time) / 3.0, 1.0)
        pitch = -slope + sway * np.sin(7.3 * time + self.phase)
        roll = bank + sway * np.sin(5.1 * time + 2 * self.phase)
        return rigid_matrix(rotation_from_euler(roll, pitch, yaw), position)

    def _place(self, time: float) -> tuple[float, float]:
        s, l, _ = self.motion.at(time)
        return float(s), float(l + self.weave * np.sin(2 * np.pi * s / self.weave_length + self.phase))

    def _drift(self, s: float) -> float:
        """Return how much the weaving shifts to the left on each metre."""
        return self.weave * 2 * np.pi / self.weave_length * float(np.cos(2 * np.pi * s / self.weave_length + self.phase))

    def _point(self, s: float, l: float) -> ndarray:
        return np.array([*self.layout.course.xy(s, l), float(self.layout.road_height(s, l))])


def rotation_from_euler(roll: float, pitch: float, yaw: float) -> Float[ndarray, "3 3"]:
    """Return the rotation about x by `roll`, then about y by `pitch`, then about z by `yaw`, radians."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rigid_matrix(rotation: ndarray, translation: ndarray) -> Float[ndarray, "4 4"]:
    """Assemble the transform x ↦ rotation · x + translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


def quat_from_rotation(rotation: ndarray) -> list[float]:
    """Return the unit quaternion (w, x, y, z), w ≥ 0, of a rotation matrix."""
    # The eigenvector of Bar-Itzhack's symmetric matrix: no case distinctions.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    quat = np.linalg.eigh(k)[1][:, -1]
    return [float(value) for value in (quat if quat[0] >= 0 else -quat)]
