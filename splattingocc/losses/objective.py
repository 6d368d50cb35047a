"""The training objective: the losses that have a weight, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from splattingocc.config import Config, Weight
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.losses.depth_bins import DepthBinsConfig
from splattingocc.losses.distance import DistanceConfig
from splattingocc.losses.distortion import DistortionConfig
from splattingocc.losses.empty import EmptyConfig
from splattingocc.losses.inputs import ImageInputs, LossInputs
from splattingocc.losses.line_of_sight import LineOfSightConfig
from splattingocc.losses.loss import LabelKind, Loss, LossConfig, Shared
from splattingocc.losses.opacity_prior import OpacityPriorConfig
from splattingocc.losses.pixel_classes import PixelClassesConfig
from splattingocc.losses.query import QueryConfig
from splattingocc.losses.semantic import SemanticConfig
from splattingocc.losses.transmittance_entropy import TransmittanceEntropyConfig
from splattingocc.models.depth import DepthBins
from splattingocc.taxonomy import CLASSES


class ObjectiveConfig(Config):
    """The losses by the names under which they are logged."""

    # A field of a `LossConfig` is a loss, whatever its name

    semantic: SemanticConfig = SemanticConfig()
    distance: DistanceConfig = DistanceConfig()
    line_of_sight: LineOfSightConfig = LineOfSightConfig()
    empty: EmptyConfig = EmptyConfig()
    query: QueryConfig = QueryConfig()
    depth_bins: DepthBinsConfig = DepthBinsConfig()
    pixel_classes: PixelClassesConfig = PixelClassesConfig()
    opacity_prior: OpacityPriorConfig = OpacityPriorConfig()
    distortion: DistortionConfig = DistortionConfig()
    transmittance_entropy: TransmittanceEntropyConfig = TransmittanceEntropyConfig()
    class_weights: dict[str, Weight] = {}
    """Weights of single classes wherever a volume's class is compared (semantic, query), by name; 1 where not given."""

    @property
    def losses(self) -> dict[str, LossConfig]:
        """All losses by name, in the order of their fields."""
        return {name: value for name, value in self if isinstance(value, LossConfig)}

    @property
    def in_use(self) -> dict[str, LossConfig]:
        """Those that have a weight."""
        return {name: loss for name, loss in self.losses.items() if loss.weight}

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        for name in self.class_weights:
            if name not in CLASSES:
                raise ValueError(f"objective.class_weights: {name!r} is not a class; classes are {', '.join(CLASSES)}")
        if not any(loss.learns_from_labels for loss in self.in_use.values()):
            labelled = [name for name, loss in self.losses.items() if loss.learns_from_labels]
            raise ValueError(f"objective: nothing would be learned from labels; give one of {', '.join(labelled)} a weight")
        return self


@dataclass(frozen=True)
class Losses:
    """One number per loss, already weighted."""

    parts: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.parts.values())).sum()


class Objective(nn.Module):
    """The losses of a configuration; one of weight 0 is not among them."""

    def __init__(self, config: ObjectiveConfig, depth_bins: DepthBins) -> None:
        super().__init__()
        self.config = config
        class_weights = torch.tensor([config.class_weights.get(name, 1.0) for name in CLASSES])
        shared = Shared(class_weights, depth_bins)
        self.losses = nn.ModuleList(loss.build(shared) for loss in config.in_use.values())
        parameters = [name for name, _ in self.losses.named_parameters()]
        assert not parameters, f"losses have no parameters, found {', '.join(parameters)}: only the network's would be trained"

    def forward(self, inputs: LossInputs) -> Losses:
        """Return all losses of a batch."""
        return self._evaluate(inputs, on_images=False)

    def on_images(self, inputs: ImageInputs) -> Losses:
        """Return the losses of a batch that need no volume."""
        return self._evaluate(inputs, on_images=True)

    @property
    def only_asks(self) -> bool:
        """Whether all losses that look at the volume look at nothing but what they ask of it (`LossConfig.only_asks`)."""
        return all(loss.only_asks for loss in self.config.in_use.values() if loss.needs_volume)

    def points(self, rays: Rays, labels: RayLabels) -> list[Float[Tensor, "_ 3"]]:
        """Return where the losses will ask the field, for each sample."""
        losses = cast("list[Loss]", list(self.losses))
        return [torch.cat([loss.points(rays[i], labels[i]) for loss in losses]) for i in range(len(labels.distances))]

    def _evaluate(self, inputs: ImageInputs, *, on_images: bool) -> Losses:
        parts = {}
        for (name, config), loss in zip(self.config.in_use.items(), self.losses, strict=True):
            if on_images and config.needs_volume:
                continue
            of_samples = loss(inputs)
            assert of_samples.shape == (len(inputs.labels.weights),), f"{name}: {tuple(of_samples.shape)}, expected a number per sample"
            parts[name] = config.weight * of_samples.mean()
        return Losses(parts)


def about_missing_labels(config: ObjectiveConfig, missing: Set[LabelKind]) -> Iterator[str]:
    """Say what is not learned where no label has a class or none has a distance; no loss that learns at all is a `ValueError`."""
    for kind in sorted(missing):
        idle = [name for name, loss in config.in_use.items() if kind in loss.needs_labels]
        partly = [name for name, loss in config.in_use.items() if kind in loss.optional_labels and not loss.needs_labels & missing]
        said = [f"{', '.join(idle)} cannot learn and show 0"] if idle else []
        said += [f"{', '.join(partly)} can without"] if partly else []
        if said:
            yield f"no label has a {kind}: {'; '.join(said)}"
    if not any(_learns(loss, missing) for loss in config.in_use.values()):
        labelled = ", ".join(name for name, loss in config.in_use.items() if loss.learns_from_labels)
        raise ValueError(
            f"no label has a {' or a '.join(sorted(missing))}, and of the losses with a weight ({labelled}) none can do without"
        )


def _learns(loss: LossConfig, missing: Set[LabelKind]) -> bool:
    return not loss.needs_labels & missing and bool((loss.needs_labels | loss.optional_labels) - missing)
