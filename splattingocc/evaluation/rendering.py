"""Scores of rendered rays against held-out 2D labels: does the volume look right from the cameras?"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from splattingocc.geometry.rays import RayLabels
from splattingocc.splatting.field import Rendering
from splattingocc.taxonomy import NUM_CLASSES

DELTA_1 = 1.25
"""Ratio of rendered and true distance below which a ray counts as right (Eigen et al. 2014)."""


class RenderingScores:
    """Accumulates rays of many frames. A ray counts if its weight is above 0: towards distances where its distance is known, towards
    classes where its class is. Keeps four bytes a ray, for the exact median.
    """

    def __init__(self) -> None:
        self._relative_errors: list[Tensor] = []
        self._squared_error = 0.0
        self._num_close = 0
        self._mass_in_front = 0.0
        self._mass_at_hit = 0.0
        self._confusion = torch.zeros(NUM_CLASSES + 1, NUM_CLASSES + 1, dtype=torch.int64)

    def __add__(self, other: RenderingScores) -> RenderingScores:
        """Return the scores of the rays of both."""
        both = RenderingScores()
        for name, value in vars(self).items():
            setattr(both, name, value + vars(other)[name])
        return both

    def update(self, rendering: Rendering, labels: RayLabels) -> None:
        """Add the rays of one frame or batch; `rendering` must have been made with the label distances."""
        if rendering.in_front is None or rendering.at_hit is None:
            raise ValueError("rendering has no in_front and at_hit; render with label_distances=labels.distances")
        if rendering.features.shape[-1] < NUM_CLASSES:
            raise ValueError(f"rendering.features has {rendering.features.shape[-1]} channels, should start with {NUM_CLASSES} classes")
        counted = labels.weights > 0
        measured = counted & labels.distances.isfinite()
        self._add_distances(rendering, labels, measured)
        self._mass_in_front += rendering.in_front[measured].sum(dtype=torch.float64).item()
        self._mass_at_hit += rendering.at_hit[measured].sum(dtype=torch.float64).item()
        classified = counted & (labels.semantics < NUM_CLASSES)
        strongest = rendering.features[classified][..., :NUM_CLASSES].max(dim=-1)
        # A ray that met nothing shows no class; its argmax would be class 0 by accident.
        shown = torch.where(strongest.values > 0, strongest.indices, NUM_CLASSES)
        pairs = labels.semantics[classified] * (NUM_CLASSES + 1) + shown
        self._confusion += torch.bincount(pairs, minlength=self._confusion.numel()).reshape(self._confusion.shape).cpu()

    def _add_distances(self, rendering: Rendering, labels: RayLabels, measured: Bool[Tensor, "*batch ray"]) -> None:
        rendered, true = rendering.distances[measured].detach().double(), labels.distances[measured].double()
        errors = (rendered - true).abs()
        self._relative_errors.append((errors / true).float().cpu())
        self._squared_error += (errors**2).sum().item()
        # A ray that met nothing has rendered distance 0, which is never close.
        self._num_close += int(((rendered < DELTA_1 * true) & (true < DELTA_1 * rendered)).sum())

    def compute(self) -> dict[str, float | int]:
        """Return the scores over all rays so far; nan where no ray counts."""
        relative_errors = torch.cat(self._relative_errors) if self._relative_errors else torch.empty(0)
        num_measured = relative_errors.numel()
        per_measured = 1 / num_measured if num_measured else float("nan")
        hits, num_classified = self._confusion.diagonal().double(), int(self._confusion.sum())
        ious = hits / (self._confusion.sum(dim=0) + self._confusion.sum(dim=1) - hits)
        return {
            "median_relative_error": relative_errors.median().item() if num_measured else float("nan"),
            "abs_rel": relative_errors.sum(dtype=torch.float64).item() * per_measured,
            "rmse_m": (self._squared_error * per_measured) ** 0.5,
            "delta_1": self._num_close * per_measured,
            "mass_in_front": self._mass_in_front * per_measured,
            "mass_at_hit": self._mass_at_hit * per_measured,
            "class_accuracy": hits.sum().item() / num_classified if num_classified else float("nan"),
            "class_miou": ious[:NUM_CLASSES].nanmean().item(),
            "num_rays": num_measured,
        }
