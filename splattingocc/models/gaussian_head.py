"""From a volume to Gaussians."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Config, Metres
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.evidence import Evidence
from splattingocc.models.interfaces import Head
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import NUM_CLASSES

MAX_OPACITY = 0.99
"""The renderer clips alpha here, where the gradient ends."""


OFFSET_REACH = 0.499
"""Largest offset from the centre in cells: a saturated one stays in its own cell, rounding included."""


EVIDENCE_CENTER = 0.02
"""Probability of a surface at which the evidence neither raises nor lowers an opacity."""
EVIDENCE_FLOOR = 0.003
"""Added to that probability: what no camera sees starts nearly, not wholly, empty."""
CLASS_FLOOR = 0.02
"""Added to class probabilities before their logarithm."""


class GaussianHeadConfig(Config):
    """One Gaussian per cell of the grid, bound to its cell."""

    kind: Literal["gaussians"] = "gaussians"
    num_classes: Annotated[int, Field(ge=1, le=254)] = NUM_CLASSES
    """Channels of the class probabilities."""
    initial_opacity: Annotated[float, Field(gt=0, lt=MAX_OPACITY)] = 0.03
    """Opacity before training of a Gaussian where the image branch gives a surface the probability EVIDENCE_CENTER."""
    min_scale: Metres = 0.04
    """Smallest standard deviation, metres."""
    max_scale: Metres = 0.25
    """Largest standard deviation, metres; the renderer's cost grows with it."""
    initial_scale: Metres = 0.15
    """Standard deviation of every Gaussian before training, metres: between the other two."""

    @model_validator(mode="after")
    def _check(self) -> GaussianHeadConfig:
        if not self.min_scale < self.initial_scale < self.max_scale:
            raise ValueError(
                f"head.initial_scale is {self.initial_scale} m, expected more than head.min_scale, {self.min_scale} m, and less than "
                f"head.max_scale, {self.max_scale} m"
            )
        return self


class GaussianHead(Head):
    """Predict each cell's Gaussian: opacity, an offset of at most half a cell, bounded scales, rotation and class probabilities.

    A volume coarser than the grid predicts all the cells inside each of its own cells at once. The Gaussians are ordered by the volume's
    cells and then by the cells inside (each in the order x, y, z), so that nothing is copied to shuffle them; the renderer's index does
    not mind.
    """

    centers: Tensor
    GEOMETRY_WIDTHS = (1, 3, 3, 4)

    def __init__(self, config: GaussianHeadConfig, in_channels: int, grid: VoxelGrid, coarsening: int) -> None:
        super().__init__()
        self.config, self.grid, self.coarsening = config, grid, coarsening
        self.geometry = nn.Linear(in_channels, coarsening**3 * sum(self.GEOMETRY_WIDTHS))
        self.classes = nn.Linear(in_channels, coarsening**3 * config.num_classes)
        centers = rearrange(grid.centers(), "(x fx) (y fy) (z fz) xyz -> (x y z fx fy fz) xyz", fx=coarsening, fy=coarsening, fz=coarsening)
        self.register_buffer("centers", centers.contiguous(), persistent=False)
        self.opacity_gain = nn.Parameter(torch.ones(()))
        self.class_gain = nn.Parameter(torch.ones(()))
        self._initialise()

    def _initialise(self) -> None:
        config = self.config
        opacity = math.log(config.initial_opacity / (MAX_OPACITY - config.initial_opacity))
        share = (config.initial_scale - config.min_scale) / (config.max_scale - config.min_scale)
        scale = math.log(share / (1 - share))
        start = torch.tensor([opacity, 0, 0, 0, scale, scale, scale, 1, 0, 0, 0])
        for linear in (self.geometry, self.classes):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.geometry.bias.copy_(start.repeat(self.coarsening**3))

    def forward(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence) -> Gaussians:
        """Predict the Gaussians of a volume, starting from what the image branch alone says of each."""
        config = self.config
        cells = rearrange(volume, "b c x y z -> b (x y z) c")
        geometry = rearrange(self.geometry(cells), "b cell (fine c) -> b (cell fine) c", fine=self.coarsening**3)
        class_logits = rearrange(self.classes(cells), "b cell (fine c) -> b (cell fine) c", fine=self.coarsening**3)
        opacity_logits, offsets, scale_logits, quats = geometry.split(self.GEOMETRY_WIDTHS, dim=-1)
        log_ratio = torch.log((evidence.surface + EVIDENCE_FLOOR) / EVIDENCE_CENTER)
        opacity_logits = opacity_logits.squeeze(-1) + self.opacity_gain * log_ratio
        class_logits = class_logits + self.class_gain * torch.log(evidence.classes + CLASS_FLOOR)
        return Gaussians(
            means=self.centers + torch.tanh(offsets) * (OFFSET_REACH * self.grid.cell_size),
            quats=functional.normalize(quats, dim=-1),
            scales=config.min_scale + (config.max_scale - config.min_scale) * torch.sigmoid(scale_logits),
            opacities=MAX_OPACITY * torch.sigmoid(opacity_logits),
            features=class_logits.softmax(dim=-1),
            grid=self.grid,
        )
