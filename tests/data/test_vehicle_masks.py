import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch
from PIL import Image

from splattingocc.data.augment import AugmentConfig, ImageWindow
from splattingocc.data.camera_images import read_image
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, PredictionSet, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.labels.dense import DenseLabelConfig, DenseLabels
from splattingocc.labels.generate import generate_labels, verify_inputs
from splattingocc.labels.lidar import LidarLabels

HEIGHT, WIDTH = tiny_nuscenes.IMAGE_SIZE
FRONT = 1
"""Place of CAM_FRONT among the cameras."""


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


def bonnet() -> np.ndarray:
    """The lower quarter, and a mirror at the left."""
    covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
    covered[HEIGHT * 3 // 4 :], covered[40:100, :60] = True, True
    return covered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.where(bonnet(), 255, 0).astype(np.uint8)).save(tmp_path / "masks" / "CAM_FRONT.png")
    return tmp_path / "masks"


@pytest.mark.parametrize(("mode", "colour"), [("L", 1), ("1", 1), ("RGB", (0, 0, 9)), ("P", None), ("RGBA", (255, 0, 0, 255))])
def test_whatever_is_not_black_is_the_own_vehicle(index: Index, tmp_path: Path, mode: str, colour: object):
    image = Image.new(
        "RGBA" if mode == "RGBA" else "RGB" if mode == "P" else mode, (WIDTH, HEIGHT), (0, 0, 0, 255) if mode == "RGBA" else 0
    )
    image.paste(colour or (7, 200, 30), (0, 0), Image.fromarray(bonnet()))  # type: ignore[arg-type]
    (image.convert("P") if mode == "P" else image).save(tmp_path / "CAM_FRONT.png")
    masks = VehicleMasks.open(tmp_path, index)
    front, back = index[0].cameras[FRONT], index[0].cameras[4]
    np.testing.assert_array_equal(masks.of(front), bonnet())
    assert masks.of(back) is None
    assert masks.channels(index) == ["CAM_FRONT"]


def test_faults_of_masks_are_named(index: Index, tmp_path: Path):
    with pytest.raises(ValueError, match=rf"{tmp_path}: has no mask of any camera; expected some of CAM_FRONT_LEFT\.png, CAM_FRONT\.png,"):
        VehicleMasks.open(tmp_path, index)
    path = tmp_path / "CAM_FRONT.png"
    for image, kind, fault in (
        (Image.new("L", (WIDTH, HEIGHT - 1)), "PNG", "320×179 pixels, expected 320×180, the size of images of CAM_FRONT"),
        (Image.new("L", (WIDTH, HEIGHT)), "JPEG", "is a JPEG file, which blurs the edges of a mask; expected a PNG"),
        (Image.new("RGBA", (WIDTH, HEIGHT)), "PNG", "is partly transparent"),
    ):
        image.save(path, kind)
        with pytest.raises(ValueError, match=rf"CAM_FRONT\.png: {fault}"):
            VehicleMasks.open(tmp_path, index)
    Image.new("L", (WIDTH, HEIGHT)).save(path)
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "CAM_FRNT_LEFT.png")
    with pytest.raises(
        ValueError, match=r"CAM_FRNT_LEFT\.png: is the mask of no camera of these data; expected some of CAM_FRONT_LEFT\.png"
    ):
        VehicleMasks.open(tmp_path, index)
    (tmp_path / "CAM_FRNT_LEFT.png").unlink()
    with pytest.raises(ValueError, match="nowhere: no such folder, expected masks of the own vehicle in it"):
        VehicleMasks.open(tmp_path / "nowhere", index)
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"CAM_FRONT\.png: cannot be read as an image"):
        VehicleMasks.open(tmp_path, index)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 12.0])
def test_masks_go_through_windows_as_images_do(index: Index, folder: Path, tmp_path: Path, flip: bool, rotation: float):
    # An image that is white where the mask covers must be dark nowhere but there, and white nowhere else
    camera = index[0].cameras[FRONT]
    Image.fromarray(np.where(bonnet(), 255, 0).astype(np.uint8)).save(tmp_path / "same.png")
    window = ImageWindow(top=20, left=8, height=150, width=300, flip=flip, rotation=rotation)
    hidden = VehicleMasks(folder).through_window(camera, window, (60, 120))
    seen = read_image(tmp_path / "same.png", camera, window, (60, 120))[0]
    assert hidden is not None
    assert 0.2 < hidden.mean() < 0.5
    assert torch.equal(hidden, (seen >= 128).float())


def test_the_own_vehicle_is_black_to_the_network_whatever_its_colours_become(
    index: Index, tiny_dataroot: Path, tiny_store: Path, folder: Path
):
    augment = AugmentConfig(max_zoom=1.3, flip_probability=0.5, max_image_rotation=8.0, brightness=0.3, contrast=0.3, saturation=0.3)
    config = LoaderConfig(image_size=(64, 112), num_rays=50, previous_frames=1)
    masks, store = VehicleMasks.open(folder, index), LabelStore.open(tiny_store)
    for options in (config, config.model_copy(update={"augment": augment})):
        plain, masked = (TrainingSet(index, store, tiny_dataroot, options, masks=which)[1].views.images for which in (None, masks))
        black = (masked == 0).all(dim=2) & ~(plain == 0).all(dim=2)
        others = [view for view in range(6) if view != FRONT]
        assert not black[:, others].any()
        assert torch.equal(masked[:, others], plain[:, others])
        assert black[:, FRONT].float().mean() > 0.2
        assert torch.equal(black[0], black[1])
        assert torch.equal(masked[~black[:, :, None].expand_as(masked)], plain[~black[:, :, None].expand_as(plain)])
    plain, masked = (PredictionSet(index, tiny_dataroot, config, [1], masks=which)[0].views.images for which in (None, masks))
    expected = masks.through_window(index[1].cameras[FRONT], ImageWindow(0, 2, 180, 315), (64, 112))
    assert expected is not None
    assert torch.equal(masked[0, FRONT], plain[0, FRONT] * (1 - expected))


def road(index: Index, folder: Path) -> Path:
    for position in range(len(index)):
        for camera in index[position].cameras:
            path = folder / camera.channel / f"{Path(camera.filename).stem}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((HEIGHT, WIDTH), 11, np.uint8))
    return folder


@pytest.mark.parametrize("source", ["lidar", "dense"])
def test_what_the_masks_cover_has_no_labels(index: Index, tiny_dataroot: Path, tmp_path: Path, folder: Path, source: str):
    made_from = LidarLabels() if source == "lidar" else DenseLabels(DenseLabelConfig(semantics=road(index, tmp_path / "maps")))
    stores = []
    for name, masks in (("all", None), ("fewer", folder)):
        generate_labels(index, tiny_dataroot, tmp_path / name, source=made_from, vehicle_masks=masks, show_progress=False)
        stores.append(LabelStore.open(tmp_path / name))
    everything, fewer = (store.read(index.tokens[0]) for store in stores)
    columns, rows = everything.pixels.astype(int).T
    covered = (everything.camera_indices == FRONT) & bonnet()[rows, columns]
    assert covered.sum() > 20
    expected = everything[~covered]
    for field in dataclasses.fields(expected):
        np.testing.assert_array_equal(getattr(fewer, field.name), getattr(expected, field.name))
    assert "without the own vehicle (masks of CAM_FRONT, sha256 " in stores[1].manifest.source
    verify_inputs(stores[1], index, tiny_dataroot, made_from, vehicle_masks=folder)
    with pytest.raises(ValueError, match="give the options that made it"):
        verify_inputs(stores[1], index, tiny_dataroot, made_from)


def test_labels_of_another_mask_do_not_mix(index: Index, tiny_dataroot: Path, tmp_path: Path, folder: Path):
    generate_labels(index, tiny_dataroot, tmp_path / "store", vehicle_masks=folder, scenes=["scene-0001"], show_progress=False)
    Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "CAM_FRONT.png")
    with pytest.raises(ValueError, match="choose another folder or delete this one"):
        generate_labels(index, tiny_dataroot, tmp_path / "store", vehicle_masks=folder, show_progress=False)
