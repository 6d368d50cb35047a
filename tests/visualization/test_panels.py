import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.taxonomy import FREE, SKY
from splattingocc.visualization.grids import DrawnGrid, draw_grid, paint_grids
from splattingocc.visualization.palettes import CLASS_COLORS, SKY_COLOR, class_colors, distance_colors
from splattingocc.visualization.panels import (
    CAMERA_WIDTH,
    FILM_WIDTH,
    OCCUPANCY_WIDTH,
    OVERVIEW_WIDTH,
    CameraMaps,
    _pictures_of,
    draw_dots,
    film_frame,
    save_camera_views,
    save_cameras,
    save_occupancies,
    save_overview,
    save_renderings,
)
from splattingocc.visualization.raycast import PictureConfig
from splattingocc.visualization.sheet import CAPTION_HEIGHT, DETAILS_HEIGHT, GAP, MARGIN, TITLE_HEIGHT, Heading

GRID = VoxelGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 1.0), 0.5)
CAR = 4


def camera(name: str, level: int, size: tuple[int, int]) -> CameraMaps:
    height, width = size
    semantics = torch.full((height // 2, width // 2), CAR)
    semantics[: height // 4] = SKY
    distances = torch.full(semantics.shape, 10.0)
    distances[: height // 4] = torch.nan
    return CameraMaps(
        name=name,
        image=torch.full((height, width, 3), level, dtype=torch.uint8),
        label_pixels=torch.tensor([[width / 2, height / 2]]),
        label_semantics=torch.tensor([11]),
        label_distances=torch.tensor([3.0]),
        rendered_semantics=semantics,
        rendered_distances=distances,
    )


def rig(size: tuple[int, int] = (72, 128)) -> list[CameraMaps]:
    return [camera(name, 40 * i + 20, size) for i, name in enumerate(CAMERA_CHANNELS)]


def images(size: tuple[int, int] = (72, 128)) -> list[tuple[str, torch.Tensor]]:
    return [(camera.name, camera.image) for camera in rig(size)]


HEADING = Heading("scene-0001, key frame 3", ("run/network.safetensors (01234567)", "threshold 0.315"))


def grids(from_above: bool = True) -> list[DrawnGrid]:
    semantics = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    semantics[..., 0] = 11
    truth = semantics.clone()
    truth[3:5, :, 0] = CAR
    truth[8:, :, 0] = FREE
    seen = torch.ones(GRID.shape, dtype=torch.bool)
    seen[:, :4] = False
    config = PictureConfig(image_size=(36, 64), pixels_per_cell=2)
    painted = paint_grids(semantics, GRID, truth=truth, seen=seen)
    return [draw_grid(grid, config, from_above=from_above) for grid in painted]


def test_the_left_of_the_vehicle_is_on_the_left_in_both_rows(tmp_path: Path) -> None:
    picture = Image.open(save_cameras(tmp_path / "cameras.png", rig(), HEADING))
    height = round(CAMERA_WIDTH * 72 / 128)
    columns = [MARGIN + column * (CAMERA_WIDTH + GAP) + CAMERA_WIDTH // 2 for column in range(3)]
    bottom_row = picture.height - MARGIN - height // 2
    top_row = bottom_row - (CAPTION_HEIGHT + height + GAP)
    levels = [picture.getpixel((x, y)) for y in (top_row, bottom_row) for x in columns]
    order = ["FRONT_LEFT", "FRONT", "FRONT_RIGHT", "BACK_LEFT", "BACK", "BACK_RIGHT"]
    assert levels == [(40 * CAMERA_CHANNELS.index(f"CAM_{name}") + 20,) * 3 for name in order]


def test_a_row_of_renderings_shows_labels_and_maps_in_their_colours(tmp_path: Path) -> None:
    picture = Image.open(save_renderings(tmp_path / "rendering.png", rig()[:1], HEADING))
    colors = {color for _, color in picture.getcolors(maxcolors=1 << 20)}
    assert CLASS_COLORS[CAR] in colors
    assert tuple(class_colors(torch.tensor(SKY)).tolist()) in colors
    assert tuple(distance_colors(torch.tensor(10.0)).tolist()) in colors


@pytest.mark.parametrize("size", [(128, 224), (256, 704), (90, 90)])
def test_pictures_of_any_aspect_fit_on_the_overview(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save_overview(tmp_path / "overview.png", images(size), rig(size)[1], grids(), HEADING)
    picture = Image.open(path)
    picture.load()
    assert picture.width == OVERVIEW_WIDTH + 2 * MARGIN
    border = [picture.getpixel((x, y)) for y in range(picture.height) for x in (2, picture.width - 3)]
    assert set(border) == {(255, 255, 255)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_grid_without_truth_is_drawn_alone(tmp_path: Path, count: int) -> None:
    picture = Image.open(save_occupancies(tmp_path / "occupancy.png", grids()[:count], HEADING))
    assert picture.width == 2 * MARGIN + count * (OCCUPANCY_WIDTH + GAP) - GAP
    overview = save_overview(tmp_path / "overview.png", images(), rig()[1], grids()[:count], HEADING)
    assert Image.open(overview).width == OVERVIEW_WIDTH + 2 * MARGIN


def test_prediction_truth_and_errors_have_names_and_legends() -> None:
    predicted, true, errors = grids()
    assert [name for name, _ in predicted.classes] == ["driveable surface", "ego vehicle, arrow to its front"]
    assert [name for name, _ in true.classes][:2] == ["car", "driveable surface"]
    assert "ground not seen by the cameras" in [name for name, _ in true.classes]
    assert (predicted.errors, errors.classes) == ((), ())
    assert len({color for _, color in errors.errors}) == 5


def test_without_a_mask_or_on_another_grid_nothing_is_compared() -> None:
    semantics = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    assert len(paint_grids(semantics, GRID)) == 1
    other = VoxelGrid((-2.0, -2.0, -1.0), (2.0, 2.0, 1.0), 0.5)
    truth = torch.full(other.shape, FREE, dtype=torch.uint8)
    names = [grid.name for grid in paint_grids(semantics, GRID, truth=truth, seen=truth > 0, truth_grid=other)]
    assert names == ["predicted occupancy", "true occupancy, pale where not seen"]


def test_labels_without_a_distance_are_drawn_by_their_class_alone() -> None:
    seen = camera("CAM_FRONT", 100, (72, 128))
    pixels = torch.tensor([[30.0, 30.0], [90.0, 30.0]])
    labels = {"label_pixels": pixels, "label_semantics": torch.tensor([SKY, CAR]), "label_distances": torch.tensor([torch.nan, 7.0])}
    _, of_classes, of_distances, *_ = _pictures_of(dataclasses.replace(seen, **labels))
    assert of_classes[30, 30].tolist() == list(SKY_COLOR)
    assert of_classes[30, 90].tolist() == list(CLASS_COLORS[CAR])
    dark = of_distances[0, 0]
    assert torch.equal(of_distances[30, 30], dark)
    assert not torch.equal(of_distances[30, 90], dark)


def test_the_heading_of_a_narrow_film_stays_above_what_is_below_it() -> None:
    whole = grids(from_above=False)[:1]
    details = tuple(
        f"drawn without {name}, of which there is much to say" for name in ("road", "sidewalk", "terrain", "cars", "trucks", "buses")
    )
    frames = [film_frame([], whole, Heading("a scene", details[:count])) for count in (0, 3, 6)]
    assert len({frame.shape for frame in frames}) == 1
    below = MARGIN + TITLE_HEIGHT + 4 * DETAILS_HEIGHT
    for frame in frames[1:]:
        assert (frame[:below] != frames[0][:below]).any()
        assert torch.equal(frame[below:], frames[0][below:])


def test_frames_of_a_film_have_one_size_whatever_they_show() -> None:
    whole = grids(from_above=False)
    longer = Heading(HEADING.title, (*HEADING.details, "this frame, inside mask_camera: mIoU 23.1 %, IoU 45.0 %"))
    frames = [film_frame(images(), whole, heading) for heading in (HEADING, longer)]
    assert frames[0].shape == frames[1].shape
    assert frames[0].shape[1] == FILM_WIDTH + 2 * MARGIN
    assert (frames[0] != frames[1]).any()
    without_cameras = film_frame([], whole, HEADING)
    assert without_cameras.shape[1] == frames[0].shape[1]
    assert without_cameras.shape[0] < frames[0].shape[0]


def test_what_a_camera_would_see_is_below_its_image(tmp_path: Path) -> None:
    drawn = [("predicted occupancy", [torch.full_like(image, 7) + i for i, (_, image) in enumerate(images())])]
    painted = paint_grids(torch.full(GRID.shape, FREE, dtype=torch.uint8), GRID, for_cameras=True)
    picture = Image.open(save_camera_views(tmp_path / "views.png", images(), drawn, HEADING, painted))
    height = round(CAMERA_WIDTH * 72 / 128)
    x = MARGIN + CAMERA_WIDTH // 2
    column = [picture.getpixel((x, y)) for y in range(picture.height)]
    first = column.index((20,) * 3)  # the image of the front left, the first of the cameras
    assert column[first + CAPTION_HEIGHT + height] == (7,) * 3
    assert painted[0].for_cameras is not None
    assert not painted[0].for_cameras.voxels.ego.any()


def test_a_dot_covers_its_pixel_and_its_neighbours_only() -> None:
    blank = torch.zeros(9, 9, 3, dtype=torch.uint8)
    drawn = draw_dots(blank, torch.tensor([[4.5, 2.5]]), torch.tensor([5.0]), torch.tensor([[1, 2, 3]], dtype=torch.uint8))
    rows, columns = torch.nonzero((drawn > 0).any(dim=-1)).unbind(-1)
    assert drawn[2, 4].tolist() == [1, 2, 3]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 3, 5)
    assert not blank.any()


def test_near_dots_are_drawn_over_far_ones() -> None:
    colors = torch.tensor([[9, 0, 0], [0, 9, 0], [0, 0, 9]], dtype=torch.uint8)
    drawn = draw_dots(torch.zeros(5, 5, 3, dtype=torch.uint8), torch.full((3, 2), 2.5), torch.tensor([7.0, 2.0, 30.0]), colors)
    assert (drawn[(drawn > 0).any(dim=-1)] == torch.tensor([0, 9, 0])).all()


def test_dots_at_the_border_do_not_wrap_around() -> None:
    drawn = draw_dots(torch.zeros(5, 5, 3, dtype=torch.uint8), torch.tensor([[0.0, 0.0]]), torch.ones(1), torch.full((1, 3), 8).byte())
    assert drawn[0, 0].tolist() == [8, 8, 8]
    assert not drawn[3:].any()
    assert not drawn[:, 3:].any()
