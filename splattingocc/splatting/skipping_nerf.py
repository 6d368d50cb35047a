"""Sample a density volume along rays as `splatting/nerf.py` does, but only where there is something: the strongest baseline in plain torch.

What nerfacc does for NeRF (Li et al. 2023): a bit for each place says whether it is empty, samples in empty places are never made, the
others lie packed behind each other, and densities alone, without gradients, say how far each ray sees before anything else is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, max_pool3d

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_render import MIN_TRANSMITTANCE
from splattingocc.splatting.field import Rendering

RAYS_MARCHED_AT_ONCE = 2000
"""While samples are looked for; what they would be all together does not fit into a cache."""


@dataclass(frozen=True)
class _Samples:
    """Samples of all rays behind each other, each ray's in order of distance."""

    ray: Int64[Tensor, " sample"]
    distances: Float[Tensor, " sample"]
    corners: Int64[Tensor, "sample 8"]
    """Flat indices of the cells that a sample is interpolated between."""
    shares: Float[Tensor, "sample 8"]
    """Of each of these cells; 0 for one outside of the grid."""


def occupied_places(densities: Float[Tensor, "x y z"], cell_size: float) -> Bool[Tensor, "x_and_one y_and_one z_and_one"]:
    """Say of each cube between eight cell centres whether any of the eight cells is more opaque than MIN_ALPHA over its length."""
    occupied = densities.detach() * cell_size > -math.log1p(-MIN_ALPHA)
    return max_pool3d(occupied[None, None].float(), kernel_size=2, stride=1, padding=1)[0, 0] > 0


def render_skipping_nerf(
    densities: Float[Tensor, "x y z"],
    features: Float[Tensor, "x y z channel"],
    grid: VoxelGrid,
    rays: Rays,
    *,
    near: float,
    far: float,
    occupied: Bool[Tensor, "x_and_one y_and_one z_and_one"],
    num_samples: int = 400,
    label_distances: Float[Tensor, " ray"] | None = None,
    margin: float = 0.4,
    min_transmittance: float = MIN_TRANSMITTANCE,
) -> Rendering:
    """Return what `render_nerf` returns, but for the distortion.

    Samples, interpolation and sums are the same. Left out is what lies outside of the `occupied_places` and what less than
    `min_transmittance` of the light reaches; neither has a gradient.
    """
    step = (far - near) / num_samples
    samples = _visible_samples(densities.detach(), grid, rays, occupied, near, step, num_samples, min_transmittance)
    optical_depths = _interpolated(densities, samples) * step
    weights = torch.exp(-_depths_before(optical_depths, samples.ray, len(rays.origins))) * -torch.expm1(-optical_depths)

    num_rays, num_channels = len(rays.origins), features.shape[-1]
    counts = torch.bincount(samples.ray, minlength=num_rays)
    # One product of shares, weights and features: features of samples are never in memory
    composited = embedding_bag(
        samples.corners.flatten(),
        features.reshape(-1, num_channels),
        8 * (counts.cumsum(0) - counts),
        mode="sum",
        per_sample_weights=(weights[:, None] * samples.shares).flatten(),
    )

    def total(values: Float[Tensor, " sample"]) -> Float[Tensor, " ray"]:
        return values.new_zeros(num_rays).index_add(0, samples.ray, values)

    mass = total(weights)
    hit = mass > 0
    expected = torch.where(hit, total(weights * samples.distances) / torch.where(hit, mass, torch.ones_like(mass)), torch.zeros_like(mass))
    if label_distances is None:
        return Rendering(composited, expected, mass)
    labels = torch.where(label_distances.isnan(), torch.full_like(label_distances, -math.inf), label_distances)[samples.ray]
    in_front = total(weights * (samples.distances < labels - margin))
    at_hit = total(weights * ((samples.distances - labels).abs() <= margin))
    return Rendering(composited, expected, mass, in_front, at_hit)


@torch.no_grad()
def _visible_samples(
    densities: Float[Tensor, "x y z"],
    grid: VoxelGrid,
    rays: Rays,
    occupied: Bool[Tensor, "x_and_one y_and_one z_and_one"],
    near: float,
    step: float,
    num_samples: int,
    min_transmittance: float,
) -> _Samples:
    """Find the samples that lie in occupied places and that light reaches."""
    deepest = -math.log(min_transmittance) if min_transmittance > 0 else math.inf
    parts = []
    for start in range(0, max(1, len(rays.origins)), RAYS_MARCHED_AT_ONCE):
        part = rays[start : start + RAYS_MARCHED_AT_ONCE]
        samples = _samples_in(grid, part, occupied, near, step, num_samples)
        before = _depths_before(_interpolated(densities, samples) * step, samples.ray, len(part.origins))
        seen = (before <= deepest).nonzero().squeeze(1)
        parts.append((samples.ray[seen] + start, samples.distances[seen], samples.corners[seen], samples.shares[seen]))
    return _Samples(*(torch.cat(each) for each in zip(*parts)))


def _samples_in(
    grid: VoxelGrid, rays: Rays, occupied: Bool[Tensor, "x_and_one y_and_one z_and_one"], near: float, step: float, num_samples: int
) -> _Samples:
    """Return the samples of rays that lie in occupied places."""
    lower, upper = (rays.origins.new_tensor(corner) for corner in (grid.lower, grid.upper))
    # Interpolation fades to nothing half a cell outside of the grid
    to_lower, to_upper = lower - grid.cell_size / 2 - rays.origins, upper + grid.cell_size / 2 - rays.origins
    # A direction of exactly 0 would give 0 / 0 on a border
    directions = torch.where(rays.directions.abs() < 1e-9, torch.full_like(rays.directions, 1e-9), rays.directions)
    entries, exits = (to_lower / directions).minimum(to_upper / directions), (to_lower / directions).maximum(to_upper / directions)
    first = ((entries.amax(-1) - near) / step - 0.5).ceil().clamp(0, num_samples).long()
    last = ((exits.amin(-1) - near) / step - 0.5).floor().clamp(-1, num_samples - 1).long()
    counts = (last - first + 1).clamp(min=0)
    ray = torch.repeat_interleave(counts)
    numbers = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts - first)[ray]
    distances = near + step * (numbers + 0.5)
    positions = (rays.origins - lower)[ray] + distances[:, None] * rays.directions[ray]
    positions = positions / grid.cell_size - 0.5
    cells = positions.floor()
    x, y, z = (cells[:, axis].long() for axis in range(3))
    num_x, num_y, num_z = grid.shape
    # Rounding may put the first and the last sample just outside
    places = ((x + 1).clamp(0, num_x) * (num_y + 1) + (y + 1).clamp(0, num_y)) * (num_z + 1) + (z + 1).clamp(0, num_z)
    kept = occupied.flatten()[places].nonzero().squeeze(1)
    corners, shares = _corners(positions[kept], grid)
    return _Samples(ray[kept], distances[kept], corners, shares)


def _corners(positions: Float[Tensor, "sample 3"], grid: VoxelGrid) -> tuple[Int64[Tensor, "sample 8"], Float[Tensor, "sample 8"]]:
    """Return the eight cells around positions in cells, counted from the first centre, and what each contributes."""
    below = positions.floor()
    within = positions - below
    flat, share = None, None
    for axis, count in enumerate(grid.shape):
        pair = below[:, axis, None].long() + torch.arange(2, device=positions.device)
        shares = torch.stack([1 - within[:, axis], within[:, axis]], dim=-1) * ((pair >= 0) & (pair < count))
        pair = pair.clamp(0, count - 1)
        flat = pair if flat is None else (flat[:, :, None] * count + pair[:, None]).flatten(1)
        share = shares if share is None else (share[:, :, None] * shares[:, None]).flatten(1)
    assert flat is not None
    assert share is not None
    return flat, share


def _interpolated(densities: Float[Tensor, "x y z"], samples: _Samples) -> Float[Tensor, " sample"]:
    return (densities.flatten().gather(0, samples.corners.flatten()).unflatten(0, (-1, 8)) * samples.shares).sum(-1)


def _depths_before(optical_depths: Float[Tensor, " sample"], ray: Int64[Tensor, " sample"], num_rays: int) -> Float[Tensor, " sample"]:
    """Return the sum over the samples of the same ray before each."""
    # Of all rays together: single precision would lose what one of them adds
    before = optical_depths.double().cumsum(0) - optical_depths
    counts = torch.bincount(ray, minlength=num_rays)
    starts = (counts.cumsum(0) - counts).clamp(max=max(0, len(ray) - 1))
    return (before - before[starts[ray]]).to(optical_depths.dtype)
