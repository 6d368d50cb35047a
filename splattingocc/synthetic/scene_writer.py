"""Writing one scene: its files and its rows in the tables."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from numpy.random import Generator
from PIL import Image

from splattingocc.files import naming_the_file
from splattingocc.synthetic.camera_effects import jpeg_quality, vehicle_state
from splattingocc.synthetic.camera_images import render_image
from splattingocc.synthetic.lidar_sweeps import Lidar, Sweep
from splattingocc.synthetic.occupancy import VoxelTruth, observed_truth, rays_of_drive, voxelize
from splattingocc.synthetic.rig import Sensor, draw_rig, rigid_matrix
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.tables import Row, Tables, calibration_row, chain, pose_columns, token
from splattingocc.synthetic.things import Thing
from splattingocc.synthetic.world import draw_world

FRAME_INTERVAL = 0.5
"""Seconds between key frames."""
EPOCH = 1_600_000_000_000_000
"""Timestamp of the first scene's start, microseconds."""
SCENE_SPACING = 1_000_000_000
"""Microseconds from the start of one scene to the start of the next."""


class SceneWriter:
    """Writes the key frames of one scene. Everything is drawn from `seed` and the scene's number."""

    def __init__(
        self,
        tables: Tables,
        out: Path,
        *,
        version: str,
        seed: int,
        number: int,
        num_frames: int,
        image_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._tables, self._out, self._version = tables, out, version
        self._seed, self._number, self._num_frames, self._image_size = seed, number, num_frames, image_size
        self.name = scene_name(number)
        self._key = f"{seed}/{self.name}"
        rng = self._rng("world")
        self._world = draw_world(rng, num_frames * FRAME_INTERVAL)
        self._sensors = draw_rig(rng, image_size)
        self._jitter = rng.uniform(-0.002, 0.002, (num_frames, len(self._sensors)))
        # As in nuScenes, the map's origin is far away: poses must be handled in double precision.
        self._map_from_world = rigid_matrix(np.eye(3), np.array([*rng.uniform(300, 1800, 2), 0.0]))
        self._device = device
        self._scene_mesh = SceneMesh(self._world, self._device)
        ego_from_lidar = self._sensors[-1].ego_from_sensor
        self._lidar = Lidar(ego_from_lidar, self._device)
        self._rays_of_drive = rays_of_drive(self._world.ego, ego_from_lidar, num_frames * FRAME_INTERVAL).to(self._device)
        # Compressing is left to a thread of its own while the next picture is rendered.
        self._compressor = ThreadPoolExecutor(1, thread_name_prefix="compress")
        self._compressions: list[Future[None]] = []
        self._data_rows: dict[str, list[Row]] = defaultdict(list)
        self._annotation_rows: dict[int, list[Row]] = defaultdict(list)
        self._sample_rows: list[Row] = []

    def write_frame(self, frame: int) -> None:
        """Write the files of one key frame and keep its rows."""
        timestamp = EPOCH + self._number * SCENE_SPACING + round(frame * FRAME_INTERVAL * 1e6)
        sample_token = token(self._key, "sample", frame)
        self._sample_rows.append({"token": sample_token, "timestamp": timestamp, "scene_token": token(self._key, "scene")})
        cameras = []
        for index, sensor in enumerate(self._sensors[:-1]):
            delay = round((sensor.delay + self._jitter[frame, index]) * 1e6)
            time = frame * FRAME_INTERVAL + delay / 1e6
            pose = self._world.ego.world_from_ego(time)
            filename = f"samples/{sensor.channel}/{self.name}__{sensor.channel}__{timestamp + delay}.jpg"
            self._write_image(sensor, time, pose @ sensor.ego_from_sensor, filename, index + frame * len(self._sensors))
            self._add_data_row(sample_token, sensor, frame, timestamp + delay, pose, filename)
            cameras.append((sensor, pose @ sensor.ego_from_sensor))
        self._write_lidar_and_truth(frame, timestamp, sample_token, cameras)

    def finish(self) -> None:
        """Add the rows of the whole scene to the tables, once its key frames are written."""
        for compression in self._compressions:
            compression.result()
        self._compressor.shutdown()
        first, last = self._sample_rows[0], self._sample_rows[-1]
        scene_token, log_token = token(self._key, "scene"), token(self._key, "log")
        description = "Procedural street"
        self._tables.add("scene", {
            "token": scene_token, "log_token": log_token, "nbr_samples": len(self._sample_rows), "first_sample_token": first["token"],
            "last_sample_token": last["token"], "name": self.name, "description": description,
        })  # fmt: skip
        self._tables.add("log", {
            "token": log_token, "logfile": self.name, "vehicle": "synthetic", "date_captured": "2020-09-13", "location": "synthetic",
        })  # fmt: skip
        for sensor in self._sensors:
            self._tables.add("calibrated_sensor", calibration_row(self._key, sensor))
        chain(self._sample_rows)
        self._tables.rows["sample"] += self._sample_rows
        for rows in self._data_rows.values():
            chain(rows)
            self._tables.rows["sample_data"] += rows
        for number, rows in sorted(self._annotation_rows.items()):
            chain(rows)
            self._tables.rows["sample_annotation"] += rows
            self._tables.add("instance", {
                "token": token(self._key, "instance", number), "category_token": token("category", self._world.things[number].category),
                "nbr_annotations": len(rows), "first_annotation_token": rows[0]["token"], "last_annotation_token": rows[-1]["token"],
            })  # fmt: skip

    def _rng(self, *key: str | int) -> Generator:
        words = [int.from_bytes(part.encode()) if isinstance(part, str) else part for part in key]
        return np.random.default_rng([self._seed, self._number, *words])

    def _write_image(self, sensor: Sensor, time: float, world_from_cam: ndarray, filename: str, seed: int) -> None:
        assert sensor.K is not None
        self._scene_mesh.set_time(time)
        noise_seed = int(self._rng("noise", seed).integers(1 << 30))
        image = render_image(
            self._scene_mesh,
            self._world.light,
            sensor.K,
            world_from_cam,
            self._image_size,
            noise_seed,
            vehicle=vehicle_state(self._world.ego, time),
        )
        self._compressions.append(self._compressor.submit(_write_jpeg, self._out / filename, image, jpeg_quality(self._world.light)))

    def _write_lidar_and_truth(self, frame: int, timestamp: int, sample_token: str, cameras: list[tuple[Sensor, ndarray]]) -> None:
        time = frame * FRAME_INTERVAL
        sensor, pose = self._sensors[-1], self._world.ego.world_from_ego(time)
        self._scene_mesh.set_time(time)
        sweep = self._lidar.measure(self._scene_mesh, pose, self._rng("lidar", frame))
        filename = f"samples/{sensor.channel}/{self.name}__{sensor.channel}__{timestamp}.pcd.bin"
        data_token = self._add_data_row(sample_token, sensor, frame, timestamp, pose, filename)
        label_file = f"lidarseg/{self._version}/{data_token}_lidarseg.bin"
        for name, array in ((filename, sweep.points), (label_file, sweep.categories)):
            with naming_the_file(self._out / name):
                (self._out / name).parent.mkdir(parents=True, exist_ok=True)
                array.tofile(self._out / name)
        self._tables.add("lidarseg", {"token": data_token, "sample_data_token": data_token, "filename": label_file})
        self._annotate(frame, time, sample_token, sweep)
        semantics = voxelize(self._scene_mesh, np.linalg.inv(pose))
        truth = observed_truth(semantics, pose, self._rays_of_drive, cameras, self._image_size)
        path = self._out / "gts" / self.name / sample_token / "labels.npz"
        self._compressions.append(self._compressor.submit(_write_truth, path, truth))

    def _add_data_row(self, sample_token: str, sensor: Sensor, frame: int, timestamp: int, world_from_ego: ndarray, filename: str) -> str:
        data_token = token(self._key, "sample_data", sensor.channel, frame)
        pose_token = token(self._key, "ego_pose", sensor.channel, frame)
        self._tables.add("ego_pose", {"token": pose_token, "timestamp": timestamp, **pose_columns(self._map_from_world @ world_from_ego)})
        height, width = (0, 0) if sensor.K is None else self._image_size
        self._data_rows[sensor.channel].append({
            "token": data_token, "sample_token": sample_token, "ego_pose_token": pose_token,
            "calibrated_sensor_token": token(self._key, "calibrated_sensor", sensor.channel), "timestamp": timestamp,
            "fileformat": "pcd" if sensor.K is None else "jpg", "is_key_frame": True,
            "height": height, "width": width, "filename": filename,
        })  # fmt: skip
        return data_token

    def _annotate(self, frame: int, time: float, sample_token: str, sweep: Sweep) -> None:
        """Annotate, as nuScenes does, what at least one LiDAR point lies on."""
        points = np.bincount(sweep.things[sweep.things >= 0], minlength=len(self._world.things))
        for thing in self._world.things:
            if points[thing.number]:
                row = self._annotation_row(frame, time, thing, sample_token)
                self._annotation_rows[thing.number].append({**row, "num_lidar_pts": int(points[thing.number]), "num_radar_pts": 0})

    def _annotation_row(self, frame: int, time: float, thing: Thing, sample_token: str) -> Row:
        center, (length, width, height) = thing.box()
        pose = self._map_from_world @ thing.world_from_thing(self._world.ground.layout.course, time)
        box_pose = rigid_matrix(pose[:3, :3], (pose @ [*center, 1.0])[:3])
        return {
            "token": token(self._key, "sample_annotation", thing.number, frame), "sample_token": sample_token,
            "instance_token": token(self._key, "instance", thing.number), "visibility_token": "",
            "attribute_tokens": [token("attribute", thing.attribute)] if thing.attribute else [],
            "size": [float(width), float(length), float(height)], **pose_columns(box_pose),
        }  # fmt: skip


def _write_jpeg(path: Path, image: ndarray, quality: int) -> None:
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=quality)


def _write_truth(path: Path, truth: VoxelTruth) -> None:
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, semantics=truth.semantics, mask_lidar=truth.mask_lidar, mask_camera=truth.mask_camera)


def scene_name(number: int) -> str:
    """Return the name of a scene; no scene of nuScenes has such a number."""
    return f"scene-{9001 + number}"
