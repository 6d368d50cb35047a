"""From image features to a volume in the ego frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from einops import reduce
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.config import Channels, Config
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.depth import DepthBins, StandingDepth
from splattingocc.models.evidence import PixelBeliefs, collect
from splattingocc.models.sampling import place, sample_map
from splattingocc.struct import Struct
from splattingocc.taxonomy import GROUND_CLASSES


def _check_each_once(classes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(classes)) < len(classes):
        raise ValueError(f"{classes}, expected each class once")
    return classes


class SamplingLiftConfig(Config):
    """Each cell reads the image features at its projection, weighted by how likely the surface seen there lies at the cell's depth."""

    kind: Literal["sampling"] = "sampling"
    channels: Channels = 32
    """Width of the volume."""
    coarsening: Annotated[int, Field(ge=1, le=64)] = 2
    """Cells of the Gaussians' grid per cell of the volume, along each axis."""
    depth_bins: DepthBins = DepthBins()
    """Bins of each pixel's depth distribution."""
    rows_per_feature: Annotated[int, Field(ge=1, le=64)] = 4
    """Rows of the depth and class maps for each row of image features. Where a thing meets the ground tells its depth, so a row too
    many is an error of 10 % or more; columns matter less."""
    ground_classes: Annotated[tuple[Annotated[int, Field(ge=0, le=253)], ...], AfterValidator(_check_each_once)] = GROUND_CLASSES
    """Classes that things stand on."""


@dataclass(frozen=True)
class ImageReading(Struct):
    """What the image branch says of each pixel, before anything is lifted."""

    context: Float[Tensor, "batch view channel height width"]
    depth_logits: Float[Tensor, "batch view bin row width"]
    """Belief about the z-depth of the surface seen there, in finer rows than the context."""
    class_logits: Float[Tensor, "batch view class row width"]
    """Belief about its class."""


class RowHead(nn.Module):
    """A map with several rows for each row of features: a smooth one, and learned differences of the rows between."""

    def __init__(self, in_channels: int, out_channels: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.smooth = nn.Conv2d(in_channels, out_channels, 1)
        self.differences = nn.Conv2d(in_channels, rows * out_channels, 1, bias=False)
        nn.init.zeros_(self.differences.weight)

    def forward(self, features: Float[Tensor, "view in_channel height width"]) -> Float[Tensor, "view channel row width"]:
        smooth = functional.interpolate(self.smooth(features), scale_factor=(self.rows, 1), mode="bilinear", align_corners=False)
        return smooth + self.differences(features).unflatten(1, (-1, self.rows)).movedim(2, 3).flatten(2, 3)


class SamplingLift(nn.Module):
    """Lift image features by sampling. A cell that several cameras see gets the mean of what they say; an unseen one only knows its height.

    Without the depth distribution every cell along a pixel's ray would read the same features. Each camera says, of each cell: the
    feature (and class), the same times the density of the surface at this depth, that density, and the probability that the surface lies
    behind it (so that the cell is free).

    The depth distribution starts from geometry (`StandingDepth`): a ground pixel is where its ray meets level ground, any other stands
    where the ground below it in the image ends. A network would otherwise have to learn both for each camera from the rows alone.
    """

    centers: Tensor

    def __init__(self, config: SamplingLiftConfig, in_channels: int, num_classes: int, grid: VoxelGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid.coarsen(config.coarsening)
        self.register_buffer("centers", self.grid.centers().reshape(-1, 3), persistent=False)
        if not all(0 <= index < num_classes for index in config.ground_classes):
            raise ValueError(f"lift.ground_classes: {config.ground_classes}, expected class indices below {num_classes}")
        self.standing = StandingDepth(config.depth_bins, config.ground_classes)
        self.depth_head = RowHead(in_channels, config.depth_bins.count, config.rows_per_feature)
        self.class_head = RowHead(in_channels, num_classes, config.rows_per_feature)
        self.context_head = nn.Conv2d(in_channels, config.channels, 1)
        self.mix = nn.Linear(2 * (config.channels + num_classes) + NUM_GEOMETRY, config.channels)
        self.height_embedding = nn.Parameter(torch.zeros(config.channels, self.grid.shape[2]))
        nn.init.normal_(self.height_embedding)

    def read(self, features: Float[Tensor, "batch view in_channel height width"], cameras: Cameras) -> ImageReading:
        """Read the image features of each view by themselves."""
        batch, views = features.shape[:2]
        flat = features.flatten(0, 1)
        class_logits = self.class_head(flat)
        standing = self.standing(class_logits.softmax(dim=1), cameras.map(lambda values: values.flatten(0, 1)))
        maps = (self.context_head(flat), self.depth_head(flat) + standing, class_logits)
        return ImageReading(*(values.unflatten(0, (batch, views)) for values in maps))

    def forward(self, reading: ImageReading, cameras: Cameras) -> Float[Tensor, "batch channel x y z"]:
        """Return the volume."""
        rows = self.config.rows_per_feature
        classes = reduce(reading.class_logits.softmax(dim=2), "batch view c (h row) w -> batch view c h w", "mean", row=rows)
        seen = torch.cat([reading.context, classes], dim=2)
        volumes = [self._lift_one(seen[sample], reading.depth_logits[sample], cameras[sample]) for sample in range(len(seen))]
        return torch.stack(volumes) + self.height_embedding[:, None, None, :]

    def _lift_one(self, context: Tensor, depth_logits: Tensor, cameras: Cameras) -> Tensor:
        bins = self.config.depth_bins
        density = depth_logits.softmax(dim=1)
        # The surface lies behind bin i: one minus the distribution up to and including it
        distribution = torch.stack([density * bins.count, 1 - density.cumsum(dim=1)], dim=1)
        placed = [place(self.centers, cameras[view], bins) for view in range(len(cameras.K))]
        num_views = torch.bincount(torch.cat([cells for cells, _ in placed]), minlength=len(self.centers))
        share = 1 / num_views.clamp(min=1).to(context.dtype)
        volume = context.new_zeros(len(self.centers), self.config.channels)
        for view, (cells, position) in enumerate(placed):
            feature = sample_map(context[view], position[:, :2])
            geometry = sample_map(distribution[view], position)
            said = self.mix(torch.cat([feature, feature * geometry[:, :1], geometry], dim=-1))
            volume = volume.index_add(0, cells, said * share[cells, None])
        return volume.T.unflatten(1, self.grid.shape)

    @torch.no_grad()
    def evidence(
        self, reading: ImageReading, cameras: Cameras, centers: Float[Tensor, "cell 3"], cell_size: float
    ) -> tuple[Float[Tensor, "batch cell"], Float[Tensor, "batch cell class"]]:
        """Say of any cells what the image branch alone would make of them, without gradients: it learns from its own losses.

        The results are the probability that the surface lies in the cell and the class probabilities (`models/evidence.py`).
        """
        within, before = (shares.to(centers.device) for shares in self.config.depth_bins.shares_within(cell_size))
        collected = []
        for sample in range(len(reading.context)):
            density = reading.depth_logits[sample].softmax(dim=1)
            classes = reading.class_logits[sample].softmax(dim=1)
            masses, passed = (torch.einsum("ab,vbhw->vahw", shares, density) for shares in (within, before))
            beliefs = PixelBeliefs(masses, 1 - passed, classes, self.standing.ground_probability(classes))
            collected.append(collect(beliefs, cameras[sample], self.config.depth_bins, centers, cell_size))
        hazards, classes = zip(*collected)
        return torch.stack(hazards), torch.stack(classes)


NUM_GEOMETRY = 2
"""Channels a camera says of a cell besides features: surface density, and the probability that the surface lies behind."""
