"""Activations that the backward pass computes again."""

from __future__ import annotations

import copy

import torch
from rigs import surround_cameras
from torch import Tensor, nn

from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.recompute import recompute_in_backward
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

GRID = VoxelGrid((-6.4, -6.4, -0.8), (6.4, 6.4, 2.4), 0.4)


def network_and_views() -> tuple[OccupancyNetwork, Views]:
    torch.manual_seed(0)
    config = NetworkConfig(lift=SamplingLiftConfig(channels=8, coarsening=2), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)))
    cameras = surround_cameras(3, (64, 96), focal=30.0)
    return OccupancyNetwork(config, GRID), Views(torch.rand(2, 1, 3, 3, 64, 96), stack([stack([cameras])] * 2))


def one_step(network: OccupancyNetwork, views: Views) -> tuple[dict[str, Tensor], int]:
    """Return everything that a step computes, by name, and the bytes that it keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        field = network(views).field
        results = {name: getattr(field, name) for name in ("means", "quats", "scales", "opacities", "features")}
        loss = torch.stack([(value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in results.values()]).sum()
    loss.backward()
    found = {name: value.detach() for name, value in results.items()}
    found |= {f"gradient of {name}": value.grad for name, value in network.named_parameters() if value.grad is not None}
    return found | {name: value.clone() for name, value in network.named_buffers()}, sum(kept.values())


def test_a_step_computes_the_same_to_the_last_bit_and_keeps_less():
    (network, views), (leaner, _) = network_and_views(), network_and_views()
    leaner.recompute_in_backward()
    assert leaner.state_dict().keys() == network.state_dict().keys()
    (expected, kept), (found, kept_of_leaner) = one_step(network, views), one_step(leaner, views)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert found["backbone.bn1.num_batches_tracked"] == found["backbone.layer1.0.bn1.num_batches_tracked"] == 1
    assert kept_of_leaner < 0.6 * kept


def test_a_copy_runs_its_own_weights():
    network, views = network_and_views()
    network.recompute_in_backward()
    network.eval()
    averaged = copy.deepcopy(network)
    before = network(views).field
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.zero_()
    assert torch.equal(network(views).field.opacities, before.opacities)
    assert not torch.equal(averaged(views).field.opacities, before.opacities)


def test_inputs_may_be_given_by_name():
    class Scaled(nn.Module):
        def forward(self, values: Tensor, *, factor: Tensor) -> Tensor:
            return (values * factor).exp()

    module, factor = Scaled(), torch.tensor(2.0, requires_grad=True)
    recompute_in_backward(module)
    module(torch.ones(3), factor=factor).sum().backward()
    assert factor.grad is not None
    torch.testing.assert_close(factor.grad, 3 * torch.tensor(2.0).exp())


def test_what_is_drawn_is_drawn_again():
    torch.manual_seed(0)
    dropped = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    recompute_in_backward(dropped)
    inputs = torch.ones(4, 8, requires_grad=True)
    result = dropped(inputs)
    result.sum().backward()
    of_bias = dropped[0].bias.grad  # type: ignore[union-attr]
    assert torch.equal(of_bias, 2.0 * (result != 0).sum(dim=0))


def test_without_gradients_nothing_is_kept_or_run_again():
    network, views = network_and_views()
    network.recompute_in_backward()
    with torch.no_grad():
        assert not network(views).field.means.requires_grad
    assert network.backbone.bn1.num_batches_tracked == network.backbone.layer1[0].bn1.num_batches_tracked == 1  # type: ignore[attr-defined, index]
