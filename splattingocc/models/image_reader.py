"""What images say of their pixels: how far away the surface is, and of which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid
from splattingocc.models.depth import DepthBins, StandingDepth
from splattingocc.models.stereo import CostVolumeConfig, NoStereoConfig, StereoConfig, StereoDepth, StereoPair
from splattingocc.struct import Struct
from splattingocc.taxonomy import GROUND_CLASSES


def _check_each_once(classes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(classes)) < len(classes):
        raise ValueError(f"{classes}, expected each class once")
    return classes


class ImageReaderConfig(Config):
    """Depth and class of each pixel."""

    depth_bins: DepthBins = DepthBins()
    """Bins of each pixel's depth distribution."""
    rows_per_feature: Annotated[int, Field(ge=1, le=64)] = 4
    """Rows of the depth and class maps for each row of image features. Where a thing meets the ground tells its depth, so a row too
    many is an error of 10 % or more; columns matter less."""
    ground_classes: Annotated[tuple[Annotated[int, Field(ge=0, le=253)], ...], AfterValidator(_check_each_once)] = GROUND_CLASSES
    """Classes that things stand on."""
    depth_prior: Literal["standing", "none"] = "standing"
    """What the image features correct: `standing` is where the ground below each pixel ends, `none` leaves all depths equal."""
    camera_aware: bool = False
    """Whether the features that the depth is read from are gated by the intrinsics and the place of the camera, for rigs whose cameras
    differ. All gates are open before training (the idea of BEVDepth, Li et al. 2023)."""
    stereo: StereoConfig = NoStereoConfig()
    """What the frame before adds to the depth; a `cost_volume` needs `data.loader.previous_frames` of at least 1."""


@dataclass(frozen=True)
class ImageReading(Struct):
    """What the image branch says of each pixel, before anything is lifted."""

    context: Float[Tensor, "batch view channel height width"]
    """The image features themselves."""
    depth_logits: Float[Tensor, "batch view bin row width"]
    """Distribution of the z-depth of the surface seen there, in finer rows than the context."""
    class_logits: Float[Tensor, "batch view class row width"]
    """Distribution of its class."""


class RowHead(nn.Module):
    """A map with several rows for each row of features: a smooth one, and learned differences of the rows between."""

    def __init__(self, in_channels: int, out_channels: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.smooth = nn.Conv2d(in_channels, out_channels, 1)
        self.differences = nn.Conv2d(in_channels, rows * out_channels, 1, bias=False)
        nn.init.zeros_(self.differences.weight)

    def forward(self, features: Float[Tensor, "view in_channel height width"]) -> Float[Tensor, "view channel row width"]:
        smooth = functional.interpolate(self.smooth(features), scale_factor=(self.rows, 1), mode="bilinear", align_corners=False)
        return smooth + self.differences(features).unflatten(1, (-1, self.rows)).movedim(2, 3).flatten(2, 3)


class CameraGate(nn.Module):
    """Gate the channels of image features by which camera took the image: from nothing to twice, and before training not at all."""

    NUM_DESCRIBING = 16
    """Focal lengths and principal point as shares of the image, rotation, and position in metres."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.gates = nn.Sequential(nn.Linear(self.NUM_DESCRIBING, channels), nn.ReLU(inplace=True), last)

    def forward(self, features: Float[Tensor, "view channel height width"], cameras: Cameras) -> Float[Tensor, "view channel height width"]:
        """Return the gated features; `cameras` are those of the views, (view,)."""
        return features * (2 * torch.sigmoid(self.gates(describe(cameras))))[:, :, None, None]


def describe(cameras: Cameras) -> Float[Tensor, "view number"]:
    """Return what tells cameras apart; zeros for one that is nowhere, whose place is too far away to compute with."""
    height, width = cameras.image_size
    K = cameras.K
    of_lens = torch.stack([K[:, 0, 0] / width, K[:, 1, 1] / height, K[:, 0, 2] / width, K[:, 1, 2] / height], dim=-1)
    numbers = torch.cat([of_lens, invert_rigid(cameras.cam_from_ego)[:, :3].flatten(1)], dim=-1)
    return torch.where(cameras.are_somewhere[:, None], numbers, torch.zeros_like(numbers))


class ImageReader(nn.Module):
    """Read the depth and the class of each pixel off the image features.

    The depth distribution starts from geometry (`StandingDepth`): a ground pixel is where its ray meets level ground, any other stands
    where the ground below it in the image ends. A network would otherwise have to learn both for each camera from the rows alone. Image
    features correct that, and so does another frame (`StereoDepth`); each of the three adds to the logits.
    """

    def __init__(self, config: ImageReaderConfig, in_channels: int, num_classes: int, *, finest_channels: int = 0) -> None:
        super().__init__()
        self.config = config
        if not all(index < num_classes for index in config.ground_classes):
            raise ValueError(f"image_reader.ground_classes: {config.ground_classes}, expected class indices below {num_classes}")
        self.depth_prior = StandingDepth(config.depth_bins, config.ground_classes) if config.depth_prior == "standing" else None
        self.depth_head = RowHead(in_channels, config.depth_bins.count, config.rows_per_feature)
        self.class_head = RowHead(in_channels, num_classes, config.rows_per_feature)
        self.camera_gate = CameraGate(in_channels) if config.camera_aware else None
        self.stereo = None
        if isinstance(config.stereo, CostVolumeConfig):
            self.stereo = StereoDepth(config.stereo, config.depth_bins, finest_channels, in_channels)

    def forward(
        self, features: Float[Tensor, "batch view in_channel height width"], cameras: Cameras, pair: StereoPair | None = None
    ) -> ImageReading:
        """Read the image features of each view by themselves, and with `stereo` beside another frame.

        `cameras` are those of the views, (batch, view), seen from the ego frame of when they took the images: the ground is level there.
        """
        size = features.shape[:2]
        flat, flat_cameras = features.flatten(0, 1), cameras.map(lambda values: values.flatten(0, 1))
        class_logits = self.class_head(flat)
        depth_logits = self.depth_head(flat if self.camera_gate is None else self.camera_gate(flat, flat_cameras))
        if self.depth_prior is not None:
            depth_logits = depth_logits + self.depth_prior(class_logits.softmax(dim=1), flat_cameras)
        if self.stereo is not None:
            assert pair is not None, "stereo needs another frame"
            depth_logits = depth_logits + self.stereo(flat, pair, self.config.rows_per_feature)
        return ImageReading(features, depth_logits.unflatten(0, size), class_logits.unflatten(0, size))
