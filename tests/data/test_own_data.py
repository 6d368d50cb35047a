import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splattingocc.data.key_frames import KeyFrame, SensorFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import labelled_rays
from splattingocc.data.loaders import LoaderConfig, PredictionSet, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.own_data import OWN_INDEX, write_index
from splattingocc.labels.generate import generate_labels
from splattingocc.losses.pixels import label_pixels
from splattingocc.struct import stack
from splattingocc.taxonomy import IGNORE

SIZES = {"ahead": (60, 100), "behind": (40, 120)}
SPLITS = {"train": ["a"], "val": ["b"]}
ROAD = 11


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[0, 3] = x
    return matrix


def mount(yaw: float) -> np.ndarray:
    """`ego_from_sensor` of a camera 1.5 m above the ego frame's origin."""
    matrix = pose(0.0, yaw)
    matrix[:3, :3] = matrix[:3, :3] @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    matrix[2, 3] = 1.5
    return matrix


def write_files(root: Path, stem: str, *, points: np.ndarray) -> None:
    for name, (height, width) in SIZES.items():
        path = root / name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (10, 20, 30)).save(path)
    np.save(root / f"{stem}.npy", points.astype(np.float32))
    np.save(root / f"{stem}_classes.npy", np.array([ROAD] * (len(points) - 1) + [IGNORE], dtype=np.uint8))


def key_frame(scene: str, i: int, *, lidar: bool = True) -> KeyFrame:
    stem = f"{scene}{i}"
    cameras = tuple(
        SensorFrame(
            token=f"{stem}-{name}",
            channel=name,
            filename=f"{name}/{stem}.png",
            timestamp=i,
            image_size=(height, width),
            K=np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]]),
            ego_from_sensor=mount(0.0 if name == "ahead" else math.pi),
            world_from_ego=pose(2.0 * i + 0.1),
        )
        for name, (height, width) in SIZES.items()
    )
    sweep = SensorFrame(f"{stem}-lidar", "lidar", f"{stem}.npy", i, None, None, pose(0.5), pose(2.0 * i))
    classes = f"{stem}_classes.npy" if lidar else None
    return KeyFrame(stem, scene, i, i, pose(2.0 * i), cameras, sweep if lidar else None, classes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stem in ("a0", "a1", "b0"):
        write_files(tmp_path, stem, points=np.array([[6.0, 1.0, 0.0], [-5.0, 0.0, 1.0], [7.0, 0.0, 1.0]]))
    return tmp_path


def frames() -> list[KeyFrame]:
    return [key_frame("a", 0), key_frame("a", 1), key_frame("b", 0)]


def test_key_frames_come_back_as_they_were_given(root: Path):
    write_index(root, "mine", frames(), SPLITS)
    index = read_index(root, "mine")
    assert index.splits == {"train": ("a",), "val": ("b",)}
    assert len(index) == 3
    for found, given in zip((index[i] for i in range(3)), frames()):
        for one, other in ((found, given), *zip(found.sensors, given.sensors)):
            for field in dataclasses.fields(one):  # type: ignore[arg-type]
                value, expected = getattr(one, field.name), getattr(other, field.name)
                if isinstance(expected, np.ndarray):
                    np.testing.assert_array_equal(value, expected)
                elif field.name not in ("lidar", "cameras"):
                    assert value == expected, field.name


def test_labels_and_samples_of_cameras_with_images_of_different_sizes(root: Path):
    write_index(root, "mine", frames(), SPLITS)
    index = read_index(root, "mine")
    generate_labels(index, root, root / "labels", show_progress=False)
    store = LabelStore.open(root / "labels")
    assert store.manifest.cameras == ("ahead", "behind")
    assert store.manifest.image_sizes == ((60, 100), (40, 120))
    table = store.read("a0")
    assert table.camera_indices.tolist() == [0, 1]
    # In the ego frame of the cameras, 0.1 m farther on, the point lies 6.4 m ahead, 1 m to the left, 1.5 m under the camera
    np.testing.assert_allclose(table.pixels[0], [50 - 50 / 6.4, 30 + 50 * 1.5 / 6.4], atol=0.02)
    rays, labels = labelled_rays(index[0], store)
    np.testing.assert_allclose(rays.at(labels.distances), [[6.5, 1.0, 0.0], [-4.5, 0.0, 1.0]], atol=0.02)
    config = LoaderConfig(image_size=(32, 64), num_rays=8, held_out_fraction=0.0)
    sample = TrainingSet(index, store, root, config)[0]
    assert sample.views.images.shape == (1, 2, 3, 32, 64)
    # Of 100 × 60 the lower 50 rows are seen; of 120 × 40 the middle 80 columns
    assert sample.views.cameras.K[0, :, 0, 0].tolist() == pytest.approx([32.0, 48.0])
    assert PredictionSet(index, root, config, [2])[0].views.images.shape == (1, 2, 3, 32, 64)


def test_a_data_set_without_a_lidar_asks_for_maps(root: Path):
    write_index(root, "mine", [key_frame("a", 0, lidar=False)], {"train": ["a"]})
    index = read_index(root, "mine")
    assert index[0].lidar is None
    assert [sensor.channel for sensor in index[0].sensors] == ["ahead", "behind"]
    with pytest.raises(
        ValueError, match=r"no LiDAR: make labels from maps, with --dense\.semantics and --dense\.depth \(a, key frame a0\)"
    ):
        generate_labels(index, root, root / "labels", show_progress=False)


def changed(**fields: object) -> list[KeyFrame]:
    return [dataclasses.replace(key_frame("a", 0), **fields), *frames()[1:]]


def with_camera(**fields: object) -> list[KeyFrame]:
    cameras = frames()[0].cameras
    return changed(cameras=(dataclasses.replace(cameras[0], **fields), cameras[1]))


@pytest.mark.parametrize(
    ("key_frames", "splits", "message"),
    [
        ([], SPLITS, "no key frames were given"),
        (frames()[::-1], {"train": ["a", "b"]}, "key frame a0 of a: is number 1 but not later than the one before it"),
        ([frames()[0], frames()[2], frames()[1]], SPLITS, "scene a: its key frames are not given one after the other"),
        (changed(token="a1"), SPLITS, "3 key frames have 2 different tokens; each needs its own"),
        (changed(cameras=()), SPLITS, "key frame a0 of a: has no cameras"),
        (changed(cameras=frames()[0].cameras[:1] * 2), SPLITS, "key frame a0 of a: has two sensors of the channel ahead"),
        (changed(lidar=None), SPLITS, "key frame a1 of a: its LiDAR is lidar, that of the first key frame is missing"),
        (changed(scene="../a"), SPLITS, "scene '../a' cannot name a file"),
        (changed(token="a/0"), SPLITS, "a: key frame 'a/0' cannot name a file"),
        (changed(point_classes="../gone.npy"), SPLITS, "key frame a0 of a: file '../gone.npy': expected a path inside of the data root"),
        (changed(timestamp=-(2**63) - 1), SPLITS, "key frame a0 of a: timestamp is -9223372036854775809, expected whole microseconds"),
        (with_camera(channel="/ahead"), SPLITS, "key frame a0 of a: channel '/ahead' cannot name a file"),
        (with_camera(filename="/etc/passwd"), SPLITS, "file '/etc/passwd': expected a path inside of the data root"),
        (with_camera(timestamp=2**63), SPLITS, "key frame a0 of a, ahead: timestamp is 9223372036854775808, expected whole"),
        (with_camera(image_size=(60, 101)), SPLITS, "a1 of a, ahead: image_size is (60, 100), earlier in the scene it is (60, 101)"),
        (with_camera(image_size=(100_000, 60)), SPLITS, "key frame a0 of a, ahead: image_size is 100000 × 60 pixels, expected sides of 1"),
        (changed(point_classes="gone.npy"), SPLITS, "gone.npy: no such file"),
        (with_camera(filename="gone.png"), SPLITS, "gone.png: no such file"),
        (with_camera(K=np.zeros((3, 3))), SPLITS, "key frame a0 of a, ahead: K is [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]"),
        (with_camera(K=np.diag([1e300, 50.0, 1.0])), SPLITS, "key frame a0 of a, ahead: K has the focal lengths 1e+300 and 50"),
        (with_camera(K=None), SPLITS, "key frame a0 of a, ahead: K is None, expected a 3×3 matrix"),
        (with_camera(ego_from_sensor=pose(200.0)), SPLITS, "ego_from_sensor is at [200.0, 0.0, 0.0], expected finite metres up to 100"),
        (with_camera(world_from_ego=pose(1e12)), SPLITS, "ahead: world_from_ego is at [1000000000000.0, 0.0, 0.0], expected finite metres"),
        (with_camera(image_size=None), SPLITS, "key frame a0 of a, ahead: image_size is None"),
        (with_camera(ego_from_sensor=2 * np.eye(4)), SPLITS, "ahead: ego_from_sensor has the last row [0.0, 0.0, 0.0, 2.0]"),
        (with_camera(world_from_ego=np.diag([1.0, 1, -1, 1])), SPLITS, "ahead: world_from_ego does not hold a rotation (determinant -1"),
        (changed(world_from_ego=np.full((4, 4), np.nan)), SPLITS, "expected finite numbers"),
        (frames(), {"train": ["a"], "../val": ["b"]}, "splits: the name '../val' cannot name a file"),
        (frames(), {"val": ["a"]}, "splits: names val, expected at least train"),
        (frames(), {"train": ["a", "c"]}, "splits: train: scene c has no key frames"),
        (frames(), {"train": ["a"], "val": ["a"]}, "splits: scene a is listed twice (in train and val)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(root: Path, key_frames: list[KeyFrame], splits: dict[str, list[str]], message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared whole below
        write_index(root, "mine", key_frames, splits)
    assert message in str(caught.value)
    assert not (root / "mine").exists()


def test_names_of_scenes_may_come_one_by_one(root: Path):
    write_index(root, "mine", (frame for frame in frames()), {split: (name for name in names) for split, names in SPLITS.items()})
    assert read_index(root, "mine").splits == {split: tuple(names) for split, names in SPLITS.items()}
    with pytest.raises(ValueError, match=r"version '\.\./theirs' cannot name a file"):
        write_index(root, "../theirs", frames(), SPLITS)
    assert not (root.parent / "theirs").exists()


def test_a_damaged_index_is_refused(root: Path):
    path = write_index(root, "mine", frames(), SPLITS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{OWN_INDEX}: damaged, or written by another version of this program; write it again"):
        read_index(root, "mine")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a0.npy", np.zeros((3, 2), np.float32), r"a0\.npy: float32 \(3, 2\), expected floating-point \(point, 3 or more\)"),
        ("a0.npy", np.zeros((3, 3), np.int32), r"a0\.npy: int32 \(3, 3\), expected floating-point"),
        ("a0_classes.npy", np.zeros(4, np.uint8), r"a0_classes\.npy: 4 categories for a sweep of 3 points"),
        ("a0_classes.npy", np.zeros(3, np.int64), r"a0_classes\.npy: int64 \(3,\) for a sweep of 3 points"),
        ("a0_classes.npy", np.array([0, 17, 255], np.uint8), r"a0_classes\.npy: class 17 of point 1 is out of range 0\.\.16 or 255"),
    ],
)
def test_wrong_points_and_classes_are_named(root: Path, name: str, array: np.ndarray, message: str):
    write_index(root, "mine", frames(), SPLITS)
    np.save(root / name, array)
    with pytest.raises(ValueError, match=message):
        generate_labels(read_index(root, "mine"), root, root / "labels", show_progress=False)


BUS_SIZES = {"nose": (50, 90), "behind": (44, 120)}
"""Of another vehicle, whose camera behind is another one than the shuttle's."""


def bus_frame(scene: str, i: int) -> KeyFrame:
    frame = key_frame(scene, i)
    cameras = tuple(
        dataclasses.replace(
            camera,
            channel=name,
            filename=f"{name}/{frame.token}.png",
            token=f"{frame.token}-{name}",
            image_size=(height, width),
            K=np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]]),
        )
        for camera, (name, (height, width)) in zip(frame.cameras, BUS_SIZES.items())
    )
    return dataclasses.replace(frame, cameras=cameras)


@pytest.fixture
def mixed(root: Path) -> list[KeyFrame]:
    """A shuttle of two cameras, of which one drops out in the second key frame and the other in the third, and a bus of two others."""
    write_files(root, "a2", points=np.array([[6.0, 1.0, 0.0], [-5.0, 0.0, 1.0], [7.0, 0.0, 1.0]]))
    for name, (height, width) in BUS_SIZES.items():
        (root / name).mkdir(exist_ok=True)
        Image.new("RGB", (width, height), (90, 90, 90)).save(root / name / "b0.png")
    first, second, third = (key_frame("a", i) for i in range(3))
    return [
        first,
        dataclasses.replace(second, cameras=second.cameras[1:]),
        dataclasses.replace(third, cameras=third.cameras[:1]),
        bus_frame("b", 0),
    ]


def test_key_frames_of_different_cameras_come_back_as_they_were_given(root: Path, mixed: list[KeyFrame]):
    write_index(root, "mine", mixed, SPLITS)
    index = read_index(root, "mine")
    assert index.channels == ["lidar", "ahead", "behind", "nose"]
    assert index.num_views == 2
    for position, given in enumerate(mixed):
        found = index[position]
        # In the order in which channels were first met
        assert sorted(camera.channel for camera in found.cameras) == sorted(camera.channel for camera in given.cameras)
        by_channel = {camera.channel: camera for camera in given.cameras}
        assert found.lidar is not None
        assert found.lidar.token == f"{given.token}-lidar"
        for camera in found.cameras:
            expected = by_channel[camera.channel]
            assert (camera.token, camera.filename, camera.image_size) == (expected.token, expected.filename, expected.image_size)
            for name in ("K", "ego_from_sensor", "world_from_ego"):
                np.testing.assert_array_equal(getattr(camera, name), getattr(expected, name))


def test_the_same_cameras_in_another_order_are_the_same_data_set(root: Path):
    write_index(root, "mine", [frames()[0], dataclasses.replace(frames()[1], cameras=frames()[1].cameras[::-1])], {"train": ["a"]})
    index = read_index(root, "mine")
    assert index.sensor_present is None
    assert [camera.token for camera in index[1].cameras] == ["a1-ahead", "a1-behind"]


def test_labels_of_different_cameras_lie_on_the_rays_of_their_own(root: Path, mixed: list[KeyFrame]):
    write_index(root, "mine", mixed, SPLITS)
    index = read_index(root, "mine")
    generate_labels(index, root, root / "labels", show_progress=False)
    store = LabelStore.open(root / "labels")
    store.verify(index)
    assert store.manifest.cameras == ("ahead", "behind", "nose")
    assert store.manifest.image_sizes == ((60, 100), (44, 120), (50, 90))
    # One point lies ahead and one behind, on the road; the cameras stand 0.1 m farther on than the key frame's ego frame
    ahead, behind = [6.5, 1.0, 0.0], [-4.5, 0.0, 1.0]
    for position, seen in enumerate(([ahead, behind], [behind], [ahead], [behind, ahead])):
        rays, labels = labelled_rays(index[position], store)
        np.testing.assert_allclose(rays.at(labels.distances), seen, atol=0.02)


def test_samples_of_different_cameras_stack_and_match_earlier_images_by_channel(root: Path, mixed: list[KeyFrame]):
    write_index(root, "mine", mixed, {"train": ["a", "b"]})
    index = read_index(root, "mine")
    generate_labels(index, root, root / "labels", show_progress=False)
    config = LoaderConfig(image_size=(32, 64), num_rays=8, held_out_fraction=0.0, previous_frames=1, calibration_scenes=0)
    dataset = TrainingSet(index, LabelStore.open(root / "labels"), root, config)
    samples = [dataset[i] for i in range(4)]
    batch = stack(samples)
    assert batch.views.images.shape == (4, 2, 2, 3, 32, 64)
    # (frame, view) of each sample; the frame before the second has both cameras, that before the third lacks the third's only one
    assert batch.views.cameras.are_somewhere.tolist() == [
        [[True, True], [True, True]],
        [[True, False], [True, False]],
        [[True, False], [False, False]],
        [[True, True], [True, True]],
    ]
    for sample in samples:
        taken = sample.views.cameras.are_somewhere
        assert (sample.views.images[~taken] == 0).all()
        assert (sample.views.images[taken].flatten(1).amax(dim=1) > 0).all()
    # The camera behind of the second key frame is in the first view, in both frames
    looks_along = batch.views.cameras.cam_from_ego[1, :, 0, 2, :3]
    np.testing.assert_allclose(looks_along, [[-1, 0, 0], [-1, 0, 0]], atol=1e-6)


def test_a_step_learns_from_batches_of_different_cameras(root: Path, mixed: list[KeyFrame]):
    write_index(root, "mine", mixed, {"train": ["a", "b"]})
    index = read_index(root, "mine")
    generate_labels(index, root, root / "labels", show_progress=False)
    config = LoaderConfig(image_size=(32, 64), num_rays=8, held_out_fraction=0.0, calibration_scenes=0)
    dataset = TrainingSet(index, LabelStore.open(root / "labels"), root, config)
    batch = stack([dataset[i] for i in range(4)])
    pixels = label_pixels(batch.rays, batch.labels, batch.views.cameras[:, 0])
    # Every label is found in an image that a camera took: of eight, two are none
    assert len(pixels.images) == int((batch.labels.weights > 0).sum()) == 6
    assert set(pixels.images.tolist()) == {0, 1, 2, 4, 6, 7}
