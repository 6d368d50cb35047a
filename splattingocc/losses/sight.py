"""The line of sight: what a sensor saw, it saw through empty space."""

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-2
"""Probability below which a loss stops growing; bounds the gradient of rays that miss their surface, and of empty ones that are stopped."""


def line_of_sight(
    in_front: Float[Tensor, "*batch ray"], at_hit: Float[Tensor, "*batch ray"], targets: Float[Tensor, "*batch ray"]
) -> Float[Tensor, "*batch ray"]:
    """Ask for no mass before the labelled surface and for all of it there; 0 where the target is nan.

    −log of the mass at the hit is the likelihood of the label under the ray's own distribution of stops; the mass in front is added so
    that fog is pushed away before anything stands at the hit.
    """
    return (in_front - (at_hit.clamp(min=0) + EPSILON).log()).where(targets.isfinite(), 0.0)


def empty_ray_cost(alphas: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch ray"]:
    """Ask for no mass at all along a ray that meets nothing: −log of the probability that it passes."""
    return -(1 + EPSILON - alphas).log()
