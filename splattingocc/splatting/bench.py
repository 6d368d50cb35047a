"""Time rendering in the Occ3D grid: Gaussians of a trained-like and of an untrained volume, and NeRF sampling of the same rays."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.provenance import environment
from splattingocc.splatting.bench_scenes import (
    FAR,
    NEAR,
    NUM_CHANNELS,
    label_distances,
    surround_rays,
    trained_like_volume,
    untrained_volume,
)
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.nerf import render_nerf
from splattingocc.splatting.render import render

NUM_NERF_SAMPLES = 400
NERF_RAYS_AT_ONCE = 2000
"""Sampling all rays at once would take 0.7 GB for the features alone, several times that with gradients."""


def bench_render(*, num_rays: int = 24000, repeats: int = 5, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Return one flat record for each case: what, sizes, seconds (p50, p95) forward and backward, peak memory, device, versions, commit."""
    device = torch.device(device)
    generator = torch.Generator().manual_seed(0)
    rays = surround_rays(num_rays, generator).to(device)
    labels = label_distances(num_rays, generator).to(device)
    records = []
    for name, volume in (("trained-like", trained_like_volume(generator)), ("untrained", untrained_volume(generator))):
        gaussians = volume.to(device).map(lambda tensor: tensor.requires_grad_())
        leaves = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features]

        def gaussian_rendering(gaussians: Gaussians = gaussians) -> Rendering:
            return render(gaussians, rays, near=NEAR, far=FAR, label_distances=labels)

        sizes = {"num_rays": num_rays, "num_gaussians": len(gaussians.means), "num_channels": NUM_CHANNELS}
        records.append({"what": f"gaussians, {name}", **sizes, **_time([gaussian_rendering], leaves, repeats, device)})
    densities = (gaussians.opacities.detach() / OCC3D_GRID.cell_size).reshape(OCC3D_GRID.shape).requires_grad_()
    features = gaussians.features.detach().reshape(*OCC3D_GRID.shape, NUM_CHANNELS).requires_grad_()
    parts = [slice(start, start + NERF_RAYS_AT_ONCE) for start in range(0, num_rays, NERF_RAYS_AT_ONCE)]

    def nerf_rendering(part: slice) -> Rendering:
        options = {"near": NEAR, "far": FAR, "num_samples": NUM_NERF_SAMPLES}
        return render_nerf(densities, features, OCC3D_GRID, rays[part], label_distances=labels[part], **options)

    sizes = {"num_rays": num_rays, "num_samples": NUM_NERF_SAMPLES, "num_channels": NUM_CHANNELS}
    renderings = [lambda part=part: nerf_rendering(part) for part in parts]
    records.append({"what": "nerf sampling", **sizes, **_time(renderings, [densities, features], repeats, device)})
    circumstances = {**environment(device), "num_threads": torch.get_num_threads()}
    return [record | circumstances for record in records]


def _time(renderings: list[Callable[[], Rendering]], leaves: list[Tensor], repeats: int, device: torch.device) -> dict[str, float]:
    """Time forward and backward over all of `renderings`, after one round that compiles kernels and warms caches."""
    forward, backward = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats + 1):
        forward.append(0.0)
        backward.append(0.0)
        for rendering_of in renderings:
            start = _now(device)
            rendering = rendering_of()
            rendered = _now(device)
            loss = loss_of(rendering)
            before_backward = _now(device)
            loss.backward()
            backward[-1] += _now(device) - before_backward
            forward[-1] += rendered - start
        for leaf in leaves:
            leaf.grad = None
    seconds = {}
    for name, values in (("forward", forward[1:]), ("backward", backward[1:])):
        p50, p95 = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        seconds |= {f"{name}_p50_s": round(p50, 5), f"{name}_p95_s": round(p95, 5)}
    return {**seconds, "repeats": repeats, "peak_memory_mb": round(_peak_memory_bytes(device) / 2**20)}


def loss_of(rendering: Rendering) -> Tensor:
    """Return a number that depends on all that is rendered, to take gradients of."""
    assert rendering.in_front is not None
    assert rendering.at_hit is not None
    return rendering.features.square().sum() + rendering.distances.sum() + rendering.in_front.sum() - rendering.at_hit.sum()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory_bytes(device: torch.device) -> int:
    """Peak of this case on CUDA; on a CPU that of the process so far, all the system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
