"""From images to Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import nn

from splattingocc.config import Config
from splattingocc.geometry.cameras import Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbone import ResNet, ResNetConfig
from splattingocc.models.gaussian_head import GaussianHead, GaussianHeadConfig
from splattingocc.models.lift import ImageReading, SamplingLift, SamplingLiftConfig
from splattingocc.models.neck import FPN, FPNConfig
from splattingocc.models.volume_encoder import UNet3d, UNet3dConfig
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.struct import Struct


class NetworkConfig(Config):
    """Encoder, neck, lift, volume encoder and head."""

    backbone: ResNetConfig = ResNetConfig()
    neck: FPNConfig = FPNConfig()
    lift: SamplingLiftConfig = SamplingLiftConfig()
    volume_encoder: UNet3dConfig = UNet3dConfig()
    head: GaussianHeadConfig = GaussianHeadConfig()


@dataclass(frozen=True)
class NetworkOutput(Struct):
    """What the network makes of the views."""

    gaussians: Gaussians
    reading: ImageReading
    """What the image branch said by itself of the newest frame."""


class OccupancyNetwork(nn.Module):
    """Predict a volume of Gaussians from surround images."""

    def __init__(self, config: NetworkConfig, grid: VoxelGrid) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.neck = FPN(config.neck, self.backbone.out_channels)
        self.lift = SamplingLift(config.lift, config.neck.channels, config.head.num_classes, grid)
        self.volume_encoder = UNet3d(config.volume_encoder, config.lift.channels)
        self.head = GaussianHead(config.head, self.volume_encoder.out_channels, grid, config.lift.coarsening)

    @property
    def image_branch(self) -> nn.ModuleList:
        """What decides the depth and class that `read_images` gives each pixel; the rest needs a volume to learn."""
        return nn.ModuleList([self.backbone, self.neck, self.lift.standing, self.lift.depth_head, self.lift.class_head])

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
        return self.lift.read(features, cameras)

    def forward(self, views: Views) -> NetworkOutput:
        """Predict the Gaussians around the newest frame of `views` (batch, frame, view)."""
        reading = self.read_images(views)
        cameras = views.cameras[:, 0]
        volume = self.volume_encoder(self.lift(reading, cameras))
        evidence = self.lift.evidence(reading, cameras, self.head.centers, self.head.grid.cell_size)
        return NetworkOutput(self.head(volume, *evidence), reading)
