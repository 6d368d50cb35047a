"""Lift, splat, shoot: each pixel puts what it says into the cells along its ray."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from splattingocc.config import Channels, Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.frustum_pooling import frustum_cells
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.interfaces import Lift
from splattingocc.models.lift.pooling import pool_frustum


class LSSLiftConfig(Config):
    """Each pixel puts its features into the cells along its ray, shared out by its distribution of depth."""

    kind: Literal["lss"] = "lss"
    channels: Channels = 32
    """Width of the volume."""
    coarsening: Annotated[int, Field(ge=1, le=64)] = 2
    """Cells of the grid per cell of the volume, along each axis."""


class LSSLift(Lift):
    """Lift image features by splatting (Philion and Fidler 2020), pooled as in BEVDet: a cell has the sum over all pixels of all views.

    Of each pixel and depth bin the point in the bin's middle, on the ray through the pixel's centre, decides the cell. Where the depth has
    several rows for a row of features, each has its own points, and they share the feature equally; that makes the sum one over the pixels
    of the features. A near cell has more pixels than a far one, as published; an unseen one only knows its height. The features' bias
    makes the amount of surface in a cell part of the sum.
    """

    depths: Tensor

    def __init__(self, config: LSSLiftConfig, in_channels: int, num_classes: int, depth_bins: DepthBins, grid: VoxelGrid) -> None:
        super().__init__()
        self.grid = grid.coarsen(config.coarsening)
        self.out_channels = config.channels
        self.register_buffer("depths", depth_bins.middles(), persistent=False)
        # Features and classes are brought to the width of the volume before they are pooled, whose cost is that width
        self.context_head = nn.Conv2d(in_channels + num_classes, config.channels, 1)
        self.height_embedding = nn.Parameter(torch.zeros(config.channels, self.grid.shape[2]))
        nn.init.normal_(self.height_embedding)

    def forward(self, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "batch channel x y z"]:
        """Return the volume, in float32 under autocast too."""
        rows = reading.depth_logits.shape[-2] // reading.context.shape[-2]
        classes = reduce(reading.class_logits.softmax(dim=2), "batch view c (h row) w -> batch view c h w", "mean", row=rows)
        context = self.context_head(torch.cat([reading.context, classes], dim=2).flatten(0, 1))
        # Autocast would place the points with the eight bits of a bfloat16
        with torch.autocast(context.device.type, enabled=False):
            density = reading.depth_logits.float().softmax(dim=2).flatten(0, 1) / rows
            cells = frustum_cells(cameras, self.depths, (density.shape[2], density.shape[3]), self.grid).flatten(0, 1)
            channels_last = rearrange(context.float(), "view c h w -> view h w c")
            pooled = pool_frustum(density, channels_last, cells, len(cameras.K) * self.grid.num_cells)
        x, y, z = self.grid.shape
        return rearrange(pooled, "(batch x y z) c -> batch c x y z", x=x, y=y, z=z) + self.height_embedding[:, None, None, :]
