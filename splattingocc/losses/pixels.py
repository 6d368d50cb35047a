"""Labelled points in the images, and what the image branch says of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.transforms import transform_points
from splattingocc.losses.loss import weighted_mean
from splattingocc.splatting.gather import gather_rows
from splattingocc.struct import Struct

SAME_CENTER = 1e-2
"""Metres between a ray's origin and an optical centre within which the ray belongs to that camera."""


@dataclass(frozen=True)
class PixelLabels(Struct):
    """Labelled points, each in the image of the camera that its ray starts from."""

    images: Int64[Tensor, " point"]
    """Position of the image in the batch of images."""
    positions: Float[Tensor, "point 2"]
    """(u, v) in [0, 1] of the image's width and height."""
    depths: Float[Tensor, " point"]
    """z-depth, metres."""
    semantics: Int64[Tensor, " point"]
    weights: Float[Tensor, " point"]


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


def pixel_nll(
    logits: Float[Tensor, "image channel height width"], pixels: PixelLabels, targets: Int64[Tensor, " point"]
) -> Float[Tensor, " point"]:
    """Return the negative log-likelihood of each point's target at the feature pixel that holds it; 0 where the target is no channel."""
    channels, height, width = logits.shape[-3:]
    columns = (pixels.positions[:, 0] * width).long().clamp(0, width - 1)
    rows = (pixels.positions[:, 1] * height).long().clamp(0, height - 1)
    known = targets < channels
    of_points = gather_rows(logits.movedim(1, -1).flatten(0, 2), (pixels.images * height + rows) * width + columns)
    nll = functional.cross_entropy(of_points, targets.where(known, 0), reduction="none")
    return nll * known


def mean_of_samples(values: Float[Tensor, " point"], pixels: PixelLabels, cameras: Cameras) -> Float[Tensor, " batch"]:
    """Return the mean over the points of each sample of a batch of cameras (batch, view), by label weight."""
    num_samples, num_views = cameras.K.shape[:2]
    own = [pixels.images // num_views == sample for sample in range(num_samples)]
    return torch.stack([weighted_mean(values[of], pixels.weights[of]) for of in own])
