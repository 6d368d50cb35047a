import math

import pytest
import torch
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.taxonomy import FREE
from splattingocc.visualization.palettes import CLASS_COLORS, EGO_COLOR, EMPTY_COLOR
from splattingocc.visualization.raycast import PictureConfig, picture_from_above, picture_in_perspective

GRID = VoxelGrid((-4.0, -2.0, -1.0), (4.0, 2.0, 1.0), 0.5)
CAR, VEGETATION = 4, 16
CONFIG = PictureConfig(show_ego=False, image_size=(60, 100), position=(-8.0, 0.0, 6.0), target=(0.0, 0.0, 0.0))
EMPTY = torch.tensor(EMPTY_COLOR, dtype=torch.uint8)


def voxels(**cells: tuple[int, int, int]) -> Tensor:
    semantics = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    for name, cell in cells.items():
        semantics[cell] = {"car": CAR, "vegetation": VEGETATION}[name]
    return semantics


def hue_of(color: Tensor, label: int) -> bool:
    """Say whether a shaded colour is a multiple of the colour of a class."""
    expected = torch.tensor(CLASS_COLORS[label]).float()
    return torch.cosine_similarity(color.float(), expected, dim=0).item() > 0.999


def test_an_empty_grid_is_an_empty_picture() -> None:
    assert (picture_from_above(voxels(), GRID, CONFIG) == EMPTY).all()
    assert (picture_in_perspective(voxels(), GRID, CONFIG) == EMPTY).all()


def test_from_above_forward_is_up_and_left_is_left() -> None:
    picture = picture_from_above(voxels(car=(15, 7, 0), vegetation=(0, 0, 0)), GRID, CONFIG)
    size = CONFIG.pixels_per_cell
    assert picture.shape == (16 * size, 8 * size, 3)
    assert all(hue_of(color, CAR) for color in picture[:size, :size].reshape(-1, 3))
    assert all(hue_of(color, VEGETATION) for color in picture[-size:, -size:].reshape(-1, 3))
    assert (picture != EMPTY).any(dim=-1).sum() == 2 * size * size


def test_from_above_the_highest_voxel_is_seen() -> None:
    picture = picture_from_above(voxels(car=(8, 4, 3), vegetation=(8, 4, 1)), GRID, CONFIG)
    drawn = picture[(picture != EMPTY).any(dim=-1)]
    assert all(hue_of(color, CAR) for color in drawn)


@pytest.mark.parametrize("cell", [(8, 4, 2), (3, 1, 0), (14, 7, 3)])
def test_one_voxel_appears_where_the_virtual_camera_projects_it(cell: tuple[int, int, int]) -> None:
    picture = picture_in_perspective(voxels(car=cell), GRID, CONFIG)
    rows, columns = torch.nonzero((picture != EMPTY).any(dim=-1)).float().mean(dim=0) + 0.5
    # A pinhole at `position`, written out by hand: right is −y, and down completes the frame.
    depression = math.atan2(6.0, 8.0)
    x, y, z = (GRID.centers()[cell] - torch.tensor(CONFIG.position)).tolist()
    forward = math.cos(depression) * x - math.sin(depression) * z
    down = -math.sin(depression) * x - math.cos(depression) * z
    focal = 50 / math.tan(math.radians(CONFIG.field_of_view) / 2)
    assert abs(columns.item() - (50 + focal * -y / forward)) < 1.5
    assert abs(rows.item() - (30 + focal * down / forward)) < 1.5


def test_near_voxels_hide_far_ones() -> None:
    wall = voxels()
    wall[2] = CAR
    wall[12] = VEGETATION
    low = CONFIG.model_copy(update={"position": (-8.0, 0.0, 0.0)})
    drawn = picture_in_perspective(wall, GRID, low)[30]
    assert all(hue_of(color, CAR) for color in drawn[(drawn != EMPTY).any(dim=-1)][2:-2])


def test_the_vehicle_is_drawn_in_free_cells_only() -> None:
    semantics = voxels(car=(12, 4, 2))
    with_ego = picture_from_above(semantics, GRID, CONFIG.model_copy(update={"show_ego": True}))
    size = CONFIG.pixels_per_cell
    row, column = (16 - 1 - 10) * size + 1, (8 - 1 - 4) * size + 1
    assert torch.cosine_similarity(with_ego[row, column].float(), torch.tensor(EGO_COLOR).float(), dim=0) > 0.999
    assert (with_ego[row, column] != EMPTY).any()
    assert semantics[10, 4, 2] == FREE, "the grid that was handed in is not changed"


def test_a_voxel_throws_a_shadow_away_from_the_sun() -> None:
    ground = voxels()
    ground[..., 0] = CAR
    plain = picture_from_above(ground, GRID, CONFIG).float().sum(-1)
    ground[8, 4, 1] = VEGETATION
    shaded = picture_from_above(ground, GRID, CONFIG).float().sum(-1)
    # The sun stands behind (−x) on the left (+y): the shadow falls ahead and to the right.
    size = CONFIG.pixels_per_cell
    row, column = (16 - 1 - 8) * size, (8 - 1 - 4) * size
    ahead_right, behind_left = (row - 1, column + size), (row + size, column - 1)
    assert shaded[ahead_right] < 0.9 * plain[ahead_right]
    assert shaded[behind_left] > 0.9 * plain[behind_left]


def test_a_grid_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(16, 8, 4\)"):
        picture_from_above(torch.zeros(2, 2, 2, dtype=torch.uint8), GRID)
