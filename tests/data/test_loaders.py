import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from splattingocc.data.augment import AugmentConfig, ImageWindow
from splattingocc.data.key_frames import Index, cameras_of
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import EpochSampler, LoaderConfig, PredictionSet, TrainingSet, calibration_scenes, read_image
from splattingocc.data.nuscenes import read_index
from splattingocc.data.samples import PredictionSample, TrainingSample
from splattingocc.geometry.cameras import Cameras
from splattingocc.struct import Struct, stack

STRONG = AugmentConfig(
    max_zoom=1.4,
    flip_probability=0.5,
    mirror_x_probability=0.5,
    mirror_y_probability=0.5,
    max_rotation=30.0,
)
COLOURS = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3)
SMALL = LoaderConfig(image_size=(64, 176), num_rays=700)


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> LabelStore:
    return LabelStore.open(tiny_store)


def with_options(config: LoaderConfig, **options: object) -> LoaderConfig:
    return LoaderConfig(**{**dict(config), **options})


def tensors_of(struct: Struct) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    struct.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(a: Struct, b: Struct) -> bool:
    return all(torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0)) for x, y in zip(tensors_of(a), tensors_of(b), strict=True))


def valid_points(sample: TrainingSample) -> torch.Tensor:
    """The labelled surface points (ray, 3) in the sample's ego frame."""
    return sample.rays.at(sample.labels.distances)[sample.labels.weights > 0]


def test_samples_have_the_asked_shapes(index: Index, store: LabelStore, tiny_dataroot: Path):
    dataset = TrainingSet(index, store, tiny_dataroot, SMALL)
    assert len(dataset) == 6
    sample = dataset[0]
    assert sample.token == "scene-0001-0"
    assert sample.views.images.shape == (1, 6, 3, 64, 176)
    assert sample.views.images.dtype == torch.float32
    assert 0 <= sample.views.images.min() <= sample.views.images.max() <= 1
    assert sample.views.cameras.K.shape == (1, 6, 3, 3)
    assert sample.views.cameras.image_size == (64, 176)
    assert sample.rays.directions.shape == (700, 3)
    assert sample.labels.semantics.dtype == torch.int64


def test_samples_of_either_kind_have_no_field_for_3d_labels():
    fields = {field.name for kind in (TrainingSample, PredictionSample) for field in dataclasses.fields(kind)}
    assert fields == {"token", "views", "rays", "labels"}


@pytest.mark.parametrize("augment", [AugmentConfig(), STRONG], ids=["plain", "augmented"])
def test_a_labelled_point_is_found_in_the_image_where_the_original_image_has_it(
    index: Index, store: LabelStore, tiny_dataroot: Path, augment: AugmentConfig
):
    # The image encodes its own pixel coordinates in red and green, so its content tells which original pixel is seen.
    dataset = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, augment=augment, held_out_fraction=0.0, num_rays=5000))
    plain = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, held_out_fraction=0.0, num_rays=5000))
    height, width = tiny_nuscenes.IMAGE_SIZE
    original = cameras_of(index[1])
    num_checked = 0
    for epoch in range(4):
        sample, reference = dataset[epoch * len(dataset) + 1], plain[1]
        points, original_points = valid_points(sample), valid_points(reference)
        assert points.shape == original_points.shape
        pixels, visible = sample.views.cameras[0].project(points.expand(6, -1, 3))
        original_pixels, original_visible = original.project(original_points.expand(6, -1, 3))
        inner = visible & original_visible & (pixels > 2).all(-1) & (pixels < torch.tensor([174, 62])).all(-1)
        for view in range(6):
            columns, rows = pixels[view, inner[view]].long().unbind(-1)
            red, green, blue = sample.views.images[0, view, :, rows, columns]
            expected = original_pixels[view, inner[view]] / torch.tensor([width, height])
            assert (red - expected[:, 0]).abs().max() < 0.03
            assert (green - expected[:, 1]).abs().max() < 0.03
            assert (blue - 40 * view / 255).abs().max() < 0.03
            num_checked += int(inner[view].sum())
    assert num_checked > 2000


def test_ego_changes_move_rays_and_keep_their_distances(index: Index, store: LabelStore, tiny_dataroot: Path):
    config = with_options(SMALL, num_rays=5000)
    plain = TrainingSet(index, store, tiny_dataroot, config)[0]
    mirror = with_options(config, augment=AugmentConfig(mirror_y_probability=1.0))
    mirrored = TrainingSet(index, store, tiny_dataroot, mirror)[0]
    flip = torch.tensor([1.0, -1.0, 1.0])
    assert torch.equal(mirrored.labels.distances.nan_to_num(-1), plain.labels.distances.nan_to_num(-1))
    torch.testing.assert_close(valid_points(mirrored), valid_points(plain) * flip)
    assert torch.equal(mirrored.views.images, plain.views.images)


def test_image_changes_do_not_move_rays(index: Index, store: LabelStore, tiny_dataroot: Path):
    image_only = AugmentConfig(max_zoom=1.4, flip_probability=0.5, brightness=0.3)
    plain = TrainingSet(index, store, tiny_dataroot, SMALL)[2]
    changed = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, num_rays=700, augment=image_only))[2]
    assert not torch.equal(changed.views.images, plain.views.images)
    wide = with_options(SMALL, num_rays=5000)
    plain = TrainingSet(index, store, tiny_dataroot, wide)[2]
    changed = TrainingSet(index, store, tiny_dataroot, with_options(wide, augment=image_only))[2]
    assert same(changed.rays, plain.rays)
    assert same(changed.labels, plain.labels)


def test_batches_do_not_depend_on_the_number_of_workers(index: Index, store: LabelStore, tiny_dataroot: Path):
    config = with_options(SMALL, augment=STRONG, label_frames=3)
    dataset = TrainingSet(index, store, tiny_dataroot, config, seed=3)

    def batches(num_workers: int, epoch: int) -> list[TrainingSample]:
        sampler = EpochSampler(len(dataset), seed=3)
        sampler.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=num_workers, collate_fn=stack)
        return list(loader)

    alone, shared, later = batches(0, 1), batches(2, 1), batches(0, 2)
    assert [batch.token for batch in alone] == [batch.token for batch in shared]
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert not all(same(a, b) for a, b in zip(alone, later, strict=True))


def test_each_epoch_and_each_seed_draws_anew(index: Index, store: LabelStore, tiny_dataroot: Path):
    config = with_options(SMALL, num_rays=300, augment=COLOURS)
    dataset, other = (TrainingSet(index, store, tiny_dataroot, config, seed=seed) for seed in (0, 1))
    assert same(dataset[1], dataset[1])
    assert not same(dataset[1].rays, dataset[len(dataset) + 1].rays)
    assert not torch.equal(dataset[1].views.images, dataset[len(dataset) + 1].views.images)
    assert not same(dataset[1].rays, other[1].rays)


def test_auxiliary_key_frames_add_rays_of_less_weight(index: Index, store: LabelStore, tiny_dataroot: Path):
    config = with_options(SMALL, num_rays=12_000)
    alone = TrainingSet(index, store, tiny_dataroot, config)[1].labels
    joined = TrainingSet(index, store, tiny_dataroot, with_options(config, label_frames=3))[1].labels
    assert (joined.weights == 1).sum() == (alone.weights == 1).sum()
    assert (joined.weights == torch.tensor(0.3)).sum() > (alone.weights == 1).sum()
    without = TrainingSet(index, store, tiny_dataroot, with_options(config, label_frames=3, auxiliary_weight=0.0))[1].labels
    assert torch.equal(without.weights, alone.weights), "rays of no weight took the places of others"
    first, second = (TrainingSet(index, store, tiny_dataroot, with_options(config, label_frames=3))[i].labels for i in (0, 1))
    assert 0 < (first.weights == torch.tensor(0.3)).sum() < (second.weights == torch.tensor(0.3)).sum()  # nothing is before the first


def test_label_frames_are_as_many_before_as_after_and_its_earlier_name_is_understood():
    assert LoaderConfig(label_frames=7).auxiliary_offsets == (-3, -2, -1, 1, 2, 3)
    assert LoaderConfig.model_validate({"auxiliary_offsets": [-1, 1]}) == LoaderConfig(label_frames=3)
    assert LoaderConfig.model_validate({"auxiliary_offsets": [1, -1]}) == LoaderConfig(label_frames=3)
    assert LoaderConfig.model_validate({"auxiliary_offsets": []}) == LoaderConfig()
    for wrong in (None, 3, ["x"]):
        with pytest.raises(ValidationError, match="expected whole numbers"):
            LoaderConfig.model_validate({"auxiliary_offsets": wrong})
    with pytest.raises(ValidationError, match="2, expected an odd number"):
        LoaderConfig(label_frames=2)
    with pytest.raises(ValidationError, match="label_frames takes its place"):
        LoaderConfig.model_validate({"auxiliary_offsets": [1, 2]})


def test_the_load_interval_thins_the_split(index: Index, store: LabelStore, tiny_dataroot: Path):
    dataset = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, load_interval=4))
    assert [dataset[i].token for i in range(len(dataset))] == ["scene-0001-0", "scene-0002-1"]


def test_prediction_reads_images_without_any_label(index: Index, tiny_dataroot: Path):
    dataset = PredictionSet(index, tiny_dataroot, with_options(SMALL, augment=STRONG), index.of_split("val"))
    assert [sample.token for sample in (dataset[0], dataset[1])] == ["scene-0003-0", "scene-0003-1"]
    assert torch.equal(dataset[0].views.images, dataset[0].views.images)
    torch.testing.assert_close(dataset[0].views.cameras.cam_from_ego[0], cameras_of(index[6]).cam_from_ego)
    assert stack([dataset[0], dataset[1]]).token == ("scene-0003-0", "scene-0003-1")


def test_a_truncated_a_missing_and_a_wrongly_sized_image_are_named(index: Index, store: LabelStore, tiny_dataroot: Path, tmp_path: Path):
    shutil.copytree(tiny_dataroot / "samples", tmp_path / "samples")
    dataset = TrainingSet(index, store, tmp_path, SMALL)
    path = tmp_path / "samples/CAM_BACK/scene-0001-0-CAM_BACK.jpg"
    content = path.read_bytes()
    half, whole = content[: len(content) // 2], "scene-0001-0-CAM_BACK"
    for broken, fault in ((half, "cannot be read as a JPEG or PNG image: "), (b"not one", "cannot be read as an image: neither JPEG nor")):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{whole}\.jpg: {fault}.* \(sample_data {whole}\)"):
            dataset[0]
    Image.new("RGB", (100, 50)).save(path)
    with pytest.raises(ValueError, match=rf"{whole}\.jpg: 100×50 pixels, expected 320×180, .*\(sample_data {whole}\)"):
        dataset[0]
    path.unlink()
    with pytest.raises(ValueError, match=rf"{whole}\.jpg: no such file \(sample_data {whole}\)"):
        dataset[0]


def test_training_on_a_split_without_labels_says_what_to_run(index: Index, store: LabelStore, tiny_dataroot: Path):
    partial = LabelStore(store.folder, store.manifest)
    del partial._scene_of["scene-0002-1"]
    with pytest.raises(ValueError, match="key frame scene-0002-1 of split train has no labels; run `splattingocc prepare`"):
        TrainingSet(index, partial, tiny_dataroot, SMALL)


def test_ranks_share_an_epoch_without_overlap():
    shares = []
    for rank in range(3):
        sampler = EpochSampler(11, seed=5, rank=rank, world_size=3)
        sampler.set_epoch(2)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == 3
    keys = [key for share in shares for key in share]
    assert len(set(keys)) == 9
    assert all(22 <= key < 33 for key in keys)


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return [key % 50 for key in sampler]

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 1) != order(1, 1)


def test_more_ranks_than_samples_are_refused():
    with pytest.raises(ValueError, match="2 training samples for 3 ranks"):
        EpochSampler(2, world_size=3)


def test_the_real_images_are_decoded_as_they_are(real_dataroot: Path, real_store: Path, tmp_path: Path):
    index = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)
    full = PredictionSet(index, real_dataroot, LoaderConfig(image_size=(900, 1600)), [0])[0].views
    for view, camera in enumerate(index[0].cameras):
        decoded = np.array(Image.open(real_dataroot / camera.filename)).astype(np.float32) / 255
        assert np.abs(full.images[0, view].permute(1, 2, 0).numpy() - decoded).max() < 1e-6
    torch.testing.assert_close(full.cameras.K[0], cameras_of(index[0]).K)
    # Decoding at a fraction of the size must show the same picture: compare with the average of the full image's blocks.
    small = PredictionSet(index, real_dataroot, LoaderConfig(image_size=(225, 400)), [0])[0].views
    blocks = torch.nn.functional.avg_pool2d(full.images[0], 4)
    assert (small.images[0] - blocks).abs().mean() < 0.01
    torch.testing.assert_close(small.cameras.K[0, :, :2], full.cameras.K[0, :, :2] / 4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [-20.0, 0.0, 12.0])
def test_a_thing_is_found_where_the_camera_of_a_turned_window_says(index: Index, tmp_path: Path, rotation: float, flip: bool):
    sensor = dataclasses.replace(index[0].cameras[0], image_size=(180, 320))
    pixels = np.zeros((180, 320, 3), np.uint8)
    pixels[66:72, 102:108] = 255
    Image.fromarray(pixels).save(tmp_path / "dot.png")
    window = ImageWindow(top=20, left=16, height=144, width=288, flip=flip, rotation=rotation)
    seen = read_image(tmp_path / "dot.png", sensor, window, (72, 144))[0].double()
    v, u = torch.meshgrid(torch.arange(72) + 0.5, torch.arange(144) + 0.5, indexing="ij")
    found = torch.stack([(u * seen).sum(), (v * seen).sum()]) / seen.sum()
    camera = Cameras(torch.tensor([[190.0, 0.0, 163.0], [0.0, 190.0, 88.0], [0.0, 0.0, 1.0]]), torch.eye(4), (180, 320))
    point = torch.linalg.inv(camera.K) @ torch.tensor([105.0, 69.0, 1.0]) * 9
    expected, visible = window.camera(camera, (72, 144)).project(point[None])
    assert visible.all()
    torch.testing.assert_close(found.float(), expected[0], atol=0.15, rtol=0)


def test_previous_frames_are_seen_from_the_ego_frame_of_the_key_frame(index: Index, store: LabelStore, tiny_dataroot: Path):
    config = with_options(SMALL, previous_frames=2)
    for dataset in (TrainingSet(index, store, tiny_dataroot, config), PredictionSet(index, tiny_dataroot, config, range(3))):
        sample = dataset[1]
        assert sample.views.images.shape == (3, 6, 3, 64, 176)
        alone = PredictionSet(index, tiny_dataroot, SMALL, range(3))
        for frame, position in enumerate((1, 0, 0)):  # before the first key frame of the scene there is none: it is repeated
            assert torch.equal(sample.views.images[frame], alone[position].views.images[0])
            torch.testing.assert_close(sample.views.cameras[frame].K, alone[position].views.cameras.K[0])
            expected = cameras_of(index[position], in_ego_of=index[1]).cam_from_ego
            torch.testing.assert_close(sample.views.cameras[frame].cam_from_ego, expected)


def test_previous_frames_are_changed_together_with_the_key_frame(index: Index, store: LabelStore, tiny_dataroot: Path):
    plain, changed = (
        TrainingSet(index, store, tiny_dataroot, with_options(SMALL, previous_frames=1, augment=augment), seed=5)[2].views.cameras
        for augment in (AugmentConfig(), STRONG)
    )
    newest_from_previous = plain.cam_from_ego[0] @ torch.linalg.inv(plain.cam_from_ego[1])
    torch.testing.assert_close(changed.cam_from_ego[0] @ torch.linalg.inv(changed.cam_from_ego[1]), newest_from_previous, atol=1e-4, rtol=0)
    assert not torch.equal(changed.cam_from_ego, plain.cam_from_ego)
    assert torch.equal(changed.K[0], changed.K[1])


def test_corners_of_turned_images_are_black_whatever_the_colours(index: Index, store: LabelStore, tiny_dataroot: Path):
    changes = AugmentConfig(max_image_rotation=30, contrast=0.5, brightness=0.3)
    dataset = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, augment=changes), seed=1)
    turned = TrainingSet(index, store, tiny_dataroot, with_options(SMALL, augment=AugmentConfig(max_image_rotation=30)), seed=1)
    images, before = dataset[1].views.images, turned[1].views.images
    corners = (before == 0).all(dim=-3, keepdim=True)
    assert corners.float().mean() > 0.02
    assert not torch.equal(images, before)
    share_black = (images == 0).all(dim=-3, keepdim=True)[corners].float().mean()
    assert share_black > 0.98  # the border between corner and image is of both


@pytest.mark.parametrize(
    ("scenes", "asked", "kept_back"), [(7, 2, []), (8, 2, [4]), (24, 2, [6, 18]), (24, 0, []), (700, 3, [116, 350, 583])]
)
def test_calibration_scenes_are_spread_over_the_split(index: Index, scenes: int, asked: int, kept_back: list[int]):
    names = tuple(f"scene-{i}" for i in range(scenes))
    many = dataclasses.replace(index, splits={"train": names})
    assert calibration_scenes(many, with_options(SMALL, calibration_scenes=asked)) == tuple(names[i] for i in kept_back)


def test_scenes_that_a_training_keeps_back_are_not_chosen_anew(index: Index):
    names = tuple(f"scene-{i}" for i in range(24))
    of_before = dataclasses.replace(index, splits={"train": names}, kept_back=("scene-4", "gone"))
    assert calibration_scenes(of_before, SMALL) == ("scene-4",)
    assert calibration_scenes(dataclasses.replace(of_before, kept_back=()), SMALL) == ()
    of_other_data = dataclasses.replace(of_before, kept_back=("of another world",))
    assert calibration_scenes(of_other_data, SMALL) == calibration_scenes(dataclasses.replace(of_before, kept_back=None), SMALL) != ()


def test_calibration_scenes_are_not_trained_on(index: Index, store: LabelStore, tiny_dataroot: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("splattingocc.data.loaders.calibration_scenes", lambda *_: ("scene-0001",))
    dataset = TrainingSet(index, store, tiny_dataroot, SMALL)
    assert [index[position].scene for position in dataset.positions] == ["scene-0002"] * 3
