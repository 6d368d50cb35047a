"""Where the time of a training step goes, and what changes it.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py splattingocc-synth

Takes joint steps of a recipe on one made-up sample, as a training does but for loading and logging, in several ways in turn. Prints a JSON
line for each: the median of its steps and that of the seconds of processors that they took, each also over that of the first way of this
run, its loss, and the processor seconds of each part of a step, medians too. Beside other work only what processors took is to be compared.
`plain` is float32 with AdamW as training has it.

Parts exclude each other and add up to the step: the network's own modules in their forward passes; `index and walk`, which sorts Gaussians
into cells and finds those that rays meet; `rendering` and `rendering, backward`, which composite them; `losses`, forward; all of the
backward pass that is not the renderer's; the optimizer with its clipping; and `other`, the rest of the forward pass: evidence, and
Gaussians made of what the head says.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import load_config
from splattingocc.models import gaussian_head
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.provenance import environment
from splattingocc.splatting import render, walk

LEARNING_RATE = 1e-5
RENDERER = (
    (gaussian_head, "index_gaussians", "index and walk"),
    (render, "index_gaussians", "index and walk"),
    (walk, "find_met", "index and walk"),
    (render, "composite", "rendering"),
    (render, "composite_backward", "rendering, backward"),
)
"""What the renderer calls, where, and the part of a step that it belongs to."""


@dataclass
class Arguments:
    config: tyro.conf.Positional[Path]
    """Configuration, a file or a name."""
    ways: tuple[str, ...] = ("plain", "bf16", "unfused", "compiled")
    """Which ways to take a step, in turn."""
    repeats: int = 5
    """Steps of each way that count, after one that does not."""


class Clock:
    """Processor seconds by part, each without those of the parts within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        self._count()
        self._inside.append(part)

    def leave(self) -> None:
        self._count()
        self._inside.pop()

    def _count(self) -> None:
        now = time.process_time()
        if self._inside:
            part = self._inside[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        self.enter(part)
        yield
        self.leave()

    def watch(self, part: nn.Module, name: str) -> None:
        """Count what a module spends in its forward passes."""
        part.register_forward_pre_hook(lambda *_: self.enter(name))
        part.register_forward_hook(lambda *_: self.leave())

    def watch_function(self, room: Any, function: str, part: str) -> None:
        """Count what a function of a module of Python spends."""
        watched = getattr(room, function)

        @functools.wraps(watched)
        def counted(*given: Any, **options: Any) -> Any:
            with self.within(part):
                return watched(*given, **options)

        setattr(room, function, counted)


CLOCK = Clock()


@dataclass
class Stepper:
    """A way to take steps, with a network of its own."""

    module: OccupancyModule
    optimizer: torch.optim.Optimizer

    def step(self, sample: TrainingSample) -> float:
        with CLOCK.within("other"):
            self.optimizer.zero_grad()
            loss = self.module.losses_of(sample, step=self.module.optimization.image_steps).total
            with CLOCK.within("backward of all else"):
                loss.backward()
            with CLOCK.within("optimizer"):
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.module.optimization.gradient_clip)
                self.optimizer.step()
            return loss.item()


def _adamw(module: nn.Module, *, fused: bool = True) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, fused=fused)


def _plain(module: OccupancyModule) -> Stepper:
    return Stepper(module, _adamw(module))


def _bf16(module: OccupancyModule) -> Stepper:
    module.network.format_in_training = torch.bfloat16
    return Stepper(module, _adamw(module))


def _unfused(module: OccupancyModule) -> Stepper:
    return Stepper(module, _adamw(module, fused=False))


def _compiled(module: OccupancyModule) -> Stepper:
    """Compile what is made of convolutions alone; the other parts call kernels of their own."""
    network = module.network
    for part in (network.backbone, network.neck, network.volume_encoder):
        # Not the module, whose hooks read the clock
        part.forward = torch.compile(part.forward)  # type: ignore[method-assign]
    return Stepper(module, _adamw(module))


WAYS: dict[str, Callable[[OccupancyModule], Stepper]] = {"plain": _plain, "bf16": _bf16, "unfused": _unfused, "compiled": _compiled}


def _medians(found: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(statistics.median(column) for column in zip(*found))


def main() -> None:
    options = tyro.cli(Arguments)
    config = load_config(options.config)
    keep_freed_memory()
    torch.manual_seed(0)
    # All begin with the same weights, in float32
    module, sample = build_module(config).train(), made_up_sample(config)
    module.network.format_in_training = torch.float32
    steppers = {name: WAYS[name](copy.deepcopy(module)) for name in options.ways}
    for where in RENDERER:
        CLOCK.watch_function(*where)
    for stepper in steppers.values():
        CLOCK.watch(stepper.module.objective, "losses")
        for name, part in stepper.module.network.named_children():
            CLOCK.watch(part, name)
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in steppers}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in steppers}
    losses: dict[str, float] = {}
    for number in range(1 + options.repeats):
        for name, stepper in steppers.items():
            CLOCK.seconds.clear()
            start, start_of_processors = time.perf_counter(), time.process_time()
            loss = stepper.step(sample)
            if number:
                seconds[name].append((time.perf_counter() - start, time.process_time() - start_of_processors))
                parts[name].append(dict(CLOCK.seconds))
            else:
                losses[name] = loss
    first = _medians(next(iter(seconds.values())))
    for name, found in seconds.items():
        line = {"what": "training step", "config": config.name, "way": name, "first_loss": round(losses[name], 4)}
        for of_what, value, of_first in zip(("seconds", "processor_seconds"), _medians(found), first):
            line |= {f"{of_what}_p50": round(value, 3), f"{of_what}_of_first_way": round(value / of_first, 3)}
        of_parts = {part: statistics.median(each[part] for each in parts[name]) for part in parts[name][0]}
        of_parts = dict(sorted(of_parts.items(), key=lambda pair: -pair[1]))
        line |= {"processor_seconds_of_parts": {part: round(value, 3) for part, value in of_parts.items()}, "repeats": options.repeats}
        print(json.dumps(line | environment()), flush=True)


if __name__ == "__main__":
    main()
