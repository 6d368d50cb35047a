"""What heads that answer for each cell of the grid share: how opaque it is, and of which class."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from splattingocc.config import Config
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.evidence import Evidence
from splattingocc.models.interfaces import Head
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
        log_ratio = torch.log((evidence.surface + EVIDENCE_FLOOR) / EVIDENCE_CENTER)
        opacity_logits = geometry[..., 0] + self.opacity_gain * log_ratio
        class_logits = class_logits + self.class_gain * torch.log(evidence.classes + CLASS_FLOOR)
        return MAX_OPACITY * torch.sigmoid(opacity_logits), class_logits.softmax(dim=-1), geometry[..., 1:]
