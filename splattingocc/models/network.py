"""From images to Gaussians."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from splattingocc.config import Config
from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbone import ResNetConfig
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
from splattingocc.models.recompute import recompute_in_backward
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.splatting.gaussians import Gaussians
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

    gaussians: Gaussians
    reading: ImageReading
    """What the image branch said by itself of the newest frame."""


class OccupancyNetwork(nn.Module):
    """Predict a volume of Gaussians from surround images."""

    format_in_training: torch.dtype = torch.float32
    """Number format in which backbone, neck and volume encoder compute in training. All that has to do with places is float32: half of its
    digits would move a projected cell by pixels."""

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

    def _in_format(self) -> AbstractContextManager[Any]:
        if not self.training or self.format_in_training == torch.float32:
            return nullcontext()
        return torch.autocast(self.head.centers.device.type, dtype=self.format_in_training)

    def recompute_in_backward(self) -> None:
        """Keep few activations of the backbone, the volume encoder and the head for the backward pass, which computes them again."""
        for part in (self.backbone, self.volume_encoder, self.head):
            for stage in part.stages():
                recompute_in_backward(stage)

    def read_images(self, views: Views) -> ImageReading:
        """Read the newest frame of `views` (batch, frame, view), each image by itself.

        The features of views that no camera took are zeros: batch statistics must not count them.
        """
        images, cameras = views.images[:, 0], views.cameras[:, 0]
        flat = rearrange(images, "batch view c h w -> (batch view) c h w")
        taken = cameras.are_somewhere.flatten()
        if taken.all():
            features = self._encode(flat)
        else:
            of_taken = self._encode(flat[taken])
            features = of_taken.new_zeros(len(flat), *of_taken.shape[1:]).index_put((taken.nonzero().squeeze(1),), of_taken)
        features = rearrange(features, "(batch view) c h w -> batch view c h w", batch=images.shape[0])
        return self.image_reader(features, cameras)

    def _encode(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image channel h w"]:
        with self._in_format():
            return self.neck(self.backbone(images)).float()

    def forward(self, views: Views) -> NetworkOutput:
        """Predict the Gaussians around the newest frame of `views` (batch, frame, view)."""
        reading = self.read_images(views)
        cameras = views.cameras[:, 0]
        volume = self.lift(reading, cameras)
        with self._in_format():
            volume = self.volume_encoder(volume).float()
        evidence = find_evidence(reading, cameras, self.config.image_reader, self.head.centers, self.grid.cell_size)
        return NetworkOutput(self.head(volume, evidence), reading)
