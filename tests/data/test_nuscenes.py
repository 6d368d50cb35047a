import hashlib
import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc.data.key_frames import Index, cameras_of, inverse
from splattingocc.data.nuscenes import only_version, read_index, versions_of
from splattingocc.data.nuscenes_columns import PoseReader
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.geometry.transforms import rotation_from_quat

VERSION = tiny_nuscenes.VERSION


@pytest.fixture
def own_dataroot(tmp_path: Path, tiny_dataroot: Path) -> Path:
    """A copy of the tables that a test may damage."""
    shutil.copytree(tiny_dataroot / VERSION, tmp_path / VERSION)
    return tmp_path


def edit(dataroot: Path, table: str, position: int, **fields: object) -> str:
    """Change fields of a row and return its token."""
    path = dataroot / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[position].update(fields)
    path.write_text(json.dumps(rows))
    return rows[position]["token"]


def one_line_error(dataroot: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        read_index(dataroot, VERSION)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_index(a: Index, b: Index) -> bool:
    return all(
        np.array_equal(value, getattr(b, name)) if isinstance(value, np.ndarray) else value == getattr(b, name)
        for name, value in a.__dict__.items()
        if not name.startswith("_")
    )


def test_key_frames_are_grouped_by_scene_and_ordered_by_time(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, VERSION)
    assert [(index[i].scene, index[i].index_in_scene) for i in range(len(index))] == [
        *(("scene-0001", i) for i in range(3)),
        *(("scene-0002", i) for i in range(3)),
        *(("scene-0003", i) for i in range(2)),
    ]
    assert [index[i].timestamp for i in range(3)] == [1_000_000, 1_500_000, 2_000_000]
    assert index.position_of("scene-0002-1") == 4
    with pytest.raises(IndexError):
        index[8]


def test_each_sensor_keeps_its_own_time_pose_and_calibration(tiny_dataroot: Path):
    key_frame = read_index(tiny_dataroot, VERSION)[4]
    tables = {name: json.loads((tiny_dataroot / VERSION / f"{name}.json").read_text()) for name in ("sample_data", "ego_pose")}
    assert [camera.channel for camera in key_frame.cameras] == list(CAMERA_CHANNELS)
    for sensor in (key_frame.lidar, *key_frame.cameras):
        sample_data = next(row for row in tables["sample_data"] if row["token"] == sensor.token)
        pose = next(row for row in tables["ego_pose"] if row["token"] == sample_data["ego_pose_token"])
        assert sensor.timestamp == sample_data["timestamp"] == pose["timestamp"]
        assert sensor.filename == sample_data["filename"]
        np.testing.assert_allclose(sensor.world_from_ego[:3, 3], pose["translation"], atol=1e-12)
        rotation = rotation_from_quat(torch.tensor(pose["rotation"], dtype=torch.float64))
        np.testing.assert_allclose(sensor.world_from_ego[:3, :3], rotation, atol=1e-12)
    assert key_frame.cameras[0].image_size == tiny_nuscenes.IMAGE_SIZE
    assert key_frame.lidar.K is None


def test_cameras_stand_where_the_vehicle_was_when_they_took_their_image(tiny_dataroot: Path):
    key_frame = read_index(tiny_dataroot, VERSION)[1]
    cameras = cameras_of(key_frame)
    for view, camera in enumerate(key_frame.cameras):
        world_from_cam = camera.world_from_ego @ camera.ego_from_sensor
        cam_from_key_ego = np.linalg.inv(world_from_cam) @ key_frame.lidar.world_from_ego
        np.testing.assert_allclose(cameras.cam_from_ego[view], cam_from_key_ego, atol=1e-5)
    # The last camera fires 42 ms before the LiDAR at 5 m/s: it must be found 0.2 m behind its mount.
    mount, camera = key_frame.cameras[-1].ego_from_sensor, key_frame.cameras[-1]
    moved = inverse(key_frame.lidar.world_from_ego) @ camera.world_from_ego @ mount
    assert 0.15 < np.linalg.norm(moved[:3, 3] - mount[:3, 3]) < 0.3


def test_cameras_of_another_key_frame_see_the_same_world_point(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, VERSION)
    key_frame, neighbour = index[0], index[1]
    points_world = np.array([[410.0, 5.0, 1.0], [405.0, -3.0, 0.5], [395.0, 9.0, 2.0]])

    def project(frame, in_ego_of):
        key_ego_from_world = (in_ego_of or frame).key_ego_from_world
        points = torch.from_numpy(points_world @ key_ego_from_world[:3, :3].T + key_ego_from_world[:3, 3]).float()
        return cameras_of(frame, in_ego_of=in_ego_of).project(points.expand(6, 3, 3))

    pixels, visible = project(neighbour, None)
    moved_pixels, moved_visible = project(neighbour, key_frame)
    assert visible.any()
    assert torch.equal(visible, moved_visible)
    torch.testing.assert_close(pixels[visible], moved_pixels[visible], atol=5e-3, rtol=0)


def test_neighbours_end_with_the_scene(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, VERSION)
    assert [index.neighbour(3, offset) for offset in (-1, 0, 1, 2, 3)] == [None, 3, 4, 5, None]


def test_splits_come_from_the_file_beside_the_tables(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, VERSION)
    assert index.of_split("train") == [0, 1, 2, 3, 4, 5]
    assert index.of_split("val") == [6, 7]
    with pytest.raises(ValueError, match=r"split 'test' is not known for v1\.0-tiny; it has train, val"):
        index.of_split("test")
    with pytest.raises(ValueError, match=r"scene scene-9999 is not in v1\.0-tiny"):
        index.of_scenes(["scene-9999"])


def test_the_cache_gives_the_same_index_and_notices_changed_tables(own_dataroot: Path, tmp_path: Path):
    cache_dir = tmp_path / "cache"
    built = read_index(own_dataroot, VERSION, cache_dir=cache_dir)
    (cache,) = cache_dir.iterdir()
    before = cache.read_bytes()
    cached = read_index(own_dataroot, VERSION, cache_dir=cache_dir)
    assert same_index(built, cached)
    assert cache.read_bytes() == before
    edit(own_dataroot, "ego_pose", 0, translation=[1.0, 2.0, 3.0])
    changed = read_index(own_dataroot, VERSION, cache_dir=cache_dir)
    assert not same_index(built, changed)


def test_the_cache_is_used_and_not_rebuilt(own_dataroot: Path, monkeypatch: pytest.MonkeyPatch):
    built = read_index(own_dataroot, VERSION)
    monkeypatch.setattr("splattingocc.data.nuscenes.build_columns", lambda folder: pytest.fail("the tables were read again"))
    assert same_index(built, read_index(own_dataroot, VERSION))


def test_a_damaged_cache_is_made_anew(own_dataroot: Path):
    built = read_index(own_dataroot, VERSION)
    (cache,) = (own_dataroot / ".splattingocc").iterdir()
    cache.write_bytes(cache.read_bytes()[:100])
    assert same_index(built, read_index(own_dataroot, VERSION))


@pytest.mark.parametrize(
    ("table", "position", "fields", "expected"),
    [
        ("ego_pose", 3, {"rotation": [1.0, 0.0, 0.0]}, ["ego_pose.json", "rotation"]),
        ("ego_pose", 3, {"rotation": [2.0, 0.0, 0.0, 0.0]}, ["ego_pose.json", "rotation", "norm 2"]),
        ("ego_pose", 3, {"translation": ["far", 0.0, 0.0]}, ["ego_pose.json", "translation"]),
        ("ego_pose", 0, {"token": "another"}, ["sample_data.json", "ego_pose_token"]),
        ("sample_data", 2, {"timestamp": "noon"}, ["sample_data.json", "timestamp"]),
        ("sample_data", 2, {"calibrated_sensor_token": "none"}, ["sample_data.json", "calibrated_sensor_token none"]),
        ("sample_data", 2, {"sample_token": "none"}, ["sample_data.json", "sample_token none"]),
        ("sample_data", 2, {"height": 0}, ["sample_data.json", "height, width is 0 × 320 pixels"]),
        ("sample_data", 2, {"height": 90}, ["sample_data.json", "height 90, width 320; CAM_", "has 180, 320 earlier in the scene"]),
        ("sample", 1, {"scene_token": "none"}, ["sample.json", "scene_token none"]),
        ("calibrated_sensor", 2, {"camera_intrinsic": []}, ["calibrated_sensor.json", "camera_intrinsic"]),
        ("calibrated_sensor", 2, {"sensor_token": "none"}, ["calibrated_sensor.json", "sensor_token none"]),
        ("category", 17, {"name": "vehicle.tank"}, ["category.json", "index 17 is 'vehicle.tank', expected 'vehicle.car'"]),
    ],
)
def test_a_damaged_row_is_named_with_its_file_token_and_field(
    own_dataroot: Path, table: str, position: int, fields: dict, expected: list[str]
):
    token = edit(own_dataroot, table, position, **fields)
    message = one_line_error(own_dataroot)
    assert all(part in message for part in expected), message
    if fields.keys() != {"token"}:
        assert f"row {token}" in message


@pytest.mark.parametrize("channel", ["CAM_BACK", "LIDAR_TOP"])
def test_a_sample_without_one_of_its_sensors_is_left_out_and_named(own_dataroot: Path, tiny_dataroot: Path, channel: str):
    path = own_dataroot / VERSION / "sample_data.json"
    path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["token"] != f"scene-0001-1-{channel}"]))
    whole, index = read_index(tiny_dataroot, VERSION), read_index(own_dataroot, VERSION)
    ((token, (scene, reason)),) = index.incomplete.items()
    assert (token, scene) == ("scene-0001-1", "scene-0001")
    assert f"sample_data.json: no key frame of {channel} for sample scene-0001-1" in reason
    assert index.tokens == [token for token in whole.tokens if token != "scene-0001-1"]
    for token in index.tokens:
        ours, theirs = index[index.position_of(token)], whole[whole.position_of(token)]
        assert np.array_equal(ours.world_from_ego, theirs.world_from_ego)
        assert [sensor.token for sensor in ours.sensors] == [sensor.token for sensor in theirs.sensors]


def test_a_scene_of_which_no_sample_is_complete_is_there_and_empty(own_dataroot: Path):
    path = own_dataroot / VERSION / "sample_data.json"
    missing = {f"scene-0002-{number}-CAM_BACK" for number in range(3)}
    rows = [row for row in json.loads(path.read_text()) if row["token"] not in missing]
    path.write_text(json.dumps(rows))
    index = read_index(own_dataroot, VERSION)
    assert [(scene.name, scene.count) for scene in index.scenes] == [("scene-0001", 3), ("scene-0002", 0), ("scene-0003", 2)]
    assert [index[i].scene for i in range(len(index))] == ["scene-0001"] * 3 + ["scene-0003"] * 2


@pytest.mark.parametrize("lidar", [True, False])
def test_a_rig_of_other_sensors_is_told_of_write_index(own_dataroot: Path, lidar: bool):
    path = own_dataroot / VERSION / "sensor.json"
    old, new = ("LIDAR_TOP", "LIDAR_CONCAT") if lidar else ("CAM_FRONT", "CAM_FRONT_WIDE")
    path.write_text(path.read_text().replace(f'"channel": "{old}"', f'"channel": "{new}"'))
    message = one_line_error(own_dataroot)
    assert new in message
    assert "write_index" in message


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("camera_distortion", [-0.35, 0.12, 0.0, 0.0, -0.02]),
        ("distortion_coefficients", {"k1": 0.1, "k2": 0.0}),
        ("camera_model", "fisheye"),
        ("distortion_model", "equidistant"),
    ],
)
def test_lens_distortion_is_refused_by_name(own_dataroot: Path, column: str, value: object):
    token = edit(own_dataroot, "calibrated_sensor", 3, **{column: value})
    message = one_line_error(own_dataroot)
    assert f"calibrated_sensor.json: row {token}: {column} is {value}" in message


@pytest.mark.parametrize(("column", "value"), [("camera_distortion", [0.0] * 5), ("camera_distortion", []), ("camera_model", "pinhole")])
def test_a_lens_that_says_it_does_not_distort_is_accepted(own_dataroot: Path, column: str, value: object):
    edit(own_dataroot, "calibrated_sensor", 3, **{column: value})
    read_index(own_dataroot, VERSION)


def test_two_scenes_of_one_name_are_refused(own_dataroot: Path):
    token = edit(own_dataroot, "scene", 1, name="scene-0002")
    message = one_line_error(own_dataroot)
    assert "scene.json: row token-scene-000" in message
    assert "scene-0002 is the name of row" in message
    assert token in message


def test_a_second_class_file_of_a_sweep_is_refused(own_dataroot: Path):
    path = own_dataroot / VERSION / "lidarseg.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {**rows[0], "token": "other", "filename": "lidarseg/other.bin"}]))
    assert f"lidarseg.json: row other: a second file for sample_data {rows[0]['sample_data_token']}" in one_line_error(own_dataroot)


def test_panoptic_files_are_named_as_such(own_dataroot: Path):
    edit(own_dataroot, "lidarseg", 0, filename="panoptic/v1.0-tiny/x_panoptic.npz")
    assert "is of the panoptic release; install nuScenes-lidarseg" in one_line_error(own_dataroot)


def test_a_pose_of_another_time_is_refused(own_dataroot: Path):
    timestamp = json.loads((own_dataroot / VERSION / "ego_pose.json").read_text())[0]["timestamp"]
    edit(own_dataroot, "ego_pose", 0, timestamp=timestamp + 9_000)
    read_index(own_dataroot, VERSION)
    token = edit(own_dataroot, "ego_pose", 0, timestamp=timestamp + 500_000)
    assert f"ego_pose.json: row {token}: its timestamp is +500 ms from that of sample_data" in one_line_error(own_dataroot)


@pytest.mark.parametrize("table", [*TABLES, "splits"])
@pytest.mark.parametrize(
    "content", [b"[" * 500 + b"]" * 500, b'[{"token": "\xff"}]', b"[1]", b"null", b'{"a": 99999999999999999999}', b"[NaN]"]
)
def test_tables_of_other_content_are_one_line_with_the_file(own_dataroot: Path, table: str, content: bytes):
    (own_dataroot / VERSION / f"{table}.json").write_bytes(content)
    assert f"{table}.json: " in one_line_error(own_dataroot)


def test_a_table_that_is_no_file_is_one_line(own_dataroot: Path):
    path = own_dataroot / VERSION / "scene.json"
    path.unlink()
    os.mkfifo(path)
    assert "scene.json: is a device or a pipe" in one_line_error(own_dataroot)
    path.unlink()
    path.mkdir()
    assert "scene.json: is a folder" in one_line_error(own_dataroot)


def test_a_cache_with_names_that_lead_elsewhere_is_not_believed(own_dataroot: Path):
    expected = read_index(own_dataroot, VERSION)
    (cache,) = (own_dataroot / ".splattingocc").iterdir()
    whole = cache.read_bytes()
    content = msgspec.msgpack.decode(whole[32:])
    content["plain"]["filenames"][0] = "../../elsewhere"
    packed = msgspec.msgpack.encode(content)
    cache.write_bytes(hashlib.sha256(packed).digest() + packed)
    assert same_index(read_index(own_dataroot, VERSION), expected)
    assert cache.read_bytes() == whole


def test_names_in_tables_that_lead_elsewhere_are_refused_with_the_folder_of_the_tables(own_dataroot: Path):
    for name in ("scene.json", "splits.json"):
        path = own_dataroot / VERSION / name
        path.write_text(path.read_text().replace('"scene-0001"', '"../../model"'))
    with pytest.raises(ValueError, match=rf"^{own_dataroot / VERSION}: (scene|split) '../../model' cannot name a file"):
        read_index(own_dataroot, VERSION)


def test_any_changed_byte_of_the_cache_means_that_the_tables_are_read_again(own_dataroot: Path):
    expected = read_index(own_dataroot, VERSION)
    (cache,) = (own_dataroot / ".splattingocc").iterdir()
    whole, rng = cache.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        cache.write_bytes(content)
        assert same_index(read_index(own_dataroot, VERSION), expected)
        assert cache.read_bytes() == whole


def test_a_repeated_token_is_named(own_dataroot: Path):
    path = own_dataroot / VERSION / "sample.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0]]))
    assert f"row {rows[0]['token']}: the token occurs twice" in one_line_error(own_dataroot)


def test_a_number_that_is_none_is_shown(own_dataroot: Path):
    path = own_dataroot / VERSION / "ego_pose.json"
    rows = json.loads(path.read_text())
    rows[1]["translation"][0] = math.nan
    path.write_text(json.dumps(rows))
    assert re.search(r"ego_pose.json: not a whole JSON table: .* near '.*NaN.*'; NaN and infinities", one_line_error(own_dataroot))


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "category"])
def test_a_truncated_an_empty_and_a_missing_table_are_named(own_dataroot: Path, table: str):
    path = own_dataroot / VERSION / f"{table}.json"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{table}.json: not a whole JSON table" in one_line_error(own_dataroot)
    path.write_bytes(b"")
    assert f"{table}.json: empty file" in one_line_error(own_dataroot)
    path.unlink()
    assert f"{table}.json: no such file" in one_line_error(own_dataroot)


def test_a_missing_version_folder_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"v1\.0-trainval: no such folder"):
        read_index(tmp_path, "v1.0-trainval")


def test_without_lidarseg_the_index_is_there_and_says_so(own_dataroot: Path):
    (own_dataroot / VERSION / "lidarseg.json").unlink()
    (own_dataroot / VERSION / "category.json").unlink()
    assert read_index(own_dataroot, VERSION)[0].point_classes is None


def test_the_real_key_frame_is_read(real_dataroot: Path, tmp_path: Path):
    index = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)
    assert index.splits == {"train": ("scene-0061",), "val": ()}
    key_frame = index[0]
    assert key_frame.token == "ca9a282c9e77460f8360f564131a8af5"
    assert cameras_of(key_frame).image_size == (900, 1600)
    assert all((real_dataroot / sensor.filename).exists() for sensor in (key_frame.lidar, *key_frame.cameras))


@pytest.fixture
def poses_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splattingocc.data.nuscenes_columns.LARGE_TABLE", 0)


@pytest.mark.usefixtures("poses_in_another_process")
def test_poses_that_another_process_decodes_are_the_same(tiny_dataroot: Path, own_dataroot: Path):
    assert same_index(read_index(own_dataroot, VERSION), read_index(tiny_dataroot, VERSION))


@pytest.mark.usefixtures("poses_in_another_process")
def test_faults_that_another_process_finds_are_named(own_dataroot: Path, monkeypatch: pytest.MonkeyPatch):
    token = edit(own_dataroot, "ego_pose", 3, rotation=[1.0, 0.0, 0.0])
    read = PoseReader.read
    # Asked when it has long found them
    monkeypatch.setattr(PoseReader, "read", lambda *given: time.sleep(0.5) or read(*given))
    message = one_line_error(own_dataroot)
    assert "ego_pose.json" in message
    assert f"row {token}" in message


@pytest.mark.usefixtures("poses_in_another_process")
def test_a_pose_that_is_missing_is_named_by_the_row_that_wants_it(own_dataroot: Path):
    path = own_dataroot / VERSION / "ego_pose.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    assert "is not in ego_pose.json" in one_line_error(own_dataroot)


def test_the_only_folder_of_tables_is_found(tiny_dataroot: Path, own_dataroot: Path, capsys: pytest.CaptureFixture):
    assert versions_of(tiny_dataroot) == [VERSION]
    assert only_version(tiny_dataroot) == VERSION
    assert capsys.readouterr().out == f"{tiny_dataroot}: tables of {VERSION}, the only ones there\n"
    # What else may lie in a data root has no tables
    (own_dataroot / "samples").mkdir()
    (own_dataroot / "sample.json").touch()
    assert versions_of(own_dataroot) == [VERSION]


def test_of_several_folders_of_tables_none_is_taken(own_dataroot: Path, tmp_path: Path):
    shutil.copytree(own_dataroot / VERSION, own_dataroot / "v1.0-other")
    with pytest.raises(ValueError, match=rf"{own_dataroot}: has tables of v1.0-other, {VERSION}; say of which with --version"):
        only_version(own_dataroot)
    with pytest.raises(ValueError, match="no folder of tables in it"):
        only_version(own_dataroot / VERSION)
    with pytest.raises(ValueError, match="absent: no such folder"):
        only_version(own_dataroot / "absent")


def test_a_missing_version_names_those_that_are_there(tiny_dataroot: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=f"v1.0-trainval: no such folder; .* expected there, there are those of {VERSION}"):
        read_index(tiny_dataroot, "v1.0-trainval")
    with pytest.raises(ValueError, match="there are none beside it"):
        read_index(tmp_path, "v1.0-trainval")
