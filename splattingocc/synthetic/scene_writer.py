"""Writing one scene: its files and its rows in the tables."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from splattingocc.files import naming_the_file
from splattingocc.synthetic.accumulation import TURN_INTERVAL, Accumulation, scan_drive
from splattingocc.synthetic.camera_effects import jpeg_quality, vehicle_state
from splattingocc.synthetic.camera_images import render_image
from splattingocc.synthetic.config import FRAME_INTERVAL, SynthConfig, scene_name
from splattingocc.synthetic.dense_degradation import degraded_maps
from splattingocc.synthetic.dense_maps import see, true_maps, write_maps
from splattingocc.synthetic.label_errors import LabelErrors
from splattingocc.synthetic.lidar_sweeps import Lidar, Sweep
from splattingocc.synthetic.localization import Localization
from splattingocc.synthetic.occupancy import VoxelTruth, observed_truth, voxelize
from splattingocc.synthetic.rig import Sensor, draw_rig, rigid_matrix
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.street_kinds import kind_of_scene
from splattingocc.synthetic.tables import Row, calibration_row, chain, pose_columns, token
from splattingocc.synthetic.things import Thing
from splattingocc.synthetic.world import draw_world
from splattingocc.taxonomy import FREE

COMPLETE_TRUTH_FOLDER = "gts_complete"
EPOCH = 1_600_000_000_000_000
"""Timestamp of the first scene's start, microseconds."""
SCENE_SPACING = 1_000_000_000
"""Microseconds from the start of one scene to the start of the next."""


@dataclass(frozen=True)
class SceneJob:
    """A scene to be written."""

    config: SynthConfig
    out: Path
    number: int
    device: str
    num_threads: int | None
    """How many threads it may take; as many as are set already where not given."""


def write_scene(job: SceneJob) -> dict[str, list[Row]]:
    """Write the files of a scene; return its rows by table."""
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    writer = SceneWriter(job.config, job.out, job.number, torch.device(job.device))
    for frame in range(job.config.frames_per_scene):
        writer.write_frame(frame)
    return writer.finish()


class SceneWriter:
    """Writes the key frames of one scene. Everything is drawn from the configuration's seed and the scene's number."""

    def __init__(self, config: SynthConfig, out: Path, number: int, device: torch.device) -> None:
        self._config, self._out, self._number = config, out, number
        self.name = scene_name(number)
        self._key = f"{config.seed}/{self.name}"
        rng, duration = self._rng("world"), config.duration
        self._world = draw_world(rng, duration, kind_of_scene(config.seed, number))
        self._sensors = draw_rig(rng, config.image_size)
        self._jitter = rng.uniform(-0.002, 0.002, (config.frames_per_scene, len(self._sensors)))
        # The key frames lie somewhere in the drive, at moments of the LiDAR's turns.
        latest = round((duration - (config.frames_per_scene - 1) * FRAME_INTERVAL) / TURN_INTERVAL) - 1
        first = int(rng.integers(0, latest + 1)) * TURN_INTERVAL
        self._times = [first + frame * FRAME_INTERVAL for frame in range(config.frames_per_scene)]
        # As in nuScenes, the map's origin is far away: poses must be handled in double precision.
        self._map_from_world = rigid_matrix(np.eye(3), np.array([*rng.uniform(300, 1800, 2), 0.0]))
        self._localization = Localization(self._rng("localization"), self._world.ego, errors=config.pose_errors)
        self._scene_mesh = SceneMesh(self._world, device)
        self._lidar = Lidar(self._sensors[-1].ego_from_sensor, device)
        self._label_errors = LabelErrors(self._world.things, self._rng("label errors")) if config.label_errors else None
        self._accumulation = self._drive()
        # Compressing is left to a thread of its own while the next picture is rendered.
        self._compressor = ThreadPoolExecutor(1, thread_name_prefix="compress")
        self._compressions: list[Future[None]] = []
        self._data_rows: dict[str, list[Row]] = defaultdict(list)
        self._annotation_rows: dict[int, list[Row]] = defaultdict(list)
        self._lidarseg_rows: list[Row] = []
        self._pose_rows: list[Row] = []
        self._sample_rows: list[Row] = []

    def _drive(self) -> Accumulation:
        world, rng = self._world, self._rng("drive")
        scan = scan_drive(self._scene_mesh, world.ego, self._lidar, world.things, self._config.duration, self._times, rng)
        return Accumulation(scan, world.ego, self._localization, world.things, world.ground.layout)

    def write_frame(self, frame: int) -> None:
        """Write the files of one key frame and keep its rows."""
        timestamp = EPOCH + self._number * SCENE_SPACING + round(self._times[frame] * 1e6)
        sample_token = token(self._key, "sample", frame)
        self._sample_rows.append({"token": sample_token, "timestamp": timestamp, "scene_token": token(self._key, "scene")})
        cameras = []
        for index, sensor in enumerate(self._sensors[:-1]):
            delay = round((sensor.delay + self._jitter[frame, index]) * 1e6)
            time = self._times[frame] + delay / 1e6
            stated = self._localization.world_from_ego(time)
            filename = f"samples/{sensor.channel}/{self.name}__{sensor.channel}__{timestamp + delay}.jpg"
            self._write_image(sensor, time, filename, index + frame * len(self._sensors))
            self._add_data_row(sample_token, sensor, frame, timestamp + delay, stated, filename)
            cameras.append((sensor, stated @ sensor.ego_from_sensor))
        self._write_lidar_and_truth(frame, timestamp, sample_token, cameras)

    def finish(self) -> dict[str, list[Row]]:
        """Return the rows of the whole scene by table, once its key frames are written."""
        for compression in self._compressions:
            compression.result()
        self._compressor.shutdown()
        first, last = self._sample_rows[0], self._sample_rows[-1]
        scene_token, log_token = token(self._key, "scene"), token(self._key, "log")
        scene = {
            "token": scene_token, "log_token": log_token, "nbr_samples": len(self._sample_rows), "first_sample_token": first["token"],
            "last_sample_token": last["token"], "name": self.name, "description": self._description(),
        }  # fmt: skip
        log = {"token": log_token, "logfile": self.name, "vehicle": "synthetic", "date_captured": "2020-09-13", "location": "synthetic"}
        chain(self._sample_rows)
        instances, annotations = [], []
        for number, rows in sorted(self._annotation_rows.items()):
            chain(rows)
            annotations += rows
            instances.append({
                "token": token(self._key, "instance", number), "category_token": token("category", self._world.things[number].category),
                "nbr_annotations": len(rows), "first_annotation_token": rows[0]["token"], "last_annotation_token": rows[-1]["token"],
            })  # fmt: skip
        for rows in self._data_rows.values():
            chain(rows)
        return {
            "scene": [scene], "log": [log], "calibrated_sensor": [calibration_row(self._key, sensor) for sensor in self._sensors],
            "sample": self._sample_rows, "sample_data": [row for rows in self._data_rows.values() for row in rows],
            "ego_pose": self._pose_rows, "lidarseg": self._lidarseg_rows, "sample_annotation": annotations, "instance": instances,
        }  # fmt: skip

    def _description(self) -> str:
        # nuScenes' descriptions name night and rain, and users choose scenes by them.
        return f"Procedural {self._world.ground.layout.kind.name}, {self._world.light.weather.value}"

    def _rng(self, *key: str | int) -> Generator:
        words = [int.from_bytes(part.encode()) if isinstance(part, str) else part for part in key]
        return np.random.default_rng([self._config.seed, self._number, *words])

    def _write_image(self, sensor: Sensor, time: float, filename: str, number: int) -> None:
        assert sensor.K is not None
        self._scene_mesh.set_time(time)
        world_from_cam, size = self._world.ego.world_from_ego(time) @ sensor.ego_from_sensor, self._config.image_size
        noise_seed, vehicle = int(self._rng("noise", number).integers(1 << 30)), vehicle_state(self._world.ego, time)
        image = render_image(self._scene_mesh, self._world.light, sensor.K, world_from_cam, size, noise_seed, vehicle=vehicle)
        self._compressions.append(self._compressor.submit(_write_jpeg, self._out / filename, image, jpeg_quality(self._world.light)))
        if self._config.dense != "none":
            seen = see(self._scene_mesh, sensor.K, world_from_cam, size)
            maps = true_maps(seen) if self._config.dense == "perfect" else degraded_maps(seen, self._rng("dense maps", number))
            self._compressions.append(self._compressor.submit(write_maps, maps, self._out, filename))

    def _write_lidar_and_truth(self, frame: int, timestamp: int, sample_token: str, cameras: list[tuple[Sensor, ndarray]]) -> None:
        time, sensor = self._times[frame], self._sensors[-1]
        true, stated = self._world.ego.world_from_ego(time), self._localization.world_from_ego(time)
        self._scene_mesh.set_time(time)
        sweep = self._lidar.measure(self._scene_mesh, true, self._rng("lidar", frame))
        filename = f"samples/{sensor.channel}/{self.name}__{sensor.channel}__{timestamp}.pcd.bin"
        data_token = self._add_data_row(sample_token, sensor, frame, timestamp, stated, filename)
        label_file = f"lidarseg/{self._config.version}/{data_token}_lidarseg.bin"
        categories = sweep.categories
        if self._label_errors:
            rng = self._rng("label errors", frame)
            categories = self._label_errors.categories(sweep, true @ sensor.ego_from_sensor, rng)
        for name, array in ((filename, sweep.points), (label_file, categories)):
            with naming_the_file(self._out / name):
                (self._out / name).parent.mkdir(parents=True, exist_ok=True)
                array.tofile(self._out / name)
        self._lidarseg_rows.append({"token": data_token, "sample_data_token": data_token, "filename": label_file})
        self._annotate(frame, time, sample_token, sweep)
        self._write_truth(time, sample_token, cameras)

    def _write_truth(self, time: float, sample_token: str, cameras: list[tuple[Sensor, ndarray]]) -> None:
        stated = self._localization.world_from_ego(time)
        lines = self._accumulation.sight_lines(self._sensors[-1].ego_from_sensor, time)
        folders: dict[str, UInt8[Tensor, "x y z"]] = {}
        kind, accumulated = self._config.truth, self._accumulation.voxelized(time)
        if kind != "complete":
            folders["gts"] = accumulated
        if kind != "accumulated":
            complete = voxelize(self._scene_mesh, np.linalg.inv(self._world.ego.world_from_ego(time)))
            folders["gts" if kind == "complete" else COMPLETE_TRUTH_FOLDER] = complete
        for folder, semantics in folders.items():
            truth = observed_truth(semantics, accumulated != FREE, stated, lines, cameras, self._config.image_size)
            path = self._out / folder / self.name / sample_token / "labels.npz"
            self._compressions.append(self._compressor.submit(_write_truth, path, truth))

    def _add_data_row(self, sample_token: str, sensor: Sensor, frame: int, timestamp: int, world_from_ego: ndarray, filename: str) -> str:
        data_token = token(self._key, "sample_data", sensor.channel, frame)
        pose_token = token(self._key, "ego_pose", sensor.channel, frame)
        self._pose_rows.append({"token": pose_token, "timestamp": timestamp, **pose_columns(self._map_from_world @ world_from_ego)})
        height, width = (0, 0) if sensor.K is None else self._config.image_size
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
        # Boxes are drawn in the key frame's own points, so they share the error of its pose.
        stated_from_true = self._localization.world_from_ego(time) @ np.linalg.inv(self._world.ego.world_from_ego(time))
        pose = self._map_from_world @ stated_from_true @ thing.world_from_thing(self._world.ground.layout, time)
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
