"""What every loss is: a configuration that holds its weight, and the module that it builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from splattingocc.config import Config, Weight
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.models.depth import DepthBins

LabelKind = Literal["class", "distance"]
"""What a label may say of its ray; sky is a class here, though one without a surface."""
LossWeight = Annotated[Weight, Field(description="Factor of this loss in the objective; 0 leaves it out.")]


@dataclass(frozen=True)
class Shared:
    """What losses are built with besides their own options."""

    class_weights: Float[Tensor, " class"]
    """Factor of each class wherever a loss compares classes."""
    depth_bins: DepthBins
    """Those of the image reading's depth distribution."""


class LossConfig(Config):
    """Options of one loss, which stands right below its own subclass of this. The class says which labels it learns from, and from what."""

    needs_labels: ClassVar[frozenset[LabelKind]] = frozenset()
    """Kinds of labels without any one of which it learns nothing."""
    optional_labels: ClassVar[frozenset[LabelKind]] = frozenset()
    """Kinds that it learns from where there are any."""
    needs_volume: ClassVar[bool] = True
    """Whether it looks at the volume: its `forward` takes `LossInputs` then. One that does not takes `ImageInputs`, and also trains the
    image branch alone."""
    only_asks: ClassVar[bool] = False
    """Whether all it looks at of the field is its rendering, its `mean_opacity` and its answers at the loss's own `points`. Where that is
    so of all losses in use, a step predicts no cells besides."""

    weight: LossWeight = 1.0

    @model_validator(mode="before")
    @classmethod
    def _refuse_a_bare_number(cls, values: Any) -> Any:
        if isinstance(values, int | float):
            raise ValueError(f"is {values}, expected the options of a {cls.__name__}, such as its weight")
        return values

    @property
    def learns_from_labels(self) -> bool:
        return bool(self.needs_labels | self.optional_labels)

    def build(self, shared: Shared) -> Loss:
        """Return the loss of these options."""
        raise NotImplementedError


class Loss(nn.Module):
    """A cost of what the network made of a batch. A module, so that its buffers move between devices with the others.

    It has no parameters: only the network's are trained and saved.
    """

    def forward(self, inputs: Any) -> Float[Tensor, " batch"]:
        """Return the cost of each sample, without the weight: a mean over what is labelled in the sample.

        So a batch has the same gradients however many processes share it. Padding, which has label weight 0, must not count.
        """
        raise NotImplementedError

    def points(self, rays: Rays, labels: RayLabels) -> Float[Tensor, "point 3"]:
        """Return where the field of one sample will be asked by `query`: nowhere."""
        return rays.origins[:0]


def weighted_mean(values: Float[Tensor, "*batch ray"], weights: Float[Tensor, "*batch ray"]) -> Float[Tensor, "*batch"]:
    """Return the mean over the last axis; 0 where nothing has a weight."""
    return (values * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-6)
