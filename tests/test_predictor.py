"""A network that another program calls sees what `predict` sees, says what it is given wrongly, and remembers what it should."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from splattingocc import FREE, SKY, Cameras, PredictedOccupancy, Predictor, Rays
from splattingocc.data.key_frames import Index, cameras_of
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.engine.options import RenderConfig
from splattingocc.evaluation.predictions import read_grid
from splattingocc.experiment import ExperimentConfig, build_network
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.pipeline.prediction import predict
from splattingocc.splatting.density import DensityVolume
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import GROUND_CLASSES

SMALL = {
    "backbone": {"kind": "mobilenet_v2"},
    "lift": {"channels": 8, "coarsening": 4},
    "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)},
}
STEREO = {"image_reader": {"stereo": {"kind": "cost_volume", "channels": 8}}, "temporal": {"frames": 2}}
GRID = {"lower": (-16.0, -16.0, -1.0), "upper": (16.0, 16.0, 3.0), "cell_size": 0.5}
CAMERA_BELOW = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])
"""`cam_from_ego` of a camera 1.5 m above the ground that looks ahead."""


def experiment(dataroot: Path, network: dict[str, Any] = {}, **loader: Any) -> ExperimentConfig:  # noqa: B006
    """Images of 90 × 160 that become 64 × 128 are not decoded at a fraction of their size, so arrays are exactly what `predict` reads."""
    data = {"dataroot": dataroot, "version": "v1.0-mini", "loader": {"image_size": (64, 128), **loader}, "num_workers": 0}
    return ExperimentConfig.model_validate({"name": "small", "data": data, "grid": GRID, "network": SMALL | network})


def write(config: ExperimentConfig, path: Path, threshold: float | None = 0.3) -> Path:
    """Write a network as training would, with weights that make what it predicts depend on all that it sees."""
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not weight.any() and name.startswith(("temporal", "head")):
                weight.normal_(std=0.3)
    metadata = {} if threshold is None else {"threshold": repr(threshold), "ground_threshold": repr(threshold / 2)}
    save_network(network, config.network, path, metadata | {EXPERIMENT_KEY: config.model_dump_json()})
    return path


def frame(index: Index, position: int, dataroot: Path) -> dict[str, Any]:
    """Return what a caller has of a key frame."""
    key_frame = index[position]
    cameras = cameras_of(key_frame)
    images = [np.array(Image.open(dataroot / camera.filename)) for camera in key_frame.cameras]
    return {"images": images, "K": cameras.K, "cam_from_ego": cameras.cam_from_ego, "world_from_ego": key_frame.world_from_ego}


@pytest.fixture(scope="module")
def network(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(experiment(synthetic_dataroot), tmp_path_factory.mktemp("network") / "network.safetensors")


@pytest.fixture(scope="module")
def predictor_of_one_frame(network: Path) -> Predictor:
    """It looks at no earlier frame, so it may be called by several tests."""
    return Predictor.load(network)


@pytest.fixture(scope="module")
def rig() -> dict[str, Any]:
    """Images of three cameras, two of one size, that look at noise."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((80, 160, 3), (80, 160, 3), (64, 128, 3))]
    K = np.array([[[90.0, 0, image.shape[1] / 2], [0, 90, image.shape[0] / 2], [0, 0, 1]] for image in images])
    cam_from_ego = np.stack([CAMERA_BELOW @ turn(angle) for angle in (0, 120, 240)])
    return {"images": images, "K": K, "cam_from_ego": cam_from_ego}


def turn(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, sin, 0, 0], [-sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_arrays_give_bit_for_bit_what_the_command_predicts_from_files(synthetic_dataroot: Path, network: Path, tmp_path: Path):
    config, index = experiment(synthetic_dataroot), read_index(synthetic_dataroot, "v1.0-mini")
    cache = predict(config, network, tmp_path / "output", split="val", index=index)
    predictor = Predictor.load(network, device="cpu")
    for cached, position in zip(cache.frames, index.of_split("val")):
        given = frame(index, position, synthetic_dataroot)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            occupancy = predictor(given["images"], given["K"], given["cam_from_ego"])
        expected = cache.read(cached)
        assert torch.equal(occupancy.semantics, expected.semantics)
        share = (occupancy.semantics != FREE).float().mean()
        assert 0.01 < share < 0.99
    assert (predictor.threshold, predictor.ground_threshold) == (0.3, 0.15)


def test_a_threshold_that_is_given_is_of_every_class_and_ground_may_have_another(network: Path, rig: dict[str, Any]):
    own, one, two, ground = (
        Predictor.load(network, **given)
        for given in ({}, {"threshold": np.float32(0.25)}, {"threshold": 0.3, "ground_threshold": 0.15}, {"ground_threshold": 0.1})
    )
    assert [(predictor.threshold, predictor.ground_threshold) for predictor in (own, one, two, ground)] == [
        (0.3, 0.15), (0.25, 0.25), (0.3, 0.15), (0.3, 0.1)
    ]  # fmt: skip
    found, lower = own(**rig), ground(**rig)
    assert torch.equal(found.semantics, two(**rig).semantics)
    is_ground = torch.isin(found.semantics, torch.tensor(GROUND_CLASSES))
    assert (found.probabilities[is_ground] < 0.3).any()
    assert (found.probabilities[~is_ground & (found.semantics != FREE)] >= 0.3).all()
    added = (found.semantics == FREE) & (lower.semantics != FREE)
    assert added.any()
    assert torch.isin(lower.semantics[added], torch.tensor(GROUND_CLASSES)).all()
    assert torch.equal(lower.semantics[~added], found.semantics[~added])


def test_layout_number_format_and_library_of_the_arrays_do_not_matter(network: Path, rig: dict[str, Any]):
    predictor = Predictor.load(network)
    expected = predictor(**rig).probabilities
    floats = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in rig["images"]]
    K, cam_from_ego = list(rig["K"]), torch.from_numpy(rig["cam_from_ego"])
    assert torch.equal(predictor(floats, K, cam_from_ego).probabilities, expected)
    flipped = [np.ascontiguousarray(image[..., ::-1])[..., ::-1] for image in rig["images"]]  # as BGR becomes RGB: with negative strides
    assert torch.equal(predictor(flipped, K, cam_from_ego).probabilities, expected)
    stacked = {name: values[:2] for name, values in rig.items()}
    one_array = stacked | {"images": np.stack(stacked["images"])}
    assert torch.equal(predictor(**one_array).probabilities, predictor(**stacked).probabilities)


def test_a_camera_that_took_no_image_is_as_good_as_absent(network: Path, rig: dict[str, Any]):
    predictor = Predictor.load(network)
    images = [rig["images"][0], None, rig["images"][2]]
    without = predictor(images, rig["K"], rig["cam_from_ego"]).probabilities
    expected = predictor(images[::2], rig["K"][::2], rig["cam_from_ego"][::2]).probabilities
    torch.testing.assert_close(without, expected, rtol=1e-4, atol=1e-5)
    assert (without - predictor(**rig).probabilities).abs().max() > 1e-3


def test_the_own_vehicle_is_black_to_a_network_that_was_trained_so(synthetic_dataroot: Path, tmp_path: Path, rig: dict[str, Any]):
    config = experiment(synthetic_dataroot)
    data = config.data.model_copy(update={"vehicle_masks": tmp_path})
    predictor = Predictor.load(write(config.model_copy(update={"data": data}), tmp_path / "network.safetensors"))
    with warnings.catch_warnings(record=True) as said:
        whole = predictor(**rig).probabilities
        predictor(**rig)
    assert [str(warning.message).split(":")[0] for warning in said] == ["vehicle_masks are not given"]
    # The last camera's images are of the size of the network input, where black pixels are exactly black ones
    mask = np.zeros((64, 128), dtype=bool)
    mask[40:, 20:90] = True
    black = rig["images"][2] * ~mask[..., None]
    expected = predictor(**rig | {"images": [*rig["images"][:2], black]}, vehicle_masks=[None, None, None]).probabilities
    assert torch.equal(predictor(**rig, vehicle_masks=[None, None, mask]).probabilities, expected)
    assert not torch.equal(whole, expected)


@pytest.fixture(scope="module")
def looking_back(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that looks at two earlier frames, with stereo."""
    config = experiment(synthetic_dataroot, STEREO, previous_frames=2)
    return write(config, tmp_path_factory.mktemp("stereo") / "network.safetensors")


def test_a_drive_frame_by_frame_is_what_the_command_predicts_of_its_key_frames(
    synthetic_dataroot: Path, looking_back: Path, tmp_path: Path
):
    config, index = experiment(synthetic_dataroot, STEREO, previous_frames=2), read_index(synthetic_dataroot, "v1.0-mini")
    cache = predict(config, looking_back, tmp_path / "output", split="val", index=index)
    first, second = (frame(index, position, synthetic_dataroot) for position in index.of_split("val"))
    predictor = Predictor.load(looking_back, device="cpu")
    seen = [predictor(**given) for given in (first, second)]
    for occupancy, cached in zip(seen, cache.frames):
        expected = cache.read(cached)
        # Earlier cameras are moved in single precision here and in double there
        assert (occupancy.semantics == expected.semantics).float().mean() > 0.999
    alone = _after_reset(predictor, second)
    assert not torch.equal(alone.probabilities, seen[1].probabilities)
    assert torch.equal(_after_reset(predictor, first).probabilities, seen[0].probabilities)


def _after_reset(predictor: Predictor, given: dict[str, Any]) -> PredictedOccupancy:
    predictor.reset()
    return predictor(**given)


def test_without_a_pose_nothing_is_remembered_and_that_is_said_once(looking_back: Path, rig: dict[str, Any]):
    predictor = Predictor.load(looking_back)
    pose = np.eye(4)
    alone = predictor(**rig, world_from_ego=pose).probabilities
    predictor.reset()
    with warnings.catch_warnings(record=True) as said:
        assert torch.equal(predictor(**rig).probabilities, alone)
        predictor(**rig)
    assert [str(warning.message).split(":")[0] for warning in said] == ["world_from_ego is not given"]
    black = rig | {"images": [np.zeros_like(image) for image in rig["images"]]}
    predictor(**black)
    assert torch.equal(predictor(**rig, world_from_ego=pose).probabilities, alone)


def test_views_in_which_no_cell_is_are_named_once(network: Path, rig: dict[str, Any]):
    predictor, absent = Predictor.load(network), [None, *rig["images"][1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor(**rig)
        predictor(**rig | {"images": absent})
    turned = rig["cam_from_ego"].copy()
    turned[1, :3, 3] = 0.0, 0.0, -100.0  # a hundred metres ahead of the whole grid
    with pytest.warns(UserWarning, match=r"^images\[1\]: no cell of the grid is in view; cam_from_ego takes a point from the ego frame"):
        predictor(**rig | {"cam_from_ego": turned})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor(**rig | {"cam_from_ego": turned})


def test_a_matrix_of_images_of_another_size_is_doubted(predictor_of_one_frame: Predictor, rig: dict[str, Any]):
    for scale in (0.5, 1.5):
        K = rig["K"].copy()
        K[2, :2] *= scale
        with pytest.warns(UserWarning, match=r"^K\[2\]: its principal point, .* lies far from the middle of images\[2\], of 64×128 pixels"):
            predictor_of_one_frame.inputs(rig["images"], K, rig["cam_from_ego"])
    cut = rig["K"].copy()
    cut[2, 1, 2] -= 20  # of images whose sky was cut off
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor_of_one_frame.inputs(rig["images"], cut, rig["cam_from_ego"])


def test_the_world_may_lie_anywhere(looking_back: Path, rig: dict[str, Any]):
    predictor, moved = Predictor.load(looking_back), np.eye(4)
    moved[0, 3] = 1.0
    elsewhere = turn(70)
    elsewhere[:3, 3] = 4e5, -3e6, 20
    seen = []
    for world in (np.eye(4), elsewhere):
        predictor.reset()
        predictor(**rig, world_from_ego=world)
        seen.append(predictor(**rig, world_from_ego=world @ moved).probabilities)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-3)


def test_a_drive_goes_on_with_a_camera_that_fails_and_not_with_another_rig(looking_back: Path, rig: dict[str, Any]):
    predictor, fewer = Predictor.load(looking_back), {name: values[:2] for name, values in rig.items()}
    expected = [_after_reset(predictor, fewer | {"world_from_ego": np.eye(4)}), predictor(**fewer, world_from_ego=np.eye(4))][1]
    predictor.reset()
    predictor(**rig, world_from_ego=np.eye(4))
    failed = predictor(**rig | {"images": [*rig["images"][:2], None]}, world_from_ego=np.eye(4))
    torch.testing.assert_close(failed.probabilities, expected.probabilities, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"^images has 2 views, expected 3 as in the call before: None stands .* reset\(\) begins"):
        predictor(**fewer, world_from_ego=np.eye(4))


def with_entry(values: np.ndarray, place: tuple[int, ...], entry: float) -> np.ndarray:
    changed = np.array(values, dtype=np.float64)
    changed[place] = entry
    return changed


WRONG: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "no image": (lambda rig: {"images": [None, None, None]}, r"images has no image"),
    "one image": (lambda rig: {"images": rig["images"][0]}, r"images has the shape \(80, 160, 3\), expected 4 axes"),
    "count": (lambda rig: {"images": rig["images"][:2]}, r"K has the shape \(3, 3, 3\), expected \(2, 3, 3\)"),
    "grey": (
        lambda rig: {"images": [rig["images"][0][..., 0], None, None]},
        r"images\[0\] has the shape \(80, 160\), expected RGB: \(height, width, 3\) or",
    ),
    "alpha": (lambda rig: {"images": [None, np.zeros((9, 9, 4), np.uint8), None]}, r"images\[1\] has the shape \(9, 9, 4\), expected RGB"),
    "empty": (lambda rig: {"images": [np.zeros((0, 9, 3), np.uint8), None, None]}, r"images\[0\]: its size is 0 × 9 pixels, expected"),
    "range": (lambda rig: {"images": [image * 1.0 for image in rig["images"]]}, r"images\[0\] has values from 0 to 255, expected 0 to 1"),
    "not finite": (lambda rig: {"images": [np.full((9, 9, 3), np.nan), None, None]}, r"images\[0\] has values from nan to nan"),
    "dtype": (lambda rig: {"images": [image.astype(np.int32) for image in rig["images"]]}, r"images\[0\] is of int32, expected uint8, or"),
    "focal length": (lambda rig: {"K": with_entry(rig["K"], (1, 0, 0), -90)}, r"K\[1\] has the focal lengths -90 and 90, expected 1 to"),
    "K of words": (lambda rig: {"K": np.full((3, 3, 3), "x")}, r"K is no array of numbers"),
    "3 × 4": (lambda rig: {"cam_from_ego": rig["cam_from_ego"][:, :3]}, r"cam_from_ego has the shape \(3, 3, 4\), expected \(3, 4, 4\)"),
    "scaled": (lambda rig: {"cam_from_ego": with_entry(rig["cam_from_ego"], (2, 1, 2), -2)}, r"cam_from_ego\[2\] does not hold a rotation"),
    "far": (lambda rig: {"cam_from_ego": with_entry(rig["cam_from_ego"], (0, 0, 3), 1e4)}, r"cam_from_ego\[0\] is at .* up to 100"),
    "pose": (lambda rig: {"world_from_ego": np.eye(4) * 1.1}, r"world_from_ego has the last row"),
    "pose in a stack": (lambda rig: {"world_from_ego": np.eye(4)[None]}, r"world_from_ego is .*, expected a 4×4 matrix"),
    "ragged pose": (
        lambda rig: {"world_from_ego": np.array([[1, 2], [3]], dtype=object)},
        r"world_from_ego is no array of numbers, expected floats of the shape",
    ),
    "ragged image": (
        lambda rig: {"images": [np.array([[1, 2], [3]], dtype=object), None, None]},
        r"images\[0\] is no array of numbers, expected RGB",
    ),
    "ragged mask": (
        lambda rig: {"vehicle_masks": [np.array([[True], [True, False]], dtype=object), None, None]},
        r"vehicle_masks\[0\] is no array of numbers, expected bool",
    ),
    "ragged K": (
        lambda rig: {"K": np.array([[1, 2], [3]], dtype=object)},
        r"K is no array of numbers, expected floats of the shape \(3, 3, 3\)",
    ),
    "masks": (lambda rig: {"vehicle_masks": [None]}, r"vehicle_masks has 1 masks, expected 3"),
    "mask": (
        lambda rig: {"vehicle_masks": [np.zeros((80, 160)), None, None]},
        r"vehicle_masks\[0\] is of float64 and the shape \(80, 160\), expected bool and \(80, 160\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_in_one_line(name: str, predictor_of_one_frame: Predictor, rig: dict[str, Any]):
    change, message = WRONG[name]
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        predictor_of_one_frame(**rig | change(rig))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_network_of_this_version_is_named_in_one_line(synthetic_dataroot: Path, network: Path, tmp_path: Path):
    config = experiment(synthetic_dataroot)
    unknown = json.loads(config.model_dump_json())
    unknown["network"]["lift"]["sideways"] = 3
    another = tmp_path / "another.safetensors"
    save_network(build_network(config), config.network, another, {"threshold": "0.3", EXPERIMENT_KEY: json.dumps(unknown)})
    unfinished = write(config, tmp_path / "unfinished.safetensors", threshold=None)
    everything = write(config, tmp_path / "everything.safetensors", threshold=0.0)
    finished = tmp_path / "finished"
    (finished / "checkpoints").mkdir(parents=True)
    (finished / "network.safetensors").write_bytes(network.read_bytes())
    (finished / "checkpoints" / "last.safetensors").write_bytes(unfinished.read_bytes())
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(network.read_bytes()[:-1] + b"x")
    refused: list[tuple[Callable[[], Predictor], str]] = [
        (lambda: Predictor.load(tmp_path / "absent.safetensors"), r"absent\.safetensors: no such checkpoint"),
        (lambda: Predictor.load(another), r"another\.safetensors: trained by another version or with parts of its own: .*sideways"),
        (lambda: Predictor.load(damaged), r"damaged\.safetensors: damaged"),
        (lambda: Predictor.load(unfinished), r"unfinished\.safetensors: has no threshold.*; give one"),
        (lambda: Predictor.load(everything), r"everything\.safetensors: its threshold is 0, by which .*; give one"),
        (lambda: Predictor.load(network, threshold=1.5), r"threshold is 1\.5, expected"),
        (lambda: Predictor.load(network, ground_threshold=0.0), r"ground_threshold is 0\.0, expected"),
        (lambda: Predictor.load(network, threshold=np.array([0.1, 0.2])), r"threshold is of the shape \(2,\), expected a number"),
        (
            lambda: Predictor.load(finished / "checkpoints" / "last.safetensors"),
            r"has no threshold.*; take .*network\.safetensors, or give",
        ),
        (lambda: Predictor.load(network, device="gpu"), r"device is 'gpu', expected cpu, cuda or"),
        (lambda: Predictor.load(network, device="mps"), r"device is 'mps', expected cpu, cuda or"),
        (lambda: Predictor.load(network, device="cuda:99"), r"device is 'cuda:99', expected one that is there"),
    ]
    for load, message in refused:
        with pytest.raises(ValueError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)
    assert Predictor.load(unfinished, threshold=0.5).threshold == 0.5


def wall() -> PredictedOccupancy:
    """A wall of class 15 at x 8.2 m, 20 m wide and 4 m high, in a grid of 0.4 m cells."""
    grid = VoxelGrid((-2.0, -10.0, -0.4), (12.0, 10.0, 3.6), 0.4)
    centers = grid.centers()
    means = centers[(centers[..., 0] - 8.2).abs() < 0.1]
    count = len(means)
    quats, features = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4), torch.zeros(count, 17)
    features[:, 15] = 1.0
    field = Gaussians(means, quats.contiguous(), torch.full((count, 3), 0.15), torch.full((count,), 0.95), features, grid)
    found = field.read_out(grid, threshold=0.5)
    return PredictedOccupancy(found.probabilities, found.semantics, grid, field, RenderConfig())


def test_points_are_the_centres_of_the_occupied_cells():
    points = wall().points()
    assert points.centers.shape == (50 * 10, 3)
    torch.testing.assert_close(points.centers[:, 0], torch.full((500,), 8.2))
    assert {round(y, 3) for y in points.centers[:, 1].tolist()} == {round(-9.8 + 0.4 * i, 3) for i in range(50)}
    assert set(points.semantics.tolist()) == {15}
    assert points.probabilities.min() >= 0.5


def test_a_virtual_lidar_and_a_virtual_camera_meet_the_wall_where_it_is():
    angles = torch.tensor([0.0, 0.5, -0.5, torch.pi])
    origins = torch.tensor([0.0, 0.0, 1.6]).expand(4, 3)
    directions = torch.stack([angles.cos(), angles.sin(), torch.zeros(4)], dim=-1)
    met = wall().render(Rays(origins, directions.double()))
    assert met.semantics.tolist() == [15, 15, 15, SKY]
    torch.testing.assert_close(met.distances[:3], 8.2 / angles[:3].cos(), atol=0.2, rtol=0)
    assert met.distances[3].isnan()
    K = torch.tensor([[20.0, 0, 20], [0, 20, 10], [0, 0, 1]])
    camera = Cameras(K, torch.from_numpy(CAMERA_BELOW).float(), (20, 40))
    seen = wall().render(camera[None].pixel_rays()).semantics.reshape(20, 40)
    assert (seen[9] == 15).all()
    assert seen[0, 0] == SKY  # 9.5 pixels above the middle: 3.9 m above the camera where the wall is, which ends 2.1 m above it
    assert torch.equal(seen, seen.flip(1))
    # In the digits that arrays of NumPy have
    double = Cameras(K.double(), torch.from_numpy(CAMERA_BELOW).double(), (20, 40))
    assert (wall().render(double[None].pixel_rays()).semantics.reshape(20, 40) == seen).float().mean() > 0.99


def test_what_was_rendered_is_the_callers_to_change_and_to_learn_from():
    met = wall().render(Rays(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])))
    met.distances[0] = 70.0
    weight = torch.ones(1, requires_grad=True)
    (met.alphas * weight).sum().backward()
    assert weight.grad is not None
    assert not any(values.requires_grad for values in (met.alphas, met.distances))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: torch.set_default_dtype(torch.float64), "^torch's default dtype is torch.float64, expected torch.float32"),
        (lambda: torch.set_default_device("meta"), "^torch's default device is meta, expected cpu"),
    ],
)
def test_defaults_of_torch_that_would_mix_formats_or_devices_are_refused(
    network: Path, predictor_of_one_frame: Predictor, rig: dict[str, Any], change: Callable[[], None], message: str
):
    occupancy, rays = wall(), Rays(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    change()
    try:
        for use in (
            lambda: Predictor.load(network),
            lambda: predictor_of_one_frame(**rig),
            lambda: predictor_of_one_frame.inputs(**rig),
            lambda: occupancy.render(rays),
        ):
            with pytest.raises(ValueError, match=message):
                use()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_what_was_predicted_is_saved_by_the_name_of_the_file(tmp_path: Path):
    occupancy = wall()
    occupancy.save(tmp_path / "wall.npz")
    assert torch.equal(read_grid(tmp_path / "wall.npz", occupancy.grid), occupancy.semantics)
    occupancy.save(str(tmp_path / "wall.ply"))
    assert (tmp_path / "wall.ply").read_bytes().startswith(b"ply\n")
    count = occupancy.save_gaussians(tmp_path / "gaussians.ply")
    assert count == (occupancy.field.opacities >= 0.1).sum()
    with pytest.raises(ValueError, match=r"wall\.txt: expected a name that ends with \.npz \(a grid\) or \.ply \(a mesh\)$"):
        occupancy.save(tmp_path / "wall.txt")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"folder\.npz: is a folder, expected the name of a file$"):
        occupancy.save(tmp_path / "folder.npz")
    with pytest.raises(ValueError, match=r"wall\.npz: expected a name that ends with \.ply$"):
        occupancy.save_gaussians(tmp_path / "wall.npz")


def without_gaussians(occupancy: PredictedOccupancy) -> PredictedOccupancy:
    """The same of a network that predicts densities, and has found nothing."""
    features = torch.zeros(*occupancy.grid.shape, 17)
    return dataclasses.replace(occupancy, field=DensityVolume(torch.zeros(occupancy.grid.shape), features, occupancy.grid, 0.2))


def test_a_network_without_gaussians_saves_none(tmp_path: Path):
    other = without_gaussians(wall())
    with pytest.raises(ValueError, match=r"a\.ply: this network predicts a DensityVolume, expected Gaussians \(network\.head"):
        other.save_gaussians(tmp_path / "a.ply")


@pytest.mark.parametrize("of_density", [False, True])
@pytest.mark.parametrize(
    ("rays", "message"),
    [
        (Rays(torch.zeros(2, 3), torch.ones(2, 3)), "unit length"),
        (Rays(torch.full((1, 3), torch.nan), torch.tensor([[1.0, 0, 0]])), "must be finite"),
        (Rays(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)), r"rays\.origins is of torch\.float32 and the shape \(1, 2, 3\), expected"),
    ],
)
def test_rays_that_are_none_are_refused(rays: Rays, message: str, of_density: bool):
    occupancy = without_gaussians(wall()) if of_density else wall()
    with pytest.raises(ValueError, match=message):
        occupancy.render(rays)


def test_no_rays_meet_nothing():
    none: Tensor = torch.zeros(0, 3)
    assert wall().render(Rays(none, none)).semantics.shape == (0,)
