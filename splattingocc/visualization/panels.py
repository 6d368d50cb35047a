"""What is where on the pictures of a key frame: cameras, renderings, occupancy, an overview of them, a frame of a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from splattingocc.struct import Struct
from splattingocc.taxonomy import CLASSES, NUM_CLASSES
from splattingocc.visualization.grids import DrawnGrid, PaintedGrid
from splattingocc.visualization.palettes import class_colors, distance_colors
from splattingocc.visualization.sheet import (
    CAPTION_HEIGHT,
    DETAILS_HEIGHT,
    DISTANCE_BAR_HEIGHT,
    GAP,
    MARGIN,
    TITLE_HEIGHT,
    Heading,
    LegendEntry,
    Sheet,
    class_entries,
    heading_height,
    legend_height,
)
from splattingocc.visualization.voxels import EGO_ENTRY

DARKENED = 0.35
"""Light left of an image that distances are drawn on."""
LABEL_RADIUS = 1.5
"""Pixels of the dot of a label, in a picture LABEL_PICTURE_WIDTH wide; more in larger ones."""
LABEL_PICTURE_WIDTH = 480
CAMERA_WIDTH = 420
RENDERING_WIDTH = 320
OCCUPANCY_WIDTH = 600
NARROWEST_COLUMN = 480
"""Pixels that the captions of a column need."""
NARROWEST_MAP = 210
"""Pixels that a map's caption needs."""
OVERVIEW_WIDTH = 1760
FILM_WIDTH = 1880


@dataclass(frozen=True)
class CameraMaps(Struct):
    """What one camera saw, what its labels say and what is rendered for it; all of the same field of view."""

    name: str
    image: UInt8[Tensor, "h w 3"]
    label_pixels: Float[Tensor, "label 2"]
    """In pixels of `image`."""
    label_semantics: Int64[Tensor, " label"]
    label_distances: Float[Tensor, " label"]
    """Metres along the ray; nan where only the class is known."""
    rendered_semantics: Int64[Tensor, "map_h map_w"]
    """Class index, or SKY where nothing is hit."""
    rendered_distances: Float[Tensor, "map_h map_w"]
    """Metres along the ray; nan where nothing is hit."""


def save_cameras(path: Path, cameras: Sequence[CameraMaps], heading: Heading) -> Path:
    """Draw the images in two rows, the left of the vehicle on the left; the cameras come clockwise from the front left."""
    return _sheet_of_cameras([(camera.name, [camera.image]) for camera in cameras], heading, ()).save(path)


def save_camera_views(
    path: Path,
    images: Sequence[tuple[str, UInt8[Tensor, "h w 3"]]],
    drawn: Sequence[tuple[str, Sequence[UInt8[Tensor, "h w 3"]]]],
    heading: Heading,
    grids: Sequence[PaintedGrid],
) -> Path:
    """Draw below each image what is there as its camera would see it: of each drawn grid by name one picture for each camera."""
    columns = [(name, [image, *(pictures[i] for _, pictures in drawn)]) for i, (name, image) in enumerate(images)]
    return _sheet_of_cameras(columns, heading, [name for name, _ in drawn], _without_ego(_all_entries(grids))).save(path)


def _sheet_of_cameras(
    columns: Sequence[tuple[str, Sequence[UInt8[Tensor, "h w 3"]]]],
    heading: Heading,
    names: Sequence[str],
    legends: Sequence[Sequence[LegendEntry]] = (),
) -> Sheet:
    """Lay out cameras in two rows, the back ones mirrored so that the left of the vehicle is on the left; pictures below one another."""
    per_row = (len(columns) + 1) // 2
    height = _height_at(columns[0][1][0], CAMERA_WIDTH)
    rows = [columns[:per_row], columns[per_row:][::-1]] if len(columns) > 1 else [columns]
    body_width = per_row * (CAMERA_WIDTH + GAP) - GAP
    block = (1 + len(names)) * (CAPTION_HEIGHT + height) + GAP
    top_of_body = MARGIN + heading_height(heading, body_width)
    bottom = top_of_body + len(rows) * block - GAP
    sheet = Sheet(2 * MARGIN + body_width, bottom + _legends_height(legends, body_width) + MARGIN)
    sheet.put_heading(heading, MARGIN, MARGIN, body_width)
    for row, in_row in enumerate(rows):
        for column, (name, pictures) in enumerate(in_row):
            left, top = MARGIN + column * (CAMERA_WIDTH + GAP), top_of_body + row * block
            captions = [_spoken(name), *(f"{_spoken(name)}: {what}" for what in names)]
            for caption, picture in zip(captions, pictures, strict=True):
                sheet.put_caption(caption, left, top, CAMERA_WIDTH)
                sheet.put_picture(picture, left, top + CAPTION_HEIGHT, (height, CAMERA_WIDTH))
                top += CAPTION_HEIGHT + height
    _put_legends(sheet, legends, MARGIN, bottom, body_width)
    return sheet


def save_renderings(path: Path, cameras: Sequence[CameraMaps], heading: Heading) -> Path:
    """Draw a row for each camera: image, labels by class and by distance, rendered semantics and distances."""
    captions = ("camera image", "labels: class", "labels: distance [m]", "rendered semantics", "rendered distance [m]")
    height = _height_of(cameras, RENDERING_WIDTH)
    width = CAPTION_HEIGHT + len(captions) * (RENDERING_WIDTH + GAP) - GAP
    entries = class_entries(semantics for camera in cameras for semantics in (camera.label_semantics, camera.rendered_semantics))
    top_of_body = MARGIN + heading_height(heading, width)
    legend_width = width - CAPTION_HEIGHT
    legend_top = top_of_body + CAPTION_HEIGHT + len(cameras) * (height + GAP) + GAP
    bar_top = legend_top + legend_height(entries, legend_width) + 2 * GAP
    sheet = Sheet(width + 2 * MARGIN, bar_top + DISTANCE_BAR_HEIGHT + MARGIN // 2)
    sheet.put_heading(heading, MARGIN, MARGIN, width)
    lefts = [MARGIN + CAPTION_HEIGHT + i * (RENDERING_WIDTH + GAP) for i in range(len(captions))]
    for left, caption in zip(lefts, captions):
        sheet.put_caption(caption, left, top_of_body, RENDERING_WIDTH)
    for row, camera in enumerate(cameras):
        top = top_of_body + CAPTION_HEIGHT + row * (height + GAP)
        sheet.put_sideways(_spoken(camera.name), MARGIN, top, height)
        for left, picture in zip(lefts, _pictures_of(camera)):
            sheet.put_picture(picture, left, top, (height, RENDERING_WIDTH))
    sheet.put_legend(entries, lefts[0], legend_top, legend_width)
    sheet.put_distance_bar(lefts[0], bar_top, 2 * RENDERING_WIDTH + GAP)
    return sheet.save(path)


def save_occupancies(
    path: Path, grids: Sequence[DrawnGrid], heading: Heading, *, in_perspective: bool = True, column_width: int = OCCUPANCY_WIDTH
) -> Path:
    """Draw a column for each grid: in perspective, unless that is not wanted, and from above where that was drawn."""
    column_width = max(column_width, NARROWEST_COLUMN)
    rows = [("in perspective", [grid.in_perspective for grid in grids])] if in_perspective else []
    if above := [grid.from_above for grid in grids if grid.from_above is not None]:
        rows.append((f"from above: {grids[0].extent}, forward is up", above))
    width = len(grids) * (column_width + GAP) - GAP
    legends = _all_entries(grids)
    heights = [_height_at(pictures[0], column_width) for _, pictures in rows]
    top = MARGIN + heading_height(heading, width)
    bottom = top + sum(CAPTION_HEIGHT + height + GAP for height in heights) - GAP
    sheet = Sheet(width + 2 * MARGIN, bottom + _legends_height(legends, width) + MARGIN)
    sheet.put_heading(heading, MARGIN, MARGIN, width)
    for (view, pictures), height in zip(rows, heights):
        for column, (grid, picture) in enumerate(zip(grids, pictures, strict=True)):
            left = MARGIN + column * (column_width + GAP)
            # The view is the same in all of a row; small pictures have room for the name alone
            sheet.put_caption(f"{grid.name}, {view}" if column == 0 else grid.name, left, top, column_width)
            sheet.put_picture(picture, left, top + CAPTION_HEIGHT, (height, column_width))
        top += CAPTION_HEIGHT + height + GAP
    _put_legends(sheet, legends, MARGIN, bottom, width)
    return sheet.save(path)


def save_overview(
    path: Path, images: Sequence[tuple[str, UInt8[Tensor, "h w 3"]]], front: CameraMaps, grids: Sequence[DrawnGrid], heading: Heading
) -> Path:
    """Draw one strip: the images of all cameras; below them what is rendered for the one to the front, and the grids in perspective."""
    camera_width = (OVERVIEW_WIDTH - (len(images) - 1) * GAP) // len(images)
    camera_height = _height_at(images[0][1], camera_width)
    rendered = class_entries([front.rendered_semantics])
    classes, *errors = _all_entries(grids)
    # Sky comes after the classes, and what is no class after that
    legends = [sorted({*classes, *rendered}, key=lambda entry: _place_in_legend(entry[0])), *errors]
    map_width, grid_width = _widths_of_equal_height(front, grids)
    map_height, grid_height = _height_of([front], map_width), _height_at(grids[0].in_perspective, grid_width)
    top_of_body = MARGIN + heading_height(heading, OVERVIEW_WIDTH)
    second_row = top_of_body + CAPTION_HEIGHT + camera_height + GAP
    legend_top = second_row + CAPTION_HEIGHT + max(grid_height, 2 * map_height + CAPTION_HEIGHT)
    bar_width = min(OVERVIEW_WIDTH, max(2 * map_width + 2 * GAP, 420))
    legend_left, legend_width = MARGIN + bar_width + 4 * GAP, OVERVIEW_WIDTH - bar_width - 4 * GAP
    bottom = legend_top + max(_legends_height(legends, legend_width), DISTANCE_BAR_HEIGHT + 2 * GAP)
    sheet = Sheet(OVERVIEW_WIDTH + 2 * MARGIN, bottom + MARGIN // 2)
    sheet.put_heading(heading, MARGIN, MARGIN, OVERVIEW_WIDTH)
    for i, (name, image) in enumerate(images):
        left = MARGIN + i * (camera_width + GAP)
        sheet.put_caption(_spoken(name), left, top_of_body, camera_width)
        sheet.put_picture(image, left, top_of_body + CAPTION_HEIGHT, (camera_height, camera_width))
    *_, semantics, distances = _pictures_of(front)
    top = second_row
    for caption, picture in (("rendered semantics", semantics), ("rendered distance [m]", distances)):
        sheet.put_caption(f"{_spoken(front.name)}: {caption}", MARGIN, top, map_width)
        sheet.put_picture(picture, MARGIN, top + CAPTION_HEIGHT, (map_height, map_width))
        top += CAPTION_HEIGHT + map_height
    for column, grid in enumerate(grids):
        left = MARGIN + map_width + GAP + column * (grid_width + GAP)
        sheet.put_caption(grid.name, left, second_row, grid_width)
        sheet.put_picture(grid.in_perspective, left, second_row + CAPTION_HEIGHT, (grid_height, grid_width))
    sheet.put_distance_bar(MARGIN, legend_top + 2 * GAP, bar_width)
    _put_legends(sheet, legends, legend_left, legend_top, legend_width)
    return sheet.save(path)


def sheet_of_training(camera: CameraMaps, grid: DrawnGrid, heading: Heading) -> Sheet:
    """Lay out one camera's image, labels and renderings, and below them a grid in perspective and from above."""
    assert grid.from_above is not None
    captions = ("camera image", "labels: class", "labels: distance [m]", "rendered semantics", "rendered distance [m]")
    width = len(captions) * (RENDERING_WIDTH + GAP) - GAP
    height = _height_of([camera], RENDERING_WIDTH)
    top = MARGIN + heading_height(heading, width)
    grid_top = top + CAPTION_HEIGHT + height + GAP
    half = (width - GAP) // 2
    grid_height = _height_at(grid.in_perspective, half)
    bottom = grid_top + CAPTION_HEIGHT + grid_height
    classes = {*grid.classes, *class_entries([camera.label_semantics, camera.rendered_semantics])}
    entries = sorted(classes, key=lambda entry: _place_in_legend(entry[0]))
    bar_top = bottom + _legends_height([entries], width) + GAP
    sheet = Sheet(width + 2 * MARGIN, bar_top + DISTANCE_BAR_HEIGHT + MARGIN)
    sheet.put_heading(heading, MARGIN, MARGIN, width)
    for number, (caption, picture) in enumerate(zip(captions, _pictures_of(camera))):
        left = MARGIN + number * (RENDERING_WIDTH + GAP)
        sheet.put_caption(f"{_spoken(camera.name)}: {caption}" if number == 0 else caption, left, top, RENDERING_WIDTH)
        sheet.put_picture(picture, left, top + CAPTION_HEIGHT, (height, RENDERING_WIDTH))
    sheet.put_caption(f"{grid.name}, in perspective", MARGIN, grid_top, half)
    sheet.put_picture(grid.in_perspective, MARGIN, grid_top + CAPTION_HEIGHT, (grid_height, half))
    sheet.put_caption(f"from above: {grid.extent}, forward is up", MARGIN + half + GAP, grid_top, half)
    above_width = round(grid_height * grid.from_above.shape[1] / grid.from_above.shape[0])
    above_size = (grid_height, above_width) if above_width <= half else (_height_at(grid.from_above, half), half)
    sheet.put_picture(grid.from_above, MARGIN + half + GAP, grid_top + CAPTION_HEIGHT, above_size)
    _put_legends(sheet, [entries], MARGIN, bottom, width)
    sheet.put_distance_bar(MARGIN, bar_top, 2 * RENDERING_WIDTH + GAP)
    return sheet


def film_frame(
    images: Sequence[tuple[str, UInt8[Tensor, "h w 3"]]], grids: Sequence[DrawnGrid], heading: Heading
) -> UInt8[Tensor, "film_h film_w 3"]:
    """Lay out a frame of a film: the cameras in one row, where there are any, and below them the grids, in perspective.

    The legend holds every class: frames of as many images and grids have one size.
    """
    columns = len(grids)
    width = FILM_WIDTH if columns > 1 or images else OCCUPANCY_WIDTH
    grid_width = (width - (columns - 1) * GAP) // columns if columns > 1 else min(width, 1280)
    grid_height = _height_at(grids[0].in_perspective, grid_width)
    all_classes = class_entries([torch.arange(NUM_CLASSES)])
    legends = [[*all_classes, *_no_classes(_all_entries(grids)[0])], *_all_entries(grids)[1:]]
    most_lines = 2 if width == FILM_WIDTH else 4  # of all frames: scores are of one length or another
    top = MARGIN + TITLE_HEIGHT + most_lines * DETAILS_HEIGHT
    camera_width = (width - (len(images) - 1) * GAP) // max(len(images), 1)
    camera_height = max((_height_at(image, camera_width) for _, image in images), default=0)
    grids_top = top + (CAPTION_HEIGHT + camera_height + GAP if images else 0)
    bottom = grids_top + CAPTION_HEIGHT + grid_height
    sheet = Sheet(width + 2 * MARGIN, bottom + _legends_height(legends, width) + MARGIN)
    sheet.put_heading(heading, MARGIN, MARGIN, width, most_lines=most_lines)
    for i, (name, image) in enumerate(images):
        left = MARGIN + i * (camera_width + GAP)
        sheet.put_caption(_spoken(name), left, top, camera_width)
        sheet.put_picture(image, left, top + CAPTION_HEIGHT, (_height_at(image, camera_width), camera_width))
    for column, grid in enumerate(grids):
        left = MARGIN + column * (grid_width + GAP)
        sheet.put_caption(grid.name, left, grids_top, grid_width)
        sheet.put_picture(grid.in_perspective, left, grids_top + CAPTION_HEIGHT, (grid_height, grid_width))
    _put_legends(sheet, legends, MARGIN, bottom, width)
    return sheet.as_picture()


_NAMES = [name.replace("_", " ") for name in CLASSES]


def _place_in_legend(name: str) -> int:
    return _NAMES.index(name) if name in _NAMES else len(_NAMES) + (name != "nothing hit")


def _no_classes(entries: Sequence[LegendEntry]) -> list[LegendEntry]:
    return [entry for entry in entries if entry[0] not in _NAMES]


def _without_ego(legends: Sequence[Sequence[LegendEntry]]) -> list[list[LegendEntry]]:
    return [[entry for entry in legend if entry != EGO_ENTRY] for legend in legends]


def _all_entries(grids: Sequence[DrawnGrid | PaintedGrid]) -> list[list[LegendEntry]]:
    """Return the legend of the classes of all grids, by index, and that of their errors where one has them."""
    classes = dict.fromkeys(entry for grid in grids for entry in grid.classes)
    errors = list(dict.fromkeys(entry for grid in grids for entry in grid.errors))
    return [sorted(classes, key=lambda entry: _place_in_legend(entry[0])), *([errors] if errors else [])]


def _legends_height(legends: Sequence[Sequence[LegendEntry]], width: int) -> int:
    return sum(GAP + legend_height(entries, width) for entries in legends)


def _put_legends(sheet: Sheet, legends: Sequence[Sequence[LegendEntry]], left: int, top: int, width: int) -> None:
    for entries in legends:
        sheet.put_legend(entries, left, top + GAP, width)
        top += GAP + legend_height(entries, width)


def _widths_of_equal_height(camera: CameraMaps, grids: Sequence[DrawnGrid]) -> tuple[int, int]:
    """Return the widths at which two maps, one above the other, are as high as the grids beside them and all fill the overview;
    or, where they would be too narrow for their captions, higher."""
    map_aspect = camera.image.shape[0] / camera.image.shape[1]
    grid_aspect = grids[0].in_perspective.shape[0] / grids[0].in_perspective.shape[1]
    room = OVERVIEW_WIDTH - len(grids) * GAP
    # 2 · map_aspect · map_width + CAPTION_HEIGHT = grid_aspect · grid_width, and map_width + len(grids) · grid_width = room
    map_width = (grid_aspect * room / len(grids) - CAPTION_HEIGHT) / (2 * map_aspect + grid_aspect / len(grids))
    map_width = max(map_width, NARROWEST_MAP)
    return round(map_width), round((room - map_width) / len(grids))


def _pictures_of(camera: CameraMaps) -> tuple[UInt8[Tensor, "h w 3"], ...]:
    """Return the image, both kinds of labels on it, and both renderings."""
    dark = (camera.image * DARKENED).to(torch.uint8)
    distances, known, of_classes = camera.label_distances, camera.label_distances.isfinite(), class_colors(camera.label_semantics)
    return (
        camera.image,
        draw_dots(camera.image, camera.label_pixels, distances.where(known, torch.full_like(distances, torch.inf)), of_classes),
        draw_dots(dark, camera.label_pixels[known], distances[known], distance_colors(distances[known])),
        class_colors(camera.rendered_semantics),
        distance_colors(camera.rendered_distances),
    )


def draw_dots(
    picture: UInt8[Tensor, "h w 3"],
    pixels: Float[Tensor, "label 2"],
    distances: Float[Tensor, " label"],
    colors: UInt8[Tensor, "label 3"],
) -> UInt8[Tensor, "h w 3"]:
    """Return the picture with a round dot at each pixel (u, v), near ones over far ones."""
    painted = picture.cpu().numpy().copy()
    height, width = painted.shape[:2]
    far_to_near = torch.argsort(distances, descending=True)
    columns, rows = pixels[far_to_near].floor().long().cpu().numpy().T
    colors_drawn = colors[far_to_near].cpu().numpy()
    radius = LABEL_RADIUS * max(1.0, width / LABEL_PICTURE_WIDTH)
    reach = int(radius)
    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1) if i * i + j * j <= radius * radius]
    all_rows = np.concatenate([rows[:, None] + i for i, _ in offsets], axis=1)
    all_columns = np.concatenate([columns[:, None] + j for _, j in offsets], axis=1)
    inside = (all_rows >= 0) & (all_rows < height) & (all_columns >= 0) & (all_columns < width)
    # Where an index repeats, numpy keeps the last value, which is the nearest dot's.
    painted[all_rows[inside], all_columns[inside]] = np.repeat(colors_drawn[:, None], len(offsets), axis=1)[inside]
    return torch.from_numpy(painted)


def _spoken(channel: str) -> str:
    """Turn CAM_FRONT_LEFT into front left."""
    return channel.removeprefix("CAM_").replace("_", " ").lower()


def _height_of(cameras: Sequence[CameraMaps], width: int) -> int:
    return _height_at(cameras[0].image, width)


def _height_at(picture: UInt8[Tensor, "h w 3"], width: int) -> int:
    return round(width * picture.shape[0] / picture.shape[1])
