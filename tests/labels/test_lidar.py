import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc.data.key_frames import KeyFrame, cameras_of
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.labels.lidar import LidarLabelConfig, find_pixels, project_lidar, read_point_classes, read_points, to_world
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES


@pytest.fixture
def real_key_frame(real_dataroot: Path, tmp_path: Path) -> KeyFrame:
    return read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)[0]


@pytest.fixture
def tiny_key_frame(tiny_dataroot: Path) -> KeyFrame:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)[1]


def test_real_points_land_on_the_pixels_that_an_independent_script_computed(real_dataroot: Path, real_key_frame: KeyFrame):
    truth = json.loads((real_dataroot / "point_pixels.json").read_text())
    points = read_points(real_dataroot / real_key_frame.lidar.filename)
    hits = find_pixels(to_world(points, real_key_frame.lidar), real_key_frame, LidarLabelConfig())
    assert len(truth["points"]) == 60
    for point in truth["points"]:
        of_camera = hits.camera_indices == CAMERA_CHANNELS.index(point["camera"])
        (hit,) = np.flatnonzero(of_camera & (hits.point_indices == point["lidar_index"]))
        assert np.abs(hits.pixels[hit] - (point["u"], point["v"])).max() < 1e-2
        assert abs(hits.distances[hit] - point["ray_distance"]) < 1e-3


def test_real_counts_per_camera_are_those_of_the_independent_script(real_dataroot: Path, real_key_frame: KeyFrame):
    counts = json.loads((real_dataroot / "point_pixels.json").read_text())["counts"]
    points = read_points(real_dataroot / real_key_frame.lidar.filename)
    hits = find_pixels(to_world(points, real_key_frame.lidar), real_key_frame, LidarLabelConfig())
    table = project_lidar(real_key_frame, real_dataroot, LidarLabelConfig(drop_hidden=False))
    for view, channel in enumerate(CAMERA_CHANNELS):
        assert (hits.camera_indices == view).sum() == counts[channel]["in_image"]
        assert (table.camera_indices == view).sum() == counts[channel]["labelled"]


def test_labels_of_a_moving_vehicle_lie_on_the_road_and_on_the_wall(tiny_dataroot: Path, tiny_key_frame: KeyFrame):
    table = project_lidar(tiny_key_frame, tiny_dataroot)
    rays = cameras_of(tiny_key_frame).rays_through(torch.from_numpy(table.camera_indices).long(), torch.from_numpy(table.pixels))
    points_ego = rays.at(torch.from_numpy(table.distances)).double().numpy()
    world_from_ego = tiny_key_frame.lidar.world_from_ego
    points_world = points_ego @ world_from_ego[:3, :3].T + world_from_ego[:3, 3]
    road, wall = points_world[table.semantics == 11], points_world[table.semantics == 15]
    assert min(len(road), len(wall)) > 200
    assert np.abs(road[:, 2]).max() < 1e-2
    assert np.abs(wall[:, 1] - tiny_nuscenes.WALL_Y).max() < 1e-2


def test_noise_and_ego_points_are_left_out(tiny_dataroot: Path, tiny_key_frame: KeyFrame):
    assert tiny_key_frame.point_classes is not None
    points = read_points(tiny_dataroot / tiny_key_frame.lidar.filename)
    classes = read_point_classes(tiny_dataroot / tiny_key_frame.point_classes, len(points))
    hits = find_pixels(to_world(points, tiny_key_frame.lidar), tiny_key_frame, LidarLabelConfig())
    table = project_lidar(tiny_key_frame, tiny_dataroot, LidarLabelConfig(drop_hidden=False))
    assert (classes[hits.point_indices] == IGNORE).any()
    assert len(table) == (classes[hits.point_indices] != IGNORE).sum()
    assert set(np.unique(table.semantics)) == {4, 11, 15}


def test_points_behind_too_near_and_too_far_are_left_out(tiny_key_frame: KeyFrame):
    camera = tiny_key_frame.cameras[1]
    world_from_lidar = tiny_key_frame.lidar.world_from_ego @ tiny_key_frame.lidar.ego_from_sensor
    lidar_from_cam = np.linalg.inv(world_from_lidar) @ camera.world_from_ego @ camera.ego_from_sensor
    points_cam = np.array([[0, 0, -5], [0, 0, 0.9], [0, 0, 1.1], [0, 0, 39.9], [0, 0, 40.1], [30, 0, 5]], dtype=np.float64)
    points_lidar = (points_cam @ lidar_from_cam[:3, :3].T + lidar_from_cam[:3, 3]).astype(np.float32)
    hits = find_pixels(to_world(points_lidar, tiny_key_frame.lidar), tiny_key_frame, LidarLabelConfig(max_distance=40.0))
    assert hits.point_indices[hits.camera_indices == 1].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "0 bytes, expected a positive multiple of 20"),
        (bytes(47), "47 bytes, expected a positive multiple of 20"),
        (np.array([0, 0, np.nan, 0, 0], dtype="<f4").tobytes(), "point 0 is"),
        (np.array([0, 3e38, 0, 0, 0], dtype="<f4").tobytes(), r"point 0 is .*, expected finite metres, at most 10000"),
    ],
)
def test_a_damaged_sweep_is_named(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "sweep.pcd.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"sweep\.pcd\.bin: {expected}"):
        read_points(path)


def test_archives_hold_the_points_alone_or_under_their_key(tmp_path: Path):
    points = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.savez(tmp_path / "alone.npz", points)
    np.savez_compressed(tmp_path / "keyed.npz", intensity=np.zeros(3), points=points)
    for name in ("alone.npz", "keyed.npz"):
        found = read_points(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, points[:, :3])
    np.savez(tmp_path / "other.npz", xyz=points, intensity=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: holds 2 arrays \(xyz, intensity\), expected one"):
        read_points(tmp_path / "other.npz")
    np.savez(tmp_path / "far.npz", points * 1e300)
    with pytest.raises(ValueError, match=r"far\.npz: point 0 is \[0\.0, inf, inf\], expected finite metres"):
        read_points(tmp_path / "far.npz")
    (tmp_path / "none.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"none\.npz: not an \.npz archive"):
        read_points(tmp_path / "none.npz")


def test_declared_sizes_of_arrays_are_not_believed(tmp_path: Path):
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    for read in (read_points, lambda path: read_point_classes(path, 3)):
        with pytest.raises(
            ValueError, match=r"huge\.npy: not a \.npy array: declares float32 \(1000000000000, 3\), 12,000,000,000,000 bytes"
        ):
            read(path)


def test_no_label_lies_nearer_than_cameras_see(tiny_key_frame: KeyFrame):
    camera = tiny_key_frame.cameras[0]
    world_from_cam = camera.world_from_ego @ camera.ego_from_sensor
    points = (np.array([[0, 0, 1e-5, 1], [0, 0, 0.09, 1], [0, 0, 0.12, 1]]) @ world_from_cam.T)[:, :3]
    hits = find_pixels(points, tiny_key_frame, LidarLabelConfig(min_depth=0.0))
    assert hits.point_indices[hits.camera_indices == 0].tolist() == [2]


def test_a_damaged_lidarseg_file_is_named(tmp_path: Path):
    path = tmp_path / "lidarseg.bin"
    path.write_bytes(bytes([24] * 9))
    with pytest.raises(ValueError, match=r"lidarseg\.bin: 9 categories for a sweep of 10 points"):
        read_point_classes(path, 10)
    with pytest.raises(ValueError, match=r"9 categories for a sweep of 10 points \(.*sweep\.bin\), expected one byte per point"):
        read_point_classes(path, 10, sweep=tmp_path / "sweep.bin")
    np.save(tmp_path / "scalar.npy", np.uint8(3))
    with pytest.raises(ValueError, match=r"scalar\.npy: uint8 \(\) for a sweep of 10 points, expected one byte per point"):
        read_point_classes(tmp_path / "scalar.npy", 10)
    path.write_bytes(bytes([24] * 9 + [32]))
    with pytest.raises(ValueError, match=r"lidarseg\.bin: category 32 of point 9 is out of range 0\.\.31"):
        read_point_classes(path, 10)
    with pytest.raises(ValueError, match=r"absent\.bin: no such file"):
        read_points(tmp_path / "absent.bin")


def test_static_points_of_neighbouring_sweeps_lie_where_the_world_has_them(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, tiny_nuscenes.VERSION)
    alone = project_lidar(index[1], tiny_dataroot, LidarLabelConfig(drop_hidden=False))
    more = project_lidar(index[1], tiny_dataroot, LidarLabelConfig(drop_hidden=False), neighbours=[index[0], index[2]])
    assert len(more) > 2 * len(alone)
    cameras = cameras_of(index[1])
    rays = cameras.rays_through(torch.from_numpy(more.camera_indices).long(), torch.from_numpy(more.pixels))
    points = rays.at(torch.from_numpy(more.distances)).numpy()
    world = (np.concatenate([points, np.ones((len(points), 1))], axis=1) @ index[1].world_from_ego.T)[:, :3]
    assert np.abs(world[more.semantics == 11, 2]).max() < 0.05
    assert np.abs(world[more.semantics == 15, 1] - tiny_nuscenes.WALL_Y).max() < 0.05
    moving = np.isin(more.semantics, MOVING_CLASSES)
    assert moving.sum() == np.isin(alone.semantics, MOVING_CLASSES).sum()


def write_sweep(path: Path, columns: int, num_points: int = 200) -> Path:
    """A sweep of x, y, z, intensity, ring and time, cut to so many columns."""
    rng = np.random.default_rng(0)
    points = [
        rng.normal(0, 10, (num_points, 3)),
        rng.uniform(0, 255, (num_points, 1)),
        rng.integers(0, 32, (num_points, 1)),
        np.ones((num_points, 1)),
    ]
    np.concatenate(points, axis=1)[:, :columns].astype("<f4").tofile(path)
    return path


@pytest.mark.parametrize("columns", [3, 4, 5, 6])
def test_a_sweep_of_declared_columns_is_read(tmp_path: Path, columns: int):
    points = read_points(write_sweep(tmp_path / "a.bin", columns), columns)
    np.testing.assert_array_equal(points, read_points(write_sweep(tmp_path / "b.bin", 5)))


@pytest.mark.parametrize(("columns", "declared"), [(3, 5), (4, 5), (6, 5), (5, 4), (3, 4), (6, 4), (4, 6), (5, 6), (3, 6)])
def test_a_sweep_of_other_columns_than_declared_is_refused(tmp_path: Path, columns: int, declared: int):
    """Of 60 x 200 points every number of columns divides the file evenly: only the content tells."""
    with pytest.raises(ValueError, match=r"a\.bin: column \d begins with .* --lidar\.point-columns"):
        read_points(write_sweep(tmp_path / "a.bin", columns, num_points=12_000), declared)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, -20_000.0])
def test_a_point_beyond_any_lidar_is_named(tmp_path: Path, value: float):
    points = np.fromfile(write_sweep(tmp_path / "a.bin", 5), "<f4").reshape(-1, 5)
    points[17, 1] = value
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin: point 17 is .*expected finite metres, at most 10000"):
        read_points(tmp_path / "a.bin")


def test_points_without_classes_make_labels_of_distances_alone(tiny_dataroot: Path):
    key_frame = dataclasses.replace(read_index(tiny_dataroot, tiny_nuscenes.VERSION)[0], point_classes=None)
    with pytest.raises(ValueError, match=r"no classes of its points .* --lidar\.with-classes False"):
        project_lidar(key_frame, tiny_dataroot)
    table = project_lidar(key_frame, tiny_dataroot, LidarLabelConfig(with_classes=False))
    assert len(table) > 500
    assert (table.semantics == IGNORE).all()
    assert np.isfinite(table.distances).all()


def test_points_of_other_key_frames_need_classes_to_leave_out_what_moves():
    with pytest.raises(ValueError, match=r"lidar\.other_key_frames is \(1,\), but without classes"):
        LidarLabelConfig(with_classes=False, other_key_frames=(1,))
