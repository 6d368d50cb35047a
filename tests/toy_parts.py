"""Backbones, a lift and a renderer of one's own, and configurations that can have them: what `docs/extending.md` asks for, in short."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import ByKind, Channels, Config
from splattingocc.experiment import ExperimentConfig
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbones.resnet import BasicBlock, ResNetConfig
from splattingocc.models.cell_head import CellHead, CellHeadConfig
from splattingocc.models.density_head import DensityHeadConfig
from splattingocc.models.depth import DepthBins
from splattingocc.models.evidence import Evidence
from splattingocc.models.gaussian_head import GaussianHeadConfig
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.interfaces import Backbone, Lift
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.parts import BACKBONES, HEADS, LIFTS
from splattingocc.splatting.field import Field, Occupancy, PointResponses, Rendering
from splattingocc.splatting.gather import gather_rows
from splattingocc.struct import stack


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


class NarrowResNetConfig(Config):
    """A residual network of four blocks."""

    kind: Literal["narrow_resnet"] = "narrow_resnet"
    width: Channels = 8
    """Width of the first result; each next one is twice as wide."""


class NarrowResNet(Backbone):
    """What a ResNet is made of, batch normalization and all, in a hundredth of its weights: checkpoints of small trainings are small."""

    def __init__(self, config: NarrowResNetConfig) -> None:
        super().__init__()
        self.out_channels = tuple(config.width * 2**level for level in range(4))
        self.stem = nn.Sequential(nn.Conv2d(3, config.width, 7, 4, 3, bias=False), nn.BatchNorm2d(config.width), nn.ReLU())
        widths = zip((config.width, *self.out_channels), self.out_channels)
        self.blocks = nn.ModuleList(BasicBlock(before, after, 1 if before == after else 2) for before, after in widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, levels = self.stem(images), []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        return levels


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


@dataclass(frozen=True)
class OpaqueCells(Field):
    """Cells that are opaque as a whole: a ray is stopped by each cell that one of its samples, a cell apart, falls into."""

    opacities: Tensor
    """(*batch, cell), in the order x, y, z."""
    features: Tensor
    """(*batch, cell, class)"""
    grid: VoxelGrid

    def render(self, rays: Rays, *, near: float, far: float, label_distances: Tensor | None = None, margin: float = 0.4) -> Rendering:
        if self.opacities.ndim > 1:
            labels = [None] * len(self.opacities) if label_distances is None else label_distances
            return stack([self[i].render(rays[i], near=near, far=far, label_distances=labels[i]) for i in range(len(self.opacities))])
        distances = torch.arange(near, far, self.grid.cell_size)
        points = rays.origins[:, None] + distances[:, None] * rays.directions[:, None]
        met = self.query(points.flatten(0, 1))
        shape = (len(rays.origins), len(distances))
        alphas = (met.opacities * met.valid).reshape(shape)
        weights = alphas * ((1 - alphas).cumprod(-1) / (1 - alphas))
        mass = weights.sum(-1)
        features = (weights[..., None] * met.features.reshape(*shape, -1)).sum(1)
        labels = torch.full_like(mass, torch.nan) if label_distances is None else label_distances
        before = distances < labels[:, None] - margin
        near_label = (distances - labels[:, None]).abs() <= margin
        return Rendering(
            features, weights @ distances / mass.clamp(min=1e-6), mass, (weights * before).sum(-1), (weights * near_label).sum(-1)
        )

    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        met = self.query(grid.centers().reshape(-1, 3))
        free = torch.full_like(met.opacities, met.features.shape[-1])
        classes = torch.where(met.opacities * met.valid >= threshold, met.features.argmax(-1), free)
        return Occupancy((met.opacities * met.valid).reshape(grid.shape), classes.to(torch.uint8).reshape(grid.shape))

    def query(self, points: Tensor) -> PointResponses:
        cells, inside = self.grid.cells_of(points)
        index = (cells[:, 0] * self.grid.shape[1] + cells[:, 1]) * self.grid.shape[2] + cells[:, 2]
        return PointResponses(gather_rows(self.opacities[:, None], index).squeeze(1), gather_rows(self.features, index), inside)


class OpaqueHeadConfig(CellHeadConfig):
    """Opaque cells."""

    kind: Literal["opaque"] = "opaque"


class OpaqueHead(CellHead):
    def __init__(self, config: OpaqueHeadConfig, in_channels: int, grid: VoxelGrid, coarsening: int) -> None:
        super().__init__(config, in_channels, grid, coarsening, torch.zeros(0))

    def forward(self, volume: Tensor, evidence: Evidence) -> OpaqueCells:
        opacities, features, _ = self.of_cells(volume, evidence)
        cells, _ = self.grid.cells_of(self.centers)
        order = ((cells[:, 0] * self.grid.shape[1] + cells[:, 1]) * self.grid.shape[2] + cells[:, 2]).argsort()
        return OpaqueCells(opacities[:, order], features[:, order], self.grid)


class ToyNetworkConfig(NetworkConfig):
    backbone: Annotated[ResNetConfig | PatchesConfig | NarrowResNetConfig, ByKind()] = ResNetConfig()
    lift: Annotated[SamplingLiftConfig | MeanLiftConfig, ByKind()] = SamplingLiftConfig()
    head: Annotated[GaussianHeadConfig | DensityHeadConfig | OpaqueHeadConfig, ByKind()] = GaussianHeadConfig()


class ToyExperimentConfig(ExperimentConfig):
    network: ToyNetworkConfig = ToyNetworkConfig()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the toys beside the parts of the package, for as long as the patch lasts."""
    monkeypatch.setitem(BACKBONES, PatchesConfig, Patches)
    monkeypatch.setitem(BACKBONES, NarrowResNetConfig, NarrowResNet)
    monkeypatch.setitem(LIFTS, MeanLiftConfig, MeanLift)
    monkeypatch.setitem(HEADS, OpaqueHeadConfig, OpaqueHead)
