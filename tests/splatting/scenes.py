"""Random Gaussians and rays for the renderer's tests."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians

GRID = VoxelGrid(lower=(-2.4, -2.0, -1.0), upper=(2.4, 2.0, 1.4), cell_size=0.4)
FIELDS = ("means", "quats", "scales", "opacities", "features")


def random_means(count: int, generator: torch.Generator, grid: VoxelGrid = GRID) -> Tensor:
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    return lower + (upper - lower) * torch.rand(count, 3, generator=generator)


def random_gaussians(
    means: Tensor, generator: torch.Generator, *, channels: int = 3, scales: tuple[float, float] = (0.05, 0.3), grid: VoxelGrid = GRID
) -> Gaussians:
    """Give means random shapes, opacities below 0.9 and class probabilities."""
    count = len(means)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    low, high = scales
    return Gaussians(
        means,
        quats,
        low + (high - low) * torch.rand(count, 3, generator=generator),
        0.9 * torch.rand(count, generator=generator),
        torch.rand(count, channels, generator=generator).softmax(-1),
        grid,
    )


def random_rays(count: int, generator: torch.Generator, *, spread: float = 1.5, grid: VoxelGrid = GRID) -> Rays:
    """Return rays in all directions from origins around the grid's centre; with spread > 1 some start outside of the grid."""
    middle = (torch.tensor(grid.lower) + torch.tensor(grid.upper)) / 2
    origins = middle + spread * (random_means(count, generator, grid) - middle)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return Rays(origins, directions)


def random_labels(count: int, generator: torch.Generator) -> Tensor:
    """Return distances up to 4 m, a fifth of them unknown."""
    labels = 4 * torch.rand(count, generator=generator)
    labels[::5] = float("nan")
    return labels


def outputs_of(rendering: Rendering) -> dict[str, Tensor]:
    return {field.name: value for field in dataclasses.fields(rendering) if (value := getattr(rendering, field.name)) is not None}


def gradients_of(rendering: Rendering, gaussians: Gaussians) -> dict[str, Tensor]:
    """Return the gradients of a fixed random linear combination of every output."""
    generator = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=rendering.alphas.dtype, device=rendering.alphas.device)
    for output in outputs_of(rendering).values():
        weights = torch.rand(output.shape, generator=generator, dtype=torch.float64).to(output)
        loss = loss + (weights * output).sum()
    fields = [getattr(gaussians, name) for name in FIELDS]
    return dict(zip(FIELDS, torch.autograd.grad(loss, fields)))


def leaves(gaussians: Gaussians, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Gaussians:
    """Copy Gaussians so that every field asks for a gradient."""
    return gaussians.map(lambda tensor: tensor.detach().to(device, dtype, copy=True).requires_grad_())
