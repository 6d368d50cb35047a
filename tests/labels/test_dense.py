import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
from PIL import Image

from splattingocc.data.key_frames import KeyFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.nuscenes import read_index
from splattingocc.labels.dense import DenseLabelConfig, DenseLabels, find_map, label_densely, read_class_table, read_map
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import project_lidar
from splattingocc.taxonomy import IGNORE, SKY

ROAD, WALL = 11, 15


@pytest.fixture
def key_frame(tiny_dataroot: Path) -> KeyFrame:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)[1]


def write_maps(folder: Path, key_frame: KeyFrame, make, suffix: str = ".npy") -> Path:
    """Write `make(camera index, height, width)` for each camera of a key frame."""
    for view, camera in enumerate(key_frame.cameras):
        assert camera.image_size is not None
        path = folder / camera.channel / Path(camera.filename).with_suffix(suffix).name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = make(view, *camera.image_size)
        if suffix == ".png":
            Image.fromarray(values).save(path)
        elif suffix == ".npz":
            np.savez_compressed(path, values)
        else:
            np.save(path, values)
    return folder


def road_under_sky(view: int, height: int, width: int) -> np.ndarray:
    return np.where(np.arange(height)[:, None] < height // 2, SKY, ROAD).astype(np.uint8) * np.ones((1, width), np.uint8)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_every_stride_th_pixel_has_the_class_and_the_distance_of_its_maps(
    key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path, suffix: str
):
    semantics = write_maps(tmp_path / "classes", key_frame, road_under_sky, suffix)
    depth = write_maps(tmp_path / "depth", key_frame, lambda view, h, w: np.full((h, w), 2560 + 256 * view, np.uint16), suffix)
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics, depth=depth, depth_scale=256, stride=4))
    assert set(np.unique(table.semantics)) == {ROAD, SKY}
    assert np.isnan(table.distances[table.semantics == SKY]).all()
    for view, camera in enumerate(key_frame.cameras):
        assert camera.image_size is not None
        assert camera.K is not None
        own = (table.camera_indices == view) & (table.semantics == ROAD)
        height, width = camera.image_size
        assert own.sum() == len(range(2, width, 4)) * len([row for row in range(2, height, 4) if row >= height // 2])
        rays = np.concatenate([table.pixels[own], np.ones((own.sum(), 1))], axis=1) @ np.linalg.inv(camera.K).T
        assert np.allclose(table.distances[own] / np.linalg.norm(rays, axis=1), 10 + view, rtol=1e-5)


def test_depth_along_the_ray_is_the_distance(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    semantics = write_maps(tmp_path / "classes", key_frame, road_under_sky)
    depth = write_maps(tmp_path / "depth", key_frame, lambda view, h, w: np.full((h, w), 7.0, np.float32))
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics, depth=depth, depth_along="ray"))
    assert np.allclose(table.distances[table.semantics == ROAD], 7.0)


def test_unknown_depth_keeps_the_class_and_too_far_keeps_nothing(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    semantics = write_maps(tmp_path / "classes", key_frame, lambda view, h, w: np.full((h, w), WALL, np.uint8))
    values = (np.nan, 0.0, np.inf, 300.0, 5.0)
    depth = write_maps(
        tmp_path / "depth", key_frame, lambda view, h, w: np.tile(np.array(values, np.float32), (h, w // len(values) + 1))[:, :w]
    )
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics, depth=depth, depth_along="ray", stride=1))
    known = np.isfinite(table.distances)
    assert np.allclose(table.distances[known], 5.0)
    assert 2.9 < (~known).sum() / known.sum() < 3.1


@pytest.mark.parametrize("metres", [0.0, 80.0, 200.0, np.inf])
def test_the_sky_is_a_label_whatever_depth_the_maps_give_it(metres: float, key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    semantics = write_maps(tmp_path / "classes", key_frame, road_under_sky)
    depth = write_maps(
        tmp_path / "depth",
        key_frame,
        lambda view, h, w: np.where(np.arange(h)[:, None] < h // 2, metres, 10).astype(np.float32) * np.ones((1, w), np.float32),
    )
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics, depth=depth))
    sky = table.semantics == SKY
    assert 0.4 < sky.mean() < 0.6
    assert np.isnan(table.distances[sky]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_scale": 256.0}, r"dense\.depth_scale 256\.0: does nothing without depth maps"),
        ({"depth_along": "ray"}, r"dense\.depth_along ray: does nothing without depth maps"),
        ({"min_confidence": 0.9}, r"dense\.min_confidence 0\.9: does nothing without confidence maps"),
        ({"depth": Path("depth"), "point_columns": 4}, r"dense\.point_columns 4: does nothing where distances come from depth maps"),
        ({"max_distance": 0.9}, "greater than 1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DenseLabelConfig(semantics=Path("classes"), **options)


def test_without_depth_maps_lidar_points_take_the_class_of_their_pixel(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    semantics = write_maps(tmp_path / "classes", key_frame, road_under_sky)
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics))
    points = np.isfinite(table.distances)
    assert points.sum() > 500
    heights = np.array([camera.image_size[0] for camera in key_frame.cameras])[table.camera_indices]  # type: ignore[index]
    on_road = table.pixels[:, 1] >= heights // 2
    assert (table.semantics[points & on_road] == ROAD).all()
    # What was measured is no sky, whatever it is
    assert (points & ~on_road).any()
    assert (table.semantics[points & ~on_road] == IGNORE).all()
    assert (table.semantics[~points] == SKY).all()
    assert (~points).sum() > 50


def test_unsure_pixels_are_ignored(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    semantics = write_maps(tmp_path / "classes", key_frame, road_under_sky)
    left_is_sure = write_maps(
        tmp_path / "sure",
        key_frame,
        lambda view, h, w: np.where(np.arange(w) < w // 2, 200, 100).astype(np.uint8) * np.ones((h, 1), np.uint8),
    )
    for metres in (0.0, 10.0):
        depth = write_maps(tmp_path / f"depth_{metres}", key_frame, lambda view, h, w, metres=metres: np.full((h, w), metres, np.float32))
        config = DenseLabelConfig(semantics=semantics, depth=depth, confidence=left_is_sure, min_confidence=0.6)
        table = label_densely(key_frame, tiny_dataroot, config)
        for view, camera in enumerate(key_frame.cameras):
            assert camera.image_size is not None
            own = table.camera_indices == view
            assert own.any()
            assert table.pixels[own, 0].max() < camera.image_size[1] // 2
    # What the LiDAR measured there is as sure as elsewhere, but for its class
    points = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics, confidence=left_is_sure, min_confidence=0.6))
    all_sure = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(semantics=semantics))
    assert np.isfinite(points.distances).sum() >= np.isfinite(all_sure.distances).sum()
    assert (points.semantics == IGNORE).sum() > (all_sure.semantics == IGNORE).sum()


def test_a_store_made_from_maps_gives_them_back(tiny_dataroot: Path, tmp_path: Path):
    index = read_index(tiny_dataroot, tiny_nuscenes.VERSION)
    for position in range(len(index)):
        write_maps(tmp_path / "classes", index[position], road_under_sky, ".png")
    config = DenseLabelConfig(semantics=tmp_path / "classes")
    generate_labels(index, tiny_dataroot, tmp_path / "store", source=DenseLabels(config), show_progress=False)
    store = LabelStore.open(tmp_path / "store")
    store.verify(index)
    table, expected = store.read(index.tokens[0]), label_densely(index[0], tiny_dataroot, config)
    assert len(table) == len(expected)
    assert np.array_equal(np.isnan(table.distances), np.isnan(expected.distances))
    assert (table.semantics == SKY).sum() == (expected.semantics == SKY).sum()
    with pytest.raises(ValueError, match="the store holds labels of"):
        generate_labels(index, tiny_dataroot, tmp_path / "store", show_progress=False)


def test_a_map_that_would_be_of_two_images_is_refused(tiny_dataroot: Path, tmp_path: Path):
    index = read_index(tiny_dataroot, tiny_nuscenes.VERSION)
    source = DenseLabels(DenseLabelConfig(semantics=tmp_path / "classes"))
    folders = [f"drive-{index[position].scene}/{position}.jpg" for position in range(len(index)) for _ in index.channels]
    of_scenes = [f"drive-{index[i].scene}/{index[i].index_in_scene}.jpg" for i in range(len(index)) for _ in index.channels]
    for filenames, is_refused in ((folders, False), (of_scenes, True)):
        renamed = dataclasses.replace(index, filenames=filenames)
        message = "dense maps: one of CAM_[A-Z_]*/0 would be of two images, drive-.*/0.jpg and drive-" if is_refused else "no such file"
        with pytest.raises(ValueError, match=message):
            generate_labels(renamed, tiny_dataroot, tmp_path / f"store-{is_refused}", source=source, show_progress=False)


def test_the_real_maps_agree_with_the_real_lidar_classes(real_dataroot: Path, tmp_path: Path):
    key_frame = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)[0]
    table = label_densely(key_frame, real_dataroot, DenseLabelConfig(semantics=real_dataroot / "semantics_2d"))
    lidar = project_lidar(key_frame, real_dataroot)
    class_of_pixel = {
        (int(c), round(float(u)), round(float(v))): s for c, (u, v), s in zip(lidar.camera_indices, lidar.pixels, lidar.semantics)
    }
    pairs = [
        (class_of_pixel[key], semantics)
        for camera, (u, v), semantics, distance in zip(table.camera_indices, table.pixels, table.semantics, table.distances)
        if np.isfinite(distance) and semantics != IGNORE and (key := (int(camera), round(float(u)), round(float(v)))) in class_of_pixel
    ]
    assert len(pairs) > 10_000
    # The stand-in lidarseg was made from these maps, except inside annotated boxes
    assert np.mean([a == b for a, b in pairs]) > 0.9
    assert (table.semantics == SKY).sum() > 1000


def test_cityscapes_ids_become_classes():
    table = read_class_table("cityscapes")
    assert [table[number] for number in (0, 1, 2, 8, 9, 10, 11, 13, 18)] == [11, 13, 15, 16, 14, SKY, 7, 4, 2]
    assert (table[[12, 16, 19, 255]] == IGNORE).all()


def test_an_own_class_file_is_read_and_its_faults_are_named(tmp_path: Path):
    path = tmp_path / "ade.json"
    path.write_text(json.dumps({"6": "driveable_surface", "2": "sky"}))
    table = read_class_table(path)
    assert (table[6], table[2], table[0]) == (ROAD, SKY, IGNORE)
    for content, fault in (
        ('{"6": "road"}', "6 is 'road', expected one of others"),
        ('{"-1": "car"}', "key '-1', expected a number"),
        ('{"²": "car"}', "key '²', expected a number"),
        ('{"0007": "car"}', "key '0007', expected a number"),
        ('{"7": ["car"]}', "not a JSON object like .*Expected `str`, got `array`"),
        ("[1]", "not a JSON object like .*Expected `object`, got `array`"),
        ("{", "not a JSON object like"),
        ("[" * 5000, "not a JSON object like"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"ade\.json: {fault}"):
            read_class_table(path)
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        read_class_table(tmp_path / "none.json")


def test_a_missing_damaged_or_wrongly_sized_map_is_named(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path):
    config = DenseLabelConfig(semantics=tmp_path)
    with pytest.raises(ValueError, match=r"CAM_FRONT_LEFT/.*: no map of that name; expected \.png, \.npy, \.npz"):
        label_densely(key_frame, tiny_dataroot, config)
    write_maps(tmp_path, key_frame, lambda view, h, w: np.zeros((h, w - 1), np.uint8))
    with pytest.raises(ValueError, match=r"\.npy: shape is .* the image of sample_data"):
        label_densely(key_frame, tiny_dataroot, config)
    write_maps(tmp_path, key_frame, lambda view, h, w: np.full((h, w), 300, np.int64))
    with pytest.raises(ValueError, match="int64 from 300 to 300, expected whole numbers from 0 to 255"):
        label_densely(key_frame, tiny_dataroot, config)
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"\.npy: not a \.npy array"):
        label_densely(key_frame, tiny_dataroot, config)


@pytest.mark.parametrize("along", ["axis", "ray"])
def test_depth_nearer_than_cameras_see_is_unknown(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path, along: str):
    # Stored in steps of 2 mm, half a millimetre would be a distance of 0, whose logarithm no loss survives
    values = np.array([0.0005, 0.05, -3.0, 1e-30, 5.0], np.float32)
    semantics = write_maps(tmp_path / "classes", key_frame, lambda view, h, w: np.full((h, w), WALL, np.uint8))
    depth = write_maps(tmp_path / "depth", key_frame, lambda view, h, w: np.resize(values, (h, w)))
    options = {"semantics": semantics, "depth": depth, "depth_along": along, "stride": 1}
    table = label_densely(key_frame, tiny_dataroot, DenseLabelConfig(**options))
    assert len(table) == sum(np.prod(camera.image_size) for camera in key_frame.cameras)
    known = np.isfinite(table.distances)
    assert known.sum() * 5 == len(table)
    assert table.distances[known].min() >= 5.0


@pytest.mark.parametrize("purpose", ["semantics", "depth", "confidence"])
@pytest.mark.parametrize(("mode", "pixels"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("LA", "LA"), ("1", "1"), ("P", "P;1")])
def test_pictures_that_are_no_numbers_are_refused_as_maps(
    key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path, purpose: str, mode: str, pixels: str
):
    folders = {
        name: write_maps(tmp_path / name, key_frame, lambda view, h, w: np.zeros((h, w), np.uint8)) for name in ("semantics", "depth")
    }
    folders[purpose] = tmp_path / "pictures"
    for camera in key_frame.cameras:
        path = folders[purpose] / camera.channel / Path(camera.filename).with_suffix(".png").name
        path.parent.mkdir(parents=True)
        height, width = camera.image_size or (0, 0)
        Image.new(mode, (width, height)).save(path)
    config = DenseLabelConfig(**folders)
    if (purpose, mode) == ("semantics", "P"):
        assert len(label_densely(key_frame, tiny_dataroot, config)) > 0
        return
    palette = ", or a palette whose indices are the classes" if purpose == "semantics" else ""
    with pytest.raises(ValueError, match=rf"FRONT_LEFT\.png: its pixels are {pixels}, expected 8-bit or 16-bit grey{palette}$"):
        label_densely(key_frame, tiny_dataroot, config)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_classes_of_a_palette_are_its_indices(key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path, bits: int):
    for camera in key_frame.cameras:
        height, width = camera.image_size or (0, 0)
        numbers = np.resize(np.arange(2, dtype=np.uint8), (height, width))
        indexed = Image.frombytes("P", (width, height), numbers.tobytes())
        indexed.putpalette([200, 30, 7, 11, 12, 13])
        path = tmp_path / camera.channel / Path(camera.filename).with_suffix(".png").name
        path.parent.mkdir(parents=True)
        indexed.save(path, bits=bits)
    found = read_map(find_map(tmp_path, key_frame.cameras[0]), key_frame.cameras[0], may_have_palette=True)
    np.testing.assert_array_equal(found, np.resize([0, 1], found.shape))


def test_a_jpeg_named_png_and_a_film_are_refused_as_maps(key_frame: KeyFrame, tmp_path: Path):
    camera = key_frame.cameras[0]
    height, width = camera.image_size or (0, 0)
    picture = Image.new("L", (width, height))
    picture.save(tmp_path / "map.png", "JPEG")
    with pytest.raises(ValueError, match=r"map\.png: is a JPEG file, which changes the numbers of a map; expected a PNG"):
        read_map(tmp_path / "map.png", camera)
    picture.save(tmp_path / "map.png", save_all=True, append_images=[Image.new("L", (width, height), 3)])
    with pytest.raises(ValueError, match=r"map\.png: is an animated PNG, expected one picture"):
        read_map(tmp_path / "map.png", camera)


@pytest.mark.parametrize(
    ("purpose", "values", "message"),
    [
        ("semantics", np.array([-1, 3]), "int64 from -1 to 3, expected whole numbers from 0 to 255"),
        ("semantics", np.array([1.0, np.nan]), "float64 from nan to nan, expected whole numbers from 0 to 255"),
        ("semantics", np.array([True, False]), "holds bool, expected numbers"),
        ("semantics", np.array(["car", "road"]), "holds <U4, expected numbers"),
        ("depth", np.array([1j, 2]), "holds complex128, expected numbers"),
        ("confidence", np.array([0.5, np.nan]), "float64 from nan to nan, expected 0 to 1, or whole numbers from 0 to 255"),
        ("confidence", np.array([0.5, 80.0]), "float64 from 0.5 to 80.0, expected 0 to 1"),
        ("confidence", np.array([-1, 80]), "int64 from -1 to 80, expected 0 to 1, or whole numbers from 0 to 255"),
        ("confidence", np.array([0, 65535], np.uint16), "uint16 from 0 to 65535, expected 0 to 1"),
    ],
)
def test_numbers_that_a_map_cannot_hold_are_named(
    key_frame: KeyFrame, tiny_dataroot: Path, tmp_path: Path, purpose: str, values: np.ndarray, message: str
):
    folders = {
        name: write_maps(tmp_path / name, key_frame, lambda view, h, w: np.zeros((h, w), np.uint8)) for name in ("semantics", "depth")
    }
    folders[purpose] = write_maps(tmp_path / purpose, key_frame, lambda view, h, w: np.resize(values, (h, w)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        label_densely(key_frame, tiny_dataroot, DenseLabelConfig(**folders))
    path = find_map(folders[purpose], key_frame.cameras[0])
    assert str(caught.value).startswith(f"{path}: {message}")


def test_depth_without_classes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"dense\.semantics: depth and confidence maps need class maps"):
        DenseLabelConfig(depth=tmp_path)
