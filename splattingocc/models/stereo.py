"""Depth from motion: how well each depth that a pixel could have agrees with what another frame saw of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from splattingocc.config import ByKind, Channels, Config
from splattingocc.geometry.cameras import NEAR_PLANE, Cameras
from splattingocc.geometry.transforms import beside, invert_rigid
from splattingocc.models.depth import DepthBins
from splattingocc.struct import Struct

LEAST_SPREAD, ENOUGH_SPREAD = 0.5, 2.0
"""Feature pixels over which the depths of a pixel must be spread in the other frame to tell anything, and to tell as much as they can.
Under half a pixel all of them read the same features but for interpolation. Between the two the weight rises in a line, so that a
vehicle that starts to move gains depth and does not jump from one guess to another; below it is zero and not merely small."""
SMALLEST_SQUARE = 1e-12
"""Added to squared lengths of features, whose directions are compared."""
BINS_AT_ONCE = 8
"""Depth bins whose features are held at one time."""


class NoStereoConfig(Config):
    """The depth of each image by itself. The kind `cost_volume` compares with the frame before; it needs `data.loader.previous_frames`."""

    kind: Literal["none"] = "none"


class CostVolumeConfig(Config):
    """Compare each pixel, at every depth it could have, with the frame before (the idea of BEVStereo, Li et al. 2022)."""

    kind: Literal["cost_volume"] = "cost_volume"
    channels: Channels = 32
    """Width of the features that are compared, which are at a quarter of the image size."""
    groups: Annotated[int, Field(ge=1, le=256)] = 4
    """Groups of channels that are each compared by themselves, so that some may find what others miss."""
    refining_channels: Channels = 32
    """Width of the two convolutions that correct the comparison."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 8.0
    """Logit, before training, of a depth at which all features agree above one at which they are unrelated."""

    @model_validator(mode="after")
    def _check(self) -> CostVolumeConfig:
        if self.channels % self.groups:
            raise ValueError(f"stereo.channels is {self.channels}, expected a multiple of stereo.groups, {self.groups}")
        return self


StereoConfig = Annotated[NoStereoConfig | CostVolumeConfig, ByKind()]


@dataclass(frozen=True)
class StereoPair(Struct):
    """What is compared: two frames of the same views, whose cameras are seen from one ego frame."""

    finest: Float[Tensor, "batch view channel height width"]
    """The encoder's features at a quarter of the image size, of the frame whose depth is asked for."""
    other: Float[Tensor, "batch view channel height width"]
    """Those of the frame that it is compared with."""
    cameras: Cameras
    other_cameras: Cameras
    """Those of the two frames, (batch, view)."""


@torch.no_grad()
def reproject(
    cameras: Cameras, other: Cameras, depths: Float[Tensor, " bin"], size: tuple[int, int]
) -> tuple[Float[Tensor, "view bin height width 2"], Bool[Tensor, "view bin height width"]]:
    """Return where another camera sees the points that lie at each z-depth behind the pixels of a map of the given size.

    Places are in pixels (u, v) of a map of that size. The second result is True for points in front of the other camera and inside its
    image, if both are somewhere; the places of other points are finite but meaningless.
    """
    height, width = size
    # Matrices of metres and pixels must not be rounded to half precision
    with torch.autocast(cameras.K.device.type, enabled=False):
        scale = beside([cameras.image_size[1] / width, cameras.image_size[0] / height], cameras.K)
        v, u = torch.meshgrid(*(torch.arange(count, device=depths.device) + 0.5 for count in size), indexing="ij")
        pixels = torch.cat([torch.stack([u, v], dim=-1) * scale, torch.ones_like(u)[..., None]], dim=-1)
        other_from_cam = other.cam_from_ego @ invert_rigid(cameras.cam_from_ego)
        # Unlike inv, inv_ex does not wait to see whether there is an inverse
        per_depth = other.K @ other_from_cam[:, :3, :3] @ torch.linalg.inv_ex(cameras.K).inverse
        moved = torch.einsum("vij,hwj->vhwi", per_depth, pixels)
        at_zero_depth = (other.K @ other_from_cam[:, :3, 3:]).squeeze(-1)
        points = depths[:, None, None, None] * moved[:, None] + at_zero_depth[:, None, None, None]
        in_front = points[..., 2] > NEAR_PLANE
        places = points[..., :2] / torch.where(in_front, points[..., 2], torch.ones_like(points[..., 2]))[..., None] / scale
        inside = in_front & ((places >= 0) & (places < beside([width, height], places))).all(dim=-1)
        return places, inside & (cameras.are_somewhere & other.are_somewhere)[:, None, None, None]


@torch.no_grad()
def information(
    places: Float[Tensor, "view bin height width 2"], inside: Bool[Tensor, "view bin height width"]
) -> Float[Tensor, "view height width"]:
    """Say, from 0 to 1, whether the other frame could tell the depths of each pixel apart: by how far they lie from one another there.

    Where no camera moved, or it only turned, all depths of a pixel are in one place, and what is there says nothing of the depth.
    """
    nearest = places.masked_fill(~inside[..., None], math.inf).amin(dim=1)
    farthest = places.masked_fill(~inside[..., None], -math.inf).amax(dim=1)
    spread = (farthest - nearest).clamp(min=0).norm(dim=-1)
    return ((spread - LEAST_SPREAD) / (ENOUGH_SPREAD - LEAST_SPREAD)).clamp(0, 1)


def correlate(
    features: Float[Tensor, "view group channel height width"],
    other: Float[Tensor, "view group channel height width"],
    places: Float[Tensor, "view bin height width 2"],
    inside: Bool[Tensor, "view bin height width"],
) -> Float[Tensor, "view group bin height width"]:
    """Return the cosine between the features of each pixel and those of another map at its places, by groups of channels.

    From each is subtracted the mean of what a pixel found inside the other map; a place outside of it has zero, which is neither for nor
    against that depth. The features at all places are never held together: those of a few bins at a time, and again for the gradient.
    """
    features = functional.normalize(features, dim=2)
    size = beside([other.shape[-1], other.shape[-2]], places)
    chunks = [
        checkpoint(_correlate_some, features, other, 2 * chunk / size - 1, use_reentrant=False, preserve_rng_state=False)
        for chunk in places.split(BINS_AT_ONCE, dim=1)
    ]
    cosines = torch.cat(chunks, dim=2)
    counted = inside[:, None].to(cosines.dtype)
    mean = (cosines * counted).sum(dim=2, keepdim=True) / counted.sum(dim=2, keepdim=True).clamp(min=1)
    return (cosines - mean) * counted


def _correlate_some(features: Tensor, other: Tensor, positions: Tensor) -> Tensor:
    """Return the products of each pixel's features with the directions of those at its positions, from -1 to 1 over the other map.

    Those are normalised where they were found: between pixels they are shorter, and the places on pixels would agree best.
    """
    rows = positions.flatten(1, 2).to(other.dtype)
    sampled = functional.grid_sample(other.flatten(1, 2), rows, padding_mode="border", align_corners=False)
    sampled = sampled.unflatten(2, (positions.shape[1], -1)).unflatten(1, features.shape[1:3])
    return (features[:, :, :, None] * sampled).sum(dim=2) * (sampled.square().sum(dim=2) + SMALLEST_SQUARE).rsqrt()


def _constant(layer: nn.Conv2d, value: float) -> nn.Conv2d:
    """Let a convolution give the same value everywhere."""
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


class StereoDepth(nn.Module):
    """Say what another frame adds to the logits of each pixel's depth: exactly nothing where it has no information.

    The logits are the agreement times a temperature, plus what two convolutions make of it, which is zero before training. The product
    is there because an agreement is evidence from the first step on, and a short training would spend its steps on finding that out; the
    convolutions can then do what a product cannot: smooth, and doubt a depth that has a twin. The temperature is the pixel's own, from its
    image features: what moves by itself is not where a standing world would be, and only the image says what does.
    """

    def __init__(self, config: CostVolumeConfig, bins: DepthBins, finest_channels: int, in_channels: int) -> None:
        super().__init__()
        self.config, self.bins = config, bins
        self.project = nn.Conv2d(finest_channels, config.channels, 1)
        # Before training: the inverse of the softplus that its result goes through
        self.temperature = _constant(nn.Conv2d(in_channels, 1, 1), config.temperature + math.log(-math.expm1(-config.temperature)))
        first = nn.Conv2d(config.groups * bins.count + 1, config.refining_channels, 3, padding=1)
        last = _constant(nn.Conv2d(config.refining_channels, bins.count, 3, padding=1), 0.0)
        self.refine = nn.Sequential(first, nn.ReLU(inplace=True), last)

    def forward(
        self, features: Float[Tensor, "view in_channel height width"], pair: StereoPair, rows: int
    ) -> Float[Tensor, "view bin row width"]:
        """Return what is added to the depth logits, in `rows` rows for each row of the image features."""
        agreement, mask = self.compare(pair)
        size = (features.shape[-2], features.shape[-1])
        if agreement.shape[-2:] != size:
            # The pixels of the finer map ask at the same depths as the coarser one that covers them
            pooled = functional.adaptive_avg_pool2d(agreement.flatten(1, 2), size)
            agreement, mask = pooled.unflatten(1, agreement.shape[1:3]), functional.adaptive_avg_pool2d(mask, size)
        refined = self.refine(torch.cat([agreement.flatten(1, 2), mask[:, None].to(agreement.dtype)], dim=1))
        logits = functional.softplus(self.temperature(features)) * agreement.mean(dim=1) + refined
        finer = functional.interpolate(logits, scale_factor=(rows, 1), mode="bilinear", align_corners=False)
        return finer * mask.repeat_interleave(rows, dim=1)[:, None]

    def compare(self, pair: StereoPair) -> tuple[Float[Tensor, "view group bin height width"], Float[Tensor, "view height width"]]:
        """Return the agreement at each depth, at a quarter of the image size, and where there is information."""
        finest, other = self.project(pair.finest.flatten(0, 1)), self.project(pair.other.flatten(0, 1))
        # What all pixels of an image have in common tells none from another
        common = finest.mean(dim=(-2, -1), keepdim=True)
        grouped, other_grouped = ((values - common).unflatten(1, (self.config.groups, -1)) for values in (finest, other))
        cameras, other_cameras = (of.map(lambda values: values.flatten(0, 1)) for of in (pair.cameras, pair.other_cameras))
        depths = self.bins.middles().to(finest.device, non_blocking=True)
        places, inside = reproject(cameras, other_cameras, depths, (finest.shape[-2], finest.shape[-1]))
        return correlate(grouped, other_grouped, places, inside), information(places, inside)
