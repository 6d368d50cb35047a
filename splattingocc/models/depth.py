"""What is known of a pixel's depth before anything is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from splattingocc.config import Config, Metres
from splattingocc.geometry.cameras import Cameras, invert_intrinsics
from splattingocc.geometry.transforms import beside

MIN_GROUND_PROBABILITY = 1e-3
"""Of any pixel; keeps the logarithms of the column finite."""
MIN_SHARE = 1e-6
"""Of a depth bin in the guess for what stands under the edge of the image, before it is normalised."""
DOUBT = 0.64
"""Spread over all bins and added to the guess of where a pixel's surface stands: how far image features must push to overrule it."""


class DepthBins(Config):
    """Intervals of z-depth, equally wide in the logarithm."""

    nearest: Metres = 1.5
    """Metres at which the first bin begins; nearer depths count to it."""
    farthest: Metres = 60.0
    """Metres at which the last bin ends; farther depths count to it."""
    count: Annotated[int, Field(ge=2, le=1024)] = 64
    """Number of bins. With 64 of them each is 6 % of its depth wide: a cell of 0.4 m at 7 m."""

    @model_validator(mode="after")
    def _check(self) -> DepthBins:
        if self.nearest >= self.farthest:
            raise ValueError(f"depth_bins.nearest is {self.nearest} m, expected less than depth_bins.farthest, {self.farthest} m")
        return self

    def position(self, depths: Tensor) -> Tensor:
        """Return where z-depths lie on the axis of bins, in bins: 0 at `nearest`, `count` at `farthest`."""
        span = math.log(self.farthest / self.nearest)
        return (torch.log(depths.clamp(min=self.nearest) / self.nearest) / span * self.count).clamp(max=self.count)

    def index(self, depths: Tensor) -> Int64[Tensor, "..."]:
        """Return the bin of each z-depth."""
        return self.position(depths).long().clamp(max=self.count - 1)

    def edges(self) -> Float[Tensor, " edge"]:
        """Return where the bins end, metres; the first edge is `nearest`."""
        return self.nearest * (self.farthest / self.nearest) ** (torch.arange(self.count + 1) / self.count)

    def middles(self) -> Float[Tensor, " bin"]:
        """Return the middle of each bin, metres: where its two halves are equally wide in the logarithm."""
        edges = self.edges()
        return (edges[:-1] * edges[1:]).sqrt()

    def shares_within(self, size: float) -> tuple[Float[Tensor, "bin bin"], Float[Tensor, "bin bin"]]:
        """Say which share of each bin (columns) lies within `size` metres around the middle of each bin (rows), and which before that."""
        edges = self.edges()
        middles = self.middles()[:, None]
        up_to = [((middles + side * size / 2 - edges[:-1]) / edges.diff()).clamp(0, 1) for side in (-1, 1)]
        return up_to[1] - up_to[0], up_to[0]


def ground_encoding(
    cameras: Cameras, bins: DepthBins, ground_heights: Float[Tensor, "*batch height width"], spread: Float[Tensor, ""]
) -> Float[Tensor, "*batch bin height width"]:
    """Say, for each pixel of a map of the image, at which depth its ray meets level ground of the given height in the ego frame, metres.

    The distribution falls off by e every `spread` bins to either side and sums to one; rays that meet no ground in front give zeros.
    """
    height, width = ground_heights.shape[-2:]
    v = (torch.arange(height, device=cameras.K.device) + 0.5) * (cameras.image_size[0] / height)
    u = (torch.arange(width, device=cameras.K.device) + 0.5) * (cameras.image_size[1] / width)
    pixels = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width, device=u.device)], dim=-1)
    # Per metre of depth the ray climbs by this much; only the z row of ego_from_cam is needed.
    up_from_cam = cameras.cam_from_ego[..., :3, 2]
    climb = torch.einsum("...i,...ij,hwj->...hw", up_from_cam, invert_intrinsics(cameras.K), pixels)
    camera_heights = cameras.optical_centers[..., 2][..., None, None] - ground_heights
    depths = -camera_heights / climb.where(climb < 0, torch.full_like(climb, -1e-6))
    position = bins.position(depths.clamp(min=0.0))[..., None] - 0.5
    distribution = torch.softmax(-(position - torch.arange(bins.count, device=position.device)).abs() / spread, dim=-1)
    return (distribution * (climb < 0)[..., None]).movedim(-1, -3)


def standing_encoding(
    ground: Float[Tensor, "view bin height width"], ground_probability: Float[Tensor, "view height width"]
) -> Float[Tensor, "view bin height width"]:
    """Guess the depth of each pixel from where its column of the image touches the ground.

    What is not ground stands on it: going down the column from pixel q, the first ground pixel r is where the thing at q stands, and tells
    its depth (`ground` of r, from `ground_encoding`). With the probability g of each pixel to be ground, P(r | q) = g_r · Π (1 − g_s)
    over the rows s from q to above r; a ground pixel is its own r. Where no ground is below, the thing stands under the edge of the image,
    at any depth nearer than ground would have in the last row. Cameras are taken to be upright and things to be vertical (compare the
    stixel world, Badino et al. 2009).
    """
    g = ground_probability.clamp(MIN_GROUND_PROBABILITY, 1 - MIN_GROUND_PROBABILITY).transpose(-1, -2)
    passed = torch.log1p(-g)
    above = passed.cumsum(dim=-1) - passed
    # log Π (1 − g_s), s from q (axis -2) to above r (axis -1)
    between = (above[..., None, :] - above[..., :, None]).clamp(max=0)
    stands_at = (between.exp() * g[..., None, :]).triu()
    nearer = (1 - ground[:, :, -1].cumsum(dim=1)).clamp(min=MIN_SHARE)
    nearer = nearer / nearer.sum(dim=1, keepdim=True)
    stands_below = (above[..., -1:] + passed[..., -1:] - above).exp()
    return torch.einsum("vwqr,vbrw->vbqw", stands_at, ground) + torch.einsum("vwq,vbw->vbqw", stands_below, nearer)


def ground_probability(
    class_probabilities: Float[Tensor, "view class *size"], ground_classes: Sequence[int]
) -> Float[Tensor, "view *size"]:
    """Return the probability that a pixel is ground of any class."""
    return of_classes(class_probabilities, ground_classes).sum(dim=1)


def of_classes(class_probabilities: Float[Tensor, "view class *size"], classes: Sequence[int]) -> Float[Tensor, "view chosen *size"]:
    """Return the probabilities of some classes; unlike a list as an index the host does not wait for a GPU meanwhile."""
    return class_probabilities.index_select(1, beside(classes, class_probabilities, torch.int64))


class StandingDepth(nn.Module):
    """Distribution of each pixel's depth from geometry and from where the classes say ground: what the image features only correct."""

    def __init__(self, bins: DepthBins, ground_classes: tuple[int, ...]) -> None:
        super().__init__()
        self.bins = bins
        self.ground_classes = list(ground_classes)
        self.heights = nn.Parameter(torch.zeros(len(ground_classes)))
        """Of each ground class above the plane z = 0 of the ego frame, metres: a sidewalk lies a curb above the road."""
        self.log_spread = nn.Parameter(torch.zeros(()))
        """Of the bins within which level ground is expected around where it is computed to be."""

    def forward(
        self, class_probabilities: Float[Tensor, "view class height width"], cameras: Cameras
    ) -> Float[Tensor, "view bin height width"]:
        """Return logits over the depth bins; `cameras` are those of the views, (view,)."""
        ground = ground_probability(class_probabilities, self.ground_classes)
        weighted = torch.einsum("vchw,c->vhw", of_classes(class_probabilities, self.ground_classes), self.heights)
        encoding = ground_encoding(cameras, self.bins, weighted / ground.clamp(min=MIN_GROUND_PROBABILITY), self.log_spread.exp())
        return torch.log(standing_encoding(encoding, ground) + DOUBT / self.bins.count)
