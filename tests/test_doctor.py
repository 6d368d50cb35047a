import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_nuscenes
import torch

from splattingocc import doctor
from splattingocc.cli import main
from splattingocc.data.augment import AugmentConfig
from splattingocc.data.key_frames import KeyFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.occ3d import truth_path
from splattingocc.data.own_data import write_index
from splattingocc.labels.generate import generate_labels


def found(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_this_installation_is_whole_and_its_kernels_give_the_right_result(capsys: pytest.CaptureFixture):
    findings = found(doctor.examine())
    assert findings["torch"].found == torch.__version__
    assert findings["Warp on cpu"].found == "compiled a kernel, ran it, and the result is right"
    assert not any(finding.is_problem for finding in findings.values())
    main(["doctor"])
    assert "Warp on cpu" in capsys.readouterr().out


def test_a_missing_package_is_a_problem_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    finding = found(doctor.examine())["no-such-package"]
    assert finding.is_problem
    assert finding.advice == "pip install -e ."
    with pytest.raises(SystemExit, match="something that is needed does not work: no-such-package"):
        main(["doctor"])


def test_a_kernel_with_a_wrong_result_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    right = doctor.cast_first_hit
    monkeypatch.setattr(doctor, "cast_first_hit", lambda occupied, grid, rays: right(occupied.flip(0), grid, rays))
    finding = found(doctor.examine())["Warp on cpu"]
    assert finding.is_problem
    assert "came out as" in finding.found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A healthy data set that a test may change."""
    return tiny_nuscenes.write(tmp_path / "tiny", scenes={"scene-0002": 3, "scene-0001": 3, "scene-0003": 2})


VERSION = "v1.0-tiny"
DATA = {"tables", "images and sweeps", "classes of LiDAR points", "2D labels", "Occ3D truth"}


def data_findings(root: Path, version: str = VERSION, **places: Path) -> dict[str, doctor.Finding]:
    """What is said of data."""
    known = {finding.name for finding in doctor.examine()}
    findings = [finding for finding in doctor.examine(root, version, **places) if finding.name not in known]
    return {"tables" if finding.name == str(root / version) else finding.name: finding for finding in findings}


def test_data_are_counted_and_what_is_missing_is_named(root: Path, tmp_path: Path):
    findings = data_findings(root)
    assert findings.keys() == DATA
    assert findings["tables"].found == "8 key frames of 3 scenes: train 6, val 2"
    assert findings["images and sweeps"].found == "all 56 files that were looked for are there"
    assert findings["classes of LiDAR points"].found == "all 8 files that were looked for are there"
    assert f"splattingocc prepare --dataroot {root} --version {VERSION}" in str(findings["2D labels"].advice)
    assert findings["Occ3D truth"].found == "none"
    assert not any(finding.is_problem for finding in findings.values())
    assert found(doctor.examine(tmp_path / "nowhere"))[str(tmp_path / "nowhere")].is_problem
    (root / "v1.0-mini").mkdir()
    finding = found(doctor.examine(root, "v1.0-mini"))[str(root / "v1.0-mini")]
    assert finding.found.startswith("without scene.json, sample.json")
    assert finding.advice == f"--version {VERSION}"
    assert found(doctor.examine(root, "v1.0-no"))[str(root / "v1.0-no")].found == "no such folder"


def test_a_relative_root_links_and_places_elsewhere_are_healthy(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = read_index(root, VERSION)
    generate_labels(index, root, tmp_path / "store", num_workers=0)
    for name in ("samples", "lidarseg"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    truth = truth_path(tmp_path / "truth", "scene-0003", index.tokens[index.of_scenes(["scene-0003"])[0]])
    truth.parent.mkdir(parents=True)
    truth.touch()
    monkeypatch.chdir(tmp_path)
    findings = data_findings(Path("tiny"), labels=Path("store"), gts=Path("truth"))
    assert findings.keys() == DATA
    assert not any(finding.is_problem or finding.advice for finding in findings.values())
    assert findings["2D labels"].found.startswith("of 3 of 3 scenes, from ")
    assert findings["Occ3D truth"].found == "of 1 of 3 scenes"
    nested = data_findings(Path("tiny"), labels=Path("store"), gts=tmp_path)["Occ3D truth"]
    assert nested.found == "none"
    assert nested.advice is not None
    assert "laid out as <scene>/<token>/labels.npz" in nested.advice


def test_an_empty_split_is_warned_of(root: Path):
    (root / VERSION / "splits.json").write_text(json.dumps({"train": ["scene-0002", "scene-0001", "scene-0003"], "val": []}))
    finding = data_findings(root)["split val"]
    assert (finding.found, finding.is_problem) == ("empty", False)
    assert "nothing to score" in str(finding.advice)
    assert f"{root / VERSION / 'splits.json'} says which scenes it has" in str(finding.advice)
    (root / VERSION / "splits.json").write_text(json.dumps({"test": ["scene-0002"]}))
    assert {"split train", "split val"} <= data_findings(root).keys()


def test_tables_of_the_test_release_are_healthy(root: Path):
    (root / VERSION).rename(root / "v1.0-test")
    (root / "v1.0-test" / "splits.json").unlink()
    for name in ("lidarseg", "category"):
        (root / "v1.0-test" / f"{name}.json").write_text("[]")
    shutil.rmtree(root / "lidarseg")
    findings = data_findings(root, "v1.0-test")
    assert findings["tables"].found == "8 key frames of 3 scenes: test 8"
    assert findings.keys() == DATA | {"split train", "split val"}
    assert not any(finding.is_problem for finding in findings.values())


@pytest.mark.parametrize("is_table_there", [False, True])
def test_missing_lidarseg_is_warned_of(root: Path, is_table_there: bool):
    path = root / VERSION / "lidarseg.json"
    path.write_text("[]") if is_table_there else path.unlink()
    finding = data_findings(root)["classes of LiDAR points"]
    assert (finding.found, finding.is_problem) == ("none", False)
    assert "labels from LiDAR have no classes" in str(finding.advice)


def test_lidarseg_one_folder_too_deep_is_a_problem(root: Path):
    (root / "lidarseg").rename(root / "deep")
    (root / "lidarseg").mkdir()
    (root / "deep").rename(root / "lidarseg" / "lidarseg")
    finding = data_findings(root)["classes of LiDAR points"]
    assert finding.is_problem
    assert finding.found.startswith("8 of 8 files that were looked for are missing, e.g. lidarseg/")


def test_some_missing_blobs_are_warned_of_and_all_missing_are_a_problem(root: Path):
    shutil.rmtree(root / "samples" / "CAM_BACK")
    finding = data_findings(root)["images and sweeps"]
    assert finding.found.startswith("8 of 56 files that were looked for are missing, e.g. samples/CAM_BACK/")
    assert "--skip-missing" in str(finding.advice)
    assert not finding.is_problem
    shutil.rmtree(root / "samples")
    assert data_findings(root)["images and sweeps"].is_problem


def test_what_is_found_is_printed_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("COLUMNS", "400")
    renamed = root.rename(root.with_name("[red]"))
    shutil.rmtree(renamed / "samples" / "CAM_BACK")
    main(["doctor", "--dataroot", str(renamed)])
    printed = capsys.readouterr().out
    assert f"splattingocc prepare --dataroot '{renamed}'" in printed
    assert "8 of 56 files" in printed


def test_a_damaged_table_is_named(root: Path):
    (root / VERSION / "sample.json").write_text('[{"token": 7}]')
    finding = data_findings(root)["tables"]
    assert finding.is_problem
    assert "sample.json" in finding.found


@pytest.mark.parametrize("with_lidar", [True, False])
def test_own_data_are_healthy(root: Path, with_lidar: bool):
    """One camera, no classes of points; one of the key frames may have more cameras than the others."""
    frames: list[KeyFrame] = []
    index = read_index(root, VERSION)
    for position in index.of_scenes(["scene-0002", "scene-0003"]):
        frame = index[position]
        lidar = frame.lidar if with_lidar else None
        frames.append(
            KeyFrame(frame.token, frame.scene, frame.index_in_scene, frame.timestamp, frame.world_from_ego, frame.cameras[:1], lidar)
        )
    write_index(root, "own", frames, {"train": ["scene-0002"]})
    findings = data_findings(root, "own")
    assert findings["tables"].found == "5 key frames of 2 scenes: train 3"
    assert findings["images and sweeps"].found == f"all {10 if with_lidar else 5} files that were looked for are there"
    assert "`write_index(splits=…)` says which scenes it has" in str(findings["split val"].advice)
    assert ("classes of LiDAR points" in findings, "LiDAR" in findings) == (with_lidar, not with_lidar)
    assert "dense maps" in str(findings["classes of LiDAR points" if with_lidar else "LiDAR"].advice)
    assert not any(finding.is_problem for finding in findings.values())
    assert "with 1 views of 256 × 704" in found(doctor.examine(root, "own"))["/dev/shm"].found


def shared_memory(monkeypatch: pytest.MonkeyPatch, size: int, free: int) -> doctor.Finding:
    blocks = SimpleNamespace(f_blocks=size // 4096, f_bavail=free // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: blocks)
    (finding,) = doctor._shared_memory()
    return finding


def test_shared_memory_is_compared_with_batches(monkeypatch: pytest.MonkeyPatch):
    small = shared_memory(monkeypatch, 64 * 2**20, 63 * 2**20)
    expected = "64 MiB, 63 MiB free: room for 2 loader workers with 2 batches each, of one sample with 6 views of 256 × 704 pixels (14 MiB)"
    assert small.found == expected
    assert "--shm-size" in str(small.advice)
    assert "fewer --data.num-workers" in str(small.advice)
    assert not small.is_problem
    assert shared_memory(monkeypatch, 8 * 2**30, 8 * 2**30).advice is None
    assert shared_memory(monkeypatch, 8 * 2**30, 2**20).advice is not None
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "SHARED_MEMORY", Path("/no/such/folder"))
    assert doctor._shared_memory() == []


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_matrix_of_images_of_another_size_is_doubted(root: Path, scale: float):
    path = root / VERSION / "calibrated_sensor.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["camera_intrinsic"] = [
            [scale * value if line < 2 else value for value in values] for line, values in enumerate(row["camera_intrinsic"])
        ]
    path.write_text(json.dumps(rows))
    (finding,) = [finding for finding in doctor.examine(root, VERSION) if finding.name == "doubts" and "CAM_FRONT:" in finding.found]
    assert "lies far from the middle of its images of" in finding.found
    assert finding.found.endswith("is its K one of images of another size?")


def test_a_vehicle_on_its_side_is_doubted(root: Path):
    """As of quaternions in another order than nuScenes': x y z w."""
    assert not [finding for finding in doctor.examine(root, VERSION) if finding.name == "doubts"]
    path = root / VERSION / "ego_pose.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["rotation"] = [0.0, 0.0, 0.5**0.5, 0.5**0.5]  # a quarter turn to the left
    path.write_text(json.dumps(rows))
    (finding,) = [finding for finding in doctor.examine(root, VERSION) if finding.name == "doubts"]
    assert "are its quaternions in the order w x y z" in finding.found


def test_labels_of_another_calibration_are_a_problem(root: Path, tmp_path: Path):
    index = read_index(root, VERSION)
    generate_labels(index, root, tmp_path / "store", num_workers=0)
    path = root / VERSION / "calibrated_sensor.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["translation"][2] += 0.1
    path.write_text(json.dumps(rows))
    finding = data_findings(root, labels=tmp_path / "store")["2D labels"]
    assert "were made from other tables" in finding.found
    assert finding.is_problem
    assert finding.advice is not None
    assert finding.advice.startswith("splattingocc prepare --dataroot")


def test_a_sample_is_as_large_as_is_said(root: Path, tmp_path: Path):
    index = read_index(root, VERSION)
    generate_labels(index, root, tmp_path / "store", num_workers=0)
    config = LoaderConfig(image_size=(64, 96), num_rays=1000, previous_frames=1, augment=AugmentConfig())
    sample = TrainingSet(index, LabelStore.open(tmp_path / "store"), root, config)[0]
    sizes: list[int] = []
    sample.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)
    # The cameras are a few numbers more
    assert doctor.sample_bytes(6, config) <= sum(sizes) < doctor.sample_bytes(6, config) + 6 * 2 * 200


def test_a_torchvision_that_does_not_fit_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(doctor, "_version", lambda name: "0.28.0" if name == "torchvision" else None)
    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    (finding,) = doctor._torchvision()
    assert finding.is_problem
    assert finding.found == "0.28.0, which does not fit torch: operator torchvision::nms does not exist"
    monkeypatch.setattr(doctor.importlib, "import_module", lambda _: None)
    (finding,) = doctor._torchvision()
    assert not finding.is_problem
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert doctor._torchvision() == []
