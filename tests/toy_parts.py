"""A backbone and a lift of one's own, and configurations that can have them: what `docs/extending.md` asks for, in short."""

from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import ByKind, Channels, Config
from splattingocc.experiment import ExperimentConfig
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.interfaces import Backbone, Lift
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.parts import BACKBONES, LIFTS


class PatchesConfig(Config):
    """One linear layer for each size of patches."""

    kind: Literal["patches"] = "patches"
    width: Channels = 8
    """Width of every result."""


class Patches(Backbone):
    def __init__(self, config: PatchesConfig) -> None:
        super().__init__()
        self.out_channels = (config.width,) * 4
        self.patches = nn.ModuleList(nn.Conv2d(3, config.width, size, size) for size in (4, 8, 16, 32))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [functional.relu(layer(images)) for layer in self.patches]


class MeanLiftConfig(Config):
    """Every cell reads the mean of all features: no lift at all, but one that runs."""

    kind: Literal["mean"] = "mean"
    channels: Channels = 8
    """Width of the volume."""
    coarsening: int = 4
    """Cells of the Gaussians' grid per cell of the volume, along each axis."""


class MeanLift(Lift):
    def __init__(self, config: MeanLiftConfig, in_channels: int, num_classes: int, depth_bins: DepthBins, grid: VoxelGrid) -> None:
        super().__init__()
        self.out_channels = config.channels
        self.grid = grid.coarsen(config.coarsening)
        self.project = nn.Linear(in_channels, config.channels)
        self.places = nn.Parameter(torch.randn(config.channels, *self.grid.shape))

    def forward(self, reading: ImageReading, cameras: Cameras) -> Tensor:
        means = self.project(reading.context.mean(dim=(1, 3, 4)))
        return means[:, :, None, None, None] * self.places


class ToyNetworkConfig(NetworkConfig):
    backbone: Annotated[ResNetConfig | PatchesConfig, ByKind()] = ResNetConfig()
    lift: Annotated[SamplingLiftConfig | MeanLiftConfig, ByKind()] = SamplingLiftConfig()


class ToyExperimentConfig(ExperimentConfig):
    network: ToyNetworkConfig = ToyNetworkConfig()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the toys beside the parts of the package, for one test."""
    monkeypatch.setitem(BACKBONES, PatchesConfig, Patches)
    monkeypatch.setitem(LIFTS, MeanLiftConfig, MeanLift)
