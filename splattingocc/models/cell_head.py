"""What heads that answer for each cell of the grid share: how opaque it is, and of which class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Config
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.evidence import Evidence
from splattingocc.models.interfaces import Head
from splattingocc.splatting.gather import gather_rows
from splattingocc.taxonomy import NUM_CLASSES

MAX_OPACITY = 0.99
"""The renderer clips alpha here, where the gradient ends."""
EVIDENCE_CENTER = 0.02
"""Probability of a surface at which the evidence neither raises nor lowers an opacity."""
EVIDENCE_FLOOR = 0.003
"""Added to that probability: what no camera sees starts nearly, not wholly, empty."""
CLASS_FLOOR = 0.02
"""Added to class probabilities before their logarithm."""


class CellHeadConfig(Config):
    """What every head of this kind has."""

    num_classes: Annotated[int, Field(ge=1, le=254)] = NUM_CLASSES
    """Channels of the class probabilities."""
    initial_opacity: Annotated[float, Field(gt=0, lt=MAX_OPACITY)] = 0.03
    """Opacity before training of a cell where the image branch gives a surface the probability EVIDENCE_CENTER."""


class CellHead(Head):
    """Predict opacity and class of each cell, starting from what the images alone say of it, and further numbers.

    A volume coarser than the grid predicts all the cells inside each of its own cells at once. The cells are ordered by the volume's
    cells and then by the cells inside (each in the order x, y, z), so that nothing is copied to shuffle them.
    """

    centers: Tensor

    def __init__(self, config: CellHeadConfig, in_channels: int, grid: VoxelGrid, coarsening: int, further: Tensor) -> None:
        """`further` are the values that the further numbers of each cell begin with."""
        super().__init__()
        self.grid, self.coarsening = grid, coarsening
        opacity = math.log(config.initial_opacity / (MAX_OPACITY - config.initial_opacity))
        start = torch.cat([torch.tensor([opacity]), further])
        self.geometry = nn.Linear(in_channels, coarsening**3 * len(start))
        self.classes = nn.Linear(in_channels, coarsening**3 * config.num_classes)
        centers = rearrange(grid.centers(), "(x fx) (y fy) (z fz) xyz -> (x y z fx fy fz) xyz", fx=coarsening, fy=coarsening, fz=coarsening)
        self.register_buffer("centers", centers.contiguous(), persistent=False)
        self.opacity_gain = nn.Parameter(torch.ones(()))
        self.class_gain = nn.Parameter(torch.ones(()))
        for linear in (self.geometry, self.classes):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.geometry.bias.copy_(start.repeat(coarsening**3))

    def of_cells(
        self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence
    ) -> tuple[Float[Tensor, "batch cell"], Float[Tensor, "batch cell class"], Float[Tensor, "batch cell number"]]:
        """Return opacities, class probabilities and the further numbers."""
        cells = rearrange(volume, "b c x y z -> b (x y z) c")
        geometry = rearrange(self.geometry(cells), "b cell (fine c) -> b (cell fine) c", fine=self.coarsening**3)
        class_logits = rearrange(self.classes(cells), "b cell (fine c) -> b (cell fine) c", fine=self.coarsening**3)
        return self._opacities(geometry[..., 0], evidence.surface), self._probabilities(class_logits, evidence.classes), geometry[..., 1:]

    def opacities_of_all(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence) -> Float[Tensor, "batch cell"]:
        """Return the opacities of `of_cells` alone, at a fraction of its cost; of the evidence only the surface is looked at."""
        cells = rearrange(volume, "b c x y z -> b (x y z) c")
        return self._opacities(functional.linear(cells, *self._part_of_geometry(slice(0, 1))).flatten(1), evidence.surface)

    def numbers_of(
        self, volume: Float[Tensor, "batch channel x y z"], cells: Int64[Tensor, "batch chosen"]
    ) -> Float[Tensor, "batch chosen number"]:
        """Return the further numbers of some cells, in ascending order."""
        return self._layers_of(volume, cells, [self._part_of_geometry(slice(1, None))])[0]

    def of_chosen(
        self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence, cells: Int64[Tensor, "batch chosen"]
    ) -> tuple[Float[Tensor, "batch chosen class"], Float[Tensor, "batch chosen number"]]:
        """Return class probabilities and the further numbers of some cells, in ascending order; the classes' evidence is of these."""
        class_logits, numbers = self._layers_of(
            volume, cells, [(self.classes.weight, self.classes.bias), self._part_of_geometry(slice(1, None))]
        )
        return self._probabilities(class_logits, evidence.classes), numbers

    def indices_of(self, points: Float[Tensor, "point 3"]) -> Int64[Tensor, " point"]:
        """Return which cells hold the points, in this head's order; for points outside of the grid the number behind the last cell."""
        cells, inside = self.grid.cells_of(points)
        _, y, z = self.grid.coarsen(self.coarsening).shape
        block, within = cells // self.coarsening, cells % self.coarsening
        block = (block[:, 0] * y + block[:, 1]) * z + block[:, 2]
        index = ((block * self.coarsening + within[:, 0]) * self.coarsening + within[:, 1]) * self.coarsening + within[:, 2]
        return index.where(inside, self.grid.num_cells)

    def _part_of_geometry(self, numbers: slice) -> tuple[Float[Tensor, "output channel"], Float[Tensor, " output"]]:
        """Return weight and bias of some numbers of the geometry, for all cells inside one of the volume's; the first is the opacity's."""
        weight, bias = (
            parameter.unflatten(0, (self.coarsening**3, -1))[:, numbers].flatten(0, 1)
            for parameter in (self.geometry.weight, self.geometry.bias)
        )
        # A product with rows that lie apart has a gradient summed up so naively that four digits are left of it
        return weight.contiguous(), bias

    def _layers_of(
        self, volume: Float[Tensor, "batch channel x y z"], cells: Int64[Tensor, "batch chosen"], layers: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Float[Tensor, "batch chosen number"]]:
        """Apply linear layers to the volume's cells that hold any of the chosen cells, and return what they say of these."""
        fine = self.coarsening**3
        # Samples behind each other: one list of cells
        first = torch.arange(len(cells), device=cells.device) * self.grid.num_cells
        listed = (cells + first[:, None]).flatten()
        blocks, place = torch.unique_consecutive(listed // fine, return_inverse=True)
        rows = gather_rows(rearrange(volume, "b c x y z -> (b x y z) c"), blocks)
        places = place * fine + listed % fine
        applied = [rearrange(functional.linear(rows, *layer), "block (fine number) -> (block fine) number", fine=fine) for layer in layers]
        return [gather_rows(numbers, places).unflatten(0, cells.shape) for numbers in applied]

    def _opacities(self, logits: Float[Tensor, "batch cell"], surface: Float[Tensor, "batch cell"]) -> Float[Tensor, "batch cell"]:
        log_ratio = torch.log((surface + EVIDENCE_FLOOR) / EVIDENCE_CENTER)
        return MAX_OPACITY * torch.sigmoid(logits + self.opacity_gain * log_ratio)

    def _probabilities(
        self, logits: Float[Tensor, "batch cell class"], of_images: Float[Tensor, "batch cell class"]
    ) -> Float[Tensor, "batch cell class"]:
        return (logits + self.class_gain * torch.log(of_images + CLASS_FLOOR)).softmax(dim=-1)
