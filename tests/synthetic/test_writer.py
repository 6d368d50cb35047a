"""The data set on disk: complete, coherent, the same every time."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS, CLASS_OF_LIDARSEG
from splattingocc.geometry.transforms import invert_rigid, rigid, rotation_from_quat, transform_points
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.synthetic import writer
from splattingocc.synthetic.config import scene_name
from splattingocc.synthetic.dense_degradation import degraded_maps
from splattingocc.synthetic.dense_maps import SeenSurfaces
from splattingocc.synthetic.scene_writer import SceneJob
from splattingocc.synthetic.tables import TABLES, Row
from splattingocc.synthetic.writer import SynthConfig, is_complete, write_dataset
from splattingocc.taxonomy import CLASSES, FREE, IGNORE

TINY = SynthConfig(num_scenes=1, num_val_scenes=0, frames_per_scene=1, drive_seconds=1.0, image_size=(32, 48))
CLASS_OF_CATEGORY = np.array(CLASS_OF_LIDARSEG)


class Dataset:
    """The tables of a data set and what hangs on its key frames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = {name: json.loads((root / "v1.0-mini" / f"{name}.json").read_text()) for name in TABLES}
        self.rows = {name: {row["token"]: row for row in rows} for name, rows in self.tables.items()}

    def sensor_data(self, channel: str) -> list[dict]:
        """The sample_data rows of one channel, in order."""
        return [row for row in self.tables["sample_data"] if row["filename"].split("/")[1] == channel]

    def lidar(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        points = np.fromfile(self.root / row["filename"], dtype=np.float32).reshape(-1, 5)
        return points, np.fromfile(self.root / self.rows["lidarseg"][row["token"]]["filename"], dtype=np.uint8)

    def truth(self, row: dict) -> dict[str, np.ndarray]:
        sample = self.rows["sample"][row["sample_token"]]
        scene = self.rows["scene"][sample["scene_token"]]["name"]
        return dict(np.load(self.root / "gts" / scene / row["sample_token"] / "labels.npz"))

    def pose(self, table: str, token: str) -> torch.Tensor:
        row = self.rows[table][token]
        rotation, translation = (torch.tensor(row[key], dtype=torch.float64) for key in ("rotation", "translation"))
        return rigid(rotation_from_quat(rotation), translation)

    def world_from_sensor(self, row: dict) -> torch.Tensor:
        return self.pose("ego_pose", row["ego_pose_token"]) @ self.pose("calibrated_sensor", row["calibrated_sensor_token"])


@pytest.fixture(scope="module")
def dataset(synthetic_dataroot: Path) -> Dataset:
    return Dataset(synthetic_dataroot)


def digest(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_every_reference_between_tables_is_met(dataset: Dataset):
    references = {
        "scene": ("log",),
        "sample": ("scene",),
        "calibrated_sensor": ("sensor",),
        "instance": ("category",),
        "lidarseg": ("sample_data",),
    }
    references |= {"sample_data": ("sample", "ego_pose", "calibrated_sensor"), "sample_annotation": ("sample", "instance")}
    for table, targets in references.items():
        assert dataset.tables[table], f"{table} is empty"
        for row in dataset.tables[table]:
            for target in targets:
                assert row[f"{target}_token"] in dataset.rows[target]
    for row in dataset.tables["sample_data"]:
        assert (dataset.root / row["filename"]).stat().st_size > 0
    assert [row["index"] for row in dataset.tables["category"]] == list(range(32))


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
def test_chains_run_from_end_to_end(dataset: Dataset, table: str):
    rows = dataset.rows[table]
    for row in rows.values():
        assert row["next"] == "" or rows[row["next"]]["prev"] == row["token"]
        assert row["prev"] == "" or rows[row["prev"]]["next"] == row["token"]
    starts = [row for row in rows.values() if not row["prev"]]
    expected = {"sample": 3, "sample_data": 3 * 7, "sample_annotation": len(dataset.tables["instance"])}[table]
    assert len(starts) == expected


def test_each_sensor_has_its_own_time_and_pose(dataset: Dataset):
    first = dataset.tables["sample"][0]
    rows = [row for row in dataset.tables["sample_data"] if row["sample_token"] == first["token"]]
    assert len({row["timestamp"] for row in rows}) == 7
    assert max(abs(row["timestamp"] - first["timestamp"]) for row in rows) < 50_000
    positions = [dataset.rows["ego_pose"][row["ego_pose_token"]]["translation"] for row in rows]
    assert len({tuple(position) for position in positions}) == 7
    assert [row["timestamp"] for row in rows if "LIDAR_TOP" in row["filename"]] == [first["timestamp"]]


def test_images_have_the_size_that_the_tables_say(dataset: Dataset):
    for channel in CAMERA_CHANNELS:
        row = dataset.sensor_data(channel)[0]
        image = Image.open(dataset.root / row["filename"])
        assert (image.height, image.width) == (row["height"], row["width"]) == (90, 160)
        assert np.asarray(image).std() > 5.0


def test_lidar_points_lie_on_surface_voxels_of_their_class(dataset: Dataset):
    shares = []
    for row in dataset.sensor_data("LIDAR_TOP"):
        points, categories = dataset.lidar(row)
        points_ego = transform_points(
            dataset.pose("calibrated_sensor", row["calibrated_sensor_token"]), torch.from_numpy(points[:, :3]).double()
        )
        cells, inside = OCC3D_GRID.cells_of(points_ego)
        labels = CLASS_OF_CATEGORY[categories]
        counted = inside.numpy() & (labels != IGNORE)
        semantics = np.pad(dataset.truth(row)["semantics"], 1, constant_values=FREE)
        x, y, z = (cells[counted].numpy() + 1).T
        agrees = np.zeros(len(x), dtype=bool)
        for step in np.ndindex(3, 3, 3):
            agrees |= semantics[x + step[0] - 1, y + step[1] - 1, z + step[2] - 1] == labels[counted]
        exact = semantics[x, y, z] == labels[counted]
        shares.append((agrees.mean(), exact.mean()))
    assert min(near for near, _ in shares) > 0.99
    assert min(exact for _, exact in shares) > 0.85


def test_what_cameras_see_lies_in_what_the_lidar_sees(dataset: Dataset):
    for row in dataset.sensor_data("LIDAR_TOP"):
        truth = dataset.truth(row)
        assert {name: (array.dtype, array.shape) for name, array in truth.items()} == dict.fromkeys(
            ("semantics", "mask_lidar", "mask_camera"), (np.uint8, (200, 200, 16))
        )
        assert (truth["mask_camera"] <= truth["mask_lidar"]).all()
        seen = truth["mask_camera"].astype(bool)
        assert 30_000 < seen.sum() < 400_000
        assert 2_000 < (truth["semantics"][seen] != FREE).sum() < 60_000


def test_the_road_fills_one_layer_of_voxels_under_the_vehicle(dataset: Dataset):
    for row in dataset.sensor_data("LIDAR_TOP"):
        column = dataset.truth(row)["semantics"][100:108, 98:103]
        assert (column[:, :, 2] == 11).mean() > 0.9
        assert (column[:, :, [0, 1, 4]] == FREE).all()


def test_neighbouring_frames_see_the_same_ground(dataset: Dataset):
    row = dataset.sensor_data("LIDAR_TOP")[0]
    after = dataset.rows["sample_data"][row["next"]]
    ground = []
    for data in (row, after):
        points, categories = dataset.lidar(data)
        near = (categories == 24) & (np.linalg.norm(points[:, :2], axis=1) < 12.0)
        ground.append(transform_points(dataset.world_from_sensor(data), torch.from_numpy(points[near, :3]).double()))
    distances, neighbours = torch.cdist(ground[1][:, :2], ground[0][:, :2]).topk(4, largest=False)
    close = distances[:, -1] < 0.6
    assert close.sum() > 100
    height_error = (ground[1][close, 2] - ground[0][neighbours[close], 2].mean(-1)).abs()
    assert height_error.median() < 0.03
    assert height_error.quantile(0.95) < 0.08


def test_boxes_hold_the_points_of_their_things(dataset: Dataset):
    row = dataset.sensor_data("LIDAR_TOP")[0]
    points, categories = dataset.lidar(row)
    points_world = transform_points(dataset.world_from_sensor(row), torch.from_numpy(points[:, :3]).double())
    annotations = [a for a in dataset.tables["sample_annotation"] if a["sample_token"] == row["sample_token"]]
    assert len(annotations) > 10
    said, held = 0, 0
    for annotation in annotations:
        points_box = transform_points(invert_rigid(dataset.pose("sample_annotation", annotation["token"])), points_world)
        width, length, height = annotation["size"]
        inside = (points_box.abs() <= torch.tensor([length, width, height]) / 2 + 0.06).all(-1).numpy()
        category = dataset.rows["category"][dataset.rows["instance"][annotation["instance_token"]]["category_token"]]["index"]
        said += annotation["num_lidar_pts"]
        held += min(int((categories[inside] == category).sum()), annotation["num_lidar_pts"])
    assert held > 0.99 * said


def test_train_and_val_scenes_have_different_layouts(dataset: Dataset):
    splits = json.loads((dataset.root / "v1.0-mini/splits.json").read_text())
    assert splits == {"train": ["scene-9001", "scene-9002"], "val": ["scene-9003"]}
    firsts = [dataset.truth(row)["semantics"] for row in dataset.sensor_data("LIDAR_TOP")[::2]]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        either = (firsts[i] != FREE) | (firsts[j] != FREE)
        assert (firsts[i] == firsts[j])[either].mean() < 0.6


def sums_of(dataset: Dataset) -> dict[str, float]:
    """A few numbers that hardly any change of what is written leaves as they were."""
    first = dataset.sensor_data("CAM_FRONT")[0]
    with np.load(dataset.root / "gts" / scene_name(0) / first["sample_token"] / "labels.npz") as truth:
        occupied = truth["semantics"] != FREE
    points, _ = dataset.lidar(dataset.sensor_data("LIDAR_TOP")[0])
    leaves = np.full((90, 160), CLASSES.index("vegetation"), np.uint8)
    seen = SeenSurfaces(leaves, np.full(leaves.shape, 20.0, np.float32), np.full(leaves.shape, -1, np.int32))
    maps = degraded_maps(seen, np.random.default_rng(0))
    return {
        "occupied cells": float(occupied.sum()),
        "mean height of occupied cells": float(occupied.nonzero()[2].mean()),
        "mean grey": float(np.asarray(Image.open(dataset.root / first["filename"]).convert("L")).mean()),
        "points": float(len(points)),
        "mean range": float(np.linalg.norm(points[:, :3], axis=1).mean()),
        "boxes": float(len(dataset.tables["sample_annotation"])),
        "wrong pixels of a degraded map": float((maps.semantics != seen.semantics).sum()),
        "mean depth of a degraded map": float(maps.depths.mean()),
    }


def test_the_version_of_the_generator_is_raised_with_what_it_writes(dataset: Dataset):
    """Where this fails, and no library is why, raise GENERATOR_VERSION: a folder of the version before would pass for these streets."""
    expected = {
        "occupied cells": 22333.0,
        "mean height of occupied cells": 4.69400,
        "mean grey": 93.9304,
        "points": 31881.0,
        "mean range": 11.9036,
        "boxes": 182.0,
        "wrong pixels of a degraded map": 910.0,
        "mean depth of a degraded map": 19.8871,
    }
    assert (writer.GENERATOR_VERSION, sums_of(dataset)) == (5, pytest.approx(expected, rel=5e-4))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest data set, written by one thread."""
    out = tmp_path_factory.mktemp("tiny") / "data"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        write_dataset(TINY, out, progress=False)
    finally:
        torch.set_num_threads(before)
    return out


def test_a_single_scene_is_the_same_bytes_whatever_the_threads_and_leaves_those_of_its_process_as_they_were(tiny: Path, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        write_dataset(TINY, tmp_path, progress=False, num_workers=8)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert digest(tmp_path) == digest(tiny)


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(tmp_path: Path):
    config = TINY.model_copy(update={"num_scenes": 2, "truth": "both"})
    for workers in (0, 2):
        write_dataset(config, tmp_path / str(workers), progress=False, num_workers=workers)
    assert digest(tmp_path / "0") == digest(tmp_path / "2")
    truths = sorted((tmp_path / "2").glob("gts*/*/*/labels.npz"))
    assert [path.relative_to(tmp_path / "2").parts[0] for path in truths] == ["gts"] * 2 + ["gts_complete"] * 2
    # A few seconds of driving meet a part of what is there, and the masks hold all of it.
    accumulated, complete = (np.load(truths[i]) for i in (0, 2))
    assert 0.02 < (accumulated["semantics"] != FREE).sum() / (complete["semantics"] != FREE).sum() < 0.8
    assert accumulated["mask_lidar"][accumulated["semantics"] != FREE].all()


def test_key_frames_lie_in_the_drive_and_poses_are_said_with_errors(tmp_path: Path):
    config = TINY.model_copy(update={"frames_per_scene": 2, "drive_seconds": 3.0})
    times, positions = [], []
    for errors in (True, False):
        write_dataset(config.model_copy(update={"pose_errors": errors}), tmp_path / str(errors), progress=False)
        rows = json.loads((tmp_path / str(errors) / "v1.0-mini/ego_pose.json").read_text())
        positions.append(np.array([row["translation"] for row in rows]))
        samples = json.loads((tmp_path / str(errors) / "v1.0-mini/sample.json").read_text())
        times.append([(row["timestamp"] - 1_600_000_000_000_000) / 1e6 for row in samples])
    assert times[0] == times[1]
    assert 0.0 <= times[0][0] < times[0][1] < 3.0
    assert times[0][1] - times[0][0] == pytest.approx(0.5)
    apart = np.linalg.norm(positions[0] - positions[1], axis=-1)
    assert 0.002 < apart.max() < 0.3


def test_a_finished_data_set_is_left_alone_and_another_is_refused(tiny: Path, tmp_path: Path):
    out = tmp_path / "data"
    shutil.copytree(tiny, out)
    assert is_complete(out, TINY)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    write_dataset(TINY, out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    other = TINY.model_copy(update={"seed": 1})
    assert not is_complete(out, other)
    with pytest.raises(ValueError, match="another synthetic data set"):
        write_dataset(other, out, progress=False)
    write_dataset(other, out, progress=False, fresh=True)
    assert is_complete(out, other)


def test_a_folder_with_other_files_is_never_touched(tmp_path: Path):
    (tmp_path / "precious.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="no synthetic data set"):
            write_dataset(TINY, tmp_path, progress=False, fresh=fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_more_validation_scenes_than_scenes_are_refused():
    with pytest.raises(ValueError, match="num_val_scenes"):
        SynthConfig(num_scenes=1, num_val_scenes=2)


@pytest.mark.parametrize("version", ["../../victim", "/etc", "..", "a/b", ""])
def test_a_fresh_start_removes_nothing_outside_of_its_folder(tmp_path, version):
    """The folder of the tables is named in a file that anybody may have written."""
    victim, out = tmp_path / "victim", tmp_path / "a" / "data"
    victim.mkdir()
    (victim / "thesis.tex").write_text("years")
    out.mkdir(parents=True)
    (out / "synthetic.json").write_text(json.dumps({"generator_version": 1, "config": {"version": version}, "finished": True}))
    with pytest.raises(ValueError, match=r"synthetic\.json: version .* cannot name a file"):
        write_dataset(TINY, out, fresh=True, progress=False)
    assert (victim / "thesis.tex").read_text() == "years"
    assert sorted(path.name for path in out.iterdir()) == ["synthetic.json"]


@pytest.fixture
def without_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what costs time and has no part in what becomes of a folder that is there."""

    def write_folders(job: SceneJob) -> dict[str, list[Row]]:
        for folder in ("samples", f"lidarseg/{job.config.version}", f"gts/{scene_name(job.number)}"):
            (job.out / folder).mkdir(parents=True, exist_ok=True)
        return {}

    monkeypatch.setattr(writer, "write_scene", write_folders)


@pytest.mark.parametrize("described", [3, [], "x", None, {}])
def test_a_description_of_no_options_does_not_keep_from_a_fresh_start(tmp_path, described, without_scenes):
    (tmp_path / "synthetic.json").write_text(json.dumps({"generator_version": 1, "config": described, "finished": True}))
    with pytest.raises(ValueError, match="another synthetic data set"):
        write_dataset(TINY, tmp_path, progress=False)
    write_dataset(TINY, tmp_path, progress=False, fresh=True)
    assert is_complete(tmp_path, TINY)


def test_a_data_set_of_which_folders_are_gone_is_written_again_and_a_fresh_one_has_no_labels_of_the_one_before(
    tmp_path: Path, without_scenes: None
):
    write_dataset(TINY, tmp_path, progress=False)
    for gone in ("gts", "lidarseg", "samples"):
        shutil.rmtree(tmp_path / gone)
        assert not is_complete(tmp_path, TINY)
        write_dataset(TINY, tmp_path, progress=False)
        assert is_complete(tmp_path, TINY)
    # Its scenes have the same tokens and poses, and the labels made of it would pass for those of the new one
    labels = [tmp_path / name for name in ("labels_2d", "labels_dense")]
    others = [tmp_path / name for name in ("predictions", "damaged", "mine")]
    contents = ('{"format": "splattingocc-labels", "format_version": 1}',) * 2 + ('{"format": "another"}', "{", "[]")
    for folder, content in zip(labels + others, contents):
        folder.mkdir()
        (folder / "manifest.json").write_text(content)
    other = TINY.model_copy(update={"label_errors": False})
    write_dataset(TINY, tmp_path, progress=False)
    assert all(folder.is_dir() for folder in labels + others)
    write_dataset(other, tmp_path, progress=False, fresh=True)
    assert not any(folder.exists() for folder in labels)
    assert all(folder.is_dir() for folder in others)
    # Of labels on another disk the link goes; what it leads to is not the data set's
    elsewhere = tmp_path / "mine"
    (elsewhere / "manifest.json").write_text(contents[0])
    elsewhere = elsewhere.rename(tmp_path.with_name("elsewhere"))
    (tmp_path / "labels_2d").symlink_to(elsewhere)
    write_dataset(other, tmp_path, progress=False, fresh=True)
    assert not (tmp_path / "labels_2d").is_symlink()
    assert (elsewhere / "manifest.json").is_file()


@pytest.mark.parametrize("version", ["samples", "gts", "labels_2d", "synthetic.json"])
def test_a_version_that_is_the_name_of_another_part_is_refused(tmp_path: Path, version: str):
    with pytest.raises(ValueError, match=f"version: {version} is the name of another part of a data set"):
        write_dataset(TINY.model_copy(update={"version": version}), tmp_path, progress=False)
    assert not any(tmp_path.iterdir())


def test_a_folder_of_other_options_is_refused_with_what_differs(tmp_path):
    (tmp_path / "synthetic.json").write_text(json.dumps({"generator_version": 1, "config": {"seed": 5}, "finished": True}))
    with pytest.raises(ValueError, match=r"num_scenes None instead of 10.*seed 5 instead of 0,.*\); choose another folder, or --fresh"):
        write_dataset(SynthConfig(), tmp_path, progress=False)


def test_a_fresh_start_that_is_interrupted_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_scenes: None):
    (tmp_path / "gts").mkdir()
    (tmp_path / "synthetic.json").write_text(json.dumps({"generator_version": 1, "config": {"seed": 5}, "finished": True}))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("splattingocc.synthetic.writer.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(TINY, tmp_path, progress=False, fresh=True)
    assert not json.loads((tmp_path / "synthetic.json").read_text())["finished"]
    write_dataset(TINY, tmp_path, progress=False, fresh=True)
    assert is_complete(tmp_path, TINY)
