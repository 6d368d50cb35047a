"""The sampling lift and the evidence with all views at once, in plain torch: what leaves with a network for other runtimes.

Here, views are taken one after the other, or a kernel takes them; a graph of operations has neither loops nor kernels. Cells that a view
sees are pairs in one list, and the maps of all views lie below each other in one, so each map is sampled once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import transform_points
from splattingocc.models.depth import DepthBins
from splattingocc.models.evidence import Evidence, PixelDistributions
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.lift.sampling import SamplingLift
from splattingocc.splatting.gather import sum_rows


@dataclass(frozen=True)
class SeenCells:
    """Which view sees which cell, and where."""

    views: Int64[Tensor, " pair"]
    cells: Int64[Tensor, " pair"]
    positions: Float[Tensor, "pair 3"]
    """u, v and depth bin, each from 0 to 1 over the image and over the bins."""

    @classmethod
    def of(cls, centers: Float[Tensor, "cell 3"], cameras: Cameras, bins: DepthBins) -> SeenCells:
        """Find what `models.projection.place` finds, in all views; the cameras are (view,)."""
        around = centers.expand(len(cameras.K), *centers.shape)
        pixels, visible = cameras.project(around)
        depths = transform_points(cameras.cam_from_ego, around)[..., 2]
        views, cells = visible.nonzero().unbind(dim=1)
        size = pixels.new_tensor([cameras.image_size[1], cameras.image_size[0]])
        bin_positions = bins.position(depths[views, cells])[:, None] / bins.count
        return cls(views, cells, torch.cat([pixels[views, cells] / size, bin_positions], dim=-1))

    def sample(self, maps: Float[Tensor, "view channel *space"]) -> Float[Tensor, "pair channel"]:
        """Interpolate maps (rows and columns, or bins before these) at each pair, as `models.projection.sample_map` does."""
        num_views, rows = len(maps), maps.shape[-2]
        # Rows end half a row before the next view's begin: nothing is interpolated between views
        within = (self.positions[:, 1] * rows).clamp(0.5, rows - 0.5)
        row = (self.views * rows + within) / (num_views * rows)
        places = torch.stack([self.positions[:, 0], row, self.positions[:, 2]], dim=-1)[:, : maps.ndim - 2] * 2 - 1
        below_each_other = maps.movedim(0, -3).flatten(-3, -2)[None]
        grid = places.view(1, *((1,) * (maps.ndim - 3)), -1, maps.ndim - 2)
        sampled = functional.grid_sample(below_each_other, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return sampled.flatten(1).view(maps.shape[1], -1).T

    def sum(self, values: Float[Tensor, "pair *channel"], num_cells: int) -> Float[Tensor, "cell *channel"]:
        """Sum up for each cell what its views say."""
        return sum_rows(values, self.cells, num_cells)


def lift_all_views(lift: SamplingLift, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "1 channel x y z"]:
    """Return what `lift` makes of one sample, within float32 rounding; the cameras are (view,)."""
    context = lift.context_head(reading.context[0])
    rows = reading.class_logits.shape[-2] // context.shape[-2]
    classes = reduce(reading.class_logits[0].softmax(dim=1), "view c (h row) w -> view c h w", "mean", row=rows)
    density = reading.depth_logits[0].softmax(dim=1)
    distribution = torch.stack([density * lift.depth_bins.count, 1 - density.cumsum(dim=1)], dim=1)
    seen, num_cells = SeenCells.of(lift.centers, cameras, lift.depth_bins), len(lift.centers)
    feature, geometry = seen.sample(torch.cat([context, classes], dim=1)), seen.sample(distribution)
    said = lift.mix(torch.cat([feature, feature * geometry[:, :1], geometry], dim=-1))
    num_views = seen.sum(torch.ones_like(said[:, 0]), num_cells)
    volume = seen.sum(said, num_cells) / num_views.clamp(min=1)[:, None]
    return (volume.T.unflatten(1, lift.grid.shape) + lift.height_embedding[:, None, None, :])[None]


def collect_all_views(
    pixels: PixelDistributions, cameras: Cameras, bins: DepthBins, centers: Float[Tensor, "cell 3"], cell_size: float
) -> Evidence:
    """Return what `models.evidence.collect_reference` does, within float32 rounding; the cameras are (view,)."""
    pairs, num_cells = SeenCells.of(centers, cameras, bins), len(centers)
    mass, left = pairs.sample(torch.stack([pixels.masses, pixels.left], dim=1)).unbind(dim=-1)
    maps = pairs.sample(torch.cat([rearrange(pixels.ground, "view row width -> view 1 row width"), pixels.classes], dim=1))
    holds_ground = centers[:, 2].abs() <= cell_size / 2
    seen = torch.maximum(mass / left.clamp(min=1e-3), maps[:, 0] * holds_ground[pairs.cells])
    surface, num_views = pairs.sum(torch.stack([seen, torch.ones_like(seen)], dim=1), num_cells).unbind(dim=1)
    weighted_classes = pairs.sum(maps[:, 1:] * (seen * left)[:, None], num_cells)
    return Evidence((surface / num_views.clamp(min=1)).clamp(max=1), weighted_classes / surface.clamp(min=1e-6)[:, None])
