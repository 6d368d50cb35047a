"""Identities of what earlier frames add: the same world from another pose or another ego frame, and a vehicle that stands."""

import dataclasses
import math

import pytest
import torch
from rigs import surround_cameras
from torch import Tensor, nn

from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.transforms import rigid
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReaderConfig, ImageReading
from splattingocc.models.lift.sampling import SamplingLift, SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.temporal import TemporalConfig, TemporalFusion
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

GRID = VoxelGrid((-6.4, -6.4, -0.8), (6.4, 6.4, 2.4), 0.4)
IMAGE_SIZE = (32, 64)
STEREO = ImageReaderConfig(stereo=CostVolumeConfig(channels=8, groups=2))


def build_network(**options: object) -> OccupancyNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(lift=SamplingLiftConfig(channels=8, coarsening=2), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)))
    return OccupancyNetwork(config.model_copy(update=options), GRID)


def moved(cameras: Cameras, forward: float, yaw: float = 0.0) -> Cameras:
    """Return the cameras of a vehicle `forward` metres and `yaw` radians further, from the ego frame of before."""
    turn = torch.tensor([[math.cos(yaw), -math.sin(yaw), 0.0], [math.sin(yaw), math.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    return cameras.transform_ego(rigid(turn, torch.tensor([forward, 0.0, 0.0])))


def frames(*poses: tuple[float, float]) -> Views:
    """Return views of a batch of one, three cameras a frame, each frame with images and a pose of its own."""
    cameras = surround_cameras(3, IMAGE_SIZE, focal=30.0)
    torch.manual_seed(1)
    return Views(torch.rand(1, len(poses), 3, 3, *IMAGE_SIZE), stack([stack([moved(cameras, *pose) for pose in poses])]))


def repeated(views: Views, count: int) -> Views:
    """Return views whose newest frame stands in the place of all."""
    return Views(views.images[:, :1].repeat(1, count, 1, 1, 1, 1), views.cameras[:, [0] * count])


def volumes_of(network: OccupancyNetwork, views: Views) -> list[Tensor]:
    """Return the volumes that are fused, newest first."""
    assert network.temporal is not None
    seen: list[Tensor] = []
    handle = network.temporal.register_forward_pre_hook(lambda _, inputs: seen.extend([inputs[0], *inputs[1]]))
    network(views)
    handle.remove()
    return seen


def test_the_same_cameras_from_another_ego_frame_lift_the_same_world_into_its_grid():
    # The vehicle turned by a quarter, which takes cells onto cells; its cameras of before stayed where they were in the world
    lift = SamplingLift(SamplingLiftConfig(channels=8), 4, 5, DepthBins(), GRID)
    nn.init.zeros_(lift.height_embedding)
    reading = ImageReading(torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 64, 16, 8), torch.randn(1, 3, 5, 16, 8))
    before = surround_cameras(3, IMAGE_SIZE, focal=30.0)
    now = moved(before, 0.0, math.pi / 2)
    volume, turned = (lift(reading, stack([cameras])) for cameras in (before, now))
    # New x is old -y, new y is old x
    torch.testing.assert_close(turned, volume.transpose(2, 3).flip(2), atol=1e-4, rtol=1e-4)


def test_a_step_ahead_moves_the_lifted_world_back_by_as_many_cells():
    lift = SamplingLift(SamplingLiftConfig(channels=8), 4, 5, DepthBins(), GRID)
    reading = ImageReading(torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 64, 16, 8), torch.randn(1, 3, 5, 16, 8))
    before = surround_cameras(3, IMAGE_SIZE, focal=30.0)
    cells = 3
    step = cells * lift.grid.cell_size
    volume, later = (lift(reading, stack([cameras])) for cameras in (before, moved(before, -step)))
    torch.testing.assert_close(later[:, :, :-cells], volume[:, :, cells:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reader", [ImageReaderConfig(), STEREO], ids=["alone", "beside stereo"])
def test_of_a_standing_vehicle_all_volumes_are_the_newest_one(reader: ImageReaderConfig, training: bool):
    network = build_network(temporal=TemporalConfig(frames=2), image_reader=reader).train(training)
    newest, *earlier = volumes_of(network, repeated(frames((0.0, 0.0)), 3))
    assert len(earlier) == 2
    for volume in earlier:
        assert torch.equal(volume, newest)


def test_before_training_the_network_predicts_from_the_newest_frame_alone():
    network = build_network(temporal=TemporalConfig(frames=1)).eval()
    alone = build_network().eval()
    alone.load_state_dict({name: value for name, value in network.state_dict().items() if not name.startswith("temporal.")})
    views = frames((0.0, 0.0), (-1.0, 0.1))
    assert torch.equal(network(views).field.opacities, alone(views).field.opacities)


def test_volumes_are_mixed_in_their_order():
    fusion = TemporalFusion(TemporalConfig(frames=2), 2)
    with torch.no_grad():
        fusion.mix.weight[0, 3] = 1.0  # the second channel of the frame before
    volumes = [torch.randn(1, 2, 3, 4, 5) for _ in range(3)]
    mixed = fusion(volumes[0], volumes[1:])
    torch.testing.assert_close(mixed[:, 0], volumes[0][:, 0] + volumes[1][:, 1])
    assert torch.equal(mixed[:, 1], volumes[0][:, 1])


def test_earlier_frames_teach_the_image_branch_nothing_and_leave_no_statistics():
    network, alone = build_network(temporal=TemporalConfig(frames=1), image_reader=STEREO), build_network()
    nn.init.normal_(network.temporal.mix.weight)
    views = frames((0.0, 0.0), (-1.0, 0.1))
    volumes = volumes_of(network, views)
    backbone = list(network.backbone.parameters())
    assert all(gradient is None for gradient in torch.autograd.grad(volumes[1].sum(), backbone, allow_unused=True, retain_graph=True))
    assert any(gradient is not None for gradient in torch.autograd.grad(volumes[0].sum(), backbone, allow_unused=True))
    alone(views)
    for part in ("backbone", "neck"):
        counted = dict(network.get_submodule(part).named_buffers())
        for name, value in alone.get_submodule(part).named_buffers():
            assert torch.equal(counted[name], value), name
    assert all(norm.track_running_stats for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))


def test_every_parameter_gets_a_gradient_and_that_of_the_image_losses_is_of_the_image_branch():
    network = build_network(
        temporal=TemporalConfig(frames=1), image_reader=STEREO.model_copy(update={"camera_aware": True, "depth_prior": "none"})
    )
    views = frames((0.0, 0.0), (-1.0, 0.1))
    nn.init.normal_(network.image_reader.camera_gate.gates[2].weight, std=0.1)
    nn.init.normal_(network.image_reader.stereo.refine[2].weight, std=0.1)
    reading = network.read_images(views)
    ((reading.depth_logits * torch.randn_like(reading.depth_logits)).sum() + reading.class_logits.square().sum()).backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    in_branch = {id(parameter) for parameter in network.image_branch.parameters()}
    assert learning == {name for name, parameter in network.named_parameters() if id(parameter) in in_branch}
    network.zero_grad()
    gaussians = network(views).field
    for field in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features):
        (field * torch.randn_like(field)).sum().backward(retain_graph=True)
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert missing == []


@pytest.mark.parametrize("missing", [1, 3])
def test_cameras_that_an_earlier_frame_lacks_count_nothing(missing: int):
    views = frames((0.0, 0.0), (-1.0, 0.1))
    nowhere = Cameras.nowhere(IMAGE_SIZE)
    K, cam_from_ego = views.cameras.K.clone(), views.cameras.cam_from_ego.clone()
    K[:, 1, :missing], cam_from_ego[:, 1, :missing] = nowhere.K, nowhere.cam_from_ego
    cameras = dataclasses.replace(views.cameras, K=K, cam_from_ego=cam_from_ego)
    outcomes = []
    for value in (0.0, 1.0):
        images = views.images.clone()
        images[:, 1, :missing] = value
        network = build_network(temporal=TemporalConfig(frames=1), image_reader=STEREO)
        nn.init.normal_(network.temporal.mix.weight, std=0.1)
        outcomes.append(network(Views(images, cameras)))
    assert torch.equal(outcomes[0].field.opacities, outcomes[1].field.opacities)
    assert torch.equal(outcomes[0].reading.depth_logits, outcomes[1].reading.depth_logits)
    assert outcomes[0].field.opacities.isfinite().all()


def test_an_earlier_frame_is_read_as_it_was_when_it_was_the_newest():
    reader = ImageReaderConfig(camera_aware=True)
    network = build_network(temporal=TemporalConfig(frames=1), image_reader=reader).eval()
    nn.init.normal_(network.image_reader.camera_gate.gates[2].weight)
    views = frames((0.0, 0.0), (-1.0, 0.1))
    then = Views(views.images[:, 1:].repeat(1, 2, 1, 1, 1, 1), views.cameras[:, [0, 0]])  # seen from its own ego frame
    now, kept = network._read_frames(views, 2)[1], network._read_frames(then, 1)[0]
    for name in ("context", "depth_logits", "class_logits"):
        torch.testing.assert_close(getattr(now, name), getattr(kept, name))


def test_views_of_too_few_frames_are_refused():
    network = build_network(temporal=TemporalConfig(frames=2))
    with pytest.raises(ValueError, match=r"views of 2 frames, the network looks at 2 earlier ones: data\.loader\.previous_frames"):
        network(frames((0.0, 0.0), (-1.0, 0.0)))


@pytest.mark.parametrize(("temporal", "stereo", "expected"), [(0, False, 0), (0, True, 1), (1, False, 1), (1, True, 1), (3, True, 3)])
def test_a_configuration_says_how_many_earlier_frames_it_looks_at(temporal: int, stereo: bool, expected: int):
    reader = STEREO if stereo else ImageReaderConfig()
    assert NetworkConfig(temporal=TemporalConfig(frames=temporal), image_reader=reader).previous_frames == expected
