import dataclasses
import math

import pytest
import torch
from torch import nn

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule, _mean
from splattingocc.engine.options import OptimizationConfig, RenderConfig
from splattingocc.engine.schedule import TrainingSteps, learning_rate_factor
from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.rays import RayLabels
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.losses.distance import DistanceConfig
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

GRID = VoxelGrid((-6.4, -6.4, -0.8), (6.4, 6.4, 2.4), 0.4)


def small_module(coarsening: int = 2) -> OccupancyModule:
    config = NetworkConfig(
        lift=SamplingLiftConfig(channels=8, coarsening=coarsening), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1))
    )
    objective = Objective(ObjectiveConfig(), config.image_reader.depth_bins)
    return OccupancyModule(OccupancyNetwork(config, GRID), objective, RenderConfig(), OptimizationConfig())


def one_camera_sample() -> TrainingSample:
    """A camera at 1.5 m that looks along x, with thirty labelled rays."""
    cam_from_ego = torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    K = torch.tensor([[30.0, 0.0, 32.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]])
    cameras = Cameras(K[None], cam_from_ego[None], (32, 64))
    rays = cameras.rays_through(torch.zeros(30, dtype=torch.int64), torch.rand(30, 2) * torch.tensor([64.0, 32.0]))
    labels = RayLabels(torch.randint(0, 17, (30,)), 2 + 4 * torch.rand(30), torch.ones(30))
    views = Views(torch.rand(1, 1, 3, 32, 64), cameras.map(lambda tensor: tensor[None]))
    return stack([TrainingSample("a", views, rays, labels)])


def parts_with_gradient(module: OccupancyModule) -> set[str]:
    return {name.split(".")[0] for name, parameter in module.network.named_parameters() if parameter.grad is not None}


def test_the_image_losses_train_the_image_branch_alone():
    torch.manual_seed(0)
    module = small_module()
    module._image_losses(one_camera_sample()).total.backward()
    assert parts_with_gradient(module) == {"backbone", "neck", "image_reader"}
    in_branch = {id(parameter) for parameter in module.network.image_branch.parameters()}
    assert in_branch == {id(parameter) for parameter in module.network.parameters() if parameter.grad is not None}


def gradients_of(module: OccupancyModule, batches: list[TrainingSample]) -> dict[str, torch.Tensor]:
    """Return the gradients of one optimizer step, with the statistics of testing: those of a batch depend on what is in it."""
    module.zero_grad()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    module.training_step(batches, 0).backward()
    return {name: parameter.grad.clone() for name, parameter in module.network.named_parameters() if parameter.grad is not None}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_batches_of_a_step_have_the_gradients_and_losses_of_one_batch_of_them_all():
    """Also where the last one is smaller, as at the end of an epoch."""
    torch.manual_seed(0)
    module = small_module()
    samples = [dataclasses.replace(one_camera_sample()[0], token=str(number)) for number in range(3)]
    whole = gradients_of(module, [stack(samples)])
    losses = _mean(module._in_hand)
    for parts in ([[0], [1], [2]], [[0, 1], [2]]):
        found = gradients_of(module, [stack([samples[i] for i in part]) for part in parts])
        assert found.keys() == whole.keys()
        for name, gradient in whole.items():
            assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
        of_parts = _mean(module._in_hand)
        assert of_parts.keys() == losses.keys()
        for name, value in losses.items():
            assert of_parts[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_the_losses_train_everything():
    torch.manual_seed(0)
    module = small_module()
    losses = module._losses(one_camera_sample())
    losses.total.backward()
    assert tuple(losses.parts) == tuple(module.objective.config.in_use)
    assert parts_with_gradient(module) == {"backbone", "neck", "image_reader", "lift", "volume_encoder", "head"}


def losses_and_gradients(module: OccupancyModule, batch: TrainingSample) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    module.zero_grad()
    losses = module._losses(batch)
    losses.total.backward()
    gradients = {name: value.grad.clone() for name, value in module.network.named_parameters() if value.grad is not None}
    return {name: value.item() for name, value in losses.parts.items()}, gradients


@pytest.mark.parametrize("coarsening", [1, 2])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_a_step_of_the_cells_that_are_asked_for_has_the_losses_and_gradients_of_one_of_all_cells(coarsening: int, recomputed: bool):
    """For samples of which each meets cells of its own number, with rays that count nothing and one that leaves the grid."""
    torch.manual_seed(0)
    module = small_module(coarsening)
    if recomputed:
        module.network.recompute_in_backward()
    # Some cells are emptier than the renderer looks at
    torch.nn.init.normal_(module.network.head.geometry.weight, std=0.5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    samples = [one_camera_sample()[0] for _ in range(2)]
    labels = samples[0].labels
    labels.weights[:5], labels.distances[5:8], labels.distances[8] = 0.0, math.nan, 50.0
    batch = stack(samples)
    fields = []
    module.network.head.register_forward_hook(lambda head, inputs, field: fields.append(field))
    module.predict_all_cells = False
    found, gradients = losses_and_gradients(module, batch)
    module.predict_all_cells = True
    expected, expected_gradients = losses_and_gradients(module, batch)
    few, whole = fields[0], fields[-1]
    assert 0.02 < few.opacities.shape[1] / whole.opacities.shape[1] < 0.7
    assert (whole.opacities < 1 / 255).any()
    assert found == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 3e-5 * gradient.norm() + 1e-7, name


def test_a_loss_that_looks_at_the_whole_field_has_the_whole_field(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    module, seen = small_module(), []
    module.predict_all_cells = False
    module.network.head.register_forward_hook(lambda head, inputs, field: seen.append(field.opacities.shape[1]))
    module._losses(one_camera_sample())
    monkeypatch.setattr(DistanceConfig, "only_asks", False)
    module._losses(one_camera_sample())
    assert seen[0] < seen[1] == GRID.num_cells


def test_the_learning_rate_rises_linearly_then_falls_along_a_cosine_to_zero():
    factors = [learning_rate_factor(step, first_step=0, warmup_steps=10, steps=TrainingSteps(110)) for step in range(111)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert math.isclose(factors[60], 0.5)
    assert factors[110] < 1e-9
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_what_learns_later_warms_up_later_and_cools_down_together():
    factors = [learning_rate_factor(step, first_step=60, warmup_steps=10, steps=TrainingSteps(110)) for step in range(111)]
    assert factors[:60] == [0.0] * 60
    assert factors[60] == 0.1
    assert factors[69] == factors[70] == 1.0
    assert math.isclose(factors[90], 0.5)
    assert factors[110] < 1e-9


def test_the_step_schedule_warms_up_too_and_falls_at_its_epochs():
    factors = [
        learning_rate_factor(s, first_step=0, warmup_steps=4, steps=TrainingSteps(12), drops=[6.0, 9.0], drop_factor=0.1) for s in range(12)
    ]
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert all(math.isclose(factor, value) for factor, value in zip(factors, expected, strict=True))
    # What begins to learn after them begins at what the others have come down to
    options = {"first_step": 8, "warmup_steps": 2, "steps": TrainingSteps(12), "drops": [6.0], "drop_factor": 0.1}
    late = [learning_rate_factor(step, **options) for step in (7, 8, 9, 10)]
    assert all(math.isclose(factor, value) for factor, value in zip(late, [0, 0.05, 0.1, 0.1], strict=True))


def test_epochs_of_another_length_share_what_is_left_of_the_schedule():
    """Two of four epochs had 8 steps each; the others have 2, or 16."""
    for per_epoch in (2, 16):
        steps = TrainingSteps(4 * per_epoch, begun=16, begun_even=2 * per_epoch)
        assert steps.count == 16 + 2 * per_epoch
        factors = [learning_rate_factor(step, first_step=0, warmup_steps=0, steps=steps) for step in range(steps.count + 1)]
        assert math.isclose(factors[8], 0.5 * (1 + math.cos(math.pi / 4)))
        assert math.isclose(factors[16], 0.5)
        assert math.isclose(factors[16 + per_epoch], 0.5 * (1 + math.cos(0.75 * math.pi)))
        assert factors[-1] < 1e-9
    unchanged = TrainingSteps(32, begun=16, begun_even=16)
    assert [unchanged.even(step) for step in (0, 7, 16, 31)] == [0, 7, 16, 31]
