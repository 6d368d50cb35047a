"""Labelled points in the images, and what the image branch says of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.transforms import beside, transform_points
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
    counts: tuple[int, ...]
    """Of each sample, whose points follow those of the one before."""


def label_pixels(rays: Rays, labels: RayLabels, cameras: Cameras) -> PixelLabels:
    """Return the key frames' own labelled points of a batch in the images (batch, view) of the cameras that their rays start from; those in
    the black corners of a turned image are left out."""
    height, width = cameras.image_size
    # What others saw of a vehicle that stands may be hidden from it now
    known = labels.is_own & labels.distances.isfinite() & (labels.weights > 0)
    points = rays.at(labels.distances.where(known, torch.ones_like(labels.distances)))
    num_samples, num_views = cameras.K.shape[:2]
    own = known[:, None] & ((rays.origins[:, None] - cameras.optical_centers[:, :, None]).norm(dim=-1) < SAME_CENTER)
    # All images at once, here and below: each time the host waits for a GPU to know how many there are
    samples, views, places = own.nonzero().unbind(-1)
    points, labels = points[samples, places], labels[samples, places]
    parts = []
    for number, of_view in enumerate(points.split(own.sum(-1).flatten().tolist())):
        camera = cameras[number // num_views, number % num_views]
        in_image, visible = camera.project(of_view)
        parts.append((in_image, visible & camera.shows(in_image), transform_points(camera.cam_from_ego, of_view)[:, 2]))
    pixels, visible, depths = (torch.cat(tensors) for tensors in zip(*parts))
    seen = visible.nonzero().squeeze(1)
    labels, samples = labels[seen], samples[seen]
    counts = tuple(torch.stack([(samples == sample).sum() for sample in range(num_samples)]).tolist())
    positions = pixels[seen] / beside([width, height], pixels)
    return PixelLabels(samples * num_views + views[seen], positions, depths[seen], labels.semantics, labels.weights, counts)


def mean_pixel_nll(
    logits: Float[Tensor, "image channel height width"], pixels: PixelLabels, targets: Int64[Tensor, " point"]
) -> Float[Tensor, " batch"]:
    """Return the mean over the points of each sample, by label weight; those whose target is no channel count as if they were not there."""
    weights = pixels.weights * (targets < logits.shape[-3])
    of_samples = zip(pixel_nll(logits, pixels, targets).split(pixels.counts), weights.split(pixels.counts))
    return torch.stack([weighted_mean(*of_sample) for of_sample in of_samples])


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
