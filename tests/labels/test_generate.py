import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_nuscenes
from PIL import Image

from splattingocc.data.key_frames import Index, Scene
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore, read_manifest
from splattingocc.data.nuscenes import read_index
from splattingocc.labels import generate, lidar
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.fixture(scope="module")
def undisturbed(index: Index, tiny_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    generate_labels(index, tiny_dataroot, out, show_progress=False)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def test_every_key_frame_gets_its_labels(index: Index, undisturbed: Path):
    store = LabelStore.open(undisturbed)
    store.verify(index)
    assert sorted(store.manifest.scenes) == ["scene-0001", "scene-0002", "scene-0003"]
    assert all(len(store.read(token)) > 500 for token in index.tokens)


def test_verify_finds_a_scene_that_was_never_labelled(index: Index, tiny_dataroot: Path, tmp_path: Path):
    generate_labels(index, tiny_dataroot, tmp_path, scenes=["scene-0001", "scene-0003"], show_progress=False)
    LabelStore.open(tmp_path).verify()
    with pytest.raises(ValueError, match=r"manifest\.json: scene-0002 has no labels"):
        LabelStore.open(tmp_path).verify(index)


def test_workers_write_the_same_bytes(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    generate_labels(index, tiny_dataroot, tmp_path, num_workers=2, show_progress=False)
    assert contents(tmp_path) == contents(undisturbed)


def test_workers_end_with_the_process_that_started_them(tiny_dataroot: Path, tmp_path: Path):
    """A pool's own workers would wait for their next job for ever."""
    script = "import sys; from pathlib import Path; from splattingocc.data.nuscenes import read_index\n"
    script += "from splattingocc.labels.generate import generate_labels\nroot, out = map(Path, sys.argv[1:])\n"
    script += f"index = read_index(root, {tiny_nuscenes.VERSION!r}, cache_dir=out)\n"
    script += "generate_labels(index, root, out / 'store', num_workers=2, show_progress=False)"
    with subprocess.Popen([sys.executable, "-c", script, tiny_dataroot, tmp_path]) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        started = wait_for(lambda: [int(number) for number in children.read_text().split()][2:] and children.read_text().split(), 60)
        parent.kill()
    assert started, "there was no time to kill it"
    # The two workers, and the process that looks after their semaphores
    assert wait_for(lambda: not any(map(is_alive, started)), 30)


def is_alive(process: str) -> bool:
    """Return whether a process still runs; whoever inherits it may never ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_a_second_run_does_nothing(index: Index, tiny_dataroot: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generate, "label_scene", lambda job: pytest.fail("a finished scene was made again"))
    generate_labels(index, tiny_dataroot, undisturbed, show_progress=False)


def test_scenes_added_in_another_order_make_the_same_store(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    for name in ("scene-0003", "scene-0001", "scene-0002"):
        generate_labels(index, tiny_dataroot, tmp_path, scenes=[name], show_progress=False)
    assert contents(tmp_path) == contents(undisturbed)


def _generate_slowly(index: Index, dataroot: Path, out: Path) -> None:
    project = lidar.project_lidar

    def project_slowly(*arguments, **options):
        time.sleep(0.05)
        return project(*arguments, **options)

    lidar.project_lidar = project_slowly
    generate_labels(index, dataroot, out, show_progress=False)


@pytest.mark.parametrize("scenes_before_kill", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(
    index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path, scenes_before_kill: int
):
    process = multiprocessing.get_context("fork").Process(target=_generate_slowly, args=(index, tiny_dataroot, tmp_path))
    process.start()
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("*.safetensors"))) < scenes_before_kill and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(tmp_path.glob("*.safetensors"))) < 3
    generate_labels(index, tiny_dataroot, tmp_path, show_progress=False)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_damaged_or_missing_scene_is_made_again(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    shutil.copytree(undisturbed, tmp_path / "store")
    damaged = tmp_path / "store" / "scene-0002.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (tmp_path / "store" / "scene-0003.safetensors").unlink()
    generate_labels(index, tiny_dataroot, tmp_path / "store", show_progress=False)
    assert contents(tmp_path / "store") == contents(undisturbed)


def test_labels_made_from_other_poses_are_found_and_made_again(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    for name in (tiny_nuscenes.VERSION, "samples", "lidarseg"):
        shutil.copytree(tiny_dataroot / name, tmp_path / "data" / name)
    poses = tmp_path / "data" / tiny_nuscenes.VERSION / "ego_pose.json"
    rows = json.loads(poses.read_text())
    for row in rows:
        if row["token"] == "scene-0002-1-CAM_FRONT":
            row["translation"][0] += 0.5
    poses.write_text(json.dumps(rows))
    other_index = read_index(tmp_path / "data", tiny_nuscenes.VERSION)
    shutil.copytree(undisturbed, tmp_path / "store")
    with pytest.raises(ValueError, match=r"scene-0002\.safetensors: the labels of scene-0002 were made from other tables"):
        LabelStore.open(tmp_path / "store").verify(other_index)
    generate_labels(other_index, tmp_path / "data", tmp_path / "store", show_progress=False)
    LabelStore.open(tmp_path / "store").verify(other_index)


def test_a_store_of_other_options_is_not_mixed(index: Index, tiny_dataroot: Path, undisturbed: Path):
    before = contents(undisturbed)
    with pytest.raises(ValueError, match=r"manifest\.json: the store holds labels .*120.*asked for are labels .*50"):
        generate_labels(index, tiny_dataroot, undisturbed, source=LidarLabels(LidarLabelConfig(max_distance=50.0)), show_progress=False)
    assert contents(undisturbed) == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_stops_the_run_and_names_file_scene_and_key_frame(tiny_dataroot: Path, tmp_path: Path, num_workers: int):
    for name in (tiny_nuscenes.VERSION, "samples", "lidarseg"):
        shutil.copytree(tiny_dataroot / name, tmp_path / "data" / name)
    sweep = tmp_path / "data/samples/LIDAR_TOP/scene-0002-1-LIDAR_TOP.pcd.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    index = read_index(tmp_path / "data", tiny_nuscenes.VERSION)
    with pytest.raises(ValueError, match=r"scene-0002-1-LIDAR_TOP\.pcd\.bin: .*\(scene-0002, key frame scene-0002-1\)") as caught:
        generate_labels(index, tmp_path / "data", tmp_path / "store", num_workers=num_workers, show_progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store" / "scene-0002.safetensors").exists()


def test_the_real_key_frame_takes_less_than_160_kilobytes(real_dataroot: Path, tmp_path: Path):
    index = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)
    manifest = generate_labels(index, real_dataroot, tmp_path / "store", show_progress=False)
    assert manifest.scenes["scene-0061"].num_rays == 21_698
    assert (tmp_path / "store" / "scene-0061.safetensors").stat().st_size < 160_000
    assert (tmp_path / "store" / MANIFEST_NAME).exists()


def test_changed_contents_under_the_same_names_are_found(tiny_dataroot: Path, tmp_path: Path):
    for name in (tiny_nuscenes.VERSION, "samples", "lidarseg"):
        shutil.copytree(tiny_dataroot / name, tmp_path / name)
    index = read_index(tmp_path, tiny_nuscenes.VERSION)
    generate_labels(index, tmp_path, tmp_path / "labels", show_progress=False)
    store = LabelStore.open(tmp_path / "labels")
    generate.verify_inputs(store, index, tmp_path, LidarLabels())
    assert index[4].lidar is not None
    path = tmp_path / index[4].lidar.filename
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    store.verify(index)
    with pytest.raises(ValueError, match=r"the labels of scene-0002 were made from other sweeps, classes or maps than are there now"):
        generate.verify_inputs(store, index, tmp_path, LidarLabels())
    # What is there now is what labels are made from, and then nothing is left to do
    before = contents(tmp_path / "labels")
    generate_labels(index, tmp_path, tmp_path / "labels", show_progress=False)
    changed = {name for name, content in contents(tmp_path / "labels").items() if before[name] != content}
    assert changed - {"scene-0002.safetensors"} == {"manifest.json", "inputs_seen.json"}  # the point may have had no label
    generate.verify_inputs(LabelStore.open(tmp_path / "labels"), index, tmp_path, LidarLabels())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "label_scene", lambda job: pytest.fail(job.name))
        generate_labels(index, tmp_path, tmp_path / "labels", show_progress=False)
        (tmp_path / "labels" / "inputs_seen.json").unlink()
        generate_labels(index, tmp_path, tmp_path / "labels", show_progress=False)
        # Sweeps that are gone since take nothing from labels that are there
        path.unlink()
        generate_labels(index, tmp_path, tmp_path / "labels", show_progress=False)
    with pytest.raises(ValueError, match=r"the store holds lidar points, .*; give the options that made it"):
        generate.verify_inputs(store, index, tmp_path, LidarLabels(LidarLabelConfig(other_key_frames=(-1,))))


@pytest.mark.parametrize("skip_missing", [False, True])
def test_a_file_that_changed_beside_one_that_is_gone_is_said(own_data: Path, tmp_path: Path, skip_missing: bool):
    """What all of them held cannot be told any more: old labels would stay for ever, new ones would be without those of what is gone."""
    store, index = tmp_path / "store", read_index(own_data, tiny_nuscenes.VERSION)
    generate_labels(index, own_data, store, show_progress=False)
    before = contents(store)
    sweep = own_data / "samples/LIDAR_TOP/scene-0002-0-LIDAR_TOP.pcd.bin"
    classes = own_data / f"lidarseg/{tiny_nuscenes.VERSION}/scene-0002-1-LIDAR_TOP_lidarseg.bin"
    content = sweep.read_bytes()
    sweep.unlink()
    classes.write_bytes(bytes([26]) * len(classes.read_bytes()))  # sidewalk
    os.utime(classes, (1, 1))
    with pytest.raises(ValueError, match=rf"{classes.name}: its size or time is another than when scene-0002 was labelled, and .* is gone"):
        generate_labels(index, own_data, store, skip_missing=skip_missing, show_progress=False)
    assert contents(store) == before
    sweep.write_bytes(content)
    generate_labels(index, own_data, store, skip_missing=skip_missing, show_progress=False)
    assert {*LabelStore.open(store).read("scene-0002-1").semantics.tolist()} == {13}


def test_a_file_that_is_replaced_while_its_scene_is_labelled_is_found_the_next_time(own_data: Path, tmp_path: Path):
    store, index = tmp_path / "store", read_index(own_data, tiny_nuscenes.VERSION)
    classes = own_data / f"lidarseg/{tiny_nuscenes.VERSION}/scene-0002-0-LIDAR_TOP_lidarseg.bin"
    label = LidarLabels.label

    def label_and_replace(source, key_frame, dataroot, *, others):
        table = label(source, key_frame, dataroot, others=others)
        if key_frame.token == "scene-0002-0":
            classes.write_bytes(bytes([26]) * len(classes.read_bytes()))  # sidewalk
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LidarLabels, "label", label_and_replace)
        generate_labels(index, own_data, store, show_progress=False)
    assert {*LabelStore.open(store).read("scene-0002-0").semantics.tolist()} != {13}
    with pytest.raises(ValueError, match="the labels of scene-0002 were made from other sweeps"):
        generate.verify_inputs(LabelStore.open(store), index, own_data, LidarLabels())
    generate_labels(index, own_data, store, show_progress=False)
    assert {*LabelStore.open(store).read("scene-0002-0").semantics.tolist()} == {13}


def test_neighbouring_sweeps_end_with_the_scene(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    generate_labels(index, tiny_dataroot, tmp_path, source=LidarLabels(LidarLabelConfig(other_key_frames=(-1,))), show_progress=False)
    alone, more = LabelStore.open(undisturbed), LabelStore.open(tmp_path)
    assert "sweeps of key frames -1" in more.manifest.source
    counts = [(len(alone.read(index.tokens[position])), len(more.read(index.tokens[position]))) for position in range(3)]
    assert counts[0][0] == counts[0][1]
    assert all(after > 1.3 * before for before, after in counts[1:])


@pytest.fixture
def own_data(tiny_dataroot: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for name in (tiny_nuscenes.VERSION, "samples", "lidarseg"):
        shutil.copytree(tiny_dataroot / name, tmp_path / "data" / name)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "name",
    [
        "samples/CAM_BACK/scene-0002-1-CAM_BACK.jpg",
        "samples/LIDAR_TOP/scene-0002-1-LIDAR_TOP.pcd.bin",
        f"lidarseg/{tiny_nuscenes.VERSION}/scene-0002-1-LIDAR_TOP_lidarseg.bin",
    ],
)
def test_key_frames_of_which_a_file_is_missing_are_left_out_where_asked(own_data: Path, tmp_path: Path, name: str):
    content = (own_data / name).read_bytes()
    (own_data / name).unlink()
    index = read_index(own_data, tiny_nuscenes.VERSION)
    manifest = generate_labels(index, own_data, tmp_path / "store", skip_missing=True, show_progress=False)
    assert manifest.skipped == {"scene-0002-1": str(own_data / name)}
    assert manifest.scenes["scene-0002"].tokens == ("scene-0002-0", "scene-0002-2")
    LabelStore.open(tmp_path / "store").verify(index)
    generate.verify_inputs(LabelStore.open(tmp_path / "store"), index, own_data, LidarLabels())
    with pytest.raises(ValueError, match=rf"{re.escape(Path(name).name)}: no such file.* \(scene-0002, key frame scene-0002-1\)"):
        generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    # When the file has come, its scene is made again
    (own_data / name).write_bytes(content)
    manifest = generate_labels(index, own_data, tmp_path / "store", skip_missing=True, show_progress=False)
    assert not manifest.skipped
    generate_labels(index, own_data, tmp_path / "whole", show_progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_labels_outlast_their_sweeps_where_missing_files_are_skipped_too(own_data: Path, tmp_path: Path):
    """As where a disk holds one part of the data set after the other."""
    store, index = tmp_path / "store", read_index(own_data, tiny_nuscenes.VERSION)
    sweeps = {name: own_data / f"samples/LIDAR_TOP/{name}-LIDAR_TOP.pcd.bin" for name in index.tokens}
    later = sweeps["scene-0001-1"].read_bytes()
    sweeps["scene-0001-1"].unlink()
    generate_labels(index, own_data, store, skip_missing=True, show_progress=False)
    before = contents(store)
    for name in ("scene-0002-0", "scene-0002-2", "scene-0001-0"):
        sweeps[name].unlink()
    manifest = generate_labels(index, own_data, store, skip_missing=True, show_progress=False)
    assert manifest.skipped == {"scene-0001-1": str(sweeps["scene-0001-1"])}
    assert contents(store) == before
    # One that came would have its scene made again, without the labels of one that is gone
    sweeps["scene-0001-1"].write_bytes(later)
    with pytest.raises(ValueError, match=r"scene-0001\.safetensors: holds labels of 1 key frames whose files are gone since, .*; put"):
        generate_labels(index, own_data, store, skip_missing=True, show_progress=False)
    assert contents(store) == before
    # Whose image is gone, too, is no loss: no training could use it
    (own_data / index[index.tokens.index("scene-0001-0")].cameras[0].filename).unlink()
    manifest = generate_labels(index, own_data, store, skip_missing=True, show_progress=False)
    assert manifest.scenes["scene-0001"].tokens == ("scene-0001-1", "scene-0001-2")
    assert manifest.scenes["scene-0002"].tokens == ("scene-0002-0", "scene-0002-1", "scene-0002-2")


def test_a_scene_that_was_renamed_or_cut_takes_the_place_of_the_one_before(own_data: Path, tmp_path: Path):
    store, index = tmp_path / "store", read_index(own_data, tiny_nuscenes.VERSION)
    generate_labels(index, own_data, store, show_progress=False)
    position = next(i for i, scene in enumerate(index.scenes) if scene.name == "scene-0002")
    whole = index.scenes[position]
    parts = (Scene("a-drive", whole.first, 1), Scene("the-rest", whole.first + 1, whole.count - 1))
    scenes = (*index.scenes[:position], *parts, *index.scenes[position + 1 :])
    cut = dataclasses.replace(index, scenes=scenes, splits={"train": tuple(scene.name for scene in scenes)})
    generate_labels(cut, own_data, store, scenes=["a-drive"], show_progress=False)
    assert not (store / "scene-0002.safetensors").exists()
    assert set(read_manifest(store).scenes) == {"scene-0001", "scene-0003", "a-drive"}
    generate_labels(cut, own_data, store, show_progress=False)
    LabelStore.open(store).verify(cut)
    generate.verify_inputs(LabelStore.open(store), cut, own_data, LidarLabels())
    # Scenes that the tables have no more, and no others in their place, stay and are in nobody's way
    fewer = cut.only([i for i in range(len(cut)) if not cut.tokens[i].startswith("scene-0003")])
    LabelStore.open(store).verify(fewer)
    generate.verify_inputs(LabelStore.open(store), fewer, own_data, LidarLabels())
    assert LabelStore.open(store).labelled_part(fewer) is fewer


def test_tables_that_change_after_the_labels_were_made_are_seen_before_training(own_data: Path, tmp_path: Path):
    index = read_index(own_data, tiny_nuscenes.VERSION)
    generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    store = LabelStore.open(tmp_path / "store")
    assert store.labelled_part(index) is index
    assert store.labelled_part(index.only([0, 1, 2])).tokens == index.tokens[:3]
    moved = dataclasses.replace(index, K=index.K + [[0, 0, 20], [0, 0, 0], [0, 0, 0]])
    renamed = dataclasses.replace(index, filenames=[name.replace("CAM_BACK_", "CAM_REAR_") for name in index.filenames])
    others = np.arange(len(index.channels))
    others[[1, 2]] = others[[2, 1]]
    swapped = dataclasses.replace(index, channels=[index.channels[i] for i in others])
    for changed in (moved, renamed, swapped):
        with pytest.raises(ValueError, match=r"scene-0001\.safetensors: the labels of scene-0001 were made from other tables"):
            store.labelled_part(changed)
        with pytest.raises(ValueError, match="the labels of scene-0001 were made from other tables"):
            store.verify(changed)


def test_what_of_a_store_is_of_another_kind_is_named(own_data: Path, tmp_path: Path):
    index = read_index(own_data, tiny_nuscenes.VERSION)
    generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    larger = dataclasses.replace(index, image_sizes=2 * index.image_sizes, K=2 * index.K)
    with pytest.raises(ValueError, match=r"store holds labels of image_sizes \(\(180, 320\), .* asked for are labels of \(\(360,"):
        generate_labels(larger, own_data, tmp_path / "store", show_progress=False)


def test_key_frames_without_one_of_the_sensors_are_left_out_where_asked(own_data: Path, tmp_path: Path):
    path = own_data / tiny_nuscenes.VERSION / "sample_data.json"
    path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["token"] != "scene-0002-1-CAM_BACK"]))
    index = read_index(own_data, tiny_nuscenes.VERSION)
    assert index.incomplete == {"scene-0002-1": ("scene-0002", f"{path}: no key frame of CAM_BACK for sample scene-0002-1")}
    with pytest.raises(ValueError, match=r"no key frame of CAM_BACK .*; 1 such key frames in all, which --skip-missing leaves out"):
        generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    generate_labels(index, own_data, tmp_path / "some", scenes=["scene-0001"], show_progress=False)
    manifest = generate_labels(index, own_data, tmp_path / "store", skip_missing=True, show_progress=False)
    assert manifest.scenes["scene-0002"].tokens == ("scene-0002-0", "scene-0002-2")


def test_a_store_without_a_single_label_is_an_error(own_data: Path, tmp_path: Path):
    for path in (own_data / "lidarseg" / tiny_nuscenes.VERSION).iterdir():
        path.write_bytes(bytes(path.stat().st_size))  # all noise
    index = read_index(own_data, tiny_nuscenes.VERSION)
    with pytest.raises(ValueError, match="not one labelled ray in 3 scenes; every point or pixel is of an unknown class"):
        generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    shutil.rmtree(own_data / "samples" / "CAM_FRONT")
    with pytest.raises(ValueError, match="not one labelled ray in 3 scenes; every key frame with labels was left out"):
        generate_labels(index, own_data, tmp_path / "other", skip_missing=True, show_progress=False)


def test_an_unknown_scene_is_refused_before_anything_is_written(index: Index, tiny_dataroot: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="scene scene-7777 is not in"):
        generate_labels(index, tiny_dataroot, tmp_path / "store", scenes=["scene-7777"], show_progress=False)
    assert not (tmp_path / "store").exists()


def test_images_of_another_size_than_the_tables_say_are_seen_before_a_training(own_data: Path, tmp_path: Path):
    index = read_index(own_data, tiny_nuscenes.VERSION)
    path = own_data / index[0].cameras[2].filename
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height // 2)).save(path)
    with pytest.raises(
        ValueError, match=rf"{re.escape(path.name)}: \d+×\d+ pixels, expected \d+×\d+, the size of images of .*key frame"
    ) as caught:
        generate_labels(index, own_data, tmp_path / "store", show_progress=False)
    assert "\n" not in str(caught.value)


def test_two_runs_in_one_folder_at_once_are_refused(index: Index, tiny_dataroot: Path, undisturbed: Path, tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=_generate_slowly, args=(index, tiny_dataroot, tmp_path))
    process.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    with pytest.raises(ValueError, match=f"{tmp_path}: being written by process {process.pid}"):
        generate_labels(index, tiny_dataroot, tmp_path, source=LidarLabels(LidarLabelConfig(max_distance=50.0)), show_progress=False)
    process.join()
    assert contents(tmp_path) == contents(undisturbed)
