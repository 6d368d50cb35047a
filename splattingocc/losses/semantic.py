"""Class losses."""

from jaxtyping import Float, Int64
from torch import Tensor

EPSILON = 1e-3
"""Probability below which the loss stops growing: the renderer ends a ray at this transmittance."""


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
