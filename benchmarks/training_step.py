"""Where the time of a training step goes, and what changes it.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py splattingocc-synth

Takes joint steps of a recipe on one made-up sample, as a training does but for loading and logging, in several ways in turn. Prints a JSON
line for each: the median of its steps and that of the seconds of processors that they took, each also over that of the first way of this
run, its loss, and the seconds that each part of the network spends in its forward passes. Beside other work only what processors took is to
be compared. `plain` is float32 with AdamW as training has it.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from memory import watch
from torch import nn

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import load_config
from splattingocc.pipeline.description import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.provenance import environment

LEARNING_RATE = 1e-5


@dataclass
class Arguments:
    config: tyro.conf.Positional[Path]
    """Configuration, a file or a name."""
    ways: tuple[str, ...] = ("plain", "bf16", "fused", "compiled")
    """Which ways to take a step, in turn."""
    repeats: int = 5
    """Steps of each way that count, after one that does not."""


@dataclass
class Stepper:
    """A way to take steps, with a network of its own."""

    module: OccupancyModule
    optimizer: torch.optim.Optimizer

    def step(self, sample: TrainingSample) -> float:
        self.optimizer.zero_grad()
        loss = self.module.losses_of(sample, step=self.module.optimization.image_steps).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.module.optimization.gradient_clip)
        self.optimizer.step()
        return loss.item()


def _adamw(module: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, fused=fused)


def _plain(module: OccupancyModule) -> Stepper:
    return Stepper(module, _adamw(module))


def _bf16(module: OccupancyModule) -> Stepper:
    module.network.format_in_training = torch.bfloat16
    return Stepper(module, _adamw(module))


def _fused(module: OccupancyModule) -> Stepper:
    return Stepper(module, _adamw(module, fused=True))


def _compiled(module: OccupancyModule) -> Stepper:
    """Compile what is made of convolutions alone; the other parts call kernels of their own."""
    network = module.network
    for part in (network.backbone, network.neck, network.volume_encoder):
        part.compile()
    return Stepper(module, _adamw(module))


WAYS: dict[str, Callable[[OccupancyModule], Stepper]] = {"plain": _plain, "bf16": _bf16, "fused": _fused, "compiled": _compiled}


def _medians(found: list[tuple[float, float]]) -> tuple[float, float]:
    passed, of_processors = zip(*found)
    return statistics.median(passed), statistics.median(of_processors)


def main() -> None:
    options = tyro.cli(Arguments)
    config = load_config(options.config)
    torch.manual_seed(0)
    # All begin with the same weights, in float32
    module, sample = build_module(config).train(), made_up_sample(config)
    module.network.format_in_training = torch.float32
    steppers = {name: WAYS[name](copy.deepcopy(module)) for name in options.ways}
    parts = {name: watch(stepper.module.network) for name, stepper in steppers.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steppers}
    losses: dict[str, float] = {}
    for number in range(1 + options.repeats):
        for name, stepper in steppers.items():
            parts[name].update(dict.fromkeys(parts[name], 0.0))
            start, start_of_processors = time.perf_counter(), time.process_time()
            loss = stepper.step(sample)
            if number:
                seconds[name].append((time.perf_counter() - start, time.process_time() - start_of_processors))
            else:
                losses[name] = loss
    first = _medians(next(iter(seconds.values())))
    for name, found in seconds.items():
        line = {"what": "training step", "config": config.name, "way": name, "first_loss": round(losses[name], 4)}
        for of_what, value, of_first in zip(("seconds", "processor_seconds"), _medians(found), first):
            line |= {f"{of_what}_p50": round(value, 3), f"{of_what}_of_first_way": round(value / of_first, 3)}
        line |= {"forward_seconds_of_last": {part: round(value, 3) for part, value in parts[name].items()}, "repeats": options.repeats}
        print(json.dumps(line | environment()), flush=True)


if __name__ == "__main__":
    main()
