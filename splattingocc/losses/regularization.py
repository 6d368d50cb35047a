"""What is believed of space that no ray reports on."""

from jaxtyping import Float
from torch import Tensor


def opacity_prior(opacities: Float[Tensor, "*batch gaussian"]) -> Float[Tensor, "*batch gaussian"]:
    """Return a cost for matter that nothing asks for: space is mostly empty. Linear, so that it also moves nearly empty cells."""
    return opacities
