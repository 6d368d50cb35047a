"""Walking through voxels against a slow reference: the box of every occupied cell is intersected with every ray."""

import numpy as np
import pytest
import torch

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit, mark_visited

GRID = VoxelGrid(lower=(-2.0, -1.6, -0.8), upper=(2.0, 1.6, 0.8), cell_size=0.4)


def random_rays(count: int, seed: int = 0, reach: float = 3.0) -> Rays:
    generator = torch.Generator().manual_seed(seed)
    origins = (torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Rays(origins, directions / directions.norm(dim=-1, keepdim=True))


def random_occupancy(share: float, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(GRID.shape, generator=generator) < share).to(torch.uint8)


def box_intervals(rays: Rays, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Where each ray enters and leaves the box of each cell, (ray, cell); entry > exit where it misses."""
    axes = [low + (np.arange(count) + 0.5) * grid.cell_size for low, count in zip(grid.lower, grid.shape)]
    centers = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_center = centers[None] - rays.origins.numpy()[:, None]
        inverse = 1 / rays.directions.numpy()[:, None]
        near = (to_center - 0.5 * grid.cell_size * np.sign(inverse)) * inverse
        far = (to_center + 0.5 * grid.cell_size * np.sign(inverse)) * inverse
    return np.maximum(near.max(-1), 0.0), far.min(-1)


def test_first_hits_agree_with_intersecting_every_box():
    rays, occupied = random_rays(500, reach=1.5), random_occupancy(0.05)
    hits = cast_first_hit(occupied, GRID, rays)
    enter, leave = box_intervals(rays, GRID)
    enter = np.where((enter < leave) & (occupied.numpy().reshape(1, -1) > 0), enter, np.inf)
    cells = np.where(np.isfinite(enter.min(-1)), enter.argmin(-1), -1)
    assert (cells >= 0).sum() > 50
    assert np.array_equal(hits.cells.numpy(), cells)
    hit = cells >= 0
    rows = np.arange(500)
    np.testing.assert_allclose(hits.enter_distances.numpy()[hit], enter[rows, cells][hit], atol=1e-9)
    np.testing.assert_allclose(hits.leave_distances.numpy()[hit], leave[rows, cells][hit], atol=1e-9)


def test_a_ray_that_hits_nothing_reports_where_it_leaves_the_grid():
    rays = Rays(torch.tensor([[0.1, 0.1, 0.1], [5.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    hits = cast_first_hit(torch.zeros(GRID.shape, dtype=torch.uint8), GRID, rays)
    assert hits.cells.tolist() == [-1, -1]
    torch.testing.assert_close(hits.leave_distances, torch.tensor([1.9, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_an_origin_inside_an_occupied_cell_hits_it_at_distance_zero():
    occupied = torch.zeros(GRID.shape, dtype=torch.uint8)
    occupied[5, 4, 2] = 1  # lower corner (0, 0, 0)
    hits = cast_first_hit(occupied, GRID, Rays(torch.tensor([[0.1, 0.2, 0.2]]), torch.tensor([[0.0, 0.0, -1.0]])))
    assert hits.cells.item() == (5 * 8 + 4) * 4 + 2
    assert hits.enter_distances.item() == 0.0
    assert hits.leave_distances.item() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_axis_parallel_rays_cross_exactly_their_row(axis: int, sign: float):
    direction = torch.zeros(3)
    direction[axis] = sign
    origin = torch.full((3,), 0.1)
    origin[axis] = -9.0 * sign
    visited = mark_visited(torch.zeros(GRID.shape, dtype=torch.uint8), GRID, Rays(origin[None], direction[None]))
    row = [5, 4, 2]
    row[axis] = slice(None)  # type: ignore[call-overload]
    assert visited.sum() == GRID.shape[axis]
    assert visited[tuple(row)].all()


def test_visited_cells_are_the_boxes_crossed_up_to_the_first_occupied_one():
    rays, occupied = random_rays(50, seed=3), random_occupancy(0.1)
    enter, leave = box_intervals(rays, GRID)
    last = cast_first_hit(occupied, GRID, rays).enter_distances.numpy()
    # Boxes that a ray grazes by less than a nanometre may fall on either side.
    crossed = (leave - enter > 1e-9) & (enter <= last[:, None] + 1e-9)
    expected = crossed.any(0).reshape(GRID.shape)
    assert np.array_equal(mark_visited(occupied, GRID, rays).numpy().astype(bool), expected)


def test_a_ray_visits_nothing_beyond_the_cell_of_its_greatest_distance():
    rays, occupied = random_rays(50, seed=3), random_occupancy(0.1)
    limits = torch.rand(50, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 4.0
    enter, leave = box_intervals(rays, GRID)
    last = np.minimum(cast_first_hit(occupied, GRID, rays).enter_distances.numpy(), limits.numpy())
    crossed = (leave - enter > 1e-9) & (leave > 0) & (enter <= last[:, None] + 1e-9)
    expected = crossed.any(0).reshape(GRID.shape)
    visited = mark_visited(occupied, GRID, rays, limits).numpy().astype(bool)
    assert np.array_equal(visited, expected)
    assert visited.sum() < mark_visited(occupied, GRID, rays).sum()


def test_one_thread_and_two_give_the_same_hits():
    rays = random_rays(2000, seed=5, reach=30.0)
    occupied = (torch.rand(OCC3D_GRID.shape, generator=torch.Generator().manual_seed(2)) < 0.01).to(torch.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = cast_first_hit(occupied, OCC3D_GRID, rays)
        torch.set_num_threads(2)
        double = cast_first_hit(occupied, OCC3D_GRID, rays)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(single.cells, double.cells)
    assert torch.equal(single.leave_distances, double.leave_distances)


def test_no_rays_give_no_hits():
    empty = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
    assert len(cast_first_hit(random_occupancy(0.1), GRID, empty).cells) == 0
    assert mark_visited(random_occupancy(0.1), GRID, empty).sum() == 0


def test_an_occupancy_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="occupied: shape"):
        cast_first_hit(torch.zeros(3, 3, 3, dtype=torch.uint8), GRID, random_rays(1))
