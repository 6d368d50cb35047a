"""What is drawn of a voxel grid: which cells, in which colours, and what the floor under empty columns looks like."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.struct import Struct
from splattingocc.taxonomy import CLASSES, NUM_CLASSES
from splattingocc.visualization.palettes import (
    CONFUSED_COLOR,
    EGO_COLOR,
    FALSE_COLOR,
    FLOOR_COLOR,
    MISSED_COLOR,
    NOT_SCORED_COLOR,
    RIGHT_COLOR,
    UNSEEN_COLOR,
    class_colors,
)

FADED: Final = 0.72
"""Share of the floor's colour in what is faded."""
EGO_LOWER: Final = (-1.0, -0.8, 0.0)
EGO_UPPER: Final = (3.4, 0.8, 1.6)
"""Corners of the drawn ego vehicle, metres: a small car whose rear axle is the origin."""
BONNET: Final = (2.2, 0.9)
"""It is lower ahead of the first than the second, metres: which side is its front is seen from all sides."""

HIGHEST_GROUND: Final = 0.6
"""Metres in the ego frame up to which cells are looked at to say whether the ground was seen; cameras see what is above it more often."""

RIGHT_ENTRY: Final = ("right class", RIGHT_COLOR)
MISSED_ENTRY: Final = ("missed: predicted free", MISSED_COLOR)
FALSE_ENTRY: Final = ("false: truly free", FALSE_COLOR)
CONFUSED_ENTRY: Final = ("occupied, wrong class", CONFUSED_COLOR)
NOT_SCORED_ENTRY: Final = ("not scored, outside mask_camera", NOT_SCORED_COLOR)
UNSEEN_ENTRY: Final = ("ground not seen by the cameras", UNSEEN_COLOR)
EGO_ENTRY: Final = ("ego vehicle, arrow to its front", EGO_COLOR)


@dataclass(frozen=True)
class Voxels(Struct):
    """What is drawn of a grid."""

    occupied: Bool[Tensor, "x y z"]
    colors: UInt8[Tensor, "x y z 3"]
    """Of occupied cells, before light and shadow."""
    floor: UInt8[Tensor, "x y 3"]
    """Of the bottom of the grid, which is seen where a column is empty."""
    ego: Bool[Tensor, "x y z"]
    """Which of the occupied cells are the vehicle's."""


@dataclass(frozen=True)
class Selection:
    """Which voxels are drawn."""

    classes: frozenset[int] = frozenset(range(NUM_CLASSES))
    below: float = math.inf
    """Metres in the ego frame: only cells whose centre is lower."""

    def __str__(self) -> str:
        """Say in a few words what is not drawn; nothing where all is."""
        hidden = [name for number, name in enumerate(CLASSES[:NUM_CLASSES]) if number not in self.classes]
        drawn = [name for number, name in enumerate(CLASSES[:NUM_CLASSES]) if number in self.classes]
        said = [f"only {', '.join(drawn)}" if len(drawn) <= len(hidden) else f"without {', '.join(hidden)}"] if hidden else []
        return "; ".join([*said, *([f"only below {self.below:g} m"] if self.below < math.inf else [])])

    def of(self, semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid) -> Bool[Tensor, "x y z"]:
        """Return the occupied cells of a grid that are drawn."""
        table = torch.zeros(256, dtype=torch.bool)
        table[list(self.classes)] = True
        return table[semantics.long()] & (grid.centers()[..., 2] < self.below)


def selection_of(keep: Collection[str], hide: Collection[str], below: float | None) -> Selection:
    """Return the selection of these classes, all where none is named, without those to hide. No class left is a `ValueError`."""
    for option, names in (("--keep", keep), ("--hide", hide)):
        for name in names:
            if name not in CLASSES:
                raise ValueError(f"{option} {name}: no such class; there are {', '.join(CLASSES)}")
    classes = frozenset(i for i, name in enumerate(CLASSES) if (not keep or name in keep) and name not in hide)
    if not classes:
        raise ValueError(f"--hide {' '.join(sorted(hide))}: hides every class that is kept, nothing is left to draw")
    if below is not None and math.isnan(below):
        raise ValueError("--below nan: expected metres")
    return Selection(classes, math.inf if below is None else below)


def paint_classes(
    semantics: UInt8[Tensor, "x y z"],
    grid: VoxelGrid,
    *,
    seen: Bool[Tensor, "x y z"] | None = None,
    fade: bool = True,
    selection: Selection | None = None,
    show_ego: bool = True,
) -> Voxels:
    """Paint each occupied cell in the colour of its class; where it is not `seen`, and may be wrong or incomplete, in a pale one.

    The floor is darker where no cell near the ground is seen: what is empty there is not known to be free. Without `fade` all else is as if
    it were seen.
    """
    occupied = (selection or Selection()).of(_checked(semantics, grid), grid)
    colors = _fade_unseen(class_colors(semantics.cpu()), seen if fade else None)
    return _with_ego(Voxels(occupied, colors, _floor(grid, seen), torch.zeros_like(occupied)), grid, show_ego)


def paint_errors(
    predicted: UInt8[Tensor, "x y z"],
    truth: UInt8[Tensor, "x y z"],
    seen: Bool[Tensor, "x y z"],
    grid: VoxelGrid,
    *,
    selection: Selection | None = None,
    show_ego: bool = True,
) -> Voxels:
    """Paint what is predicted or true by what is right about it. Outside of `seen` nothing is scored: it is pale and grey.

    A cell is drawn where the selection draws its predicted or its true class.
    """
    selection = selection or Selection()
    predicted, truth = _checked(predicted, grid), _checked(truth, grid)
    occupied = selection.of(predicted, grid) | selection.of(truth, grid)
    is_predicted, is_true = predicted < NUM_CLASSES, truth < NUM_CLASSES
    table = torch.tensor([NOT_SCORED_COLOR, RIGHT_COLOR, MISSED_COLOR, FALSE_COLOR, CONFUSED_COLOR], dtype=torch.uint8)
    kind = torch.where(is_predicted & is_true, torch.where(predicted == truth, 1, 4), torch.where(is_true, 2, 3))
    colors = table[torch.where(seen.cpu(), kind, 0)]
    return _with_ego(Voxels(occupied, _fade_unseen(colors, seen), _floor(grid, seen), torch.zeros_like(occupied)), grid, show_ego)


def _checked(semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid) -> UInt8[Tensor, "x y z"]:
    if tuple(semantics.shape) != grid.shape:
        raise ValueError(f"semantics have shape {tuple(semantics.shape)}, the grid has {grid.shape}")
    return semantics.cpu()


def _fade_unseen(colors: UInt8[Tensor, "x y z 3"], seen: Bool[Tensor, "x y z"] | None) -> UInt8[Tensor, "x y z 3"]:
    if seen is None:
        return colors
    faded = (colors.float() * (1 - FADED) + torch.tensor(FLOOR_COLOR) * FADED).to(torch.uint8)
    return torch.where(seen.cpu()[..., None], colors, faded)


def _floor(grid: VoxelGrid, seen: Bool[Tensor, "x y z"] | None) -> UInt8[Tensor, "x y 3"]:
    plain = torch.tensor(FLOOR_COLOR, dtype=torch.uint8).repeat(*grid.shape[:2], 1)
    if seen is None:
        return plain
    near_ground = grid.centers()[0, 0, :, 2] < HIGHEST_GROUND
    near_ground[0] = True
    seen_there = seen.cpu()[..., near_ground].any(dim=-1)
    return torch.where(seen_there[..., None], plain, torch.tensor(UNSEEN_COLOR, dtype=torch.uint8))


def _with_ego(voxels: Voxels, grid: VoxelGrid, show_ego: bool) -> Voxels:
    """Put the vehicle into cells that are empty."""
    if not show_ego:
        return voxels
    ego = _ego_shape(grid.centers()) & ~voxels.occupied
    colors = torch.where(ego[..., None], torch.tensor(EGO_COLOR, dtype=torch.uint8), voxels.colors)
    return Voxels(voxels.occupied | ego, colors, voxels.floor, ego)


def _ego_shape(centers: Float[Tensor, "x y z 3"]) -> Bool[Tensor, "x y z"]:
    inside = ((centers > torch.tensor(EGO_LOWER)) & (centers < torch.tensor(EGO_UPPER))).all(dim=-1)
    return inside & ~((centers[..., 0] > BONNET[0]) & (centers[..., 2] > BONNET[1]))


def is_on_arrow(points: Float[Tensor, "*point 3"]) -> Bool[Tensor, "*point"]:
    """Say which points lie, seen from above, on the arrow that is painted on the vehicle: it points to its front."""
    x, y = points[..., 0], points[..., 1].abs()
    middle = EGO_UPPER[0] - 1.7
    head = (x > middle) & (x < EGO_UPPER[0] - 0.2) & (y < 0.7 * (EGO_UPPER[0] - 0.2 - x) / (EGO_UPPER[0] - 0.2 - middle))
    shaft = (x > EGO_LOWER[0] + 0.5) & (x <= middle) & (y < 0.22)
    return head | shaft
