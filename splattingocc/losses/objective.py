"""The training objective: the losses, weighed.

Each loss is a mean over what is labelled in a sample, then a mean over the samples: so a batch has the same gradients however many
processes share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from splattingocc.config import Config, Distance, Probability, Weight
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.transforms import transform_points
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.losses.depth import log_distance_error, silog
from splattingocc.losses.pixels import PixelLabels, pixel_nll
from splattingocc.losses.query import free_cost, free_points, gaussian_of_cell, hit_cost, query
from splattingocc.losses.regularization import opacity_prior
from splattingocc.losses.semantic import class_nll
from splattingocc.losses.sight import empty_ray_cost, line_of_sight
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.network import NetworkOutput
from splattingocc.splatting.gaussians import Gaussians, Rendering
from splattingocc.taxonomy import CLASSES, SKY

SAME_CENTER = 1e-2
"""Metres between a ray's origin and an optical centre within which the ray belongs to that camera."""

LABELLED_LOSSES = ("semantic", "distance", "line_of_sight", "empty", "query", "depth_bins", "pixel_classes")
"""The losses that look at labels."""


class ObjectiveConfig(Config):
    """Weights of the losses; 0 leaves one out."""

    semantic: Weight = 1.0
    """Negative log-likelihood of the rendered class."""
    distance: Weight = 0.5
    """Scale-invariant logarithmic error of the rendered distance."""
    line_of_sight: Weight = 0.5
    """Free space before the label, mass at the label."""
    empty: Weight = 0.5
    """Nothing along rays of the sky and along those whose label lies outside of the grid."""
    query: Weight = 0.5
    """The same labels asked of the Gaussians directly: free on the way, the class at the end."""
    num_query_points: Annotated[int, Field(ge=1, le=1000)] = 4
    """Points on the way that are asked for each ray."""
    query_margin: Distance = 0.4
    """Metres before the label from which on nothing is asked."""
    depth_bins: Weight = 0.5
    """Cross-entropy of the image branch's depth distribution at labelled pixels."""
    pixel_classes: Weight = 0.5
    """Cross-entropy of the image branch's class at labelled pixels."""
    opacity_prior: Weight = 0.05
    """Cost of the mean opacity."""
    variance_focus: Probability = 0.85
    """Share of the common scale error that the distance loss forgives."""
    class_weights: dict[str, Weight] = {}
    """Weights of single classes in the class loss, by name; 1 where not given."""

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        for name in self.class_weights:
            if name not in CLASSES:
                raise ValueError(f"objective.class_weights: {name!r} is not a class; classes are {', '.join(CLASSES)}")
        if not any(getattr(self, name) for name in LABELLED_LOSSES):
            raise ValueError(f"objective: nothing would be learned from labels; give one of {', '.join(LABELLED_LOSSES)} a weight")
        return self


@dataclass(frozen=True)
class Losses:
    """One number per loss, already weighed."""

    parts: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.parts.values())).sum()


class Objective(nn.Module):
    """Compare what was rendered with the 2D labels."""

    class_weights: Tensor

    def __init__(self, config: ObjectiveConfig, depth_bins: DepthBins) -> None:
        super().__init__()
        self.config = config
        self.depth_bins = depth_bins
        weights = torch.tensor([config.class_weights.get(name, 1.0) for name in CLASSES])
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, output: NetworkOutput, rendering: Rendering, rays: Rays, labels: RayLabels, cameras: Cameras) -> Losses:
        """Return the losses of a batch; `cameras` are those of the newest frame (batch, view)."""
        config = self.config
        assert rendering.in_front is not None
        assert rendering.at_hit is not None
        parts: dict[str, Tensor] = {}
        empty = find_empty(rays, labels, output.gaussians.grid)
        stopped = labels.weights * ~empty
        if config.semantic:
            nll = class_nll(rendering.features, labels.semantics, class_weights=self.class_weights)
            parts["semantic"] = config.semantic * _mean(nll, stopped * (labels.semantics < len(CLASSES))).mean()
        ranged = stopped * labels.distances.isfinite()
        if config.distance:
            errors = log_distance_error(rendering.distances, labels.distances)
            parts["distance"] = config.distance * silog(errors, ranged, variance_focus=config.variance_focus).mean()
        if config.line_of_sight:
            sight = line_of_sight(rendering.in_front, rendering.at_hit, labels.distances)
            parts["line_of_sight"] = config.line_of_sight * _mean(sight, ranged).mean()
        if config.empty:
            parts["empty"] = config.empty * _mean(empty_ray_cost(rendering.alphas), labels.weights * empty).mean()
        if config.query:
            parts["query"] = config.query * self._query(output.gaussians, rays, labels)
        parts |= self.on_images(output.reading, rays, labels, cameras).parts
        if config.opacity_prior:
            parts["opacity_prior"] = config.opacity_prior * opacity_prior(output.gaussians.opacities).mean()
        return Losses(parts)

    def _query(self, gaussians: Gaussians, rays: Rays, labels: RayLabels) -> Tensor:
        """Return the mean cost of a ray: free points stand for all the cells on the way, the end for itself and its class."""
        margin, count = self.config.query_margin, self.config.num_query_points
        costs = []
        for sample in range(len(labels.distances)):
            known = labels.distances[sample].isfinite() & (labels.weights[sample] > 0)
            rays_known, distances = rays[sample][known], labels.distances[sample][known]
            one, table = gaussians[sample], gaussian_of_cell(gaussians[sample])
            points = free_points(rays_known, distances, margin=margin, count=count)
            on_way, _, valid = query(one, table, points.flatten(0, 1))
            num_cells = (distances - margin).clamp(min=0) / gaussians.grid.cell_size
            free = (free_cost(on_way) * valid).unflatten(0, (-1, count)).mean(dim=1) * num_cells
            at_end, features, valid = query(one, table, rays_known.at(distances))
            nll = class_nll(features, labels.semantics[sample][known], class_weights=self.class_weights)
            costs.append(_mean(free + (hit_cost(at_end) + nll) * valid, labels.weights[sample][known]))
        return torch.stack(costs).mean()

    def on_images(self, reading: ImageReading, rays: Rays, labels: RayLabels, cameras: Cameras) -> Losses:
        """Return the losses that need no volume: depth and class of the labelled pixels, read off the images."""
        pixels = label_pixels(rays, labels, cameras)
        depth_nll = pixel_nll(reading.depth_logits.flatten(0, 1), pixels, self.depth_bins.index(pixels.depths))
        class_nll = pixel_nll(reading.class_logits.flatten(0, 1), pixels, pixels.semantics)
        parts = {"depth_bins": (self.config.depth_bins, depth_nll), "pixel_classes": (self.config.pixel_classes, class_nll)}
        num_views = cameras.K.shape[1]
        own = [pixels.images // num_views == sample for sample in range(len(labels.distances))]
        means = {name: torch.stack([_mean(nll[of], pixels.weights[of]) for of in own]) for name, (_, nll) in parts.items()}
        return Losses({name: weight * means[name].mean() for name, (weight, _) in parts.items() if weight})


def find_empty(rays: Rays, labels: RayLabels, grid: VoxelGrid) -> Bool[Tensor, "*batch ray"]:
    """Say which rays meet nothing in the grid: those of the sky, and those that are stopped outside of it only."""
    known = labels.distances.isfinite()
    _, inside = grid.cells_of(rays.at(labels.distances.where(known, torch.zeros_like(labels.distances))))
    return (labels.semantics == SKY) | (known & ~inside)


def label_pixels(rays: Rays, labels: RayLabels, cameras: Cameras) -> PixelLabels:
    """Return the labelled points of a batch in the images (batch, view) of the cameras that their rays start from."""
    height, width = cameras.image_size
    known = labels.distances.isfinite() & (labels.weights > 0)
    points = rays.at(labels.distances.where(known, torch.ones_like(labels.distances)))
    num_views = cameras.K.shape[1]
    parts = []
    for sample in range(len(points)):
        for view in range(num_views):
            camera = cameras[sample, view]
            own = known[sample] & ((rays.origins[sample] - camera.optical_centers).norm(dim=-1) < SAME_CENTER)
            points_view = points[sample, own]
            pixels, visible = camera.project(points_view)
            depths = transform_points(camera.cam_from_ego, points_view[visible])[:, 2]
            images = torch.full_like(depths, sample * num_views + view, dtype=torch.int64)
            positions = pixels[visible] / pixels.new_tensor([width, height])
            seen = labels[sample][own][visible]
            parts.append((images, positions, depths, seen.semantics, seen.weights))
    return PixelLabels(*(torch.cat(tensors) for tensors in zip(*parts)))


def _mean(values: Float[Tensor, "*batch ray"], weights: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch"]:
    return (values * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-6)
