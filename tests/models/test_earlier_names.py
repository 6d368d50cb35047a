"""Networks as they were written when the lift read the images itself: by the names of then, they compute the numbers of then."""

import json
from pathlib import Path

import pytest
import torch
from rigs import surround_cameras
from safetensors.torch import save_file
from torch import Tensor

from splattingocc.engine.checkpoint import CONFIG_KEY, load_network
from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.earlier_names import rename_options, rename_parameters
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.struct import stack

GRID = VoxelGrid((-3.2, -3.2, -0.8), (3.2, 3.2, 2.4), 0.4)
WRITTEN_CONFIG = {
    "backbone": {"depth": 18, "weights": None},
    "neck": {"channels": 8, "stride": 8},
    "lift": {
        "kind": "sampling",
        "channels": 8,
        "coarsening": 2,
        "depth_bins": {"nearest": 1.5, "farthest": 60.0, "count": 64},
        "rows_per_feature": 2,
        "ground_classes": [11, 13],
    },
    "volume_encoder": {"channels": [8, 16], "blocks": [1, 1]},
    "head": {"num_classes": 17, "initial_opacity": 0.03, "min_scale": 0.04, "max_scale": 0.25, "initial_scale": 0.15},
}
"""As the header of such a file has it."""
WRITTEN_LIFT = {
    "lift.height_embedding": (8, 4),
    "lift.standing.heights": (2,),
    "lift.standing.log_spread": (),
    "lift.depth_head.smooth.weight": (64, 8, 1, 1),
    "lift.depth_head.smooth.bias": (64,),
    "lift.depth_head.differences.weight": (128, 8, 1, 1),
    "lift.class_head.smooth.weight": (17, 8, 1, 1),
    "lift.class_head.smooth.bias": (17,),
    "lift.class_head.differences.weight": (34, 8, 1, 1),
    "lift.context_head.weight": (8, 8, 1, 1),
    "lift.context_head.bias": (8,),
    "lift.mix.weight": (8, 52),
    "lift.mix.bias": (8,),
}
"""Shapes of the parameters of the lift of then; the other parts have the names that they had."""
SUMS_OF_THEN = {
    "opacities": (0.47840096651680497, 0.8358612860286501),
    "scales": (0.1577730068299085, 0.5791329959208009),
    "quats": (-0.047323943538473245, 10.378146552111716),
    "means": (0.24289916256141927, 0.45733102829131766),
    "features": (0.058823529328884794, 2.1790698588937394),
    "depth_logits": (-4.02062289181049, -7.90542356035963),
    "class_logits": (-0.19405001690542764, -281.3148504596532),
}
"""Mean, and sum weighted with sin(0), sin(1), …, of what the code of then computed from `waves`."""


def wave(shape: tuple[int, ...], shift: float) -> Tensor:
    return torch.sin(0.7 * torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + shift).reshape(shape).float()


def waves() -> dict[str, Tensor]:
    """Return a state as the code of then wrote it, filled with waves."""
    now = OccupancyNetwork(NetworkConfig.model_validate(WRITTEN_CONFIG), GRID).state_dict()
    shapes = {name: tuple(value.shape) for name, value in now.items() if name.split(".")[0] not in ("lift", "image_reader")}
    state = {}
    for number, (name, shape) in enumerate(sorted({**shapes, **WRITTEN_LIFT}.items())):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            state[name] = torch.ones(shape)
        else:
            fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 4
            state[name] = wave(shape, number) * (2 / fan) ** 0.5
    return state


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "network.safetensors"
    save_file(waves(), path, metadata={CONFIG_KEY: json.dumps(WRITTEN_CONFIG)})
    return path


def test_a_network_by_the_names_of_then_computes_the_numbers_of_then(written: Path):
    config = NetworkConfig.model_validate(WRITTEN_CONFIG)
    network = OccupancyNetwork(config, GRID).eval()
    load_network(network, config, written)
    views = Views(wave((1, 1, 3, 3, 32, 64), 0).abs(), stack([stack([surround_cameras(3, (32, 64), focal=30.0)])]))
    with torch.no_grad():
        output = network(views)
    for name, (mean, weighted) in SUMS_OF_THEN.items():
        values = getattr(output.reading if name.endswith("logits") else output.field, name).double().flatten()
        assert values.mean().item() == pytest.approx(mean, rel=1e-4), name
        assert (values * torch.sin(torch.arange(len(values), dtype=torch.float64))).sum().item() == pytest.approx(weighted, rel=1e-3), name


def test_every_parameter_of_then_arrives_bit_by_bit(written: Path):
    config = NetworkConfig.model_validate(WRITTEN_CONFIG)
    network = OccupancyNetwork(config, GRID)
    load_network(network, config, written)
    state, then = network.state_dict(), waves()
    assert len(state) == len(then)
    assert torch.equal(state["image_reader.depth_prior.heights"], then["lift.standing.heights"])
    assert torch.equal(state["image_reader.depth_head.smooth.weight"], then["lift.depth_head.smooth.weight"])
    assert torch.equal(state["image_reader.class_head.differences.weight"], then["lift.class_head.differences.weight"])
    assert torch.equal(state["lift.context_head.weight"], then["lift.context_head.weight"])


def test_a_training_of_then_goes_on_in_a_module_that_holds_the_network(written: Path):
    config = NetworkConfig.model_validate(WRITTEN_CONFIG)
    holder = torch.nn.ModuleDict({"network": OccupancyNetwork(config, GRID)})
    holder.load_state_dict({f"network.{name}": value for name, value in waves().items()})
    assert torch.equal(holder.state_dict()["network.image_reader.class_head.smooth.bias"], waves()["lift.class_head.smooth.bias"])


def test_parameters_keep_the_order_that_an_optimizer_of_then_counts_in():
    config = NetworkConfig.model_validate(WRITTEN_CONFIG)
    network = OccupancyNetwork(config, GRID)
    in_branch = {id(parameter) for parameter in network.image_branch.parameters()}
    names = [(name, id(parameter) in in_branch) for name, parameter in network.named_parameters() if name.startswith(("lift", "image_r"))]
    of_branch = [name.rpartition("image_reader.")[2] for name, inside in names if inside]
    expected = [name.removeprefix("lift.").replace("standing", "depth_prior") for name in WRITTEN_LIFT]
    assert of_branch == [name for name in expected if name.split(".")[0] in ("depth_prior", "depth_head", "class_head")]
    assert [name.removeprefix("lift.") for name, inside in names if not inside] == [name for name in expected if name not in of_branch]


def test_a_network_of_then_with_other_options_is_refused_by_todays_name(written: Path):
    config = NetworkConfig.model_validate(WRITTEN_CONFIG)
    other = config.model_copy(update={"image_reader": config.image_reader.model_copy(update={"rows_per_feature": 4})})
    with pytest.raises(ValueError, match=r"another network: network\.image_reader\.rows_per_feature is 2 there and 4 in this"):
        load_network(OccupancyNetwork(other, GRID), other, written)


def test_an_option_by_both_names_is_refused():
    with pytest.raises(ValueError, match="rows_per_feature is not an option of SamplingLiftConfig"):
        NetworkConfig.model_validate({"lift": {"rows_per_feature": 2}, "image_reader": {"rows_per_feature": 4}})


def test_a_part_that_uses_the_names_of_then_itself_keeps_them():
    options = {"lift": {"kind": "lss", "depth_bins": {"count": 2}}}
    assert rename_options(options) == options
    network = torch.nn.ModuleDict({part: torch.nn.ModuleDict({"depth_head": torch.nn.Linear(1, 1)}) for part in ("lift", "image_reader")})
    state = {"lift.depth_head.weight": torch.zeros(1, 1), "lift.class_head.weight": torch.zeros(1, 1)}
    rename_parameters(network, state, "")
    assert set(state) == {"lift.depth_head.weight", "lift.class_head.weight"}


@pytest.mark.parametrize("options", [{"lift": None}, {"lift": {"depth_bins": 1}, "image_reader": 3}, {"lift": {"kind": []}}, {}])
def test_options_that_are_none_are_left_for_their_class_to_refuse(options: dict):
    assert rename_options(options) == options
