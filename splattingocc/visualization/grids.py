"""The grids of a key frame, painted and drawn: prediction, truth and what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, UInt8
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.visualization.raycast import PictureConfig, VoxelScene, picture_from_above, picture_in_perspective, prepare
from splattingocc.visualization.sheet import LegendEntry, class_entries
from splattingocc.visualization.voxels import (
    CONFUSED_ENTRY,
    EGO_ENTRY,
    FALSE_ENTRY,
    MISSED_ENTRY,
    NOT_SCORED_ENTRY,
    RIGHT_ENTRY,
    UNSEEN_ENTRY,
    Selection,
    Voxels,
    paint_classes,
    paint_errors,
)


@dataclass(frozen=True)
class PaintedGrid:
    """A voxel grid in its colours, and what they mean."""

    name: str
    """What it is, e.g. "predicted occupancy"."""
    scene: VoxelScene
    classes: tuple[LegendEntry, ...]
    """Meaning of the colours of classes, and of what else is drawn beside them."""
    errors: tuple[LegendEntry, ...] = ()
    """Meaning of the colours of errors."""
    for_cameras: VoxelScene | None = None
    """The same without the vehicle, as its own cameras see it, where that was asked for."""


@dataclass(frozen=True)
class DrawnGrid:
    """A voxel grid and its pictures."""

    name: str
    extent: str
    """Its size in words."""
    classes: tuple[LegendEntry, ...]
    errors: tuple[LegendEntry, ...]
    in_perspective: UInt8[Tensor, "h w 3"]
    from_above: UInt8[Tensor, "above_h above_w 3"] | None
    """None where this view was not asked for."""


def paint_grids(
    predicted: UInt8[Tensor, "x y z"],
    grid: VoxelGrid,
    *,
    truth: UInt8[Tensor, "true_x true_y true_z"] | None = None,
    seen: Bool[Tensor, "true_x true_y true_z"] | None = None,
    truth_grid: VoxelGrid | None = None,
    selection: Selection | None = None,
    for_cameras: bool = False,
) -> list[PaintedGrid]:
    """Paint a prediction; where there are a truth and the cells of it that are seen, these; and if both have one grid, their difference."""
    selection, truth_grid = selection or Selection(), truth_grid or grid

    def painted(name: str, place: VoxelGrid, paint: Callable[[bool], Voxels], **legend: tuple[LegendEntry, ...]) -> PaintedGrid:
        return PaintedGrid(name, prepare(paint(True), place), **legend, for_cameras=prepare(paint(False), place) if for_cameras else None)

    def classes(semantics: UInt8[Tensor, "x y z"], place: VoxelGrid) -> list[LegendEntry]:
        return [*class_entries([semantics[selection.of(semantics, place)]]), EGO_ENTRY]

    # A prediction may be right where nobody sees it; but a network learns nothing there, as below the vehicle
    seen_here = seen if truth_grid == grid else None
    grids = [
        painted(
            "predicted occupancy",
            grid,
            lambda show_ego: paint_classes(predicted, grid, seen=seen_here, fade=False, selection=selection, show_ego=show_ego),
            classes=tuple(classes(predicted, grid)),
        )
    ]
    if truth is None or seen is None:
        return grids
    grids.append(
        painted(
            "true occupancy, pale where not seen",
            truth_grid,
            lambda show_ego: paint_classes(truth, truth_grid, seen=seen, selection=selection, show_ego=show_ego),
            classes=(*classes(truth, truth_grid), UNSEEN_ENTRY),
        )
    )
    if truth_grid == grid:
        grids.append(
            painted(
                "predicted against true",
                grid,
                lambda show_ego: paint_errors(predicted, truth, seen, grid, selection=selection, show_ego=show_ego),
                classes=(),
                errors=(RIGHT_ENTRY, MISSED_ENTRY, FALSE_ENTRY, CONFUSED_ENTRY, NOT_SCORED_ENTRY),
            )
        )
    return grids


def draw_grid(painted: PaintedGrid, config: PictureConfig | None = None, *, from_above: bool = True) -> DrawnGrid:
    """Draw a grid in perspective, and from above unless that is not wanted."""
    grid = painted.scene.grid
    metres = [upper - lower for lower, upper in zip(grid.lower, grid.upper)]
    return DrawnGrid(
        painted.name,
        f"{metres[0]:g} m × {metres[1]:g} m",
        painted.classes,
        painted.errors,
        picture_in_perspective(painted.scene, config),
        picture_from_above(painted.scene, config) if from_above else None,
    )
