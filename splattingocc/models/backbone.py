"""Image encoders."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from splattingocc.config import Config
from splattingocc.files import decoding, has_all_records, only_plain_values, open_regular
from splattingocc.models.interfaces import Backbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST_WEIGHTS = 2**32
"""Bytes of a file of weights."""


class ResNetConfig(Config):
    """A ResNet without its classifier; parameters carry torchvision's key names, so its published weights load as they are."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50] = 18
    """Number of layers."""
    weights: Path | None = None
    """Weights to start from (.safetensors, or .pth with tensors only); random without."""


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(residual)))))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class ResNet(Backbone):
    """Features of an image at 1/4, 1/8, 1/16 and 1/32 of its size. Source: He et al. 2016, in torchvision's arrangement."""

    mean: Tensor
    std: Tensor
    LAYOUTS = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3))}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        block, counts = self.LAYOUTS[config.depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = 64
        for stage, count in enumerate(counts, start=1):
            channels = 64 * 2 ** (stage - 1)
            blocks = []
            for index in range(count):
                blocks.append(block(in_channels, channels, stride=2 if stage > 1 and index == 0 else 1))
                in_channels = channels * block.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.out_channels = tuple(64 * 2**stage * block.expansion for stage in range(4))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.weights is not None:
            load_weights(self, config.weights)

    def stages(self) -> list[nn.Module]:
        return [block for stage in range(1, 5) for block in self.get_submodule(f"layer{stage}").children()]

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        """Encode RGB images in [0, 1]; the result is ordered from 1/4 to 1/32."""
        x = (images - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last)))))
        levels = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            levels.append(x)
        return levels


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights by their key names. torchvision's classifier (`fc.*`) is left out; any other difference is a `ValueError`."""
    with open_regular(path, limit=LARGEST_WEIGHTS), decoding(path, "a file of weights"), only_plain_values():
        # Older versions of torch wrote files that are no archives and have no checksums
        if zipfile.is_zipfile(path) and not has_all_records(path):
            raise ValueError("damaged")
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
            raise ValueError("expected tensors by name and nothing else")
    state = {key: value for key, value in found.items() if not key.startswith("fc.")}
    own = module.state_dict()
    for key in own.keys() | state.keys():
        if key not in state:
            raise ValueError(f"{path}: key {key} is missing")
        if key not in own:
            raise ValueError(f"{path}: key {key} does not belong to this network")
        if own[key].shape != state[key].shape:
            raise ValueError(f"{path}: key {key} has shape {tuple(state[key].shape)}, the network needs {tuple(own[key].shape)}")
        if not state[key].isfinite().all():
            raise ValueError(f"{path}: key {key} holds numbers that are not finite")
    module.load_state_dict(state)
