import math

import pytest
import torch
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.taxonomy import FREE
from splattingocc.visualization.palettes import ARROW_COLOR, CLASS_COLORS, EGO_COLOR, EMPTY_COLOR, FLOOR_COLOR, OUTLINE_COLOR
from splattingocc.visualization.raycast import (
    PictureConfig,
    VoxelScene,
    picture_from_above,
    picture_in_perspective,
    picture_of_camera,
    prepare,
    seen_from,
)
from splattingocc.visualization.voxels import paint_classes

GRID = VoxelGrid((-4.0, -2.0, -1.0), (4.0, 2.0, 1.0), 0.5)
CAR, VEGETATION = 4, 16
CONFIG = PictureConfig(image_size=(60, 100), position=(-8.0, 0.0, 6.0), target=(0.0, 0.0, 0.0))
FLOOR = torch.tensor(FLOOR_COLOR, dtype=torch.uint8)


def voxels(**cells: tuple[int, int, int]) -> Tensor:
    semantics = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    for name, cell in cells.items():
        semantics[cell] = {"car": CAR, "vegetation": VEGETATION}[name]
    return semantics


def scene(semantics: Tensor, *, show_ego: bool = False) -> VoxelScene:
    return prepare(paint_classes(semantics, GRID, show_ego=show_ego), GRID)


def background(config: PictureConfig = CONFIG) -> Tensor:
    """The picture of nothing: floor, and what is around it."""
    return picture_in_perspective(scene(voxels()), config)


def hue_of(color: Tensor, label: int) -> bool:
    """Say whether a shaded colour is a multiple of the colour of a class."""
    expected = torch.tensor(CLASS_COLORS[label]).float()
    return torch.cosine_similarity(color.float(), expected, dim=0).item() > 0.999


def test_an_empty_grid_is_a_floor_in_nothing() -> None:
    assert (picture_from_above(scene(voxels()), CONFIG) == FLOOR).all()
    colors = {tuple(color) for color in background().reshape(-1, 3).tolist()}
    assert {FLOOR_COLOR, EMPTY_COLOR} <= colors
    assert tuple(background()[30, 50].tolist()) == FLOOR_COLOR
    assert tuple(background()[0, 0].tolist()) == EMPTY_COLOR


def test_from_above_forward_is_up_and_left_is_left() -> None:
    picture = picture_from_above(scene(voxels(car=(15, 7, 0), vegetation=(0, 0, 0))), CONFIG)
    size = CONFIG.pixels_per_cell
    assert picture.shape == (16 * size, 8 * size, 3)
    assert all(hue_of(color, CAR) for color in picture[:size, :size].reshape(-1, 3))
    assert all(hue_of(color, VEGETATION) for color in picture[-size:, -size:].reshape(-1, 3))
    assert (picture != FLOOR).any(dim=-1).sum() == 2 * size * size


def test_from_above_the_highest_voxel_is_seen() -> None:
    picture = picture_from_above(scene(voxels(car=(8, 4, 3), vegetation=(8, 4, 1))), CONFIG)
    drawn = picture[(picture != FLOOR).any(dim=-1)]
    assert all(hue_of(color, CAR) for color in drawn)


@pytest.mark.parametrize("cell", [(8, 4, 2), (3, 1, 0), (14, 7, 3)])
def test_one_voxel_appears_where_the_virtual_camera_projects_it(cell: tuple[int, int, int]) -> None:
    picture = picture_in_perspective(scene(voxels(car=cell)), CONFIG)
    rows, columns = torch.nonzero((picture != background()).any(dim=-1)).float().mean(dim=0) + 0.5
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
    drawn = picture_in_perspective(scene(wall), low)[30]
    assert all(hue_of(color, CAR) for color in drawn[(drawn != background(low)[30]).any(dim=-1)][2:-2])


def test_the_vehicle_is_drawn_in_free_cells_only_and_has_an_arrow_to_its_front() -> None:
    semantics = voxels(car=(12, 4, 2))
    with_ego = picture_from_above(scene(semantics, show_ego=True), CONFIG)
    size = CONFIG.pixels_per_cell
    row, column = (16 - 1 - 10) * size + 1, (8 - 1 - 4) * size
    assert torch.cosine_similarity(with_ego[row, column].float(), torch.tensor(EGO_COLOR).float(), dim=0) > 0.999
    assert (with_ego[row, column] != FLOOR).any()
    assert semantics[10, 4, 2] == FREE, "the grid that was handed in is not changed"
    # White grows narrower towards the front: the tip is at x = 3.2, the broadest part of the head at 1.7
    finer = picture_from_above(scene(voxels(), show_ego=True), CONFIG.model_copy(update={"pixels_per_cell": 10}))
    white = (finer.float().std(dim=-1) < 1) & (finer != FLOOR).any(dim=-1)
    assert ARROW_COLOR == (255, 255, 255)
    widths = {x: int(white[round((4.0 - x) * 20)].sum()) for x in (3.1, 2.5, 1.8, 1.0)}
    assert 0 < widths[3.1] < widths[2.5] < widths[1.8]
    assert 0 < widths[1.0] < widths[1.8]


def test_a_voxel_throws_a_shadow_away_from_the_sun() -> None:
    ground = voxels()
    ground[..., 0] = CAR
    plain = picture_from_above(scene(ground), CONFIG).float().sum(-1)
    ground[8, 4, 1] = VEGETATION
    shaded = picture_from_above(scene(ground), CONFIG).float().sum(-1)
    # The sun stands behind (−x) on the left (+y): the shadow falls ahead and to the right.
    size = CONFIG.pixels_per_cell
    row, column = (16 - 1 - 8) * size, (8 - 1 - 4) * size
    ahead_right, behind_left = (row - 1, column + size), (row + size, column - 1)
    assert shaded[ahead_right] < 0.9 * plain[ahead_right]
    assert shaded[behind_left] > 0.9 * plain[behind_left]


def test_what_stands_before_something_far_behind_it_has_a_line_around_it() -> None:
    picture = picture_in_perspective(scene(voxels(car=(8, 4, 3))), CONFIG.model_copy(update={"supersampling": 1}))
    inked = (picture == torch.tensor(OUTLINE_COLOR, dtype=torch.uint8)).all(dim=-1)
    rows, columns = torch.nonzero(hue_picture(picture, CAR)).unbind(-1)
    around = inked[rows.min() - 1 : rows.max() + 2, columns.min() - 1 : columns.max() + 2]
    assert inked.sum() == around.sum() > 8
    assert inked[rows.min() - 1].any()
    assert inked[rows.max() + 1].any()


def hue_picture(picture: Tensor, label: int) -> Tensor:
    expected = torch.tensor(CLASS_COLORS[label]).float()
    return torch.cosine_similarity(picture.float(), expected.expand(picture.shape), dim=-1) > 0.999


def test_going_around_by_half_a_turn_swaps_left_and_right() -> None:
    semantics = voxels(car=(8, 7, 2))

    def column(config: PictureConfig) -> float:
        picture = picture_in_perspective(scene(semantics), config)
        return torch.nonzero((picture != background(config)).any(dim=-1))[:, 1].float().mean().item()

    assert column(CONFIG) < 45
    assert column(seen_from(CONFIG, 180.0)) > 55
    # After a quarter of a turn to the left the camera stands at the right, at y = −8, where the voxel is straight behind the middle
    assert column(seen_from(CONFIG, 90.0)) == pytest.approx(50, abs=4)
    assert seen_from(CONFIG, 90.0).position == pytest.approx((0.0, -8.0, 6.0))


def test_a_camera_of_the_vehicle_sees_voxels_where_it_projects_them() -> None:
    # At x = −3.9, 0.2 m to the left, level, looking ahead
    cam_from_ego = torch.tensor([[0.0, -1.0, 0.0, 0.2], [0.0, 0.0, -1.0, 0.1], [1.0, 0.0, 0.0, 3.9], [0.0, 0.0, 0.0, 1.0]])
    camera = Cameras(torch.tensor([[50.0, 0.0, 40.0], [0.0, 50.0, 25.0], [0.0, 0.0, 1.0]]), cam_from_ego, (60, 80))
    cell = (12, 5, 1)
    drawn, empty = (picture_of_camera(scene(grid), camera, CONFIG) for grid in (voxels(car=cell), voxels()))
    assert drawn.shape == (60, 80, 3)
    rows, columns = torch.nonzero((drawn != empty).any(dim=-1)).unbind(-1)
    center, found = camera.project(GRID.centers()[cell][None])
    assert found.all()
    assert abs(columns.float().mean() + 0.5 - center[0, 0]) < 1
    assert abs(rows.float().mean() + 0.5 - center[0, 1]) < 1


def test_a_grid_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(16, 8, 4\)"):
        scene(torch.zeros(2, 2, 2, dtype=torch.uint8))
