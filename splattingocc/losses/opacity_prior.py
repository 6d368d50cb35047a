"""What is assumed of space that no ray reports on."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.loss import Loss, LossConfig, LossWeight, Shared


class OpacityPriorConfig(LossConfig):
    """Mean opacity of all that was predicted."""

    only_asks: ClassVar[bool] = True

    weight: LossWeight = 0.05

    def build(self, shared: Shared) -> OpacityPrior:
        return OpacityPrior()


class OpacityPrior(Loss):
    """Charge for matter that nothing asks for: space is mostly empty. Linear, so that it also moves nearly empty cells."""

    def forward(self, inputs: LossInputs) -> Float[Tensor, " batch"]:
        return inputs.field.mean_opacity
