"""Residual networks."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from splattingocc.models.backbones.normalization import Normalization
from splattingocc.models.backbones.weights import WeightsConfig, load_weights
from splattingocc.models.interfaces import Backbone


class ResNetConfig(WeightsConfig):
    """A ResNet without its classifier; parameters carry torchvision's key names, so its published weights load as they are."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 18
    """Number of layers."""


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

    LAYOUTS = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
    }

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
        self.normalize = Normalization()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.loaded = load_weights(self, config)

    def stages(self) -> list[nn.Module]:
        return [block for stage in range(1, 5) for block in self.get_submodule(f"layer{stage}").children()]

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        """Encode RGB images in [0, 1]; the result is ordered from 1/4 to 1/32."""
        x = self.normalize(images)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last)))))
        levels = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            levels.append(x)
        return levels
