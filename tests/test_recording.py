"""A recording for Rerun, read back: what is in it, when, and that its pieces fit onto each other."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc import recording
from splattingocc.data.key_frames import KeyFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.engine.checkpoint import save_network
from splattingocc.experiment import DataConfig, ExperimentConfig, build_network
from splattingocc.labels.generate import generate_labels
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.recording import EGO, MOST_GAUSSIANS, MOST_RAYS, record

Table = dict[str, list[tuple[int, Any]]]
"""Of one place: for each component, the key frame and the value of every row."""


def test_without_rerun_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^--rerun: rerun-sdk is not installed; pip install .*viz") as refused:
        recording.check_rerun()
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    dataroot = tiny_nuscenes.write(tmp_path_factory.mktemp("recording") / "data", scenes={"scene-0001": 1, "scene-0002": 2})
    generate_labels(read_index(dataroot, tiny_nuscenes.VERSION), dataroot, dataroot / "labels_2d", show_progress=False)
    return ExperimentConfig(
        name="recording",
        data=DataConfig(dataroot=dataroot, version=tiny_nuscenes.VERSION, loader=LoaderConfig(image_size=(32, 64)), num_workers=0),
        network=NetworkConfig(
            lift=SamplingLiftConfig(channels=8, coarsening=4), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1))
        ),
    )


@pytest.fixture(scope="module")
def recorded(experiment: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Two key frames of a drive by a network of random weights, by place."""
    pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed (extra viz)")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("out")
    save_network(build_network(experiment), experiment.network, folder / "network.safetensors", {"threshold": "0.05"})
    index = read_index(experiment.data.dataroot, experiment.data.version)
    positions = [position for position in range(len(index)) if index[position].scene == "scene-0002"]
    path = record(experiment, folder / "network.safetensors", index, positions[::-1], folder / "drive.rrd")
    assert list(folder.glob("*.rrd")) == [path]
    return read(path)


def read(path: Path) -> dict[str, Table]:
    """Return what a recording holds at each place."""
    from rerun.chunk import RrdReader

    places: dict[str, Table] = defaultdict(lambda: defaultdict(list))
    for part in RrdReader(str(path)).stream().to_chunks():
        batch = part.to_record_batch()
        names = batch.schema.names
        moments = batch.column("key_frame").to_pylist() if "key_frame" in names else [-1] * batch.num_rows
        for name in names:
            # Of nanoseconds Python has no type
            column = batch.column(name).cast("int64") if name == "time" else batch.column(name)
            if name == "time" or ":" in name:
                found = zip(moments, column.to_pylist())
                places[str(part.entity_path).strip("/")][name] += [(moment, value) for moment, value in found if value is not None]
    return places


def rows(table: Table, component: str) -> dict[int, np.ndarray]:
    """Return the values of a component by key frame, counted from 0."""
    found = dict(table[component])
    return {number: np.array(found[moment]) for number, moment in enumerate(sorted(found))}


def matrix(table: Table, moment: int) -> np.ndarray:
    """Return parent_from_child of a place."""
    transform = np.eye(4)
    transform[:3, :3] = rows(table, "Transform3D:mat3x3")[moment].reshape(3, 3).T  # column by column
    transform[:3, 3] = rows(table, "Transform3D:translation")[moment].reshape(3)
    return transform


def drive_of(experiment: ExperimentConfig) -> list[KeyFrame]:
    index = read_index(experiment.data.dataroot, experiment.data.version)
    return [index[position] for position in range(len(index)) if index[position].scene == "scene-0002"]


def test_all_of_a_key_frame_is_there_at_its_time(recorded: dict[str, Table], experiment: ExperimentConfig) -> None:
    wanted = {*CAMERA_CHANNELS, "lidar", "labels/points", "labels/rays", "occupancy/predicted", "gaussians"}
    assert {f"{EGO}/{name}" for name in wanted} <= set(recorded)
    assert "world/trajectory" in recorded
    for name in wanted:
        table = recorded[f"{EGO}/{name}"]
        component = next(component for component in table if ":" in component)
        assert len({moment for moment, _ in table[component]}) == 2, name
        taken = sorted({nanoseconds for _, nanoseconds in table["time"]})
        assert taken == [1000 * key_frame.timestamp for key_frame in drive_of(experiment)], name
    # Nothing of the truth: this data set has none
    assert f"{EGO}/occupancy/true" not in recorded


def test_images_are_the_files_themselves(recorded: dict[str, Table], experiment: ExperimentConfig) -> None:
    for sensor in drive_of(experiment)[0].cameras:
        content = rows(recorded[f"{EGO}/{sensor.channel}"], "EncodedImage:blob")[0]
        assert content.astype(np.uint8).tobytes() == (experiment.data.dataroot / sensor.filename).read_bytes()


def test_labels_lie_on_lidar_points_and_cameras_see_them_where_the_store_says(
    recorded: dict[str, Table], experiment: ExperimentConfig
) -> None:
    store = LabelStore.open(experiment.data.label_folder)
    for moment, key_frame in enumerate(drive_of(experiment)):
        table = store.read(key_frame.token)
        ends = rows(recorded[f"{EGO}/labels/points"], "Points3D:positions")[moment]
        lidar = rows(recorded[f"{EGO}/lidar"], "Points3D:positions")[moment]
        assert len(ends) == len(table) > 0
        nearest = torch.cdist(torch.from_numpy(ends[::7]).double(), torch.from_numpy(lidar).double()).amin(dim=1)
        assert nearest.max() < 0.02
        first = 0
        for view, channel in enumerate(CAMERA_CHANNELS):
            camera = recorded[f"{EGO}/{channel}"]
            pixels = table.pixels[table.camera_indices == view]
            own = ends[first : first + len(pixels)]
            first += len(pixels)
            seen = np.linalg.inv(matrix(camera, moment)) @ np.c_[own, np.ones(len(own))].T
            K = rows(camera, "Pinhole:image_from_camera")[moment].reshape(3, 3).T
            projected = (K @ seen[:3]).T
            assert np.abs(projected[:, :2] / projected[:, 2:] - pixels).max() < 0.05
            assert rows(camera, "Pinhole:resolution")[moment].reshape(2).tolist() == [320, 180]


def test_rays_lead_from_cameras_to_labels_and_are_not_too_many(recorded: dict[str, Table]) -> None:
    lines = rows(recorded[f"{EGO}/labels/rays"], "LineStrips3D:strips")[0]
    ends = rows(recorded[f"{EGO}/labels/points"], "Points3D:positions")[0]
    assert lines.shape == (min(MOST_RAYS, len(ends)), 2, 3)
    known = {tuple(end) for end in ends.round(4).tolist()}
    assert all(tuple(end) in known for end in lines[:, 1].round(4).tolist())
    centers = np.stack([matrix(recorded[f"{EGO}/{channel}"], 0)[:3, 3] for channel in CAMERA_CHANNELS])
    assert np.linalg.norm(lines[:, :1] - centers, axis=-1).min(axis=1).max() < 1e-3


def test_the_drive_begins_at_the_origin_and_its_path_grows(recorded: dict[str, Table]) -> None:
    paths = rows(recorded["world/trajectory"], "LineStrips3D:strips")
    assert np.allclose(matrix(recorded[EGO], 0), np.eye(4))
    assert (paths[0].shape, paths[1].shape) == ((1, 1, 3), (1, 2, 3))
    assert np.allclose(paths[1][0, 1], matrix(recorded[EGO], 1)[:3, 3])
    assert np.linalg.norm(paths[1][0, 1]) > 0.1


def test_gaussians_and_voxels_have_classes_and_sizes(recorded: dict[str, Table]) -> None:
    boxes, ellipsoids = recorded[f"{EGO}/occupancy/predicted"], recorded[f"{EGO}/gaussians"]
    half = rows(boxes, "Boxes3D:half_sizes")[0]
    assert np.allclose(half, 0.2)
    centers, classes = rows(boxes, "Boxes3D:centers")[0], rows(boxes, "Boxes3D:class_ids")[0]
    assert len(centers) == len(classes) == len(half) > 0
    cells = (centers - [-39.8, -39.8, -0.8]) / 0.4
    assert np.abs(cells - cells.round()).max() < 1e-3
    assert len(rows(ellipsoids, "Ellipsoids3D:centers")[0]) == MOST_GAUSSIANS
    assert (rows(ellipsoids, "Ellipsoids3D:class_ids")[0] < 17).all()
    assert np.allclose(np.linalg.norm(rows(ellipsoids, "Ellipsoids3D:quaternions")[0], axis=-1), 1, atol=1e-3)


class Stream:
    """What a recording asks of Rerun, and what it said."""

    def __init__(self, application: str) -> None:
        self.said: list[tuple[str, Any]] = []

    def save(self, path: Any) -> None: ...

    def log(self, place: str, what: Any, **options: Any) -> None:
        self.said.append((place, what))


def test_what_a_key_frame_lacks_that_the_one_before_had_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rerun = SimpleNamespace(RecordingStream=Stream, Clear=lambda *, recursive: f"clear {recursive}")
    monkeypatch.setitem(sys.modules, "rerun", rerun)
    recorder = recording._Recording(tmp_path / "out.rrd")
    for frame, places in enumerate((("a", "b"), ("a",), ("a", "c"))):
        for place in places:
            recorder._log(place, frame)
        recorder.finish_key_frame()
    assert recorder._stream.said == [("a", 0), ("b", 0), ("a", 1), ("b", "clear False"), ("a", 2), ("c", 2)]
