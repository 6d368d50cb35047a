"""What the image branch alone would make of any cell."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import warp as wp
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.cameras import NEAR_PLANE, Cameras
from splattingocc.kernels.cell_evidence import PixelMaps, ViewCameras, collect_evidence
from splattingocc.kernels.gaussian_scene import as_array, as_output
from splattingocc.kernels.launch import launch
from splattingocc.models.depth import DepthBins, ground_probability
from splattingocc.models.image_reader import ImageReaderConfig, ImageReading
from splattingocc.models.projection import place, sample_map
from splattingocc.struct import Struct, stack


@dataclass(frozen=True)
class Evidence(Struct):
    """What images say of cells."""

    surface: Float[Tensor, "*batch cell"]
    """Probability that the surface lies in the cell, given that it does not lie before it; 0 where no view sees the cell."""
    classes: Float[Tensor, "*batch classified class"]
    """Probabilities of the class of the same cells, or of those only that were chosen of them. They sum to how likely a cell is in sight:
    of what something else hides, a pixel knows no class."""


@dataclass(frozen=True)
class PixelDistributions(Struct):
    """What the pixels of each view say of the surface they see."""

    masses: Float[Tensor, "view bin row width"]
    """Probability that it lies within the size of a cell around the depth of each bin."""
    left: Float[Tensor, "view bin row width"]
    """Probability that it does not lie before that."""
    classes: Float[Tensor, "view class row width"]
    """Probabilities of its class."""
    ground: Float[Tensor, "view row width"]
    """Probability that it is ground of any class."""


@dataclass(frozen=True)
class EvidenceSource:
    """What the images of each sample say, to be asked for any cells; without gradients: the image branch learns from its own losses."""

    pixels: list[PixelDistributions]
    cameras: Cameras
    """(batch, view)"""
    bins: DepthBins
    cell_size: float
    """Metres."""

    @classmethod
    @torch.no_grad()
    def of(cls, reading: ImageReading, cameras: Cameras, config: ImageReaderConfig, cell_size: float) -> EvidenceSource:
        """Take what was read with `config`."""
        device = reading.depth_logits.device
        within, before = (shares.to(device, non_blocking=True) for shares in config.depth_bins.shares_within(cell_size))
        pixels = []
        for sample in range(len(reading.context)):
            density = reading.depth_logits[sample].softmax(dim=1)
            classes = reading.class_logits[sample].softmax(dim=1)
            masses, passed = (torch.einsum("ab,vbhw->vahw", shares, density) for shares in (within, before))
            pixels.append(PixelDistributions(masses, 1 - passed, classes, ground_probability(classes, config.ground_classes)))
        return cls(pixels, cameras, config.depth_bins, cell_size)

    def at(self, centers: Float[Tensor, "cell 3"]) -> Evidence:
        """Return the evidence of cells, the same for each sample."""
        return stack([self._of_sample(sample, pixels, centers) for sample, pixels in enumerate(self.pixels)])

    def surface_at(self, centers: Float[Tensor, "cell 3"]) -> Evidence:
        """Return the same with the probabilities of no class, at half the cost."""
        return stack([self._of_sample(sample, _without_classes(pixels), centers) for sample, pixels in enumerate(self.pixels)])

    def classes_at(self, centers: Float[Tensor, "batch cell 3"]) -> Float[Tensor, "batch cell class"]:
        """Return the probabilities of classes in cells that differ from sample to sample, as `Evidence.classes`."""
        return torch.stack([self._of_sample(sample, pixels, centers[sample]).classes for sample, pixels in enumerate(self.pixels)])

    def _of_sample(self, sample: int, pixels: PixelDistributions, centers: Float[Tensor, "cell 3"]) -> Evidence:
        return collect(pixels, self.cameras[sample], self.bins, centers, self.cell_size)


def _without_classes(pixels: PixelDistributions) -> PixelDistributions:
    return dataclasses.replace(pixels, classes=pixels.classes[:, :0])


def find_evidence(
    reading: ImageReading, cameras: Cameras, config: ImageReaderConfig, centers: Float[Tensor, "cell 3"], cell_size: float
) -> Evidence:
    """Say of any cells what the images alone, read with `config`, would make of them; the cameras are (batch, view).

    Without gradients: the image branch learns from its own losses.
    """
    return EvidenceSource.of(reading, cameras, config, cell_size).at(centers)


@torch.no_grad()
def collect(pixels: PixelDistributions, cameras: Cameras, bins: DepthBins, centers: Float[Tensor, "cell 3"], cell_size: float) -> Evidence:
    """Return what `collect_reference` says, within float32 rounding, a cell at a time instead of a view at a time."""
    device = centers.device
    maps = PixelMaps()
    spans = torch.stack([pixels.masses, pixels.left], dim=-1)
    maps.spans = as_array(rearrange(spans.float(), "view bin row width two -> view row width bin two"), wp.vec2)
    maps.classes = as_array(rearrange(pixels.classes.float(), "view c row width -> view row width c"), wp.float32)
    maps.ground = as_array(pixels.ground.float(), wp.float32)
    maps.log_nearest = math.log(bins.nearest)
    maps.bins_per_log = bins.count / math.log(bins.farthest / bins.nearest)
    seen_by = ViewCameras()
    seen_by.K, seen_by.cam_from_ego = as_array(cameras.K, wp.mat33), as_array(cameras.cam_from_ego, wp.mat44)
    seen_by.height, seen_by.width = map(float, cameras.image_size)
    seen_by.near_plane = NEAR_PLANE
    surface = torch.zeros(len(centers), device=device)
    classes = torch.zeros(len(centers), pixels.classes.shape[1], device=device)
    results = [as_output(surface, wp.float32), as_output(classes, wp.float32)]
    launch(collect_evidence, len(centers), [as_array(centers, wp.vec3), cell_size / 2, maps, seen_by, *results], device=device)
    return Evidence(surface, classes)


@torch.no_grad()
def collect_reference(
    pixels: PixelDistributions, cameras: Cameras, bins: DepthBins, centers: Float[Tensor, "cell 3"], cell_size: float
) -> Evidence:
    """Say how likely the surface lies in each cell and of which class it is: the mean over the views that see the cell.

    Cells that level ground passes through are also taken for occupied where the pixel says ground: seen at a low angle one pixel
    covers many of them, and its depth could name only one.
    """
    holds_ground = centers[:, 2].abs() <= cell_size / 2
    surface, num_views = centers.new_zeros(len(centers)), centers.new_zeros(len(centers))
    weighted_classes = centers.new_zeros(len(centers), pixels.classes.shape[1])
    for view in range(len(cameras.K)):
        cells, position = place(centers, cameras[view], bins)
        spans = torch.stack([pixels.masses[view], pixels.left[view]])
        mass, left = sample_map(spans, position).unbind(dim=-1)
        seen = mass / left.clamp(min=1e-3)
        on_ground = sample_map(pixels.ground[view][None], position[:, :2]).squeeze(1) * holds_ground[cells]
        seen = torch.maximum(seen, on_ground)
        surface.index_add_(0, cells, seen)
        num_views.index_add_(0, cells, torch.ones_like(seen))
        weighted_classes.index_add_(0, cells, sample_map(pixels.classes[view], position[:, :2]) * (seen * left)[:, None])
    return Evidence((surface / num_views.clamp(min=1)).clamp(max=1), weighted_classes / surface.clamp(min=1e-6)[:, None])
