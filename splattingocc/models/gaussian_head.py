"""From a volume to Gaussians."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from splattingocc.config import Metres
from splattingocc.geometry.transforms import beside
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_scene import index_gaussians
from splattingocc.models.cell_head import CellHead, CellHeadConfig
from splattingocc.models.evidence import Evidence
from splattingocc.models.interfaces import ChosenCells
from splattingocc.splatting.asked import Asked
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.walk import Walk

OFFSET_REACH = 0.499
"""Largest offset from the centre in cells: a saturated one stays in its own cell, rounding included."""


class GaussianHeadConfig(CellHeadConfig):
    """One Gaussian per cell of the grid, bound to its cell; what is not learned of it stays as it begins.

    Fixed isotropic ones are `--network.head.learn-offsets False --network.head.learn-scales False --network.head.learn-rotations False
    --network.head.initial-scale 0.1`.
    """

    kind: Literal["gaussians"] = "gaussians"
    learn_offsets: bool = True
    """Whether a Gaussian may leave the centre of its cell; it stays inside the cell."""
    learn_scales: bool = True
    """Whether its standard deviations are learned, between the smallest and the largest."""
    learn_rotations: bool = True
    """Whether its axes may turn away from those of the grid."""
    min_scale: Metres = 0.04
    """Smallest standard deviation, metres."""
    max_scale: Metres = 0.25
    """Largest standard deviation, metres; the renderer's cost grows with it."""
    initial_scale: Metres = 0.15
    """Standard deviation of every Gaussian before training, metres: between the other two where it is learned."""

    @model_validator(mode="after")
    def _check(self) -> GaussianHeadConfig:
        if self.learn_scales and not self.min_scale < self.initial_scale < self.max_scale:
            raise ValueError(
                f"head.initial_scale is {self.initial_scale} m, expected more than head.min_scale, {self.min_scale} m, and less than "
                f"head.max_scale, {self.max_scale} m"
            )
        return self

    @property
    def largest_scale(self) -> float:
        """The largest standard deviation that any Gaussian can have, metres."""
        return self.max_scale if self.learn_scales else self.initial_scale


def _start_of_geometry(config: GaussianHeadConfig) -> Float[Tensor, " number"]:
    """Return what the numbers of a cell begin with that say where its Gaussian is, how large, and how it is turned."""
    parts = [torch.zeros(3 * config.learn_offsets)]
    if config.learn_scales:
        share = (config.initial_scale - config.min_scale) / (config.max_scale - config.min_scale)
        parts.append(torch.full((3,), math.log(share / (1 - share))))
    if config.learn_rotations:
        parts.append(torch.tensor([1.0, 0, 0, 0]))
    return torch.cat(parts)


class GaussianHead(CellHead):
    """Predict each cell's Gaussian: opacity, an offset of at most half a cell, bounded scales, rotation and class probabilities.

    They are in the order of `CellHead`; the renderer's index does not mind.
    """

    chooses_cells = True

    def __init__(self, config: GaussianHeadConfig, in_channels: int, grid: VoxelGrid, coarsening: int) -> None:
        super().__init__(config, in_channels, grid, coarsening, _start_of_geometry(config))
        self.config = config
        self.widths = [3 * config.learn_offsets, 3 * config.learn_scales, 4 * config.learn_rotations]

    def forward(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence, chosen: ChosenCells | None = None) -> Gaussians:
        """Predict the Gaussians of a volume: all of them, or the chosen ones, where the evidence need only have the surface."""
        if chosen is None:
            opacities, features, geometry = self.of_cells(volume, evidence)
            return self._gaussians(self.centers.expand(len(volume), -1, -1), opacities, features, geometry)
        all_opacities = self.opacities_of_all(volume, evidence)
        features, geometry = self.of_chosen(volume, evidence, chosen.cells)
        gaussians = self._gaussians(self.centers[chosen.cells], all_opacities.gather(1, chosen.cells), features, geometry)
        return dataclasses.replace(gaussians, mean_opacity_of_all=all_opacities.mean(dim=-1), walks=chosen.walks)

    @torch.no_grad()
    def choose(self, volume: Float[Tensor, "batch channel x y z"], evidence: Evidence, asked: Asked) -> ChosenCells:
        """Return the cells whose Gaussians any of the rays meets, and those that hold the points: nothing that is asked needs others.

        Samples with fewer than others have some more, so that they stack.
        """
        all_opacities = self.opacities_of_all(volume, evidence)
        walks, met, masks = [], [], []
        for sample, opacities in enumerate(all_opacities):
            # The renderer ignores what is less opaque than this; whole cells of the volume, because a linear layer has them at once
            seen = (opacities >= MIN_ALPHA).view(-1, self.coarsening**3).any(dim=1, keepdim=True)
            cells = seen.expand(-1, self.coarsening**3).flatten().nonzero().squeeze(1)
            geometry = self.numbers_of(volume[sample : sample + 1], cells[None])[0]
            gaussians = self._gaussians(self.centers[cells], opacities[cells], opacities.new_empty(len(cells), 0), geometry)
            index = index_gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, self.grid)
            walks.append(Walk.through(index, self.grid, asked.rays[sample], near=asked.near, far=asked.far))
            met.append(cells[walks[-1].met_ids()])
            # With a place behind the last cell for points outside of the grid
            mask = torch.zeros(self.grid.num_cells + 1, dtype=torch.bool, device=opacities.device)
            masks.append(mask.index_fill_(0, met[-1], True).index_fill_(0, self.indices_of(asked.points[sample]), True)[:-1])
        count = int(torch.stack(masks).sum(dim=1).max())
        chosen = torch.stack([_first_of(mask, count) for mask in masks])
        places = [torch.searchsorted(cells, of_walk) for cells, of_walk in zip(chosen, met)]
        found = torch.cat([cells[place] for cells, place in zip(chosen, places)])
        assert torch.equal(found, torch.cat(met)), "what is met is chosen"
        return ChosenCells(chosen, tuple(walk.keep_met(place) for walk, place in zip(walks, places)))

    def _gaussians(
        self,
        centers: Float[Tensor, "*batch cell 3"],
        opacities: Float[Tensor, "*batch cell"],
        features: Float[Tensor, "*batch cell channel"],
        geometry: Float[Tensor, "*batch cell number"],
    ) -> Gaussians:
        """Return the Gaussians of cells, from what was predicted of them."""
        config = self.config
        offsets, scale_logits, quats = geometry.split(self.widths, dim=-1)
        means, scales = centers, beside([config.initial_scale], centers).expand(centers.shape)
        if config.learn_offsets:
            means = means + torch.tanh(offsets) * (OFFSET_REACH * self.grid.cell_size)
        if config.learn_scales:
            scales = config.min_scale + (config.max_scale - config.min_scale) * torch.sigmoid(scale_logits)
        if config.learn_rotations:
            quats = functional.normalize(quats, dim=-1)
        else:
            quats = beside([1.0, 0, 0, 0], means).expand(*means.shape[:-1], 4)
        return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, features=features, grid=self.grid)


def _first_of(mask: Bool[Tensor, " cell"], count: int) -> Int64[Tensor, " chosen"]:
    """Return where a mask is set, and the first places where it is not, so many in all; in ascending order."""
    chosen = mask.nonzero().squeeze(1)
    if len(chosen) < count:
        further = (~mask).nonzero().squeeze(1)[: count - len(chosen)]
        chosen = torch.cat([chosen, further]).sort().values
    return chosen
