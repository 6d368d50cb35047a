"""Compare what `splattingocc describe` says of memory with what one training step takes on this CPU.

    python benchmarks/memory.py splattingocc-synth [--checkpointed]

One JSON line: the bytes counted, and by how much the resident memory of a process grows from before the network is built to the highest
point of forward, backward and optimizer step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from splattingocc.experiment import load_config
from splattingocc.pipeline.description import describe
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.provenance import environment

MIB = 2**20


@dataclass
class Arguments:
    config: tyro.conf.Positional[Path]
    """Configuration, a file or a name."""
    checkpointed: bool = False
    """Compute activations again in the backward pass."""
    measure: bool = True
    """Take the step; without, only count."""


def resident() -> int:
    """Return the bytes that this process has in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def watch(network: nn.Module) -> dict[str, float]:
    """Return what fills with the seconds that each part of a network spends in its forward passes."""
    seconds: dict[str, float] = {}
    for name, part in network.named_children():
        seconds[name] = 0.0

        def begin(part: nn.Module, inputs: Any, name: str = name) -> None:
            seconds[name] -= time.perf_counter()

        def end(part: nn.Module, inputs: Any, results: Any, name: str = name) -> None:
            seconds[name] += time.perf_counter()

        part.register_forward_pre_hook(begin)
        part.register_forward_hook(end)
    return seconds


def main() -> None:
    arguments = tyro.cli(Arguments)
    config = load_config(arguments.config)
    trainer = config.trainer.model_copy(update={"activation_checkpointing": arguments.checkpointed, "precision": "32-true"})
    config = config.model_copy(update={"trainer": trainer, "data": config.data.model_copy(update={"batch_size": 1})})
    found = describe(config)
    counted = found.total_checkpointed if arguments.checkpointed else found.total
    line = {"what": "memory of a step", "config": config.name, "checkpointed": arguments.checkpointed, "counted_mb": round(counted / MIB)}
    del found
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    if arguments.measure:
        # Kernels are loaded, and their code is in memory, since `describe`
        before = resident()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the highest point so far is forgotten
        module = build_module(config)
        module.train()
        sample = made_up_sample(config)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
        seconds, of_parts = {}, watch(module.network)
        start = time.perf_counter()
        loss = module.losses_of(sample, step=config.optimization.image_steps).total
        seconds["forward"] = time.perf_counter() - start
        loss.backward()
        seconds["backward"] = time.perf_counter() - start - seconds["forward"]
        optimizer.step()
        seconds["optimizer"] = time.perf_counter() - start - seconds["forward"] - seconds["backward"]
        with open("/proc/self/status") as file:
            highest = next(int(row.split()[1]) * 1024 for row in file if row.startswith("VmHWM"))
        line |= {"measured_mb": round((highest - before) / MIB), "ratio": round(counted / (highest - before), 3)}
        line |= {f"{name}_s": round(value, 2) for name, value in seconds.items()}
        rest = seconds["forward"] - sum(of_parts.values())
        line["forward_of_parts_s"] = {name: round(value, 2) for name, value in (*of_parts.items(), ("evidence, rendering, losses", rest))}
    print(json.dumps(line | environment()))


if __name__ == "__main__":
    main()
