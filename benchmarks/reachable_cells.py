"""What a joint training step costs that predicts only the cells its labels ask for, beside one that predicts all of them.

    splattingocc synth --out D --scenes 3 --val-scenes 1 --frames 4 && splattingocc prepare --dataroot D
    python benchmarks/reachable_cells.py splattingocc-synth --dataroot D --image-steps 360 --joint-steps 0 30 120
    python benchmarks/reachable_cells.py splattingocc-r50 --behind-encoder

Prints one JSON line for each number of joint steps that the network has learned by then: the share of cells that is predicted, seconds
(medians of steps that take turns; the ratios are medians of the ratios within each turn), memory, and how far losses and gradients differ.
Memory is the growth of a fresh process's resident set from before a step to its highest point, with the kernels loaded. Without a data set
it takes a made-up sample of the configuration's sizes. `--behind-encoder` measures what follows the volume encoder only, forward and
backward: evidence, head, rendering, losses. With `--twins N`, two networks of one seed are trained for N steps, one in each way, and their
losses are compared.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import nn

from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import TrainingSet
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.memory import keep_freed_memory
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig, build_index, load_config
from splattingocc.geometry.cameras import Views
from splattingocc.models.network import NetworkOutput, OccupancyNetwork
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.provenance import environment
from splattingocc.splatting.asked import Asked
from splattingocc.struct import stack

WARM_UP = 15
"""Steps over which the learning rate rises, as the demo has it."""
JOINT = 10**9
"""The number of a step of the joint phase, whatever the configuration."""


@dataclass
class Arguments:
    config: tyro.conf.Positional[Path]
    """Configuration, a file or a name."""
    dataroot: Path | None = None
    """Data set with labels; without, a made-up sample."""
    image_steps: int = 0
    """Steps that train the image branch alone first."""
    joint_steps: tuple[int, ...] = (0,)
    """Joint steps after which to measure, in ascending order."""
    behind_encoder: bool = False
    """Measure what follows the volume encoder alone."""
    repeats: int = 7
    """Measured steps of each kind."""
    threads: int = 1
    """Of torch and of the kernels."""
    twins: int = 0
    """Joint steps of the comparison of two trainings; 0 makes none."""
    memory_of: Literal["all", "asked"] | None = None
    """Print only the bytes that one step of this kind needs: what the benchmark starts itself with."""
    weights: Path | None = None
    """Weights of the network to begin with."""


class BehindEncoder(nn.Module):
    """A network whose volume and image reading are there already; the volume takes a gradient."""

    def __init__(self, network: OccupancyNetwork, sample: TrainingSample) -> None:
        super().__init__()
        self.head, self.network = network.head, network
        volumes: list[Any] = []
        hook = network.volume_encoder.register_forward_hook(lambda part, inputs, volume: volumes.append(volume) or volume)
        with torch.no_grad():
            self.reading = network(sample.views).reading
        hook.remove()
        self.volume = volumes[0].detach().float().requires_grad_()

    def forward(self, views: Views, asked: Asked | None = None) -> NetworkOutput:
        return NetworkOutput(self.network.field_of(self.volume, self.reading, views.cameras[:, 0], asked), self.reading)


def samples_of(config: ExperimentConfig, dataroot: Path | None) -> list[TrainingSample]:
    if dataroot is None:
        return [made_up_sample(config)]
    store = LabelStore.open(config.data.label_folder)
    index = store.labelled_part(build_index(config.data, None))
    dataset = TrainingSet(index, store, dataroot, config.data.loader, seed=0)
    return [stack([dataset[position]]) for position in range(len(dataset))]


def take_step(module: OccupancyModule, sample: TrainingSample, step: int) -> tuple[dict[str, float], float, float]:
    """Return the losses of a step, and the seconds of forward and backward."""
    start = time.perf_counter()
    losses = module.losses_of(sample, step=step)
    middle = time.perf_counter()
    losses.total.backward()
    end = time.perf_counter()
    return {name: value.item() for name, value in losses.parts.items()}, middle - start, end - middle


def learn(module: OccupancyModule, samples: list[TrainingSample], steps: range, *, joint: bool, rate: float) -> list[float]:
    """Train for some steps; return the losses."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, fused=True)
    found = []
    for step in steps:
        optimizer.zero_grad()
        losses, _, _ = take_step(module, samples[step % len(samples)], JOINT if joint else -1)
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        optimizer.step()
        found.append(sum(losses.values()))
    module.zero_grad()
    return found


def compare(module: OccupancyModule, samples: list[TrainingSample], repeats: int) -> dict:
    """Let steps of both kinds take turns, from the same weights and statistics."""
    shares: list[float] = []
    statistics = copy.deepcopy(dict(module.named_buffers()))
    hook = module.network.head.register_forward_hook(
        lambda head, inputs, field: shares.append(field.opacities.shape[-1] / field.grid.num_cells)
    )
    seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    losses_apart, gradients_apart = 0.0, 0.0
    for turn in range(1 + repeats):
        outcome = {}
        for all_cells in (True, False):
            module.predict_all_cells = all_cells
            module.zero_grad()
            for name, buffer in module.named_buffers():
                buffer.copy_(statistics[name])
            losses, *of_turn = take_step(module, samples[turn % len(samples)], JOINT)
            gradients = torch.cat([value.grad.flatten() for value in module.parameters() if value.grad is not None])
            outcome[all_cells] = losses, gradients
            if turn:  # the first has the kernels to load
                seconds[all_cells].append((of_turn[0], of_turn[1]))
        (losses, gradients), (found, found_gradients) = outcome[True], outcome[False]
        losses_apart = max(losses_apart, *(abs(found[name] - value) / max(abs(value), 1e-6) for name, value in losses.items()))
        gradients_apart = max(gradients_apart, float((found_gradients - gradients).norm() / gradients.norm()))
    hook.remove()
    module.zero_grad()
    chosen = shares[1::2]
    ratios = [sum(asked) / sum(whole) for whole, asked in zip(seconds[True], seconds[False])]
    kinds = (("all", True), ("asked", False))
    return {
        "share_of_cells": round(median(chosen), 3),
        **{f"{name}_forward_backward_s": [round(median(part), 3) for part in zip(*seconds[kind])] for name, kind in kinds},
        "ratio": round(median(ratios), 3),
        "ratio_least_most": [round(min(ratios), 3), round(max(ratios), 3)],
        "largest_relative_difference_of_losses": losses_apart,
        "relative_difference_of_gradients": gradients_apart,
    }


def memory_of_a_step(module: OccupancyModule, samples: list[TrainingSample]) -> int:
    """Return by how many bytes this process grows; a step before has loaded the kernels."""
    take_step(module, samples[-1], JOINT)
    module.zero_grad()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest point so far is forgotten
    take_step(module, samples[0], JOINT)
    with open("/proc/self/status") as file:
        return next(int(row.split()[1]) * 1024 for row in file if row.startswith("VmHWM")) - before


def memory_in_fresh_processes(module: OccupancyModule) -> dict:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        network = module.network.network if isinstance(module.network, BehindEncoder) else module.network
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
        for kind in ("all", "asked"):
            again = [sys.executable, *sys.argv, "--memory-of", kind, "--weights", str(weights)]
            run = subprocess.run(again, check=True, capture_output=True, text=True)
            found[f"{kind}_mib"] = round(int(run.stdout.split()[-1]) / 2**20)
    return found | {"memory_ratio": round(found["asked_mib"] / found["all_mib"], 3)}


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    data = config.data.model_copy(update={"dataroot": arguments.dataroot or config.data.dataroot, "batch_size": 1, "num_workers": 0})
    trainer = config.trainer.model_copy(update={"precision": "32-true"})
    config = config.model_copy(update={"data": data, "trainer": trainer})
    torch.manual_seed(0)
    module = build_module(config).train()
    samples = samples_of(config, arguments.dataroot)
    if arguments.weights is not None:
        module.network.load_state_dict(load_file(arguments.weights))
    if arguments.memory_of is not None:
        if arguments.behind_encoder:
            module.network = BehindEncoder(module.network, samples[0])  # type: ignore[assignment]
        module.predict_all_cells = arguments.memory_of == "all"
        print(memory_of_a_step(module, samples))
        return
    keep_freed_memory()
    rate, done = config.optimization.learning_rate, 0
    learn(module, samples, range(arguments.image_steps), joint=False, rate=rate)
    common = {"what": "cells of a step", "config": config.name, "rays": samples[0].rays.origins.shape[1], "threads": arguments.threads}
    common |= {"behind_encoder": arguments.behind_encoder, "image_steps": arguments.image_steps, "repeats": arguments.repeats}
    for steps in arguments.joint_steps:
        module.predict_all_cells = False
        learn(module, samples, range(done, steps), joint=True, rate=rate)
        done = steps
        measured = copy.deepcopy(module)
        if arguments.behind_encoder:
            measured.network = BehindEncoder(measured.network, samples[0])  # type: ignore[assignment]
            samples = samples[:1]
        line = compare(measured, samples, arguments.repeats) | memory_in_fresh_processes(measured)
        print(json.dumps(common | {"joint_steps": steps} | line | environment()), flush=True)
    if arguments.twins:
        curves = []
        for all_cells in (True, False):
            twin = copy.deepcopy(module)
            twin.predict_all_cells = all_cells
            curves.append(learn(twin, samples, range(arguments.twins), joint=True, rate=rate))
        apart = [abs(asked / whole - 1) for whole, asked in zip(*curves)]
        shown = [0, *range(9, arguments.twins, 10)]
        line = {"losses_all": [curves[0][i] for i in shown], "losses_asked": [curves[1][i] for i in shown], "largest_relative": max(apart)}
        print(json.dumps(common | {"what": "two trainings", "steps": arguments.twins} | line | environment()))


if __name__ == "__main__":
    main()
