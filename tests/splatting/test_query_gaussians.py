import math

import torch

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.query import gaussian_of_cell, query

GRID = VoxelGrid((0.0, 0.0, 0.0), (4.0, 2.0, 2.0), 1.0)


def one_in_each_cell(order: torch.Tensor) -> Gaussians:
    centers = GRID.centers().reshape(-1, 3)[order]
    count = len(centers)
    return Gaussians(
        centers, torch.tensor([1.0, 0, 0, 0]).repeat(count, 1), torch.tensor([0.1, 0.2, 0.4]).repeat(count, 1),
        torch.linspace(0.1, 0.9, count), torch.eye(count)[:, :5], GRID,
    )  # fmt: skip


def test_points_ask_the_gaussian_of_their_own_cell_whatever_the_order():
    torch.manual_seed(0)
    gaussians = one_in_each_cell(torch.randperm(GRID.num_cells))
    said = query(gaussians, gaussians.means)
    assert said.valid.all()
    assert torch.allclose(said.opacities, gaussians.opacities)
    assert torch.equal(said.features, gaussians.features)


def test_the_response_falls_with_the_mahalanobis_distance():
    gaussians = one_in_each_cell(torch.arange(GRID.num_cells))
    points = gaussians.means[:1] + torch.tensor([[0.1, 0.2, 0.4]])
    responses = query(gaussians, points).opacities
    assert math.isclose(responses.item(), gaussians.opacities[0].item() * math.exp(-1.5), rel_tol=1e-4)


def test_a_rotation_turns_the_axes():
    gaussians = one_in_each_cell(torch.arange(GRID.num_cells))
    quarter_turn = torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)]).repeat(GRID.num_cells, 1)  # about z: own x points along y
    turned = Gaussians(gaussians.means, quarter_turn, gaussians.scales, gaussians.opacities, gaussians.features, GRID)
    point = gaussians.means[:1] + torch.tensor([[0.0, 0.1, 0.0]])
    responses = query(turned, point).opacities
    assert math.isclose(responses.item(), gaussians.opacities[0].item() * math.exp(-0.5), rel_tol=1e-4)


def test_the_last_of_several_answers_for_a_cell_whatever_the_threads():
    count = 200_000
    means = GRID.centers().reshape(-1, 3)[torch.arange(count) % 3]
    ones = torch.ones(count, 3)
    many = Gaussians(means, torch.ones(count, 4) / 2, ones, ones[:, 0], ones, GRID)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(5):
            assert gaussian_of_cell(many).tolist() == [count - 2, count - 1, count - 3] + [-1] * (GRID.num_cells - 3)
    finally:
        torch.set_num_threads(before)


def test_points_outside_or_in_empty_cells_are_not_valid():
    gaussians = one_in_each_cell(torch.arange(3))
    points = torch.stack([torch.tensor([-1.0, 0.5, 0.5]), torch.tensor([3.5, 1.5, 1.5]), gaussians.means[2]])
    assert query(gaussians, points).valid.tolist() == [False, False, True]


def test_where_there_is_no_gaussian_no_answer_is_valid():
    none = one_in_each_cell(torch.arange(0))
    said = query(none, torch.rand(3, 3))
    assert not said.valid.any()
    assert (said.opacities.shape, said.features.shape) == ((3,), (3, 0))
