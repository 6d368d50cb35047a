"""A recording for Rerun's viewer: what a vehicle saw on a drive, what its labels say, and what a network makes of it, along time."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index, KeyFrame, SensorFrame, camera_of, ego_from_other_ego, inverse
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore
from splattingocc.data.labelled_rays import labelled_rays
from splattingocc.data.occ3d import read_truth, truth_path
from splattingocc.engine.inference import predict_fields
from splattingocc.experiment import ExperimentConfig, build_prediction_set
from splattingocc.files import BadFile, first_line, read_bytes, write_atomically
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.labels.lidar import read_points, to_world
from splattingocc.pipeline.camera_maps import check_labels
from splattingocc.pipeline.prediction import open_network
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.struct import stack
from splattingocc.taxonomy import CLASSES, FREE, NUM_CLASSES
from splattingocc.visualization.palettes import CLASS_COLORS, IGNORE_COLOR

APPLICATION = "splattingocc"
EGO = "world/ego"
"""The vehicle, below which all that moves with it stands."""
KEY_FRAMES, TIME = "key_frame", "time"
"""Timelines: key frames one after the other, and when they were taken."""
MOST_RAYS = 3000
"""Label rays of a key frame that are drawn as lines; the points at their ends are all there."""
MOST_GAUSSIANS = 20_000
"""Gaussians of a key frame, the most opaque ones."""
STANDARD_DEVIATIONS = 1.5
"""Half axes of a drawn Gaussian."""
LIDAR_COLOR = (150, 150, 150)
POINT_RADIUS, RAY_RADIUS, PATH_RADIUS = 0.04, 0.01, 0.15
"""Metres."""
IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}


def check_rerun() -> None:
    """Raise a `ValueError` where Rerun is not installed."""
    if importlib.util.find_spec("rerun") is None:
        raise ValueError("--rerun: rerun-sdk is not installed; pip install -c requirements/constraints.txt -e '.[viz]'")


def record(config: ExperimentConfig, checkpoint: Path, index: Index, positions: Sequence[int], out: Path) -> Path:
    """Write key frames of an index, as a network sees them, into one `.rrd` file, in the order of the index.

    The world's origin is where the vehicle was at the first key frame of the scene. Labels, LiDAR and truth are there where the data have
    them.
    """
    check_rerun()
    # What a viewer shows at a moment is what was logged last before it, and a path goes from one moment to the next
    positions = sorted({*positions})
    check_labels(config, index, positions)
    network, threshold = open_network(config, checkpoint)
    if threshold is None:
        raise ValueError(f"{checkpoint}: has no occupancy threshold; only the network file of a finished training has one")
    samples = build_prediction_set(config.data, index, positions)
    folder = config.data.label_folder
    store = LabelStore.open(folder) if (folder / MANIFEST_NAME).exists() else None

    def write(temporary: Path) -> None:
        with _Recording(temporary) as recording:
            for i in track(range(len(positions)), "recording", transient=True):
                key_frame = index[positions[i]]
                recording.turn_to(positions[i], key_frame)
                recording.log_vehicle(key_frame, _first_of(index, positions[i]))
                recording.log_sensors(key_frame, config.data.dataroot)
                if store is not None and key_frame.token in store:
                    recording.log_labels(key_frame, store)
                field = next(predict_fields(network, [stack([samples[i]])]))[1]
                grid = config.grid.voxels
                recording.log_occupancy("predicted", threshold.read_out(field, grid).semantics.cpu(), grid)
                if isinstance(field, Gaussians):
                    recording.log_gaussians(field)
                if truth_path(config.data.truth_folder, key_frame.scene, key_frame.token).exists():
                    truth = read_truth(config.data.truth_folder, key_frame.scene, key_frame.token)
                    recording.log_occupancy("true", truth.semantics, OCC3D_GRID)
                recording.finish_key_frame()

    write_atomically(out, write)
    return out


def _first_of(index: Index, position: int) -> KeyFrame:
    """Return the first key frame of the scene of another."""
    return index[position - index[position].index_in_scene]


class _Recording:
    """A file that is being written; one call for each thing of a key frame."""

    def __init__(self, path: Path) -> None:
        import rerun  # pyright: ignore[reportMissingImports]  # of an extra

        self._rerun: Any = rerun
        self._stream = rerun.RecordingStream(APPLICATION)
        self._stream.save(path)
        self._shown: set[str] = set()
        """Places that the key frame before has something at."""
        self._own: set[str] = set()
        """Those of this one."""
        self._paths: dict[str, list[Float64[np.ndarray, "3"]]] = {}
        """Where the vehicle was so far, by scene."""
        self._lacks_sweeps = False

    def __enter__(self) -> _Recording:
        self._log("world", self._rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        known = [(number, name, color) for number, (name, color) in enumerate(zip(CLASSES, CLASS_COLORS))]
        self._log("/", self._rerun.AnnotationContext([*known, (NUM_CLASSES, "no class", IGNORE_COLOR)]), static=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.disconnect()  # waits until all of it is written

    def turn_to(self, position: int, key_frame: KeyFrame) -> None:
        """Go to another moment."""
        self._stream.set_time(KEY_FRAMES, sequence=position)
        self._stream.set_time(TIME, timestamp=np.datetime64(key_frame.timestamp, "us"))

    def finish_key_frame(self) -> None:
        """Clear what the key frame before had and this one has not: a viewer shows the latest there is."""
        for place in sorted(self._shown - self._own):
            self._stream.log(place, self._rerun.Clear(recursive=False))
        self._shown, self._own = self._own, set()

    def log_vehicle(self, key_frame: KeyFrame, first: KeyFrame) -> None:
        """Log where the vehicle is, and where it was before, from the place of the scene's first key frame."""
        world_from_ego = ego_from_other_ego(first.world_from_ego, key_frame.world_from_ego)
        self._log(EGO, self._pose(world_from_ego))
        path = self._paths.setdefault(key_frame.scene, [])
        path.append(world_from_ego[:3, 3])
        self._log("world/trajectory", self._rerun.LineStrips3D([np.stack(path)], radii=PATH_RADIUS))

    def log_sensors(self, key_frame: KeyFrame, dataroot: Path) -> None:
        """Log what each camera saw, from where it was then, and the points of the LiDAR."""
        for sensor in key_frame.cameras:
            place, camera = f"{EGO}/{sensor.channel}", camera_of(sensor, in_ego_of=key_frame)
            height, width = camera.image_size
            self._log(place, self._pose(inverse(camera.cam_from_ego.double().numpy())))
            axes = self._rerun.ViewCoordinates.RDF
            self._log(place, self._rerun.Pinhole(image_from_camera=camera.K.numpy(), resolution=[width, height], camera_xyz=axes))
            content, kind = read_bytes(dataroot / sensor.filename), IMAGE_TYPES.get(Path(sensor.filename).suffix.lower())
            self._log(place, self._rerun.EncodedImage(contents=content, media_type=kind))
        if key_frame.lidar is not None:
            self._log_sweep(key_frame, key_frame.lidar, dataroot)

    def _log_sweep(self, key_frame: KeyFrame, lidar: SensorFrame, dataroot: Path) -> None:
        """Log the points of the LiDAR; a sweep that is gone, or has other columns than nuScenes', is left out and the first one named."""
        try:
            points = to_world(read_points(dataroot / lidar.filename), lidar)
        except BadFile as error:
            if not self._lacks_sweeps:
                print(f"the recording has not the points of every sweep: {first_line(error)}", file=sys.stderr)
            self._lacks_sweeps = True
            return
        ego_from_world = key_frame.key_ego_from_world
        points = points @ ego_from_world[:3, :3].T + ego_from_world[:3, 3]
        self._log(f"{EGO}/lidar", self._rerun.Points3D(points, colors=LIDAR_COLOR, radii=POINT_RADIUS))

    def log_labels(self, key_frame: KeyFrame, store: LabelStore) -> None:
        """Log labelled rays that meet something: their ends, and some of them as lines from their camera."""
        rays, labels = labelled_rays(key_frame, store)
        meeting = labels.distances.isfinite()
        rays, labels = rays[meeting], labels[meeting]
        ends, classes = rays.at(labels.distances).numpy(), labels.semantics.clamp(max=NUM_CLASSES).numpy()
        self._log(f"{EGO}/labels/points", self._rerun.Points3D(ends, class_ids=classes, radii=POINT_RADIUS))
        shown = np.linspace(0, len(ends) - 1, min(MOST_RAYS, len(ends))).round().astype(int)
        lines = np.stack([rays.origins.numpy()[shown], ends[shown]], axis=1)
        self._log(f"{EGO}/labels/rays", self._rerun.LineStrips3D(lines, class_ids=classes[shown], radii=RAY_RADIUS))

    def log_occupancy(self, name: str, semantics: Tensor, grid: VoxelGrid) -> None:
        """Log the occupied cells of a grid as boxes."""
        occupied = semantics != FREE
        centers, classes = grid.centers()[occupied].numpy(), semantics[occupied].numpy()
        half = np.full((len(centers), 3), grid.cell_size / 2)
        boxes = self._rerun.Boxes3D(centers=centers, half_sizes=half, class_ids=classes, fill_mode=self._rerun.components.FillMode.Solid)
        self._log(f"{EGO}/occupancy/{name}", boxes)

    def log_gaussians(self, gaussians: Gaussians) -> None:
        """Log the most opaque Gaussians as ellipsoids."""
        chosen = gaussians.opacities.argsort(descending=True, stable=True)[:MOST_GAUSSIANS].cpu()
        w, x, y, z = gaussians.quats.cpu()[chosen].unbind(-1)
        ellipsoids = self._rerun.Ellipsoids3D(
            centers=gaussians.means.cpu()[chosen].numpy(),
            half_sizes=STANDARD_DEVIATIONS * gaussians.scales.cpu()[chosen].numpy(),
            quaternions=torch.stack([x, y, z, w], dim=-1).numpy(),
            class_ids=gaussians.features.cpu()[chosen].argmax(dim=-1).numpy(),
            fill_mode=self._rerun.components.FillMode.Solid,
        )
        self._log(f"{EGO}/gaussians", ellipsoids)

    def _pose(self, parent_from_child: Float64[np.ndarray, "4 4"]) -> Any:
        return self._rerun.Transform3D(translation=parent_from_child[:3, 3], mat3x3=parent_from_child[:3, :3])

    def _log(self, place: str, what: Any, *, static: bool = False) -> None:
        self._stream.log(place, what, static=static, strict=True)
        if not static:
            self._own.add(place)
