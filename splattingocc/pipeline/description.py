"""What training an experiment costs, before a job starts: parameters, arithmetic and memory of each part, for one sample.

The image encoder is followed on torch's meta device, which computes shapes and no numbers; everything behind it runs once, forward, on
the CPU. What autograd keeps on the way is counted where it is kept.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from splattingocc.data.samples import TrainingSample
from splattingocc.experiment import ExperimentConfig
from splattingocc.models.interfaces import Part
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.splatting.field import Field
from splattingocc.struct import Struct

OPTIMIZER_STATES = 2
"""Numbers that AdamW keeps for each parameter."""
BYTES_PER_NUMBER = 4
OUTSIDE = "rendering and losses"
"""What belongs to no part of the network."""


@dataclass(frozen=True)
class PartCost:
    """What one part costs for one sample."""

    name: str
    parameters: int
    flops: int
    """Of the forward pass; a multiplication and an addition are two. Sampling, sorting and rendering count nothing."""
    activations: int
    """Bytes kept for the backward pass."""
    activations_checkpointed: int
    """The same with `trainer.activation_checkpointing`."""
    largest_stage: int
    """Bytes of the largest stage that activation checkpointing computes again."""


@dataclass(frozen=True)
class Description:
    """What training costs on one device."""

    parts: tuple[PartCost, ...]
    """In the order in which they run."""
    batch_size: int
    weights: int
    """Bytes of parameters, their gradients, the optimizer's state, and averaged weights where there are any."""
    gradients: int
    """Bytes of the gradients of what the head predicts, per sample: the backward pass begins with them, while everything is still kept. The
    rendering gives one set, the queries another."""
    labels: int
    """Bytes of a sample's rays and labels."""
    images: int
    """Bytes of a sample's images."""

    @property
    def highest(self) -> int:
        """Bytes per sample where the backward pass begins: all that is kept, and the first gradients."""
        return sum(part.activations for part in self.parts) + self.gradients

    @property
    def highest_checkpointed(self) -> int:
        """The same with activation checkpointing, there or while a stage is computed again: all that runs behind it is done by then."""
        kept, highest = 0, 0
        for part in self.parts:
            kept += part.activations_checkpointed
            highest = max(highest, kept + part.largest_stage)
        return max(highest, kept + self.gradients)

    @property
    def total(self) -> int:
        """Bytes of a training step."""
        return self.weights + self.batch_size * (self.highest + self.labels + self.images)

    @property
    def total_checkpointed(self) -> int:
        """The same with activation checkpointing."""
        return self.weights + self.batch_size * (self.highest_checkpointed + self.labels + self.images)


def describe(config: ExperimentConfig) -> Description:
    """Count what a joint training step of an experiment costs, for images of six cameras and as many rays as a sample has.

    Numbers are counted in float32, which bf16 halves for some parts. What allocators round up and kernels need for a moment comes on top.
    """
    sample = made_up_sample(config)
    plain, parameters, flops = _count(config, sample, checkpointed=False)
    of_stages, of_parts, predicted = plain.largest_stages(), plain.of_parts, plain.predicted
    order = list(dict.fromkeys(plain.entered))
    del plain  # and all that it kept
    again = _count(config, sample, checkpointed=True)[0].of_parts
    parts = [PartCost(name, parameters[name], flops[name], of_parts[name], again[name], of_stages[name]) for name in order]
    parts.append(PartCost(OUTSIDE, 0, 0, of_parts[OUTSIDE], again[OUTSIDE], 0))
    copies = 2 + OPTIMIZER_STATES + (config.optimization.ema_decay > 0)
    return Description(
        parts=tuple(parts),
        batch_size=config.data.batch_size,
        weights=copies * BYTES_PER_NUMBER * sum(parameters.values()),
        gradients=predicted * (1 + ("query" in config.objective.in_use)),
        labels=_size(sample.rays) + _size(sample.labels),
        images=_size(sample.views),
    )


class _Ledger:
    """Keeps account of what autograd keeps: in which part of the network, and in which stage of it."""

    def __init__(self, *, checkpointed: bool) -> None:
        self.checkpointed = checkpointed
        self.of_parts: Counter[str] = Counter()
        self.of_stages: Counter[tuple[str, int]] = Counter()
        self.entered: list[str] = []
        """Parts in the order in which they ran."""
        self.predicted = 0
        """Bytes of what the head predicts."""
        self._inside: list[str] = []
        self._stages: list[tuple[str, int]] = []
        self._seen: set[int] = set()
        self._alive: list[Tensor] = []

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Leave tensors out that are there anyway: parameters, images."""
        self._alive += tensors  # or another tensor could get the address of one that is gone
        self._seen.update(tensor.untyped_storage()._cdata for tensor in self._alive)

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor, once, where autograd keeps it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self.know([tensor])
            self.of_parts[self._inside[-1] if self._inside else OUTSIDE] += storage.nbytes()
            for stage in self._stages:
                self.of_stages[stage] += storage.nbytes()
        return tensor

    @contextmanager
    def watching(self, name: str, part: nn.Module) -> Iterator[None]:
        """Count to a part what is kept while it runs, and to its stages."""
        stages = list(part.stages()) if isinstance(part, Part) else []
        self.know((*part.parameters(), *part.buffers()))
        hooks = [
            part.register_forward_pre_hook(lambda *_: self._begin(name)),
            part.register_forward_hook(lambda *_: self._inside.pop() and None),
        ]
        for stage in stages:
            hooks += [
                stage.register_forward_pre_hook(self._enter, with_kwargs=True),
                stage.register_forward_hook(lambda *_: self._stages.pop() and None),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def note_prediction(self, head: nn.Module, inputs: tuple[Any, ...], field: Field) -> None:
        self.predicted = _size(field)

    def _enter(self, stage: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self.checkpointed and torch.is_grad_enabled():
            # They are kept by the function that runs the stage again, of which autograd's hooks do not hear
            for value in (*inputs, *options.values()):
                for tensor in vars(value).values() if isinstance(value, Struct) else [value]:
                    if isinstance(tensor, Tensor):
                        self.keep(tensor)
        self._stages.append((self._inside[-1], id(stage)))

    def _begin(self, name: str) -> None:
        self._inside.append(name)
        self.entered.append(name)

    def largest_stages(self) -> Counter[str]:
        """Return the bytes of each part's largest stage."""
        found: Counter[str] = Counter()
        for (name, _), size in self.of_stages.items():
            found[name] = max(found[name], size)
        return found


def _count(config: ExperimentConfig, sample: TrainingSample, *, checkpointed: bool) -> tuple[_Ledger, dict[str, int], Counter[str]]:
    """Take the forward half of a joint step; return what is kept, and of each part the parameters and the arithmetic."""
    trainer = config.trainer.model_copy(update={"activation_checkpointing": checkpointed, "precision": "32-true"})
    torch.manual_seed(0)
    module = build_module(config.model_copy(update={"trainer": trainer}))
    network, ledger = module.network, _Ledger(checkpointed=checkpointed)
    parameters = {name: sum(map(Tensor.numel, part.parameters())) for name, part in network.named_children()}
    assert sum(parameters.values()) == sum(map(Tensor.numel, network.parameters())), "every parameter belongs to a part"
    flops: Counter[str] = Counter()
    with torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor), ExitStack() as watched:
        images: Any = sample.views.images[:, 0].flatten(0, 1).to("meta")
        ledger.know([images, sample.views.images])
        for name in ("backbone", "neck"):
            # Shapes alone are enough here, and in full size they would take a minute
            part = copy.deepcopy(network.get_submodule(name)).to("meta")
            with ledger.watching(name, part), FlopCounterMode(display=False) as counter:
                images = part(images)
            # Earlier frames are encoded too, and keep nothing
            flops[name] = sample.views.images.shape[1] * counter.get_total_flops()
            network.add_module(name, _Zeros(images))
        for name, part in network.named_children():
            watched.enter_context(ledger.watching(name, part))
        watched.callback(network.head.register_forward_hook(ledger.note_prediction).remove)
        with FlopCounterMode(display=False) as counter:
            module.losses_of(sample, step=config.optimization.image_steps)
    of_modules = counter.get_flop_counts()
    for name in parameters.keys() - flops.keys():
        flops[name] = sum(of_modules.get(f"{type(network).__name__}.{name}", {}).values())
    return ledger, parameters, flops


class _Zeros(nn.Module):
    """Stands for a part that was followed on the meta device: zeros of the shapes of its results."""

    def __init__(self, results: Tensor | list[Tensor]) -> None:
        super().__init__()
        self.results = results

    def forward(self, inputs: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        num_images, has_gradient = len(inputs[0] if isinstance(inputs, list) else inputs), torch.is_grad_enabled()
        if isinstance(self.results, Tensor):
            return torch.zeros(num_images, *self.results.shape[1:], requires_grad=has_gradient)
        return [torch.zeros(num_images, *result.shape[1:], requires_grad=has_gradient) for result in self.results]


def _size(struct: Struct) -> int:
    """Return the bytes of the tensors of a struct, and of those in it."""
    values = vars(struct).values()
    return sum(_size(value) if isinstance(value, Struct) else value.nbytes for value in values if isinstance(value, Struct | Tensor))
