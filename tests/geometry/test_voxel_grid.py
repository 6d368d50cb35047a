import pytest
import torch

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
