"""What rendering is timed on: volumes of Gaussians in the Occ3D grid, and rays as a roof LiDAR has them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.splatting.gaussians import Gaussians

NUM_CHANNELS = 18
NEAR, FAR = 0.3, 60.0
"""Metres."""
MOST_EMPTY = 0.003
"""Opacity that empty cells end up below after training: under MIN_ALPHA, so nothing is met there."""
GROUND_RADIUS = 32.0
"""Metres around the vehicle in which `sparse_volume` knows ground: with it 6 % of its cells are occupied, as after training."""
CLUTTERED_SHARE = 0.2
"""Of the cells of `clutter_volume`: a ray crosses two dozen of them on its way."""


def surround_rays(count: int, generator: torch.Generator) -> Rays:
    """Return rays as a roof LiDAR sees the world: all around, from 25° below to 3° above the horizon."""
    azimuths = 2 * math.pi * torch.rand(count, generator=generator)
    elevations = torch.deg2rad(-25 + 28 * torch.rand(count, generator=generator))
    level = elevations.cos()
    directions = torch.stack([level * azimuths.cos(), level * azimuths.sin(), elevations.sin()], dim=-1)
    return Rays(torch.tensor([0.9, 0.0, 1.6]).repeat(count, 1), directions)


def label_distances(count: int, generator: torch.Generator) -> Tensor:
    """Return metres between 3 and 33."""
    return 3 + 30 * torch.rand(count, generator=generator)


def untrained_volume(generator: torch.Generator, *, num_channels: int = NUM_CHANNELS) -> Gaussians:
    """Fog: opacity 0.1 everywhere, scales 0.1 to 0.15 m."""
    count = OCC3D_GRID.num_cells
    return _volume(torch.full((count,), 0.1), 0.1 + 0.05 * torch.rand(count, 3, generator=generator), generator, num_channels)


def trained_like_volume(generator: torch.Generator, *, num_channels: int = NUM_CHANNELS) -> Gaussians:
    """Opaque ground two cells thick, walls and posts in empty space, scales 0.05 to 0.25 m: 15 % of the cells."""
    z = OCC3D_GRID.centers().reshape(-1, 3)[:, 2]
    return _solid_volume((z < -0.3) | _upright(), generator, num_channels)


def sparse_volume(generator: torch.Generator, *, num_channels: int = NUM_CHANNELS) -> Gaussians:
    """The same walls and posts on ground one cell thick that ends at GROUND_RADIUS: 6 % of the cells."""
    x, y, z = OCC3D_GRID.centers().reshape(-1, 3).unbind(-1)
    ground = ((z + 0.4).abs() < 0.1) & (torch.hypot(x, y) < GROUND_RADIUS)
    return _solid_volume(ground | _upright(), generator, num_channels)


def clutter_volume(generator: torch.Generator, *, num_channels: int = NUM_CHANNELS) -> Gaussians:
    """Dense clutter: CLUTTERED_SHARE of all cells at random, of any opacity up to 0.99, scales 0.05 to 0.25 m."""
    count = OCC3D_GRID.num_cells
    occupied = torch.rand(count, generator=generator) < CLUTTERED_SHARE
    opacities = torch.where(
        occupied, 0.01 + 0.98 * torch.rand(count, generator=generator), MOST_EMPTY * torch.rand(count, generator=generator)
    )
    return _volume(opacities, 0.05 + 0.2 * torch.rand(count, 3, generator=generator), generator, num_channels)


def with_more_empty(volume: Gaussians, times: int) -> Gaussians:
    """Return the volume with so many times the Gaussians that nothing is met of: copies of those below the smallest alpha."""
    empty = (volume.opacities < MOST_EMPTY).nonzero().squeeze(1)
    chosen = torch.cat([torch.arange(len(volume.opacities)), empty.repeat(times - 1)])
    parts = {name: getattr(volume, name)[chosen] for name in ("means", "quats", "scales", "opacities", "features")}
    return replace(volume, **parts)


def occupied_share(volume: Gaussians) -> float:
    """Return the share of Gaussians that can be met at all."""
    return float((volume.opacities >= MIN_ALPHA).float().mean())


def _upright() -> Tensor:
    x, y, z = OCC3D_GRID.centers().reshape(-1, 3).unbind(-1)
    walls = ((torch.maximum(x.abs(), y.abs()) - 22).abs() < 0.5) & (z < 4)
    posts = (torch.sin(0.7 * x) * torch.sin(0.6 * y) > 0.85) & (z < 1.2)
    return walls | posts


def _solid_volume(occupied: Tensor, generator: torch.Generator, num_channels: int) -> Gaussians:
    solid = 0.6 + 0.39 * torch.rand(len(occupied), generator=generator)
    empty = MOST_EMPTY * torch.rand(len(occupied), generator=generator)
    scales = 0.05 + 0.2 * torch.rand(len(occupied), 3, generator=generator)
    return _volume(torch.where(occupied, solid, empty), scales, generator, num_channels)


def _volume(opacities: Tensor, scales: Tensor, generator: torch.Generator, num_channels: int) -> Gaussians:
    """One Gaussian in each cell, anywhere in it, turned at random."""
    centers = OCC3D_GRID.centers().reshape(-1, 3)
    count = len(centers)
    means = centers + OCC3D_GRID.cell_size * (torch.rand(count, 3, generator=generator) - 0.5)
    # A mean rounded onto the upper border would lie outside of the grid.
    means = means.minimum(torch.tensor(OCC3D_GRID.upper) - 1e-4)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    features = torch.randn(count, num_channels, generator=generator).softmax(-1)
    return Gaussians(means, quats, scales, opacities, features, OCC3D_GRID)
