"""Identities of depth from motion, in a world whose features are a function of the place: nothing has to be rendered."""

import dataclasses
import math

import pytest
import torch
from rigs import surround_cameras
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import rigid
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReader, ImageReaderConfig
from splattingocc.models.stereo import CostVolumeConfig, StereoDepth, StereoPair, correlate, information, reproject
from splattingocc.struct import stack

BINS = DepthBins(nearest=2.0, farthest=30.0, count=24)
SIZE = (32, 48)
"""Of the map, at a quarter of the image."""
IMAGE_SIZE = (128, 192)
WALL = BINS.middles()[13].item()
"""Metres from the origin to the walls on all four sides: the depth that the cameras of a rig at the origin see everywhere."""
STEREO = ImageReaderConfig(depth_bins=BINS, ground_classes=(2,), stereo=CostVolumeConfig(channels=8, groups=2))


def rig(shift: tuple[float, float, float] = (0.0, 0.0, 0.0), yaw: float = 0.0) -> Cameras:
    """Return four cameras that look ahead, left, back and right, seen from the ego frame of a rig that stands at the origin."""
    turn = torch.tensor([[math.cos(yaw), -math.sin(yaw), 0.0], [math.sin(yaw), math.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    return surround_cameras(4, IMAGE_SIZE, focal=150.0).transform_ego(rigid(turn, torch.tensor(shift)))


def nowhere(num_views: int) -> Cameras:
    return stack([Cameras.nowhere(IMAGE_SIZE)] * num_views)


def texture(points: Tensor) -> Tensor:
    """Return eight numbers in two groups that say where a point is, and change little over a pixel."""
    phases = points @ torch.tensor([[1.9, 0.7, -0.4], [-0.8, 1.7, 0.5], [0.3, -0.6, 2.1], [1.1, 1.3, -1.5]]).T
    return torch.cat([phases.sin(), phases.cos()], dim=-1)[..., [0, 4, 1, 5, 2, 6, 3, 7]]


def seen_by(cameras: Cameras) -> Tensor:
    """Return the map of features of four walls around the origin, view by view."""
    height, width = SIZE
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(-1, 2) * (IMAGE_SIZE[0] / height)
    maps = []
    for view in range(len(cameras.K)):
        rays: Rays = cameras.rays_through(torch.full((len(pixels),), view), pixels)
        # Of the walls x = ±WALL and y = ±WALL the first one ahead; all cameras stand inside
        distances = ((rays.directions.sign() * WALL - rays.origins) / rays.directions)[:, :2].amin(dim=1)
        maps.append(texture(rays.at(distances)).T.reshape(-1, height, width))
    return torch.stack(maps)


def compare(cameras: Cameras, other: Cameras, *, finest: Tensor | None = None, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return agreement (view, bin, height, width) and information of the world as the cameras see it."""
    maps = [seen_by(of) if given is None else given for of, given in ((cameras, finest), (other, seen))]
    places, inside = reproject(cameras, other, BINS.middles(), SIZE)
    return correlate(*(one.unflatten(1, (2, -1)) for one in maps), places, inside).mean(dim=1), information(places, inside)


MOTIONS = {
    "ahead": ((-1.0, 0.0, 0.0), 0.0),
    "backwards": ((1.2, 0.0, 0.0), 0.0),
    "sideways": ((0.0, 0.8, 0.0), 0.0),
    "ahead and around a corner": ((-1.0, 0.3, 0.0), 0.15),
    "up": ((0.0, 0.0, -0.7), 0.0),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_in_a_static_world_the_true_depth_agrees_best(motion: str):
    # Each camera looks straight at its wall, so that the depth of every pixel is the wall's
    agreement, known = compare(rig(), rig(*MOTIONS[motion]))
    _, inside = reproject(rig(), rig(*MOTIONS[motion]), BINS.middles(), SIZE)
    judged = (known == 1) & inside[:, 13]
    assert judged.float().mean() > 0.7
    assert (agreement.argmax(dim=1)[judged] == 13).all()


def test_a_point_is_looked_for_where_the_other_camera_projects_it():
    cameras, other = rig(), rig((-1.0, 0.4, 0.0), 0.1)
    places, inside = reproject(cameras, other, BINS.middles(), SIZE)
    rays = cameras.rays_through(torch.tensor([1]), torch.tensor([[(20 + 0.5) * 4, (9 + 0.5) * 4]]))
    forward = cameras.cam_from_ego[1, 2, :3]
    for number, depth in enumerate(BINS.middles()):
        pixels, visible = other[1].project(rays.at((depth / (rays.directions @ forward))[None][0]))
        assert inside[1, number, 9, 20] == visible[0]
        if visible[0]:
            torch.testing.assert_close(places[1, number, 9, 20] * 4, pixels[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("yaw", [0.0, 0.2], ids=["standing", "turning on the spot"])
def test_without_translation_there_is_no_information(yaw: float):
    _, known = compare(rig(), rig((0.0, 0.0, 0.0), yaw))
    assert not known.any()


def test_information_begins_where_depths_are_half_a_feature_pixel_apart_and_does_not_jump():
    spreads = []
    for step in torch.linspace(0, 0.2, 41):
        known = information(*reproject(rig(), rig((0.0, step.item(), 0.0)), BINS.middles(), SIZE))[0]
        # Of the camera that looks ahead, in feature pixels: focal length 150 / 4
        spread = 37.5 * step * (1 / BINS.middles()[0] - 1 / BINS.middles()[-1])
        assert known[16, 24].item() == pytest.approx(((spread - 0.5) / 1.5).clamp(0, 1).item(), abs=1e-3)
        spreads.append(known[16, 24])
    assert torch.stack(spreads).diff().max() < 0.1
    assert spreads[-1] == 1


@pytest.mark.parametrize("missing", ["the other", "this", "both"])
def test_a_camera_that_is_nowhere_has_no_information(missing: str):
    cameras = nowhere(4) if missing in ("this", "both") else rig()
    other = nowhere(4) if missing in ("the other", "both") else rig((-1.0, 0.0, 0.0))
    places, inside = reproject(cameras, other, BINS.middles(), SIZE)
    assert not inside.any()
    assert places.isfinite().all()
    assert not information(places, inside).any()


def test_what_lies_behind_the_other_camera_or_outside_its_image_is_neither_for_nor_against():
    other = rig((-4.0, 0.0, 0.0))
    places, inside = reproject(rig(), other, BINS.middles(), SIZE)
    agreement, _ = compare(rig(), other)
    assert not inside[0, :3].any() or not inside[2, :3].any(), "what is nearer ahead than the step lies behind the other camera"
    assert places.isfinite().all()
    assert not agreement[~inside].any()


def test_mirroring_the_ego_frame_changes_nothing():
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    cameras, other = rig(), rig((-1.0, 0.3, 0.0), 0.1)
    maps = {"finest": seen_by(cameras), "seen": seen_by(other)}
    expected = compare(cameras, other, **maps)
    mirrored = compare(cameras.transform_ego(mirror), other.transform_ego(mirror), **maps)
    for one, same in zip(mirrored, expected):
        torch.testing.assert_close(one, same, rtol=0, atol=2e-3)


def test_flipping_the_images_flips_what_they_say():
    cameras, other = rig(), rig((-1.0, 0.3, 0.0), 0.1)
    finest, seen = seen_by(cameras), seen_by(other)
    expected = compare(cameras, other, finest=finest, seen=seen)
    flipped = compare(cameras.flip(), other.flip(), finest=finest.flip(-1), seen=seen.flip(-1))
    places, _ = reproject(cameras, other, BINS.middles(), SIZE)
    # A place on the border itself is inside on one side only
    settled = ((places - places.round()).abs().amax(dim=-1) > 1e-3).all(dim=1)
    torch.testing.assert_close(flipped[1].flip(-1)[settled], expected[1][settled], rtol=0, atol=2e-3)
    difference = (flipped[0].flip(-1) - expected[0]).abs().amax(dim=1)[settled]
    assert difference.max() < 5e-3
    assert settled.float().mean() > 0.5


def reader_and_frames(**options: object) -> tuple[ImageReader, Tensor, Tensor, Tensor]:
    """Return a reader whose stereo says something in every place, and features of two frames."""
    torch.manual_seed(0)
    reader = ImageReader(STEREO.model_copy(update=options), 6, 5, finest_channels=8)
    assert reader.stereo is not None
    for layer in (reader.stereo.temperature, reader.stereo.refine[2]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return reader, torch.randn(1, 4, 6, 16, 24), seen_by(rig())[None], seen_by(rig((-1.0, 0.0, 0.0)))[None]


def without_stereo(reader: ImageReader) -> ImageReader:
    """Return a reader of the same parameters that has no stereo."""
    alone = ImageReader(ImageReaderConfig(depth_bins=BINS, ground_classes=(2,)), 6, 5)
    alone.load_state_dict({name: value for name, value in reader.state_dict().items() if not name.startswith("stereo.")})
    return alone


@pytest.mark.parametrize("other_cameras", [rig(), nowhere(4)], ids=["standing", "no camera then"])
def test_without_information_depths_are_those_without_stereo_to_the_last_bit(other_cameras: Cameras):
    reader, features, finest, other = reader_and_frames()
    reading = reader(features, stack([rig()]), StereoPair(finest, other, stack([rig()]), stack([other_cameras])))
    assert torch.equal(reading.depth_logits, without_stereo(reader)(features, stack([rig()])).depth_logits)


def test_with_information_the_true_depth_gains_at_once_and_classes_stay():
    reader, features, finest, other = reader_and_frames()
    fresh = ImageReader(STEREO, 6, 5, finest_channels=8)
    with torch.no_grad():
        fresh.load_state_dict({name: value for name, value in reader.state_dict().items() if not name.startswith("stereo.")}, strict=False)
        fresh.stereo.project.weight.copy_(torch.eye(8)[..., None, None])
    reading = fresh(features, stack([rig()]), StereoPair(finest, other, stack([rig()]), stack([rig((-1.0, 0.0, 0.0))])))
    alone = without_stereo(reader)(features, stack([rig()]))
    gained = (reading.depth_logits - alone.depth_logits)[0]
    assert torch.equal(reading.class_logits, alone.class_logits)
    assert gained[:, :, ::4].abs().amax(dim=1).gt(1).float().mean() > 0.3
    assert (gained.argmax(dim=1) == 13)[gained.amax(dim=1) > 1].float().mean() > 0.8


def test_every_parameter_learns_and_the_other_frame_gets_no_more_gradient_than_it_asks_for():
    reader, features, finest, other = reader_and_frames(camera_aware=True)
    torch.nn.init.normal_(reader.camera_gate.gates[2].weight, std=0.1)
    pair = StereoPair(finest.requires_grad_(), other, stack([rig()]), stack([rig((-1.0, 0.0, 0.0))]))
    reading = reader(features, stack([rig()]), pair)
    (reading.depth_logits * torch.randn_like(reading.depth_logits)).sum().backward()
    missing = [name for name, value in reader.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing == []
    assert finest.grad is not None
    assert finest.grad.isfinite().all()


def test_gradients_are_finite_and_present_where_nothing_is_known():
    reader, features, finest, other = reader_and_frames()
    reading = reader(features, stack([nowhere(4)]), StereoPair(finest * 0, other * 0, stack([nowhere(4)]), stack([nowhere(4)])))
    reading.depth_logits.square().sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None, f"{name}: processes that share gradients would wait for it"
        assert parameter.grad.isfinite().all(), name
        assert not name.startswith("stereo.") or not parameter.grad.any(), name


def test_features_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match=r"stereo\.channels is 10, expected a multiple of stereo\.groups, 4"):
        CostVolumeConfig(channels=10)


def test_chunks_of_bins_are_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch):
    whole = compare(rig(), rig((-1.0, 0.0, 0.0)))[0]
    monkeypatch.setattr("splattingocc.models.stereo.BINS_AT_ONCE", 5)
    torch.testing.assert_close(compare(rig(), rig((-1.0, 0.0, 0.0)))[0], whole)


def test_the_temperature_before_training_is_the_configured_one():
    stereo = StereoDepth(CostVolumeConfig(channels=8, temperature=3.0), BINS, 8, 6)
    temperatures = torch.nn.functional.softplus(stereo.temperature(torch.randn(2, 6, 4, 5)))
    torch.testing.assert_close(temperatures, torch.full((2, 1, 4, 5), 3.0))


def test_without_a_prior_the_depth_is_what_the_features_say():
    reader = ImageReader(ImageReaderConfig(depth_bins=BINS, ground_classes=(2,), depth_prior="none"), 6, 5)
    features = torch.randn(1, 4, 6, 16, 24)
    reading = reader(features, stack([rig()]))
    assert torch.equal(reading.depth_logits[0], reader.depth_head(features[0]))
    assert not [name for name, _ in reader.named_parameters() if name.startswith("depth_prior")]


def test_gates_are_open_before_training_and_then_tell_cameras_apart():
    torch.manual_seed(0)
    reader = ImageReader(ImageReaderConfig(ground_classes=(2,), camera_aware=True), 6, 5)
    plain = ImageReader(ImageReaderConfig(ground_classes=(2,)), 6, 5)
    plain.load_state_dict({name: value for name, value in reader.state_dict().items() if not name.startswith("camera_gate.")})
    features, cameras = torch.randn(1, 1, 6, 16, 24).expand(-1, 4, -1, -1, -1), stack([rig()])
    assert torch.equal(reader(features, cameras).depth_logits, plain(features, cameras).depth_logits)
    torch.nn.init.normal_(reader.camera_gate.gates[2].weight)
    longer = dataclasses.replace(cameras, K=cameras.K * torch.tensor([1.5, 1.5, 1.0])[:, None])
    gated = [reader.camera_gate(features[0], of[0]) for of in (cameras, longer)]
    assert not torch.allclose(gated[0][0], gated[0][1])
    assert not torch.allclose(gated[0], gated[1])
    assert torch.equal(reader(features, cameras).class_logits, plain(features, cameras).class_logits)


def test_a_camera_that_is_nowhere_is_gated_like_any_without_description():
    reader = ImageReader(ImageReaderConfig(ground_classes=(2,), camera_aware=True), 6, 5)
    torch.nn.init.normal_(reader.camera_gate.gates[2].weight)
    reading = reader(torch.zeros(1, 4, 6, 16, 24), stack([nowhere(4)]))
    assert reading.depth_logits.isfinite().all()
    assert reading.depth_logits.abs().max() < 1e3
