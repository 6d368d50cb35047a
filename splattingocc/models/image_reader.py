"""What images say of their pixels, each image by itself: how far away the surface is, and of which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.models.depth import DepthBins, StandingDepth
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


class ImageReader(nn.Module):
    """Read the depth and the class of each pixel off the image features.

    The depth distribution starts from geometry (`StandingDepth`): a ground pixel is where its ray meets level ground, any other stands
    where the ground below it in the image ends. A network would otherwise have to learn both for each camera from the rows alone.
    """

    def __init__(self, config: ImageReaderConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        if not all(index < num_classes for index in config.ground_classes):
            raise ValueError(f"image_reader.ground_classes: {config.ground_classes}, expected class indices below {num_classes}")
        self.depth_prior = StandingDepth(config.depth_bins, config.ground_classes)
        self.depth_head = RowHead(in_channels, config.depth_bins.count, config.rows_per_feature)
        self.class_head = RowHead(in_channels, num_classes, config.rows_per_feature)

    def forward(self, features: Float[Tensor, "batch view in_channel height width"], cameras: Cameras) -> ImageReading:
        """Read the image features of each view by themselves; `cameras` are (batch, view)."""
        size = features.shape[:2]
        flat = features.flatten(0, 1)
        class_logits = self.class_head(flat)
        prior = self.depth_prior(class_logits.softmax(dim=1), cameras.map(lambda values: values.flatten(0, 1)))
        depth_logits = self.depth_head(flat) + prior
        return ImageReading(features, depth_logits.unflatten(0, size), class_logits.unflatten(0, size))
