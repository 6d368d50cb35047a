from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splattingocc.models.backbones.mobilenet import WEIGHTS_FILE, WEIGHTS_PACKAGE, MobileNetV2, MobileNetV2Config, imagenet_weights

# torchvision publishes 3,504,872 parameters, of which the classifier and the convolution that prepares it have these
TORCHVISION_PARAMETERS = 3_504_872 - 1_281_000 - (320 * 1280 + 2 * 1280)
TORCHVISION_KEYS = {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.1.conv.0.0.weight": (32, 1, 3, 3),
    "features.1.conv.1.weight": (16, 32, 1, 1),
    "features.1.conv.2.running_mean": (16,),
    "features.2.conv.0.0.weight": (96, 16, 1, 1),
    "features.2.conv.1.0.weight": (96, 1, 3, 3),
    "features.17.conv.2.weight": (320, 960, 1, 1),
    "features.17.conv.3.bias": (320,),
}


def test_keys_shapes_and_size_are_those_of_torchvisions_mobilenet_v2():
    network = MobileNetV2(MobileNetV2Config())
    state = network.state_dict()
    for key, shape in TORCHVISION_KEYS.items():
        assert tuple(state[key].shape) == shape
    assert sum(parameter.numel() for parameter in network.parameters()) == TORCHVISION_PARAMETERS


@pytest.mark.parametrize(("height", "width"), [(64, 96), (90, 160)])
def test_its_levels_have_four_strides_and_everything_learns(height: int, width: int):
    torch.manual_seed(0)
    network = MobileNetV2(MobileNetV2Config())
    levels = network(torch.rand(2, 3, height, width))
    assert [tuple(level.shape[2:]) for level in levels] == [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    assert tuple(level.shape[1] for level in levels) == tuple(network.out_channels) == (24, 32, 96, 320)
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_features_are_those_of_torchvisions_own(torchvision, tmp_path: Path):
    theirs = torchvision.models.mobilenet_v2().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    network = MobileNetV2(MobileNetV2Config(weights=tmp_path / "weights.safetensors")).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, levels = network.normalize(images), network(images)
        for position, layer in enumerate(theirs.features[:18]):
            expected = layer(expected)
            if position in (3, 6, 13, 17):
                torch.testing.assert_close(levels[(3, 6, 13, 17).index(position)], expected)


def test_imagenet_weights_are_found_where_their_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = WEIGHTS_PACKAGE.replace("-", "_")
    if find_spec(package) is None:
        assert imagenet_weights() is None
        (tmp_path / package / WEIGHTS_FILE).parent.mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / WEIGHTS_FILE).touch()
        monkeypatch.syspath_prepend(tmp_path)
    found = imagenet_weights()
    assert found is not None
    assert found.is_file()


@pytest.mark.skipif(imagenet_weights() is None, reason=f"the package {WEIGHTS_PACKAGE} is not installed")
def test_published_imagenet_weights_load_and_answer_to_normalised_images():
    network = MobileNetV2(MobileNetV2Config(weights=imagenet_weights())).eval()
    loaded = network.loaded
    assert loaded is not None
    assert (len(loaded.loaded), len(loaded.missing)) == (len(network.state_dict()), 0)
    # Statistics that were learned from images normalised in this way are those of such images: noise of their mean and spread has the scale
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        convolved = network.features[0][0](network.normalize(images))  # type: ignore[index]
        norm = network.features[0][1]  # type: ignore[index]
        off = ((convolved.mean(dim=(0, 2, 3)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()).abs()
        unnormalised = network.features[0][0](images)  # type: ignore[index]
        off_unnormalised = ((unnormalised.mean(dim=(0, 2, 3)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()).abs()
    assert off.median() < 0.2
    assert off.mean() < off_unnormalised.mean()
