import math

import torch
from scenes import GRID

from splattingocc.geometry.rays import Rays
from splattingocc.splatting.nerf import render_nerf


def test_a_homogeneous_volume_follows_the_law_of_beer_and_lambert():
    densities = torch.full(GRID.shape, 0.8)
    features = torch.tensor([0.25, 0.75]).expand(*GRID.shape, 2)
    rays = Rays(torch.tensor([[-1.0, 0.0, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]]))
    labels = torch.tensor([1.0])
    rendering = render_nerf(densities, features, GRID, rays, near=0.0, far=2.0, label_distances=labels, margin=0.25)
    expected = 1 - math.exp(-0.8 * 2.0)
    torch.testing.assert_close(rendering.alphas, torch.tensor([expected]))
    torch.testing.assert_close(rendering.features, expected * torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(rendering.in_front, torch.tensor([1 - math.exp(-0.8 * 0.75)]), rtol=1e-3, atol=0)
    torch.testing.assert_close(rendering.at_hit, torch.tensor([math.exp(-0.8 * 0.75) - math.exp(-0.8 * 1.25)]), rtol=1e-2, atol=0)


def test_the_axes_of_the_volume_are_those_of_the_grid():
    densities = torch.zeros(GRID.shape)
    (cell,), _ = GRID.cells_of(torch.tensor([[1.4, -0.6, 0.8]]))
    densities[tuple(cell.tolist())] = 100.0
    rays = Rays(torch.tensor([[0.0, -0.6, 0.8], [1.4, -0.6, -0.6], [0.0, 0.6, 0.8]]), torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0]]))
    rendering = render_nerf(densities, torch.ones(*GRID.shape, 1), GRID, rays, near=0.0, far=3.0)
    torch.testing.assert_close(rendering.alphas, torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(rendering.distances[:2], torch.tensor([1.4, 1.4]), atol=0.4, rtol=0)
