"""The four pictures of a key frame: cameras, renderings, occupancy, and an overview of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.struct import Struct
from splattingocc.visualization.palettes import EGO_COLOR, class_colors, distance_colors
from splattingocc.visualization.raycast import PictureConfig, picture_from_above, picture_in_perspective
from splattingocc.visualization.sheet import (
    CAPTION_HEIGHT,
    DISTANCE_BAR_HEIGHT,
    GAP,
    MARGIN,
    Sheet,
    class_entries,
    legend_height,
)

TITLE_HEIGHT = 34
DARKENED = 0.35
"""Light left of an image that distances are drawn on."""
LABEL_RADIUS = 1.5
"""Pixels of the dot of a label, in a picture LABEL_PICTURE_WIDTH wide; more in larger ones."""
LABEL_PICTURE_WIDTH = 480
CAMERA_WIDTH = 420
RENDERING_WIDTH = 320
OCCUPANCY_WIDTH = 600
OVERVIEW_WIDTH = 1760
EGO_ENTRY = ("ego vehicle", EGO_COLOR)


@dataclass(frozen=True)
class CameraMaps(Struct):
    """What one camera saw, what its labels say and what is rendered for it; all of the same field of view."""

    name: str
    image: UInt8[Tensor, "h w 3"]
    label_pixels: Float[Tensor, "label 2"]
    """In pixels of `image`."""
    label_semantics: Int64[Tensor, " label"]
    label_distances: Float[Tensor, " label"]
    """Metres along the ray."""
    rendered_semantics: Int64[Tensor, "map_h map_w"]
    """Class index, or SKY where nothing is hit."""
    rendered_distances: Float[Tensor, "map_h map_w"]
    """Metres along the ray; nan where nothing is hit."""


@dataclass(frozen=True)
class DrawnGrid(Struct):
    """A voxel grid and its pictures."""

    name: str
    """What it is, e.g. "predicted occupancy"."""
    extent: str
    """Its size in words."""
    semantics: UInt8[Tensor, "x y z"]
    in_perspective: UInt8[Tensor, "h w 3"]
    from_above: UInt8[Tensor, "above_h above_w 3"]


def draw_grid(name: str, semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid, config: PictureConfig | None = None) -> DrawnGrid:
    """Draw a grid in perspective and from above."""
    metres = [upper - lower for lower, upper in zip(grid.lower, grid.upper)]
    perspective = picture_in_perspective(semantics, grid, config)
    return DrawnGrid(name, f"{metres[0]:g} m × {metres[1]:g} m", semantics, perspective, picture_from_above(semantics, grid, config))


def save_cameras(path: Path, cameras: Sequence[CameraMaps], title: str) -> Path:
    """Draw the images in two rows, the left of the vehicle on the left; the cameras come clockwise from the front left."""
    height = _height_of(cameras, CAMERA_WIDTH)
    columns = (len(cameras) + 1) // 2
    row_height = CAPTION_HEIGHT + height + GAP
    sheet = Sheet(2 * MARGIN + columns * (CAMERA_WIDTH + GAP) - GAP, 2 * MARGIN + TITLE_HEIGHT + 2 * row_height - GAP)
    sheet.put_title(title, MARGIN, MARGIN)
    for row, row_cameras in enumerate((cameras[:columns], cameras[columns:][::-1])):
        top = MARGIN + TITLE_HEIGHT + row * row_height
        for column, camera in enumerate(row_cameras):
            left = MARGIN + column * (CAMERA_WIDTH + GAP)
            sheet.put_caption(_spoken(camera.name), left, top, CAMERA_WIDTH)
            sheet.put_picture(camera.image, left, top + CAPTION_HEIGHT, (height, CAMERA_WIDTH))
    return sheet.save(path)


def save_renderings(path: Path, cameras: Sequence[CameraMaps], title: str) -> Path:
    """Draw a row for each camera: image, labels by class and by distance, rendered semantics and distances."""
    captions = ("camera image", "labels: class", "labels: distance [m]", "rendered semantics", "rendered distance [m]")
    height = _height_of(cameras, RENDERING_WIDTH)
    width = CAPTION_HEIGHT + len(captions) * (RENDERING_WIDTH + GAP) - GAP
    entries = class_entries(semantics for camera in cameras for semantics in (camera.label_semantics, camera.rendered_semantics))
    body = TITLE_HEIGHT + CAPTION_HEIGHT + len(cameras) * (height + GAP)
    legend_width = width - CAPTION_HEIGHT
    legend_top = MARGIN + body + GAP
    bar_top = legend_top + legend_height(entries, legend_width) + 2 * GAP
    sheet = Sheet(width + 2 * MARGIN, bar_top + DISTANCE_BAR_HEIGHT + MARGIN // 2)
    sheet.put_title(title, MARGIN, MARGIN)
    lefts = [MARGIN + CAPTION_HEIGHT + i * (RENDERING_WIDTH + GAP) for i in range(len(captions))]
    for left, caption in zip(lefts, captions):
        sheet.put_caption(caption, left, MARGIN + TITLE_HEIGHT, RENDERING_WIDTH)
    for row, camera in enumerate(cameras):
        top = MARGIN + TITLE_HEIGHT + CAPTION_HEIGHT + row * (height + GAP)
        sheet.put_sideways(_spoken(camera.name), MARGIN, top, height)
        for left, picture in zip(lefts, _pictures_of(camera)):
            sheet.put_picture(picture, left, top, (height, RENDERING_WIDTH))
    sheet.put_legend(entries, lefts[0], legend_top, legend_width)
    sheet.put_distance_bar(lefts[0], bar_top, 2 * RENDERING_WIDTH + GAP)
    return sheet.save(path)


def save_occupancies(path: Path, grids: Sequence[DrawnGrid], title: str) -> Path:
    """Draw a column for each grid: in perspective and from above."""
    perspective_height = _height_at(grids[0].in_perspective, OCCUPANCY_WIDTH)
    above_height = _height_at(grids[0].from_above, OCCUPANCY_WIDTH)
    width = len(grids) * (OCCUPANCY_WIDTH + GAP) - GAP
    entries = [*class_entries(grid.semantics for grid in grids), EGO_ENTRY]
    above_top = MARGIN + TITLE_HEIGHT + CAPTION_HEIGHT + perspective_height + GAP
    legend_top = above_top + CAPTION_HEIGHT + above_height + 2 * GAP
    sheet = Sheet(width + 2 * MARGIN, legend_top + legend_height(entries, width) + MARGIN // 2)
    sheet.put_title(title, MARGIN, MARGIN)
    for column, grid in enumerate(grids):
        left, top = MARGIN + column * (OCCUPANCY_WIDTH + GAP), MARGIN + TITLE_HEIGHT
        sheet.put_caption(f"{grid.name}, in perspective", left, top, OCCUPANCY_WIDTH)
        sheet.put_picture(grid.in_perspective, left, top + CAPTION_HEIGHT, (perspective_height, OCCUPANCY_WIDTH))
        sheet.put_caption(f"{grid.name}, from above: {grid.extent}, forward is up", left, above_top, OCCUPANCY_WIDTH)
        sheet.put_picture(grid.from_above, left, above_top + CAPTION_HEIGHT, (above_height, OCCUPANCY_WIDTH))
    sheet.put_legend(entries, MARGIN, legend_top, width)
    return sheet.save(path)


def save_overview(path: Path, cameras: Sequence[CameraMaps], front: int, grids: Sequence[DrawnGrid]) -> Path:
    """Draw one strip: all cameras above; below them what is rendered for the camera `front`, and the grids in perspective."""
    camera_width = (OVERVIEW_WIDTH - (len(cameras) - 1) * GAP) // len(cameras)
    camera_height = _height_of(cameras, camera_width)
    entries = [*class_entries([cameras[front].rendered_semantics, *(grid.semantics for grid in grids)]), EGO_ENTRY]
    map_width, grid_width = _widths_of_equal_height(cameras[front], grids)
    map_height, grid_height = _height_of(cameras, map_width), _height_at(grids[0].in_perspective, grid_width)
    second_row = MARGIN + CAPTION_HEIGHT + camera_height + GAP
    legend_top = second_row + CAPTION_HEIGHT + max(grid_height, 2 * map_height + CAPTION_HEIGHT) + GAP
    bar_width = min(OVERVIEW_WIDTH, 2 * map_width + 2 * GAP)
    legend_left, legend_width = MARGIN + bar_width + 4 * GAP, OVERVIEW_WIDTH - bar_width - 4 * GAP
    bottom = legend_top + max(legend_height(entries, legend_width), DISTANCE_BAR_HEIGHT)
    sheet = Sheet(OVERVIEW_WIDTH + 2 * MARGIN, bottom + MARGIN // 2)
    for i, camera in enumerate(cameras):
        left = MARGIN + i * (camera_width + GAP)
        sheet.put_caption(_spoken(camera.name), left, MARGIN, camera_width)
        sheet.put_picture(camera.image, left, MARGIN + CAPTION_HEIGHT, (camera_height, camera_width))
    *_, semantics, distances = _pictures_of(cameras[front])
    top = second_row
    for caption, picture in (("rendered semantics", semantics), ("rendered distance [m]", distances)):
        sheet.put_caption(f"{_spoken(cameras[front].name)}: {caption}", MARGIN, top, map_width)
        sheet.put_picture(picture, MARGIN, top + CAPTION_HEIGHT, (map_height, map_width))
        top += CAPTION_HEIGHT + map_height
    for column, grid in enumerate(grids):
        left = MARGIN + map_width + GAP + column * (grid_width + GAP)
        sheet.put_caption(grid.name, left, second_row, grid_width)
        sheet.put_picture(grid.in_perspective, left, second_row + CAPTION_HEIGHT, (grid_height, grid_width))
    sheet.put_distance_bar(MARGIN, legend_top, bar_width)
    sheet.put_legend(entries, legend_left, legend_top, legend_width)
    return sheet.save(path)


def _widths_of_equal_height(camera: CameraMaps, grids: Sequence[DrawnGrid]) -> tuple[int, int]:
    """Return the widths at which two maps, one above the other, are as high as the grids beside them and all fill the overview."""
    map_aspect = camera.image.shape[0] / camera.image.shape[1]
    grid_aspect = grids[0].in_perspective.shape[0] / grids[0].in_perspective.shape[1]
    room = OVERVIEW_WIDTH - len(grids) * GAP
    # 2 · map_aspect · map_width + CAPTION_HEIGHT = grid_aspect · grid_width, and map_width + len(grids) · grid_width = room
    map_width = (grid_aspect * room / len(grids) - CAPTION_HEIGHT) / (2 * map_aspect + grid_aspect / len(grids))
    return round(map_width), round((room - map_width) / len(grids))


def _pictures_of(camera: CameraMaps) -> tuple[UInt8[Tensor, "h w 3"], ...]:
    """Return the image, both kinds of labels on it, and both renderings."""
    dark = (camera.image * DARKENED).to(torch.uint8)
    return (
        camera.image,
        _dotted(camera.image, camera, class_colors(camera.label_semantics)),
        _dotted(dark, camera, distance_colors(camera.label_distances)),
        class_colors(camera.rendered_semantics),
        distance_colors(camera.rendered_distances),
    )


def _dotted(picture: UInt8[Tensor, "h w 3"], camera: CameraMaps, colors: UInt8[Tensor, "label 3"]) -> UInt8[Tensor, "h w 3"]:
    return draw_dots(picture, camera.label_pixels, camera.label_distances, colors)


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
