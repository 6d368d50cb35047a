"""How long the lift `lss` takes to pool, and how much memory, beside the product of depth and context and index_add.

    python benchmarks/lift.py
    python benchmarks/lift.py --repeats 5 --device cuda

Prints one JSON line for each size: milliseconds of finding the points' cells, which both ways need, and of pooling forward and backward,
medians of runs that take turns; the ratios are medians of the ratios within each turn. Memory is the peak over forward and backward above
the inputs; on a CPU, as Linux counts it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid, rigid
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.kernels.frustum_pooling import frustum_cells
from splattingocc.models.depth import DepthBins
from splattingocc.models.lift.pooling import pool_frustum, pool_reference
from splattingocc.provenance import environment

NUM_VIEWS = 6
GRID = OCC3D_GRID.coarsen(2)
CAMERA_HEIGHT = 1.5
"""Metres."""
FOCAL_PER_WIDTH = 0.79
"""As of nuScenes' cameras that look ahead and to the sides."""


@dataclass(frozen=True)
class Size:
    """Of the images, of their features, how many rows of depths there are for each row of them, and channels."""

    name: str
    image_size: tuple[int, int]
    features: tuple[int, int]
    rows_per_feature: int
    channels: int


SIZES = [
    Size("demo", (96, 240), (24, 60), 4, 16),
    Size("r50", (256, 704), (16, 44), 1, 64),
    Size("r50, four rows of depths", (256, 704), (16, 44), 4, 64),
]


def surround_cameras(image_size: tuple[int, int]) -> Cameras:
    """Cameras that look all around, the first ahead."""
    transforms = []
    for view in range(NUM_VIEWS):
        yaw = 2 * math.pi * view / NUM_VIEWS
        columns = [[math.sin(yaw), -math.cos(yaw), 0.0], [0.0, 0.0, -1.0], [math.cos(yaw), math.sin(yaw), 0.0]]
        transforms.append(invert_rigid(rigid(torch.tensor(columns).mT, torch.tensor([0.0, 0.0, CAMERA_HEIGHT]))))
    height, width = image_size
    focal = FOCAL_PER_WIDTH * width
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(K.expand(NUM_VIEWS, 3, 3), torch.stack(transforms), image_size)


class Case:
    """The inputs of one size."""

    def __init__(self, size: Size, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        bins = DepthBins()
        height, width = size.features
        rows = height * size.rows_per_feature
        self.device, self.map_size = device, (rows, width)
        self.cameras = surround_cameras(size.image_size).map(lambda values: values[None].to(device))
        self.depths = bins.middles().to(device)
        logits = 2 * torch.randn(NUM_VIEWS, bins.count, rows, width, generator=generator)
        context = torch.randn(NUM_VIEWS, height, width, size.channels, generator=generator)
        self.leaves = (logits.softmax(dim=1).to(device).requires_grad_(), context.to(device).requires_grad_())
        self.gradient = torch.randn(GRID.num_cells, size.channels, generator=generator).to(device)
        self.cells = self.find_cells()

    def find_cells(self) -> Tensor:
        return frustum_cells(self.cameras, self.depths, self.map_size, GRID).flatten(0, 1)

    def time(self, pooling: Callable[..., Tensor]) -> tuple[float, float]:
        """Return the seconds of one forward and of one backward pass."""
        start = self.now()
        pooled = pooling(*self.leaves, self.cells, GRID.num_cells)
        forward = self.now()
        torch.autograd.grad(pooled, self.leaves, self.gradient)
        return forward - start, self.now() - forward

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


POOLINGS = {"fused": pool_frustum, "naive": pool_reference}


def peak_memory(case: Case, pooling: Callable[..., Tensor]) -> int:
    """Return the bytes that one forward and backward pass take above what is there before."""
    if case.device.type == "cuda":
        before = torch.cuda.memory_allocated(case.device)
        torch.cuda.reset_peak_memory_stats(case.device)
        case.time(pooling)
        return torch.cuda.max_memory_allocated(case.device) - before
    # Give back what earlier passes left with the allocator, and forget the peak so far
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    case.time(pooling)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Return the bytes that Linux says of this process under a name: resident now, or at most since it was told to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(size: Size, repeats: int, device: torch.device) -> dict[str, object]:
    case = Case(size, device)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in POOLINGS}
    finding = []
    for _ in range(repeats + 1):
        start = case.now()
        case.find_cells()
        finding.append(case.now() - start)
        for name, pooling in POOLINGS.items():
            seconds[name].append(case.time(pooling))
    figures: dict[str, object] = {
        "what": f"pooling of the lift lss, {size.name}",
        "points": case.cells.numel(),
        "points_inside": int((case.cells < GRID.num_cells).sum()),
        "channels": size.channels,
        "cells": GRID.num_cells,
        "find_cells_p50_ms": round(1000 * median(finding[1:]), 2),
    }
    # The first turn compiles kernels and warms caches
    turns = {name: values[1:] for name, values in seconds.items()}
    for position, step in enumerate(("forward", "backward")):
        for name, values in turns.items():
            figures[f"{name}_{step}_p50_ms"] = round(1000 * median(value[position] for value in values), 2)
        ratios = [naive[position] / fused[position] for naive, fused in zip(turns["naive"], turns["fused"])]
        figures[f"{step}_ratio_p50"] = round(median(ratios), 2)
    for name, pooling in POOLINGS.items():
        figures[f"{name}_peak_mb"] = round(peak_memory(case, pooling) / 2**20, 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    circumstances = {"repeats": arguments.repeats, "num_threads": torch.get_num_threads(), **environment(arguments.device)}
    for size in SIZES:
        print(json.dumps(measure(size, arguments.repeats, arguments.device) | circumstances), flush=True)


if __name__ == "__main__":
    main()
