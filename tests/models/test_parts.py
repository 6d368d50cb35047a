from pathlib import Path

import pytest
import torch
from rigs import surround_cameras
from toy_parts import MeanLift, MeanLiftConfig, OpaqueHead, Patches, PatchesConfig, ToyNetworkConfig, register

from splattingocc.config import kinds_of
from splattingocc.engine.checkpoint import load_network, save_network
from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models import parts
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

GRID = VoxelGrid((-3.2, -3.2, -0.8), (3.2, 3.2, 2.4), 0.4)
SMALL = UNet3dConfig(channels=(8, 16), blocks=(1, 1))


def surround_views() -> Views:
    return Views(torch.rand(1, 1, 3, 3, 32, 64), stack([stack([surround_cameras(3, (32, 64), focal=30.0)])]))


@pytest.mark.parametrize(
    ("field", "modules"),
    [
        ("backbone", parts.BACKBONES),
        ("neck", parts.NECKS),
        ("lift", parts.LIFTS),
        ("volume_encoder", parts.VOLUME_ENCODERS),
        ("head", parts.HEADS),
    ],
)
def test_every_configuration_of_a_part_has_its_module(field: str, modules: dict):
    described = NetworkConfig.model_fields[field]
    kinds = kinds_of(described)
    assert kinds is not None
    assert set(kinds.values()) == set(modules)
    assert type(described.default) is next(iter(kinds.values()))  # what has no kind is what there was before there was a choice


@pytest.mark.parametrize(
    ("chosen", "part", "expected"),
    [
        ({"backbone": {"kind": "patches", "width": 4}}, "backbone", Patches),
        ({"lift": {"kind": "mean"}}, "lift", MeanLift),
        ({"head": {"kind": "opaque"}}, "head", OpaqueHead),
    ],
)
def test_a_part_of_ones_own_is_chosen_by_its_kind_and_everything_learns(
    chosen: dict, part: str, expected: type, monkeypatch: pytest.MonkeyPatch
):
    register(monkeypatch)
    torch.manual_seed(0)
    config = ToyNetworkConfig.model_validate({"neck": {"stride": 4}, "lift": {"channels": 8}, "volume_encoder": SMALL, **chosen})
    network = OccupancyNetwork(config, GRID)
    assert type(network.get_submodule(part)) is expected
    output = network(surround_views())
    assert output.field.opacities.shape == (1, GRID.num_cells)
    predicted = [value for value in vars(output.field).values() if isinstance(value, torch.Tensor)]
    sum((value * torch.randn_like(value)).sum() for value in (*predicted, output.reading.depth_logits)).backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert missing == []


def test_a_network_of_other_parts_is_refused_by_their_kind_and_one_of_the_same_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch)
    path = tmp_path / "network.safetensors"
    config = ToyNetworkConfig(backbone=PatchesConfig(), lift=MeanLiftConfig(), volume_encoder=SMALL)
    network, again = (OccupancyNetwork(config, GRID).eval() for _ in range(2))
    save_network(network, config, path, {})
    load_network(again, config, path)
    views = surround_views()
    assert torch.equal(network(views).field.features, again(views).field.features)
    other = config.model_copy(update={"lift": SamplingLiftConfig()})
    with pytest.raises(ValueError, match=r"another network: network\.lift\.kind is 'mean' there and 'sampling' in this configuration"):
        load_network(again, other, path)
    with pytest.raises(ValueError, match=r"another network: NetworkConfig\.backbone: kind is 'patches', expected one of resnet"):
        load_network(again, NetworkConfig(), path)
