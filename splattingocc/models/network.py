"""From images to a field of opacities and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einops import rearrange
from pydantic import model_validator
from torch import nn

from splattingocc.config import Config
from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.models.earlier_names import rename_options, rename_parameters
from splattingocc.models.evidence import find_evidence
from splattingocc.models.gaussian_head import GaussianHeadConfig
from splattingocc.models.image_reader import ImageReader, ImageReaderConfig, ImageReading
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.parts import (
    BACKBONES,
    HEADS,
    LIFTS,
    NECKS,
    VOLUME_ENCODERS,
    BackboneConfig,
    HeadConfig,
    LiftConfig,
    NeckConfig,
    VolumeEncoderConfig,
)
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.splatting.field import Field
from splattingocc.struct import Struct


class NetworkConfig(Config):
    """The parts of the network."""

    backbone: BackboneConfig = ResNetConfig()
    neck: NeckConfig = FPNConfig()
    image_reader: ImageReaderConfig = ImageReaderConfig()
    lift: LiftConfig = SamplingLiftConfig()
    volume_encoder: VolumeEncoderConfig = UNet3dConfig()
    head: HeadConfig = GaussianHeadConfig()

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        return rename_options(values) if isinstance(values, dict) else values


@dataclass(frozen=True)
class NetworkOutput(Struct):
    """What the network makes of the views."""

    field: Field
    reading: ImageReading
    """What the image branch said by itself of the newest frame."""


class OccupancyNetwork(nn.Module):
    """Predict a field around the vehicle, Gaussians by default, from surround images."""

    def __init__(self, config: NetworkConfig, grid: VoxelGrid) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        num_classes = config.head.num_classes
        self.backbone = BACKBONES[type(config.backbone)](config.backbone)
        self.neck = NECKS[type(config.neck)](config.neck, self.backbone.out_channels)
        width = self.neck.out_channels
        self.image_reader = ImageReader(config.image_reader, width, num_classes)
        self.lift = LIFTS[type(config.lift)](config.lift, width, num_classes, config.image_reader.depth_bins, grid)
        self.volume_encoder = VOLUME_ENCODERS[type(config.volume_encoder)](config.volume_encoder, self.lift.out_channels)
        self.head = HEADS[type(config.head)](config.head, self.volume_encoder.out_channels, grid, config.lift.coarsening)
        self.register_load_state_dict_pre_hook(rename_parameters)

    @property
    def image_branch(self) -> nn.ModuleList:
        """What decides the depth and class that `read_images` gives each pixel; the rest needs a volume to learn."""
        return nn.ModuleList([self.backbone, self.neck, self.image_reader])

    def read_images(self, views: Views) -> ImageReading:
        """Read the newest frame of `views` (batch, frame, view), each image by itself.

        The features of views that no camera took are zeros: batch statistics must not count them.
        """
        images, cameras = views.images[:, 0], views.cameras[:, 0]
        flat = rearrange(images, "batch view c h w -> (batch view) c h w")
        taken = cameras.are_somewhere.flatten()
        if taken.all():
            features = self.neck(self.backbone(flat))
        else:
            of_taken = self.neck(self.backbone(flat[taken]))
            features = of_taken.new_zeros(len(flat), *of_taken.shape[1:]).index_put((taken.nonzero().squeeze(1),), of_taken)
        features = rearrange(features, "(batch view) c h w -> batch view c h w", batch=images.shape[0])
        return self.image_reader(features, cameras)

    def forward(self, views: Views) -> NetworkOutput:
        """Predict the field around the newest frame of `views` (batch, frame, view)."""
        reading = self.read_images(views)
        cameras = views.cameras[:, 0]
        volume = self.volume_encoder(self.lift(reading, cameras))
        evidence = find_evidence(reading, cameras, self.config.image_reader, self.head.centers, self.grid.cell_size)
        return NetworkOutput(self.head(volume, evidence), reading)
