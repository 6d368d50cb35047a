"""From the nuScenes tables to the columns of the key-frame index."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float64

from splattingocc.data import calibration
from splattingocc.data import nuscenes_tables as tables
from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.files import BadFile
from splattingocc.geometry.transforms import rigid, rotation_from_quat

LIDAR_CHANNEL = "LIDAR_TOP"
CHANNELS = (LIDAR_CHANNEL, *CAMERA_CHANNELS)
"""The sensor order of every column."""
LARGE_TABLE = 200_000_000
"""Bytes from which on a table is worth a process of its own."""
POSE_TIME_TOLERANCE = 10_000
"""Microseconds between a sensor's frame and its ego pose; a car on a motorway moves 0.3 m in that time. In nuScenes they are equal."""
UNIT_NORM_TOLERANCE = 1e-3
"""How far the norm of a rotation quaternion may be from one before the row counts as damaged."""


def build_columns(folder: Path) -> dict[str, Any]:
    """Decode the tables and lay the key frames out as the columns of `Index`, with `scenes` as (name, first, count)."""
    with tables.garbage_collection_paused():
        return _build(folder)


def _build(folder: Path) -> dict[str, Any]:
    pose_reader = PoseReader(folder / "ego_pose.json")

    def read(name: str, row_type: type[tables.R]) -> dict[str, tables.R]:
        path = folder / f"{name}.json"
        return tables.by_token(tables.read_table(path, row_type), path)

    scene_rows, sample_rows = read("scene", tables.SceneRow), read("sample", tables.SampleRow)
    sensor_rows, calibration_rows = read("sensor", tables.SensorRow), read("calibrated_sensor", tables.CalibratedSensorRow)
    samples = _order_samples(folder, scene_rows, sample_rows)
    frames, missing = _key_frame_rows(folder / "sample_data.json", samples, sensor_rows, calibration_rows)
    incomplete = {
        sample.token: (scene_rows[sample.scene_token].name, missing[sample.token]) for sample in samples if sample.token in missing
    }
    samples = [sample for sample in samples if sample.token not in incomplete]
    _refuse_distortion(folder / "calibrated_sensor.json", frames)
    camera_frames = [frame for i, frame in enumerate(frames) if CHANNELS[i % len(CHANNELS)] != LIDAR_CHANNEL]
    by_sensor, by_camera = (len(samples), len(CHANNELS)), (len(samples), len(CAMERA_CHANNELS))
    image_sizes = _image_sizes(folder / "sample_data.json", camera_frames).reshape(*by_camera, 2)
    _check_image_sizes(folder / "sample_data.json", samples, camera_frames)
    world_from_ego = _poses(folder, frames, pose_reader).reshape(*by_sensor, 4, 4)
    return {
        "scenes": _scenes(scene_rows, samples),
        "incomplete": incomplete,
        "channels": list(CHANNELS),
        "has_lidar": True,
        "tokens": [sample.token for sample in samples],
        "timestamps": np.array([sample.timestamp for sample in samples], dtype=np.int64),
        "world_from_key_ego": world_from_ego[:, CHANNELS.index(LIDAR_CHANNEL)].copy(),
        "sensor_tokens": [frame.token for frame in frames],
        "filenames": [frame.filename for frame in frames],
        "point_classes": _lidarseg_files(folder, [frame.token for frame in frames[:: len(CHANNELS)]]),
        "sensor_timestamps": np.array([frame.timestamp for frame in frames], dtype=np.int64).reshape(by_sensor),
        "image_sizes": image_sizes,
        "K": _intrinsics(folder / "calibrated_sensor.json", calibration_rows, camera_frames).reshape(*by_camera, 3, 3),
        "ego_from_sensor": _mounts(folder / "calibrated_sensor.json", calibration_rows, frames).reshape(*by_sensor, 4, 4),
        "world_from_ego": world_from_ego,
    }


def _order_samples(
    folder: Path, scene_rows: dict[str, tables.SceneRow], sample_rows: dict[str, tables.SampleRow]
) -> list[tables.SampleRow]:
    """Return all samples scene by scene, by name, and in order of time."""
    samples_of: dict[str, list[tables.SampleRow]] = {token: [] for token in scene_rows}
    for sample in sample_rows.values():
        if sample.scene_token not in samples_of:
            raise BadFile(folder / "sample.json", f"row {sample.token}: scene_token {sample.scene_token} is not in scene.json")
        samples_of[sample.scene_token].append(sample)
    samples: list[tables.SampleRow] = []
    token_of: dict[str, str] = {}
    for scene in sorted(scene_rows.values(), key=lambda row: row.name):
        if scene.name in token_of:
            raise BadFile(folder / "scene.json", f"row {scene.token}: {scene.name} is the name of row {token_of[scene.name]} too")
        token_of[scene.name] = scene.token
        if not samples_of[scene.token]:
            raise BadFile(folder / "scene.json", f"row {scene.token}: scene {scene.name} has no samples in sample.json")
        samples += sorted(samples_of[scene.token], key=lambda row: row.timestamp)
    return samples


def _scenes(scene_rows: dict[str, tables.SceneRow], samples: Sequence[tables.SampleRow]) -> list[tuple[str, int, int]]:
    """Return (name, first, count) of each scene by name; one whose samples are all incomplete has none."""
    counts = Counter(sample.scene_token for sample in samples)
    scenes: list[tuple[str, int, int]] = []
    first = 0
    for scene in sorted(scene_rows.values(), key=lambda row: row.name):
        scenes.append((scene.name, first, counts[scene.token]))
        first += counts[scene.token]
    return scenes


def _key_frame_rows(
    path: Path,
    samples: Sequence[tables.SampleRow],
    sensor_rows: dict[str, tables.SensorRow],
    calibration_rows: dict[str, tables.CalibratedSensorRow],
) -> tuple[list[tables.SampleDataRow], dict[str, str]]:
    """Return the sample_data row of each (sample, channel), channels fastest; sweeps and other sensors are left behind.

    So are samples that lack one of the sensors: the second result says of each, by token, what is missing.
    """
    channel_of: dict[str, str] = {}
    for token, mount in calibration_rows.items():
        if mount.sensor_token not in sensor_rows:
            reason = f"row {token}: sensor_token {mount.sensor_token} is not in sensor.json"
            raise BadFile(path.with_name("calibrated_sensor.json"), reason)
        channel_of[token] = sensor_rows[mount.sensor_token].channel
    slot_of = {sample.token: i * len(CHANNELS) for i, sample in enumerate(samples)}
    offset_of = {channel: i for i, channel in enumerate(CHANNELS)}
    frames: list[tables.SampleDataRow | None] = [None] * (len(samples) * len(CHANNELS))
    for row in tables.read_table(path, tables.SampleDataRow):
        if not row.is_key_frame:
            continue
        if row.calibrated_sensor_token not in channel_of:
            raise BadFile(path, f"row {row.token}: calibrated_sensor_token {row.calibrated_sensor_token} is not in calibrated_sensor.json")
        offset = offset_of.get(channel_of[row.calibrated_sensor_token])
        if offset is None:
            continue
        if row.sample_token not in slot_of:
            raise BadFile(path, f"row {row.token}: sample_token {row.sample_token} is not in sample.json")
        slot = slot_of[row.sample_token] + offset
        if frames[slot] is not None:
            raise BadFile(path, f"row {row.token}: a second key frame of {CHANNELS[offset]} for sample {row.sample_token}")
        frames[slot] = row
    incomplete: dict[str, str] = {}
    for slot, frame in enumerate(frames):
        if frame is None:
            token, channel = samples[slot // len(CHANNELS)].token, CHANNELS[slot % len(CHANNELS)]
            incomplete.setdefault(token, f"{path}: no key frame of {channel} for sample {token}")
    if len(incomplete) == len(samples):
        there = ", ".join(sorted({row.channel for row in sensor_rows.values()}))
        raise BadFile(
            path,
            f"no sample has key frames of all of {', '.join(CHANNELS)}; sensor.json has {there}. For another rig, describe its key frames "
            "with splattingocc.data.own_data.write_index (docs/prepare_datasets.md)",
        )
    return [frame for frame in frames if frame is not None and frame.sample_token not in incomplete], incomplete


def _refuse_distortion(path: Path, frames: Sequence[tables.SampleDataRow]) -> None:
    cameras = {frame.calibrated_sensor_token for i, frame in enumerate(frames) if CHANNELS[i % len(CHANNELS)] != LIDAR_CHANNEL}
    if found := tables.distorted(path, cameras):
        token, column, value = found
        raise BadFile(
            path,
            f"row {token}: {column} is {value}: cameras are pinholes here. Undistort the images first, and give the tables the undistorted "
            "images' camera_intrinsic without this column",
        )


def _image_sizes(path: Path, camera_frames: Sequence[tables.SampleDataRow]) -> np.ndarray:
    """Return (frame, 2) heights and widths in pixels."""
    for token, height, width in {(frame.token, frame.height, frame.width): None for frame in camera_frames}:
        if height is None or width is None:
            raise BadFile(path, f"row {token}: height {height}, width {width}; expected the image's pixels")
        calibration.check_image_size((height, width), f"{path}: row {token}: height, width")
    return np.array([(frame.height, frame.width) for frame in camera_frames], dtype=np.int64)


def _check_image_sizes(path: Path, samples: Sequence[tables.SampleRow], camera_frames: Sequence[tables.SampleDataRow]) -> None:
    """Within a scene, of which a sample may hold images of several key frames, the images of a camera have one size."""
    first: dict[tuple[str, str], tables.SampleDataRow] = {}
    for i, frame in enumerate(camera_frames):
        channel = CAMERA_CHANNELS[i % len(CAMERA_CHANNELS)]
        of_scene = first.setdefault((samples[i // len(CAMERA_CHANNELS)].scene_token, channel), frame)
        if (frame.height, frame.width) != (of_scene.height, of_scene.width):
            found = f"height {frame.height}, width {frame.width}; {channel} has {of_scene.height}, {of_scene.width} earlier in the scene"
            raise BadFile(path, f"row {frame.token}: {found} (row {of_scene.token}), expected one size")


def _intrinsics(
    path: Path, calibration_rows: dict[str, tables.CalibratedSensorRow], camera_frames: Sequence[tables.SampleDataRow]
) -> Float64[np.ndarray, "frame 3 3"]:
    matrices: dict[str, np.ndarray] = {}
    for frame in camera_frames:
        token = frame.calibrated_sensor_token
        if token not in matrices:
            assert frame.height is not None
            assert frame.width is not None
            intrinsic = calibration_rows[token].camera_intrinsic
            calibration.check_intrinsics(intrinsic, (frame.height, frame.width), f"{path}: row {token}: camera_intrinsic")
            matrices[token] = np.array(intrinsic, dtype=np.float64)
    return np.stack([matrices[frame.calibrated_sensor_token] for frame in camera_frames])


def _mounts(
    path: Path, calibration_rows: dict[str, tables.CalibratedSensorRow], frames: Sequence[tables.SampleDataRow]
) -> Float64[np.ndarray, "frame 4 4"]:
    """Return `ego_from_sensor` of each frame."""
    used = list({frame.calibrated_sensor_token: None for frame in frames})
    matrices = _rigid_matrices(path, [calibration_rows[token] for token in used], farthest=calibration.FARTHEST_MOUNT)
    row_of = {token: i for i, token in enumerate(used)}
    return matrices[[row_of[frame.calibrated_sensor_token] for frame in frames]]


class PoseReader:
    """Reads the rows of ego_pose that key frames need; most belong to sweeps and are dropped.

    A table as large as trainval's is decoded by a process of its own, while this one decodes sample_data, which is as large.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pipe: Connection | None = None
        if path.is_file() and path.stat().st_size > LARGE_TABLE and sys.platform == "linux":
            # Forked: a fresh interpreter would first import for as long as the decoding takes. It only decodes and exits.
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            context.Process(target=_serve_poses, args=(path, theirs, self._pipe), daemon=True).start()
            theirs.close()

    def read(self, wanted: set[str]) -> dict[str, tables.EgoPoseRow]:
        """Return those of the wanted rows that the table has, by token."""
        if self._pipe is None:
            return _read_poses(self._path, wanted)
        try:
            self._pipe.send_bytes(msgspec.msgpack.encode(sorted(wanted)))
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise ValueError(f"{self._path}: the process that reads it was killed, most likely for want of memory") from None
        rows = msgspec.msgpack.decode(answer, type=list[tables.EgoPoseRow] | str)
        if isinstance(rows, str):
            raise ValueError(rows)
        return {row.token: row for row in rows}


def _read_poses(path: Path, wanted: set[str]) -> dict[str, tables.EgoPoseRow]:
    return tables.by_token((row for row in tables.read_table(path, tables.EgoPoseRow) if row.token in wanted), path)


def _serve_poses(path: Path, pipe: Connection, of_parent: Connection) -> None:
    """Decode the table, then answer with the wanted rows, or with what is wrong with it."""
    of_parent.close()  # inherited; with it open, the death of the parent would go unnoticed
    rows, fault = [], None
    try:
        rows = tables.read_table(path, tables.EgoPoseRow)
    except ValueError as error:
        fault = str(error)
    try:
        # Asked for also where there is nothing to give: whoever asks one that has gone takes it for killed
        wanted = set(msgspec.msgpack.decode(pipe.recv_bytes(), type=list[str]))
    except EOFError:
        os._exit(0)  # nobody wants the rows any more: another table is damaged
    try:
        answer: object = fault or list(tables.by_token((row for row in rows if row.token in wanted), path).values())
    except ValueError as error:
        answer = str(error)
    pipe.send_bytes(msgspec.msgpack.encode(answer))
    os._exit(0)  # freeing millions of rows one by one would take longer than the work


def _poses(folder: Path, frames: Sequence[tables.SampleDataRow], reader: PoseReader) -> Float64[np.ndarray, "frame 4 4"]:
    """Return `world_from_ego` of each frame."""
    path = folder / "ego_pose.json"
    poses = reader.read({frame.ego_pose_token for frame in frames})
    for frame in frames:
        pose = poses.get(frame.ego_pose_token)
        if pose is None:
            reason = f"row {frame.token}: ego_pose_token {frame.ego_pose_token} is not in ego_pose.json"
            raise BadFile(folder / "sample_data.json", reason)
        if pose.timestamp is not None and abs(pose.timestamp - frame.timestamp) > POSE_TIME_TOLERANCE:
            apart = (pose.timestamp - frame.timestamp) / 1000
            raise BadFile(path, f"row {pose.token}: its timestamp is {apart:+.0f} ms from that of sample_data {frame.token}, which uses it")
    return _rigid_matrices(path, [poses[frame.ego_pose_token] for frame in frames], farthest=calibration.FARTHEST_POSITION)


def _rigid_matrices(
    path: Path, rows: Sequence[tables.EgoPoseRow] | Sequence[tables.CalibratedSensorRow], *, farthest: float
) -> Float64[np.ndarray, "row 4 4"]:
    quats = np.array([row.rotation for row in rows], dtype=np.float64).reshape(-1, 4)
    translations = np.array([row.translation for row in rows], dtype=np.float64).reshape(-1, 3)
    norms = np.linalg.norm(quats, axis=1)
    for i in map(int, np.flatnonzero(~(np.abs(norms - 1) < UNIT_NORM_TOLERANCE))):
        raise BadFile(path, f"row {rows[i].token}: rotation {rows[i].rotation} has norm {norms[i]:.4g}, expected a unit quaternion")
    for i in map(int, np.flatnonzero(~(np.abs(translations) <= farthest).all(axis=1))):
        calibration.check_translation(translations[i], f"{path}: row {rows[i].token}: translation", farthest=farthest)
    rotations = rotation_from_quat(torch.from_numpy(quats / norms[:, None]))
    return rigid(rotations, torch.from_numpy(translations)).numpy()


def _lidarseg_files(folder: Path, lidar_tokens: Sequence[str]) -> list[str | None]:
    """Return the lidarseg file of each LiDAR frame; None where the release is not installed or does not cover the frame."""
    path = folder / "lidarseg.json"
    if not path.exists():
        return [None] * len(lidar_tokens)
    tables.check_categories(folder / "category.json")
    files: dict[str, str] = {}
    for row in tables.read_table(path, tables.LidarsegRow):
        if row.sample_data_token in files:
            raise BadFile(path, f"row {row.token}: a second file for sample_data {row.sample_data_token}")
        if "panoptic" in row.filename or row.filename.endswith(".npz"):
            raise BadFile(path, f"row {row.token}: {row.filename} is of the panoptic release; install nuScenes-lidarseg, one byte a point")
        files[row.sample_data_token] = row.filename
    return [files.get(token) for token in lidar_tokens]
