"""What is known of a pixel's depth before anything is learned."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.config import Config
from splattingocc.geometry.cameras import Cameras

MIN_GROUND_PROBABILITY = 1e-3
"""Of any pixel; keeps the logarithms of the column finite."""


class DepthBins(Config):
    """Intervals of z-depth, equally wide in the logarithm."""

    nearest: float = 1.5
    """Metres at which the first bin begins; nearer depths count to it."""
    farthest: float = 60.0
    """Metres at which the last bin ends; farther depths count to it."""
    count: int = 32
    """Number of bins."""

    def position(self, depths: Tensor) -> Tensor:
        """Return where z-depths lie on the axis of bins, in bins: 0 at `nearest`, `count` at `farthest`."""
        span = math.log(self.farthest / self.nearest)
        return (torch.log(depths.clamp(min=self.nearest) / self.nearest) / span * self.count).clamp(max=self.count)

    def width(self, depths: Tensor) -> Tensor:
        """Return the width in metres of the bin around each z-depth."""
        return depths * ((self.farthest / self.nearest) ** (1 / self.count) - 1)

    def index(self, depths: Tensor) -> Int64[Tensor, "..."]:
        """Return the bin of each z-depth."""
        return self.position(depths).long().clamp(max=self.count - 1)


def ground_encoding(cameras: Cameras, bins: DepthBins, size: tuple[int, int]) -> Float[Tensor, "*batch bin height width"]:
    """Say, for each feature pixel, at which depth its ray meets the plane z = 0 of the ego frame.

    The depth is spread over the two nearest bins so that it varies smoothly; rays that meet the plane nowhere in front give zeros.
    """
    height, width = size
    v = (torch.arange(height, device=cameras.K.device) + 0.5) * (cameras.image_size[0] / height)
    u = (torch.arange(width, device=cameras.K.device) + 0.5) * (cameras.image_size[1] / width)
    pixels = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width, device=u.device)], dim=-1)
    # Per metre of depth the ray climbs by this much; only the z row of ego_from_cam is needed.
    up_from_cam = cameras.cam_from_ego[..., :3, 2]
    climb = torch.einsum("...i,...ij,hwj->...hw", up_from_cam, torch.linalg.inv(cameras.K), pixels)
    camera_height = cameras.optical_centers[..., 2][..., None, None]
    depths = -camera_height / climb.where(climb < 0, torch.full_like(climb, -1e-6))
    position = bins.position(depths.clamp(min=0.0))[..., None] - 0.5
    spread = (1 - (position - torch.arange(bins.count, device=position.device)).abs()).clamp(min=0)
    return (spread * (climb < 0)[..., None]).movedim(-1, -3)


def standing_encoding(
    ground: Float[Tensor, "view bin height width"], ground_probability: Float[Tensor, "view height width"]
) -> Float[Tensor, "view bin height width"]:
    """Guess the depth of each pixel from where its column of the image touches the ground.

    What is not ground stands on it: going down the column from pixel q, the first ground pixel r is where the thing at q stands, and tells
    its depth (`ground` of r, from `ground_encoding`). With the probability g of each pixel to be ground, P(r | q) = g_r · Π (1 − g_s)
    over the rows s from q to above r; a ground pixel is its own r. What is left, where no ground is below, gives nothing. Cameras are
    taken to be upright and things to be vertical (compare the stixel world, Badino et al. 2009).
    """
    g = ground_probability.clamp(MIN_GROUND_PROBABILITY, 1 - MIN_GROUND_PROBABILITY).transpose(-1, -2)
    passed = torch.log1p(-g)
    above = passed.cumsum(dim=-1) - passed
    # log Π (1 − g_s), s from q (axis -2) to above r (axis -1)
    between = (above[..., None, :] - above[..., :, None]).clamp(max=0)
    stands_at = (between.exp() * g[..., None, :]).triu()
    return torch.einsum("vwqr,vbrw->vbqw", stands_at, ground)
