"""From images to a field of opacities and classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from splattingocc.config import Config
from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.models.earlier_names import rename_options, rename_parameters
from splattingocc.models.evidence import EvidenceSource
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
from splattingocc.models.stereo import CostVolumeConfig, NoStereoConfig, StereoPair
from splattingocc.models.temporal import TemporalConfig, TemporalFusion
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.splatting.asked import Asked
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
    temporal: TemporalConfig = TemporalConfig()

    @property
    def previous_frames(self) -> int:
        """How many earlier frames the network looks at."""
        return max(self.temporal.frames, int(isinstance(self.image_reader.stereo, CostVolumeConfig)))

    def as_before(self, earlier: NetworkConfig) -> tuple[NetworkConfig, list[str]]:
        """Return this network without the parts that an earlier one has not, and which modules those are.

        Counted are parts that correct what is computed without them, and so may join a trained network: a comparison with the frame before,
        gates by camera, earlier volumes.
        """
        reader, temporal, added = self.image_reader, self.temporal, []
        if isinstance(earlier.image_reader.stereo, NoStereoConfig) and not isinstance(reader.stereo, NoStereoConfig):
            reader, added = reader.model_copy(update={"stereo": earlier.image_reader.stereo}), [*added, "image_reader.stereo"]
        if reader.camera_aware and not earlier.image_reader.camera_aware:
            reader, added = reader.model_copy(update={"camera_aware": False}), [*added, "image_reader.camera_gate"]
        if temporal.frames and not earlier.temporal.frames:
            temporal, added = earlier.temporal, [*added, "temporal"]
        return self.model_copy(update={"image_reader": reader, "temporal": temporal}), added

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


@dataclass(frozen=True)
class EncodedFrame(Struct):
    """What backbone and neck make of the images of one frame; zeros for views that no camera took."""

    features: Float[Tensor, "batch view channel height width"]
    finest: Float[Tensor, "batch view fine_channel fine_height fine_width"]
    """The backbone's own features at a quarter of the image size."""
    cameras: Cameras
    """(batch, view)"""


@contextmanager
def running_statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Let BatchNorm count what passes inside as it does while training, and remember nothing of it."""
    norms = [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class OccupancyNetwork(nn.Module):
    """Predict a field around the vehicle, Gaussians by default, from surround images."""

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
        self.image_reader = ImageReader(config.image_reader, width, num_classes, finest_channels=self.backbone.out_channels[0])
        self.lift = LIFTS[type(config.lift)](config.lift, width, num_classes, config.image_reader.depth_bins, grid)
        self.volume_encoder = VOLUME_ENCODERS[type(config.volume_encoder)](config.volume_encoder, self.lift.out_channels)
        self.head = HEADS[type(config.head)](config.head, self.volume_encoder.out_channels, grid, config.lift.coarsening)
        self.temporal = TemporalFusion(config.temporal, self.lift.out_channels) if config.temporal.frames else None
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
        """Read the newest frame of `views` (batch, frame, view), with `stereo` beside the one before it.

        The features of views that no camera took are zeros: batch statistics must not count them.
        """
        return self._read_frames(views, 1)[0]

    def forward(self, views: Views, asked: Asked | None = None) -> NetworkOutput:
        """Predict the field around the newest frame of `views` (batch, frame, view); with `asked`, as much of it as that needs.

        What is asked then has the same answers and gradients as in the whole field, and nothing else may be asked.
        """
        readings = self._read_frames(views, 1 + self.config.temporal.frames)
        # Cameras of all frames are seen from the newest one's ego frame, and so each frame is lifted straight into its grid
        volumes = [self.lift(reading, views.cameras[:, frame]) for frame, reading in enumerate(readings)]
        volume = volumes[0] if self.temporal is None else self.temporal(volumes[0], volumes[1:])
        with self._in_format():
            volume = self.volume_encoder(volume).float()
        return NetworkOutput(self.field_of(volume, readings[0], views.cameras[:, 0], asked), readings[0])

    def field_of(
        self, volume: Float[Tensor, "batch channel x y z"], reading: ImageReading, cameras: Cameras, asked: Asked | None = None
    ) -> Field:
        """Predict the field of an encoded volume, or what was asked of it, starting from the reading of the newest frame."""
        evidence, centers = EvidenceSource.of(reading, cameras, self.config.image_reader, self.grid.cell_size), self.head.centers
        if asked is None or not self.head.chooses_cells:
            return self.head(volume, evidence.at(centers))
        surface = evidence.surface_at(centers)
        chosen = self.head.choose(volume, surface, asked)
        return self.head(volume, dataclasses.replace(surface, classes=evidence.classes_at(centers[chosen.cells])), chosen)

    def _read_frames(self, views: Views, count: int) -> list[ImageReading]:
        """Read the `count` newest frames; all but the newest without gradients."""
        last = self.config.previous_frames
        if views.images.shape[1] <= last:
            raise ValueError(
                f"views of {views.images.shape[1]} frames, the network looks at {last} earlier ones: data.loader.previous_frames"
            )
        furthest = count - 1 if self.image_reader.stereo is None else min(count, last)
        # The newest first: autocast would keep for it what it made of the weights without gradients
        encoded = [self._encode(views, 0)]
        with torch.no_grad(), running_statistics_kept(self.backbone, self.neck):
            encoded += [self._encode(views, frame) for frame in range(1, furthest + 1)]
        readings = [self._read(encoded, 0)]
        with torch.no_grad():
            readings += [self._read(encoded, frame) for frame in range(1, count)]
        return readings

    def _read(self, encoded: list[EncodedFrame], frame: int) -> ImageReading:
        """Read one of several frames, with `stereo` beside the one before it, or beside the one after where there is none before.

        How its cameras lay in its own ego frame, in which the ground is level, the same cameras of the newest frame say.
        """
        read, pair = encoded[frame], None
        if self.image_reader.stereo is not None:
            other = encoded[frame + 1 if frame + 1 < len(encoded) else frame - 1]
            pair = StereoPair(read.finest, other.finest.detach(), read.cameras, other.cameras)
        return self.image_reader(read.features, encoded[0].cameras, pair)

    def _encode(self, views: Views, frame: int) -> EncodedFrame:
        images, cameras = views.images[:, frame], views.cameras[:, frame]
        flat = rearrange(images, "batch view c h w -> (batch view) c h w")
        taken = cameras.are_somewhere.flatten()
        if frame and not taken.any():
            # Of an earlier frame all cameras may be missing; nothing reads what stands in their place
            return dataclasses.replace(self._encode(views, 0).map(torch.zeros_like), cameras=cameras)
        # Asked once: the host waits for a GPU to know
        places = None if taken.all() else taken.nonzero().squeeze(1)
        with self._in_format():
            levels = self.backbone(flat if places is None else flat[places])
            of_neck = self.neck(levels)
        features, finest = (_beside_nothing(values.float(), places, len(taken)) for values in (of_neck, levels[0]))
        return EncodedFrame(features.unflatten(0, images.shape[:2]), finest.unflatten(0, images.shape[:2]), cameras)


def _beside_nothing(
    of_taken: Float[Tensor, "taken channel height width"], places: Int64[Tensor, " taken"] | None, count: int
) -> Float[Tensor, "image channel height width"]:
    """Return the features of so many images, with zeros beside those in the given places; of None, all of them were taken."""
    if places is None:
        return of_taken
    return of_taken.new_zeros(count, *of_taken.shape[1:]).index_put((places,), of_taken)
