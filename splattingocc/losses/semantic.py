"""The rendered class."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, LossWeight, Shared, weighted_mean

EPSILON = 1e-3
"""Probability below which the loss stops growing: the renderer ends a ray at this transmittance."""


class SemanticConfig(LossConfig):
    """Negative log-likelihood of the rendered class."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset({"class"})
    only_asks: ClassVar[bool] = True

    weight: LossWeight = 1.0

    def build(self, shared: Shared) -> SemanticLoss:
        return SemanticLoss(shared.class_weights)


class SemanticLoss(Loss):
    """Ask a ray that something in the grid stops for the label's class."""

    class_weights: Tensor

    def __init__(self, class_weights: Float[Tensor, " class"]) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        semantics = inputs.labels.semantics
        nll = class_nll(inputs.rendering.features, semantics, class_weights=self.class_weights)
        return weighted_mean(nll, inputs.stopped * (semantics < len(self.class_weights)))


def class_nll(
    probabilities: Float[Tensor, "*batch ray channel"], semantics: Int64[Tensor, "*batch ray"], *, class_weights: Float[Tensor, " channel"]
) -> Float[Tensor, "*batch ray"]:
    """Return the weighted negative log-likelihood of each ray's class; 0 where the label is not a class (IGNORE, SKY).

    `probabilities` are composited class probabilities: they sum to the ray's alpha, so that what is not hit counts against every class.
    """
    labelled = semantics < probabilities.shape[-1]
    classes = semantics.where(labelled, 0)
    picked = probabilities.gather(-1, classes[..., None]).squeeze(-1)
    return -(picked.clamp(min=0) + EPSILON).log() * class_weights[classes] * labelled
