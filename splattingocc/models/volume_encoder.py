"""Thinking in 3D."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Channels, Config
from splattingocc.models.interfaces import VolumeEncoder

GROUP_WIDTH = 8
"""Channels normalised together. GroupNorm, because batches of volumes are too small for batch statistics."""
KERNEL = 3
"""Cells along each axis."""


class UNet3dConfig(Config):
    """A residual U-Net: wide where it is coarse, thin where it is fine."""

    kind: Literal["unet3d"] = "unet3d"
    channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=8)] = (32, 64, 96)
    """Width at each resolution, finest first; each is half the one before along every axis."""
    blocks: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (1, 1, 1)
    """Residual blocks on the way down at each resolution."""

    @model_validator(mode="after")
    def _check(self) -> UNet3dConfig:
        if len(self.channels) != len(self.blocks):
            raise ValueError(f"volume_encoder: {len(self.channels)} widths but {len(self.blocks)} block counts; give one count per width")
        for width in self.channels:
            if width < GROUP_WIDTH or width % (width // GROUP_WIDTH):
                raise ValueError(f"volume_encoder.channels: {width} cannot be normalised in groups, expected multiples of {GROUP_WIDTH}")
        return self


def _is_too_narrow(x: Tensor, stride: int) -> bool:
    """Say whether a CPU must not convolve a volume in bfloat16, as autocast would: where the result is narrower than the kernel.

    With a single layer of cells in the result of a stride, oneDNN hands on memory that nothing was written to (CPUs with AMX, torch 2.13);
    on others gradients are wrong, or it crashes.
    """
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and min(x.shape[-3:]) <= stride * (KERNEL - 1)


class ResidualBlock3d(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, channels, KERNEL, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(channels // GROUP_WIDTH, channels)
        self.conv2 = nn.Conv3d(channels, channels, KERNEL, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(channels // GROUP_WIDTH, channels)
        self.shortcut = nn.Identity() if stride == 1 and in_channels == channels else nn.Conv3d(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        if not _is_too_narrow(x, self.conv1.stride[0]):
            return self._encode(x)
        with torch.autocast("cpu", enabled=False):
            return self._encode(x.float())

    def _encode(self, x: Tensor) -> Tensor:
        residual = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(residual)) + self.shortcut(x))


class UNet3d(VolumeEncoder):
    """Encode a volume at its own resolution with a receptive field of the whole scene."""

    def __init__(self, config: UNet3dConfig, in_channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        for level, (channels, count) in enumerate(zip(config.channels, config.blocks)):
            first = ResidualBlock3d(in_channels, channels, stride=1 if level == 0 else 2)
            self.down.append(nn.Sequential(first, *(ResidualBlock3d(channels, channels) for _ in range(count - 1))))
            in_channels = channels
        self.up = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in zip(config.channels[:-1], config.channels[1:]))
        self.merge = nn.ModuleList(ResidualBlock3d(channels, channels) for channels in config.channels[:-1])
        self.out_channels = config.channels[0]

    def stages(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, ResidualBlock3d)]

    def forward(self, volume: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch out_channel x y z"]:
        x = volume.contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        for up, merge, skip in zip(reversed(self.up), reversed(self.merge), reversed(skips[:-1])):
            x = merge(skip + functional.interpolate(up(x), size=skip.shape[-3:], mode="trilinear", align_corners=False))
        return x
