import math

import pytest
import torch

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid

SMALL = VoxelGrid(lower=(-2.0, -1.0, 0.0), upper=(2.0, 2.0, 1.0), cell_size=0.5)


def test_the_occ3d_grid_has_its_published_shape():
    assert OCC3D_GRID.shape == (200, 200, 16)
    assert OCC3D_GRID.num_cells == 640_000
    torch.testing.assert_close(OCC3D_GRID.centers()[0, 0, 0], torch.tensor([-39.8, -39.8, -0.8]))


def test_the_cell_of_a_centre_is_its_own_index():
    for grid in (SMALL, OCC3D_GRID):
        cells, inside = grid.cells_of(grid.centers())
        x, y, z = grid.shape
        expected = torch.stack(torch.meshgrid(torch.arange(x), torch.arange(y), torch.arange(z), indexing="ij"), dim=-1)
        assert torch.equal(cells, expected)
        assert inside.all()


def test_points_outside_are_reported_and_clamped_to_the_border():
    points = torch.tensor([[-2.1, 0.0, 0.5], [2.0, 0.0, 0.5], [0.0, 5.0, 0.5], [0.0, 0.0, -1e-3], [-2.0, -1.0, 0.0]])
    cells, inside = SMALL.cells_of(points)
    assert inside.tolist() == [False, False, False, False, True]
    assert cells.tolist() == [[0, 2, 1], [7, 2, 1], [4, 5, 1], [4, 2, 0], [0, 0, 0]]


def test_what_is_no_number_is_in_no_cell():
    cells, inside = OCC3D_GRID.cells_of(torch.tensor([[0.0, 0.0, math.nan], [math.inf, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert inside.tolist() == [False, False, True]
    assert (cells >= 0).all()


def test_coarsening_keeps_the_box():
    coarse = SMALL.coarsen(2)
    assert coarse.shape == (4, 3, 1)
    assert (coarse.lower, coarse.upper) == (SMALL.lower, SMALL.upper)
    torch.testing.assert_close(coarse.centers()[0, 0, 0], SMALL.centers()[:2, :2, :2].reshape(-1, 3).mean(dim=0))


def test_a_box_that_is_not_a_whole_number_of_cells_is_refused():
    with pytest.raises(ValueError, match=r"-2\.0\.\.2\.1 m is not a whole number of 0\.5 m cells"):
        VoxelGrid(lower=(-2.0, 0.0, 0.0), upper=(2.1, 1.0, 1.0), cell_size=0.5)
    with pytest.raises(ValueError, match="whole number"):
        VoxelGrid(lower=(0.0, 0.0, 0.0), upper=(0.0, 1.0, 1.0), cell_size=0.5)


def test_where_a_ray_leaves_the_box_is_where_its_points_end_to_be_inside():
    generator = torch.Generator().manual_seed(0)
    origins = 6 * (torch.rand(400, 3, generator=generator) - 0.5)
    directions = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    directions[:60] = torch.eye(3).repeat(20, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(30)[:, None]
    rays = Rays(origins, directions)
    found = SMALL.exit_distances(rays)
    along = torch.arange(0, 12, 0.01)
    inside = SMALL.cells_of(origins[:, None] + along[:, None] * directions[:, None])[1]
    last = torch.where(inside.any(dim=1), along[inside.shape[1] - 1 - inside.flip(1).int().argmax(dim=1)], torch.tensor(-torch.inf))
    assert inside.any(dim=1).sum() > 50
    # A corner may be crossed between two points
    agree = ((found - last).abs() < 0.02) | (found == last)
    assert agree.float().mean() > 0.97
    assert (found[inside.any(dim=1)] > last[inside.any(dim=1)] - 1e-3).all()
