import pytest
import torch
from safetensors.torch import save_file

from splattingocc.models.backbones.resnet import ResNet, ResNetConfig

# (key, shape) pairs of the published torchvision weights
TORCHVISION_KEYS = {
    18: {"conv1.weight": (64, 3, 7, 7), "layer1.1.bn2.running_var": (64,), "layer2.0.downsample.0.weight": (128, 64, 1, 1)},
    34: {"layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.0.downsample.1.bias": (512,)},
    50: {"layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
    101: {"layer3.22.conv3.weight": (1024, 256, 1, 1), "layer4.2.bn3.running_mean": (2048,)},
}
TORCHVISION_PARAMETERS = {18: 11_689_512 - 513_000, 34: 21_797_672 - 513_000, 50: 25_557_032 - 2_049_000, 101: 44_549_160 - 2_049_000}


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_keys_shapes_and_size_are_those_of_torchvision(depth):
    network = ResNet(ResNetConfig(depth=depth))
    state = network.state_dict()
    for key, shape in TORCHVISION_KEYS[depth].items():
        assert tuple(state[key].shape) == shape
    assert sum(parameter.numel() for parameter in network.parameters()) == TORCHVISION_PARAMETERS[depth]


def test_levels_halve_from_a_quarter():
    levels = ResNet(ResNetConfig())(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]


def test_published_weights_load_without_the_classifier(tmp_path):
    source = ResNet(ResNetConfig())
    path = tmp_path / "resnet18.safetensors"
    save_file(source.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    loaded = ResNet(ResNetConfig(weights=path))
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.weight"), "conv1.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra does not belong"),
        (lambda state: state.update({"bn1.bias": torch.zeros(3)}), r"bn1.bias has shape \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key(tmp_path, change, message):
    state = ResNet(ResNetConfig()).state_dict()
    change(state)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=message):
        ResNet(ResNetConfig(weights=path))


def test_a_damaged_weights_file_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"weights\.pth: not a file of weights: damaged, or holds other things than tensors"):
        ResNet(ResNetConfig(weights=path))


@pytest.mark.parametrize("content", [[1], torch.zeros(3), {"conv1.weight": 3}, {3: torch.zeros(3)}])
def test_a_file_that_holds_no_tensors_by_name_is_named(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pth: not a file of weights: expected tensors by name and nothing else"):
        ResNet(ResNetConfig(weights=path))


def test_a_changed_byte_of_saved_weights_is_noticed(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(ResNet(ResNetConfig()).state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: not a file of weights: damaged"):
        ResNet(ResNetConfig(weights=path))


def test_weights_that_are_not_finite_and_files_that_never_end_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = ResNet(ResNetConfig()).state_dict()
    state["bn1.bias"][3] = torch.nan
    save_file(state, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors: key bn1\.bias holds numbers that are not finite"):
        ResNet(ResNetConfig(weights=path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"weights\.safetensors: is a device or a pipe"):
        ResNet(ResNetConfig(weights=path))
