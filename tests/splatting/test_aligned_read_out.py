"""The read-out that leaves with a network says what the kernel says, wherever a Gaussian is in its cell and however far it reaches."""

import math

import pytest
import torch

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.aligned_read_out import AlignedReadOut, radius_of, reached_steps
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.read_out import cell_variance
from splattingocc.taxonomy import FREE, NUM_CLASSES

GRID = VoxelGrid((-4.0, -3.2, -1.0), (4.0, 3.2, 2.2), 0.4)
LARGEST_SCALE = 0.25
OFFSET = 0.499


def gaussians_in_cells(centers: torch.Tensor, *, solid: float) -> Gaussians:
    """One in each cell, anywhere in it and of any shape; a share of them is opaque, the others next to nothing."""
    generator = torch.Generator().manual_seed(0)
    count = len(centers)
    opacities = torch.where(
        torch.rand(count, generator=generator) < solid,
        0.99 * torch.rand(count, generator=generator),
        0.004 * torch.rand(count, generator=generator),
    )
    return Gaussians(
        means=centers + (2 * torch.rand(count, 3, generator=generator) - 1) * OFFSET * GRID.cell_size,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=0.04 + (LARGEST_SCALE - 0.04) * torch.rand(count, 3, generator=generator),
        opacities=opacities,
        features=torch.randn(count, NUM_CLASSES, generator=generator).softmax(dim=-1),
        grid=GRID,
    )


def twin(centers: torch.Tensor, threshold: float) -> AlignedReadOut:
    return AlignedReadOut(GRID, centers, threshold=threshold, largest_scale=LARGEST_SCALE, offset=OFFSET, peak=0.99)


@pytest.mark.parametrize("solid", [0.03, 0.5])
def test_it_says_what_the_kernel_says(solid: float):
    centers = GRID.centers().reshape(-1, 3)
    # Heads have an order of their own
    centers = centers[torch.randperm(len(centers), generator=torch.Generator().manual_seed(1))]
    gaussians = gaussians_in_cells(centers, solid=solid)
    expected = gaussians.read_out(GRID, threshold=0.3)
    probabilities, semantics = twin(centers, 0.3)(gaussians)
    differences = (probabilities - expected.probabilities).abs()
    assert differences.max() < 1 / 255 + 1e-5
    assert (differences > 1e-4).float().mean() < 1e-3
    assert (semantics != expected.semantics).float().mean() < 1e-3
    assert 0.01 < (semantics != FREE).float().mean() < 0.99


def test_nothing_is_read_out_of_emptiness():
    centers = GRID.centers().reshape(-1, 3)
    gaussians = gaussians_in_cells(centers, solid=0.0)
    gaussians = Gaussians(**{**vars(gaussians), "opacities": torch.zeros(len(centers))})
    probabilities, semantics = twin(centers, 0.3)(gaussians)
    assert not probabilities.any()
    assert (semantics == FREE).all()


def test_every_cell_that_a_gaussian_can_reach_is_looked_at_and_hardly_any_other():
    radius = radius_of(LARGEST_SCALE, 0.99, cell_variance(GRID))
    # There the widest and most opaque Gaussian counts no more
    assert math.isclose(0.99 * math.exp(-0.5 * radius**2 / (LARGEST_SCALE**2 + cell_variance(GRID))), 1 / 255)
    steps = reached_steps(GRID.cell_size, radius, OFFSET)
    assert (len(steps), int(steps.max())) == (117, 2)
    looked_at = {tuple(step) for step in steps.tolist()}
    generator = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1])] * 3)
    means = OFFSET * torch.cat([corners, 2 * torch.rand(500, 3, generator=generator) - 1])
    around = torch.cartesian_prod(*[torch.arange(-5, 6)] * 3)
    distances = GRID.cell_size * (around[None] - means[:, None]).norm(dim=-1)
    reached = {tuple(step) for step in around[(distances <= radius).any(dim=0)].tolist()}
    assert reached == looked_at
