"""What the image branch alone would make of any cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import warp as wp
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.cameras import NEAR_PLANE, Cameras
from splattingocc.kernels.cell_evidence import PixelMaps, ViewCameras, collect_evidence
from splattingocc.kernels.gaussian_scene import as_array
from splattingocc.kernels.launch import launch
from splattingocc.models.depth import DepthBins
from splattingocc.models.sampling import place, sample_map
from splattingocc.struct import Struct


@dataclass(frozen=True)
class PixelBeliefs(Struct):
    """What the pixels of each view believe of the surface they see."""

    masses: Float[Tensor, "view bin row width"]
    """How likely it lies within the size of a cell around the depth of each bin."""
    left: Float[Tensor, "view bin row width"]
    """How likely it does not lie before that."""
    classes: Float[Tensor, "view class row width"]
    """Probabilities of its class."""
    ground: Float[Tensor, "view row width"]
    """Probability that it is ground of any class."""


@torch.no_grad()
def collect(
    beliefs: PixelBeliefs, cameras: Cameras, bins: DepthBins, centers: Float[Tensor, "cell 3"], cell_size: float
) -> tuple[Float[Tensor, " cell"], Float[Tensor, "cell class"]]:
    """Return what `collect_reference` says, within float32 rounding, a cell at a time instead of a view at a time."""
    device = centers.device
    maps = PixelMaps()
    spans = torch.stack([beliefs.masses, beliefs.left], dim=-1)
    maps.spans = as_array(rearrange(spans.float(), "view bin row width two -> view row width bin two"), wp.vec2)
    maps.classes = as_array(rearrange(beliefs.classes.float(), "view c row width -> view row width c"), wp.float32)
    maps.ground = as_array(beliefs.ground.float(), wp.float32)
    maps.log_nearest = math.log(bins.nearest)
    maps.bins_per_log = bins.count / math.log(bins.farthest / bins.nearest)
    seen_by = ViewCameras()
    seen_by.K, seen_by.cam_from_ego = as_array(cameras.K, wp.mat33), as_array(cameras.cam_from_ego, wp.mat44)
    seen_by.height, seen_by.width = map(float, cameras.image_size)
    seen_by.near_plane = NEAR_PLANE
    hazards = torch.zeros(len(centers), device=device)
    classes = torch.zeros(len(centers), beliefs.classes.shape[1], device=device)
    results = [as_array(hazards, wp.float32), as_array(classes, wp.float32)]
    launch(collect_evidence, len(centers), [as_array(centers, wp.vec3), cell_size / 2, maps, seen_by, *results], device=device)
    return hazards, classes


@torch.no_grad()
def collect_reference(
    beliefs: PixelBeliefs, cameras: Cameras, bins: DepthBins, centers: Float[Tensor, "cell 3"], cell_size: float
) -> tuple[Float[Tensor, " cell"], Float[Tensor, "cell class"]]:
    """Say how likely the surface lies in each cell, given that it does not lie before it, and of which class it is.

    The first result is the mean over the views that see the cell, 0 where none does. The second sums to how likely the cell is in sight:
    of what something else hides, a pixel knows no class.

    Cells that level ground passes through are also taken for occupied where the pixel says ground: seen at a low angle one pixel
    covers many of them, and its depth could name only one.
    """
    holds_ground = centers[:, 2].abs() <= cell_size / 2
    hazard, num_views = centers.new_zeros(len(centers)), centers.new_zeros(len(centers))
    weighed = centers.new_zeros(len(centers), beliefs.classes.shape[1])
    for view in range(len(cameras.K)):
        cells, position = place(centers, cameras[view], bins)
        spans = torch.stack([beliefs.masses[view], beliefs.left[view]])
        mass, left = sample_map(spans, position).unbind(dim=-1)
        seen = mass / left.clamp(min=1e-3)
        on_ground = sample_map(beliefs.ground[view][None], position[:, :2]).squeeze(1) * holds_ground[cells]
        seen = torch.maximum(seen, on_ground)
        hazard.index_add_(0, cells, seen)
        num_views.index_add_(0, cells, torch.ones_like(seen))
        weighed.index_add_(0, cells, sample_map(beliefs.classes[view], position[:, :2]) * (seen * left)[:, None])
    return (hazard / num_views.clamp(min=1)).clamp(max=1), weighed / hazard.clamp(min=1e-6)[:, None]
