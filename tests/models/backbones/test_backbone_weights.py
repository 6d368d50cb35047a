"""What of a file goes into an encoder, and how the rest is told."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from splattingocc.engine.checkpoint import CONFIG_KEY, load_network, save_network
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbones.mobilenet import MobileNetV2, MobileNetV2Config
from splattingocc.models.backbones.resnet import ResNet, ResNetConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork

GRID = VoxelGrid((-3.2, -3.2, -0.8), (3.2, 3.2, 2.4), 0.4)


@pytest.fixture(scope="module")
def source() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return ResNet(ResNetConfig()).state_dict()


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_a_detectors_checkpoint_gives_its_backbone_and_tells_what_else_it_has(tmp_path: Path, source: dict[str, Tensor]):
    detector = {f"img_backbone.{key}": value for key, value in source.items()} | {"pts_bbox_head.task.weight": torch.zeros(2)}
    meta = {"epoch": 20, "mmdet_version": "2.25.1", "CLASSES": ("car", "truck"), "config": "model = dict()", "hook_msgs": {"last": None}}
    path = written(tmp_path / "bevdet.pth", {"meta": meta, "state_dict": detector, "optimizer": {"param_groups": [{"lr": 1e-4}]}})
    network = ResNet(ResNetConfig(weights=path))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in source.items())
    assert network.loaded is not None
    assert network.loaded.describe() == (
        f"weights from {path} (ResNet in torchvision's layout): {len(source)} loaded, 1 skipped (pts_bbox_head.task.weight), 0 missing"
    )


def test_a_trained_network_of_this_project_gives_its_backbone(tmp_path: Path):
    config = NetworkConfig(backbone=MobileNetV2Config())
    trained = OccupancyNetwork(config, GRID)
    save_network(trained, config, tmp_path / "network.safetensors", {})
    encoder = MobileNetV2(MobileNetV2Config(weights=tmp_path / "network.safetensors"))
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in trained.backbone.state_dict().items())


def test_weights_from_before_batches_were_counted_load(tmp_path: Path, source: dict[str, Tensor]):
    old = {key: value for key, value in source.items() if not key.endswith("num_batches_tracked")}
    network = ResNet(ResNetConfig(weights=written(tmp_path / "old.pth", old)))
    assert torch.equal(network.bn1.weight, source["bn1.weight"])


def test_what_is_partial_is_refused_with_what_is_missing_and_taken_where_that_is_asked_for(tmp_path: Path, source: dict[str, Tensor]):
    part = {key: value for key, value in source.items() if not key.startswith("layer4")}
    path = written(tmp_path / "part.pth", part)
    missing = len([key for key in source if key.startswith("layer4") and not key.endswith("num_batches_tracked")])
    expected = rf"part\.pth: ResNet in torchvision's layout: {missing} of {len(source)} keys are missing \(layer4\.0\.bn1\.bias"
    with pytest.raises(ValueError, match=expected):
        ResNet(ResNetConfig(weights=path))
    network = ResNet(ResNetConfig(weights=written(path, part | {"bn1.bias": torch.zeros(3)}), allow_partial=True))
    assert network.loaded is not None
    assert len(network.loaded.missing) == missing + 1
    assert "bn1.bias" in network.loaded.missing
    assert torch.equal(network.conv1.weight, source["conv1.weight"])
    assert network.layer4[0].conv1.weight.any()  # from random numbers


def test_a_deeper_encoder_than_asked_for_is_refused(tmp_path: Path, source: dict[str, Tensor]):
    deeper = source | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}
    with pytest.raises(ValueError, match=r"key layer1\.2\.conv1\.weight does not belong to this network"):
        ResNet(ResNetConfig(weights=written(tmp_path / "deeper.pth", deeper)))


def test_weights_of_another_encoder_are_refused_even_where_a_part_would_do(tmp_path: Path):
    path = tmp_path / "mobilenet.safetensors"
    save_file(MobileNetV2(MobileNetV2Config()).state_dict(), path)
    message = r"mobilenet\.safetensors: weights of MobileNetV2 in torchvision's layout, but this encoder is a ResNet"
    with pytest.raises(ValueError, match=message):
        ResNet(ResNetConfig(weights=path, allow_partial=True))


def test_weights_of_nothing_known_are_refused(tmp_path: Path):
    path = written(tmp_path / "other.pth", {"token_embedding.weight": torch.zeros(3)})
    with pytest.raises(
        ValueError, match=r"other\.pth: weights in no known layout \(first key token_embedding\.weight\), none of this encoder"
    ):
        ResNet(ResNetConfig(weights=path, allow_partial=True))


def test_initial_weights_do_not_change_what_a_network_is(tmp_path: Path):
    config = NetworkConfig(backbone=MobileNetV2Config())
    network = OccupancyNetwork(config, GRID)
    save_network(network, config, tmp_path / "network.safetensors", {})
    other = NetworkConfig(backbone=MobileNetV2Config(weights=tmp_path / "gone.pth", allow_partial=True))
    assert CONFIG_KEY in load_network(network, other, tmp_path / "network.safetensors")
