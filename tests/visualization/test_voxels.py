import math

import pytest
import torch
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.taxonomy import FREE
from splattingocc.visualization.palettes import (
    CLASS_COLORS,
    CONFUSED_COLOR,
    FALSE_COLOR,
    FLOOR_COLOR,
    MISSED_COLOR,
    RIGHT_COLOR,
    UNSEEN_COLOR,
)
from splattingocc.visualization.voxels import EGO_UPPER, Selection, paint_classes, paint_errors, selection_of

GRID = VoxelGrid((-4.0, -2.0, -1.0), (4.0, 2.0, 1.0), 0.5)
CAR, VEGETATION = 4, 16


def empty() -> Tensor:
    return torch.full(GRID.shape, FREE, dtype=torch.uint8)


def everywhere() -> Tensor:
    return torch.ones(GRID.shape, dtype=torch.bool)


def test_what_is_not_seen_is_pale_and_its_floor_is_darker() -> None:
    semantics, seen = empty(), everywhere()
    semantics[2:4, 0, 0] = CAR
    seen[3, 0, :3] = False  # what is higher than the ground may be
    seen[9, 5, 1:] = False
    painted = paint_classes(semantics, GRID, seen=seen, show_ego=False)
    assert painted.occupied.sum() == 2
    assert tuple(painted.colors[2, 0, 0].tolist()) == CLASS_COLORS[CAR]
    pale = painted.colors[3, 0, 0].float()
    # Between its class and the floor
    car, floor = torch.tensor(CLASS_COLORS[CAR]).float(), torch.tensor(FLOOR_COLOR).float()
    assert (pale - floor).norm() < 0.5 * (car - floor).norm()
    assert (pale - floor).norm() > 20
    assert tuple(painted.floor[3, 0].tolist()) == UNSEEN_COLOR
    unfaded = paint_classes(semantics, GRID, seen=seen, fade=False, show_ego=False)
    assert tuple(unfaded.colors[3, 0, 0].tolist()) == CLASS_COLORS[CAR]
    assert torch.equal(unfaded.floor, painted.floor)
    # One cell near the ground is seen
    assert tuple(painted.floor[9, 5].tolist()) == tuple(painted.floor[2, 0].tolist()) == FLOOR_COLOR


def test_each_kind_of_error_has_its_colour_inside_the_mask_only() -> None:
    predicted, truth, seen = empty(), empty(), everywhere()
    cells = {"right": (1, 1, 1), "missed": (2, 1, 1), "false": (3, 1, 1), "confused": (4, 1, 1)}
    for name, predicted_class, true_class in (
        ("right", CAR, CAR),
        ("missed", FREE, CAR),
        ("false", CAR, FREE),
        ("confused", CAR, VEGETATION),
    ):
        predicted[cells[name]], truth[cells[name]] = predicted_class, true_class
    painted = paint_errors(predicted, truth, seen, GRID, show_ego=False)
    expected = {"right": RIGHT_COLOR, "missed": MISSED_COLOR, "false": FALSE_COLOR, "confused": CONFUSED_COLOR}
    assert {name: tuple(painted.colors[cell].tolist()) for name, cell in cells.items()} == expected
    assert painted.occupied.sum() == 4
    outside = paint_errors(predicted, truth, ~seen, GRID, show_ego=False)
    assert len({tuple(outside.colors[cell].tolist()) for cell in cells.values()}) == 1
    assert outside.occupied.sum() == 4


def test_classes_that_are_hidden_and_cells_above_the_cut_are_not_drawn() -> None:
    semantics = empty()
    semantics[1, 1] = CAR
    semantics[2, 1] = VEGETATION
    assert paint_classes(semantics, GRID, show_ego=False).occupied.sum() == 8
    only_cars = selection_of(["car"], [], None)
    assert paint_classes(semantics, GRID, selection=only_cars, show_ego=False).occupied.nonzero()[:, 0].tolist() == [1] * 4
    hidden = selection_of([], ["car"], 0.0)
    assert paint_classes(semantics, GRID, selection=hidden, show_ego=False).occupied.nonzero().tolist() == [[2, 1, 0], [2, 1, 1]]
    assert selection_of([], [], None) == Selection()
    said = [str(each) for each in (Selection(), only_cars, hidden, selection_of(["bus", "car"], [], None))]
    assert said == ["", "only car", "without car; only below 0 m", "only bus, car"]
    with pytest.raises(ValueError, match=r"--below nan: expected metres"):
        selection_of([], [], math.nan)


def test_a_class_that_there_is_none_of_and_nothing_left_to_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="--keep tree: no such class; there are others, barrier"):
        selection_of(["tree"], [], None)
    with pytest.raises(ValueError, match="--hide car: hides every class that is kept"):
        selection_of(["car"], ["car"], None)


def test_the_front_of_the_vehicle_is_lower_than_its_cabin() -> None:
    fine = VoxelGrid((-4.0, -2.0, -1.0), (4.0, 2.0, 2.0), 0.25)
    painted = paint_classes(torch.full(fine.shape, FREE, dtype=torch.uint8), fine)
    assert torch.equal(painted.ego, painted.occupied)
    heights = painted.ego.any(dim=1).sum(dim=-1)
    x = fine.centers()[:, 0, 0, 0]
    assert heights[(x > 2.3) & (x < EGO_UPPER[0])].max() < heights[(x > -0.9) & (x < 2.0)].min()
