"""Render a dense density and feature volume along rays by sampling, as NeRF-based occupancy methods do: the baseline."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import beside
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.field import Rendering


def render_nerf(
    densities: Float[Tensor, "x y z"],
    features: Float[Tensor, "x y z channel"],
    grid: VoxelGrid,
    rays: Rays,
    *,
    near: float,
    far: float,
    num_samples: int = 400,
    label_distances: Float[Tensor, " ray"] | None = None,
    margin: float = 0.4,
) -> Rendering:
    """Integrate σ and f along each (unbatched) ray at the middles of `num_samples` equal steps from `near` to `far`.

    `densities` are per metre, not negative; values between cell centres are trilinear, and beyond the outermost ones they fade to zero
    over a cell. With step Δ: α = 1 − exp(−σΔ), composited as Gaussians are. Memory grows with rays × samples × channels.
    """
    step = (far - near) / num_samples
    distances = near + step * (torch.arange(num_samples, device=densities.device, dtype=densities.dtype) + 0.5)
    points = rays.origins[:, None] + distances[:, None] * rays.directions[:, None]
    lower, upper = beside(grid.lower, points), beside(grid.upper, points)
    positions = 2 * (points - lower) / (upper - lower) - 1
    volume = torch.cat([densities[..., None], features], dim=-1).permute(3, 0, 1, 2)[None]
    # grid_sample's coordinates run over the last axis first
    sampled = grid_sample(volume, positions.flip(-1)[None, None], align_corners=False)[0, :, 0].permute(1, 2, 0)
    optical_depths = sampled[..., 0] * step
    before = optical_depths.cumsum(-1) - optical_depths
    weights = torch.exp(-before) * -torch.expm1(-optical_depths)
    mass = weights.sum(-1)
    hit = mass > 0
    expected = torch.where(hit, (weights @ distances) / torch.where(hit, mass, torch.ones_like(mass)), torch.zeros_like(mass))
    composited = torch.einsum("rs,rsc->rc", weights, sampled[..., 1:])
    distortion = _distortion(weights, distances, step)
    if label_distances is None:
        return Rendering(composited, expected, mass, distortion=distortion)
    labels = torch.where(label_distances.isnan(), torch.full_like(label_distances, -math.inf), label_distances)[:, None]
    in_front = (weights * (distances < labels - margin)).sum(-1)
    at_hit = (weights * ((distances - labels).abs() <= margin)).sum(-1)
    return Rendering(composited, expected, mass, in_front, at_hit, distortion)


def _distortion(weights: Float[Tensor, "ray sample"], distances: Float[Tensor, " sample"], step: float) -> Float[Tensor, " ray"]:
    """Return Σᵢⱼ wᵢ wⱼ |tᵢ − tⱼ| + ⅓ Σ wᵢ² Δ, metres, by sums over the samples before each: they are in order of distance."""
    moments = weights * distances
    mass_before = weights.cumsum(-1) - weights
    moment_before = moments.cumsum(-1) - moments
    pairs = 2 * (moments * mass_before - weights * moment_before).sum(-1)
    return pairs + weights.square().sum(-1) * (step / 3)
