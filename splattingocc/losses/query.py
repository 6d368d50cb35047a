"""Asking the field directly, at points of which a label says what is there.

A rendered loss reaches a surface only through everything in front of it: in the fog of an untrained volume the surface gets next to
no gradient. The same 2D label also says that its end point is occupied, by its class, and that the way there is free; asking the field at
such points trains surfaces from the first step (compare QueryOcc, where queries beat rendering on the same labels).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.config import Distance
from splattingocc.geometry.rays import RayLabels, Rays, free_distances
from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared, weighted_mean
from splattingocc.losses.semantic import class_nll
from splattingocc.splatting.field import Field

EPSILON = 1e-2
"""Response below which a hit's loss stops growing, and above one minus which a free point's does."""
GOLDEN_RATIO = 0.6180339887
"""Its multiples, modulo one, fill the unit interval evenly; they place the free points without a random generator to resume."""


class QueryConfig(LossConfig):
    """The labels asked of the field directly: free on the way, the class at the end."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"distance"})
    optional_labels: ClassVar[frozenset[LabelKind]] = frozenset({"class"})
    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.5
    num_points: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    """Points on the way that are asked for each ray."""
    margin: Distance = 0.4
    """Metres before the label from which on nothing is asked."""
    ground_clearance: Distance = 0.4
    """Metres above a label of ground below which nothing is asked on the way to it: a cell, which the ground may fill."""

    def build(self, shared: Shared) -> QueryLoss:
        return QueryLoss(self, shared.class_weights)


class QueryLoss(Loss):
    """Ask for matter of its class at a label's end, and for none on the way there.

    The points on the way are few and stand for all the cells there.
    """

    class_weights: Tensor

    def __init__(self, config: QueryConfig, class_weights: Float[Tensor, " class"]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        samples = range(len(inputs.labels.distances))
        return torch.stack([self._of_sample(inputs.field[i], inputs.rays[i], inputs.labels[i]) for i in samples])

    def _of_sample(self, field: Field, rays: Rays, labels: RayLabels) -> Float[Tensor, ""]:
        known = _known(labels)
        rays, labels = rays[known], labels[known]
        said = field.query(self._points_of(rays, labels))
        at_end, on_way = said[: len(labels.distances)], said[len(labels.distances) :]
        num_cells = self._free_distances(rays, labels) / field.grid.cell_size
        free = (free_cost(on_way.opacities) * on_way.valid).unflatten(0, (-1, self.config.num_points)).mean(dim=1) * num_cells
        nll = class_nll(at_end.features, labels.semantics, class_weights=self.class_weights)
        return weighted_mean(free + (hit_cost(at_end.opacities) + nll) * at_end.valid, labels.weights)

    def points(self, rays: Rays, labels: RayLabels) -> Float[Tensor, "point 3"]:
        """Return the ends of all labels with a distance, and after them the points on the way to each."""
        known = _known(labels)
        return self._points_of(rays[known], labels[known])

    def _points_of(self, rays: Rays, labels: RayLabels) -> Float[Tensor, "point 3"]:
        on_way = free_points(rays, self._free_distances(rays, labels), count=self.config.num_points)
        return torch.cat([rays.at(labels.distances), on_way.flatten(0, 1)])

    def _free_distances(self, rays: Rays, labels: RayLabels) -> Float[Tensor, " ray"]:
        return free_distances(rays, labels, margin=self.config.margin, ground_clearance=self.config.ground_clearance)


def _known(labels: RayLabels) -> Int64[Tensor, " known"]:
    """Return which labels of a sample say where they are; padding does not count."""
    # Places and no mask, which would be counted anew for each tensor that it picks from, and a GPU waited for
    return (labels.distances.isfinite() & (labels.weights > 0)).nonzero().squeeze(1)


def free_points(rays: Rays, reach: Float[Tensor, "*batch ray"], *, count: int) -> Float[Tensor, "*batch ray sample 3"]:
    """Return `count` points on each ray up to `reach` metres along it, evenly spread over the rays of a batch."""
    start = torch.arange(reach.shape[-1], device=reach.device) * GOLDEN_RATIO
    shares = ((start[:, None] % 1) + torch.arange(count, device=reach.device)) / count
    return rays.origins[..., None, :] + (shares * reach[..., None])[..., None] * rays.directions[..., None, :]


def hit_cost(responses: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """Ask for a response where a label ends."""
    return -(responses + EPSILON).log()


def free_cost(responses: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """Ask for none on the way there."""
    return -(1 + EPSILON - responses).log()
