import json
import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest

from splattingocc.data.label_store import (
    MANIFEST_NAME,
    LabelStore,
    Manifest,
    RayTable,
    pack_rays,
    read_manifest,
    steps_per_pixel,
    unpack_rays,
    write_manifest,
    write_scene,
)


def random_table(num_rays: int, seed: int = 0) -> RayTable:
    rng = np.random.default_rng(seed)
    return RayTable(
        np.sort(rng.integers(0, 6, num_rays)).astype(np.uint8),
        rng.choice([0, 11, 16, 254, 255], num_rays).astype(np.uint8),
        rng.uniform((0, 0), (1600, 900), (num_rays, 2)).astype(np.float32),
        rng.uniform(0, 131, num_rays).astype(np.float32),
    )


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    scenes = {}
    for name, tables in {
        "scene-b": {"b0": random_table(50, 1), "b1": random_table(0)},
        "scene-a": {"a0": random_table(70, 2)},
    }.items():
        scenes[name] = write_scene(tmp_path, name, tables, steps=32, num_cameras=6, source_sha256="0", inputs_sha256="i")
    sizes = ((900, 1600),) * 6
    manifest = Manifest("v1.0-own", "made by a test", cameras=tuple("ABCDEF"), image_sizes=sizes, steps_per_pixel=32, scenes=scenes)
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_rays_come_back_within_the_stated_quantisation():
    table = random_table(10_000)
    back = unpack_rays(pack_rays(table, steps=32, num_cameras=6), steps=32, num_cameras=6)
    assert np.array_equal(back.camera_indices, table.camera_indices)
    assert np.array_equal(back.semantics, table.semantics)
    assert np.abs(back.pixels - table.pixels).max() <= 1 / 64 + 1e-4
    assert np.abs(back.distances - table.distances).max() <= 1e-3 + 1e-5


def test_a_ray_takes_seven_bytes_and_a_camera_four():
    assert pack_rays(random_table(10), steps=32, num_cameras=6).nbytes == 70 + 24


def test_rays_are_kept_camera_by_camera_in_their_order():
    table = random_table(40)
    shuffled = table[np.random.default_rng(1).permutation(40)]
    back = unpack_rays(pack_rays(shuffled, steps=32, num_cameras=7), steps=32, num_cameras=7)
    expected = shuffled[np.argsort(shuffled.camera_indices, kind="stable")]
    assert np.array_equal(back.camera_indices, expected.camera_indices)
    assert np.abs(back.distances - expected.distances).max() <= 1e-3 + 1e-5


def test_a_camera_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="a label's camera is 5, there are 3 cameras"):
        pack_rays(random_table(100), steps=32, num_cameras=3)


@pytest.mark.parametrize("num_bytes", [0, 20, 93])
def test_bytes_that_do_not_hold_what_they_say_are_refused(num_bytes: int):
    packed = pack_rays(random_table(10), steps=32, num_cameras=6)[:num_bytes]
    with pytest.raises(ValueError, match=rf"^{num_bytes} bytes do not hold"):
        unpack_rays(packed, steps=32, num_cameras=6)


def test_a_distance_that_is_not_known_stays_so():
    table = RayTable(np.zeros(2, np.uint8), np.zeros(2, np.uint8), np.ones((2, 2), np.float32), np.array([np.nan, 131.06], np.float32))
    back = unpack_rays(pack_rays(table, steps=32, num_cameras=1), steps=32, num_cameras=1)
    assert np.isnan(back.distances[0])
    assert abs(back.distances[1] - 131.06) < 2e-3


def test_large_images_get_coarser_pixels_that_fit():
    assert steps_per_pixel([(900, 1600)]) == 32
    assert steps_per_pixel([(900, 1600), (2160, 3840)]) == 16
    assert steps_per_pixel([(60_000, 10)]) == 1


@pytest.mark.parametrize("distance", [131.07, 132.0, -1.0, np.inf])
def test_a_distance_that_does_not_fit_is_refused(distance: float):
    table = RayTable(np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.ones((1, 2), np.float32), np.array([distance], np.float32))
    with pytest.raises(ValueError, match="distance does not fit the store"):
        pack_rays(table, steps=32, num_cameras=6)


def test_the_store_gives_each_key_frame_its_rays(store_folder: Path):
    store = LabelStore.open(store_folder)
    assert "b0" in store
    assert "c0" not in store
    table, expected = store.read("a0"), random_table(70, 2)
    assert np.array_equal(table.semantics, expected.semantics)
    assert np.abs(table.pixels - expected.pixels).max() < 0.02
    assert len(store.read("b1")) == 0
    assert store.manifest.scenes["scene-b"].num_rays == 50


def test_a_store_travels_to_another_process_after_use(store_folder: Path):
    store = LabelStore.open(store_folder)
    store.read("a0")
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.read("b0").distances, store.read("b0").distances)


def test_verify_finds_any_flipped_byte(store_folder: Path):
    LabelStore.open(store_folder).verify()
    path = store_folder / "scene-a.safetensors"
    content = bytearray(path.read_bytes())
    for position in (0, 20, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"scene-a\.safetensors: damaged: sha256"):
            LabelStore.open(store_folder).verify()


def test_verify_finds_a_missing_scene(store_folder: Path):
    (store_folder / "scene-b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"scene-b\.safetensors: no such file"):
        LabelStore.open(store_folder).verify()


def test_a_changed_scene_file_is_never_read(store_folder: Path):
    path = store_folder / "scene-a.safetensors"
    whole = path.read_bytes()
    expected = LabelStore.open(store_folder).read("a0")
    flipped = bytearray(whole)
    flipped[-1] ^= 4  # the class of the last ray
    for content in (flipped, whole[:100], b"", whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"scene-a\.safetensors: damaged: sha256 is"):
            LabelStore.open(store_folder).read("a0")
    path.write_bytes(whole)
    assert np.array_equal(LabelStore.open(store_folder).read("a0").pixels, expected.pixels)


def test_any_changed_byte_of_the_manifest_is_noticed(store_folder: Path):
    path = store_folder / MANIFEST_NAME
    expected, whole, rng = read_manifest(store_folder), path.read_bytes(), np.random.default_rng(0)
    for _ in range(500):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            assert read_manifest(store_folder) == expected  # white space became another kind of white space
        except ValueError as error:
            message = str(error)
        else:
            continue
        assert message.startswith(f"{path}: ")


def test_a_scene_whose_name_leads_elsewhere_is_neither_written_nor_read(store_folder: Path):
    victim = store_folder.parent / "victim.safetensors"
    with pytest.raises(ValueError, match="cannot name a file"):
        write_scene(store_folder, "../victim", {}, steps=32, num_cameras=6, source_sha256="0", inputs_sha256="i")
    assert not victim.exists()
    manifest = read_manifest(store_folder)
    records = {"../victim": manifest.scenes["scene-a"]}
    write_manifest(store_folder, msgspec.structs.replace(manifest, scenes=records))
    with pytest.raises(ValueError, match="cannot name a file"):
        LabelStore.open(store_folder).read("a0")


def test_the_manifest_counts_what_is_known_of_the_rays(tmp_path: Path):
    table = random_table(4)
    semantics, distances = np.array([255, 3, 254, 255], np.uint8), np.array([1.0, np.nan, np.nan, 2.0], np.float32)
    table = RayTable(table.camera_indices, semantics, table.pixels, distances)
    record = write_scene(tmp_path, "s", {"t": table}, steps=32, num_cameras=6, source_sha256="0", inputs_sha256="i")
    assert (record.num_rays, record.num_classified, record.num_measured) == (4, 1, 2)


def test_a_distance_that_would_be_stored_as_zero_is_refused():
    table = random_table(4)
    table = RayTable(table.camera_indices, table.semantics, table.pixels, np.full(4, 0.0009, np.float32))
    with pytest.raises(ValueError, match=r"a label's distance does not fit the store: distances of 0\.002 to 131\.1 m"):
        pack_rays(table, steps=32, num_cameras=6)


def test_a_key_frame_without_labels_is_named(store_folder: Path):
    with pytest.raises(ValueError, match="key frame z9 has no labels"):
        LabelStore.open(store_folder).read("z9")


def test_another_format_version_is_refused_by_name(store_folder: Path):
    path = store_folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 7}))
    with pytest.raises(ValueError, match="label store of format version 7, this program reads version 6"):
        LabelStore.open(store_folder)
    path.write_text(json.dumps({**content, "format": "something"}))
    with pytest.raises(ValueError, match="field format is not 'splattingocc-labels'"):
        LabelStore.open(store_folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"format": "splattingocc-labels", "format_version": 6}', "[1]"])
def test_a_damaged_manifest_is_named(store_folder: Path, content: str):
    (store_folder / MANIFEST_NAME).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json: not the manifest of a label store"):
        read_manifest(store_folder)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ValueError, match=r"manifest\.json: no such file; make the labels first"):
        LabelStore.open(tmp_path)


def test_equal_labels_make_equal_bytes(tmp_path: Path):
    folders = [tmp_path / "x", tmp_path / "y"]
    for folder in folders:
        folder.mkdir()
    records = [
        write_scene(
            folder,
            "s",
            {"k1": random_table(20, 1), "k0": random_table(30, 2)},
            steps=32,
            num_cameras=6,
            source_sha256="0",
            inputs_sha256="i",
        )
        for folder in folders
    ]
    assert records[0] == records[1]
    assert (folders[0] / "s.safetensors").read_bytes() == (folders[1] / "s.safetensors").read_bytes()
    assert sorted(path.name for path in folders[0].iterdir()) == ["s.safetensors"]
