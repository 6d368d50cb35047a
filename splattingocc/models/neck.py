"""Bring an encoder's levels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Channels, Config
from splattingocc.models.interfaces import Neck


class FPNConfig(Config):
    """A feature pyramid of which one level is used."""

    kind: Literal["fpn"] = "fpn"
    channels: Channels = 64
    """Width of the result."""
    stride: Literal[4, 8, 16] = 8
    """Image pixels per feature pixel in the result."""


class FPN(Neck):
    """Add coarse levels to finer ones, down to one stride. Source: Lin et al. 2017."""

    def __init__(self, config: FPNConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = config.channels
        self.first_level = {4: 0, 8: 1, 16: 2}[config.stride]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, config.channels, 1) for channels in in_channels[self.first_level :])
        self.smooth = nn.Sequential(
            nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        laterals = [lateral(level) for lateral, level in zip(self.lateral, levels[self.first_level :])]
        merged = laterals[-1]
        for lateral in reversed(laterals[:-1]):
            merged = lateral + functional.interpolate(merged, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.smooth(merged)
