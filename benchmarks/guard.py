"""Say whether anything that was fast has become slow: ratios taken within one run, against bounds that a shared machine can keep.

    python benchmarks/guard.py [--rays 12000] [--repeats 3]

Every figure is a ratio of two medians of the same process, so that the machine cancels out; its bound is about half of what was measured
when it was set, because such ratios still move by a third from run to run. Status 1 where one is missed. It is no part of the tests: run it
before and after a change of `splatting/`, `kernels/` or the losses.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from splattingocc.provenance import environment
from splattingocc.splatting import bench, bench_scenes
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.render import render


@dataclass(frozen=True)
class Guard:
    """One ratio and its bound."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def describe(self) -> dict[str, Any]:
        return {
            "ratio": self.name,
            "value": round(self.value, 2),
            "bound": f"{'at most' if self.at_most else 'at least'} {self.bound:g}",
            "holds": self.holds,
        }


@dataclass
class Arguments:
    rays: int = 12_000
    """Rays of a rendering."""
    repeats: int = 3
    """Timed runs of each kind, after one that is not."""


def guards(rays: int, repeats: int) -> list[Guard]:
    """Measure all ratios."""
    seconds = {record["what"]: _seconds(record) for record in bench.bench_render(num_rays=rays, repeats=repeats)}
    nerf, trained, fog = (seconds[name] for name in ("nerf sampling", "gaussians, trained-like", "gaussians, untrained"))
    generator = torch.Generator().manual_seed(0)
    volume = bench_scenes.trained_like_volume(generator)
    once, twice = (_rendered(volume, count, repeats) for count in (rays, 2 * rays))
    crowded = _rendered(bench_scenes.with_more_empty(volume, times=10), rays, repeats)
    return [
        Guard("NeRF sampling / Gaussians, trained-like, forward and backward", nerf / trained, 12),
        Guard("NeRF sampling / Gaussians, fog, forward and backward", nerf / fog, 5),
        Guard("twice the rays / once, forward and backward", twice / once, 2.6, at_most=True),
        Guard("ten times the empty Gaussians / once, forward and backward", crowded / once, 3.0, at_most=True),
    ]


def _seconds(record: dict[str, Any]) -> float:
    return record["forward_p50_s"] + record["backward_p50_s"]


def _rendered(volume: Gaussians, rays: int, repeats: int) -> float:
    """Return seconds of forward and backward, index building included."""
    gaussians = volume.map(lambda tensor: tensor.detach().clone().requires_grad_())
    leaves = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features]
    generator = torch.Generator().manual_seed(0)
    given = bench_scenes.surround_rays(rays, generator)
    labels = bench_scenes.label_distances(rays, generator)
    options = {"near": bench_scenes.NEAR, "far": bench_scenes.FAR, "label_distances": labels}
    timed = bench._time([lambda: render(gaussians, given, **options)], leaves, repeats, torch.device("cpu"))
    return timed["forward_p50_s"] + timed["backward_p50_s"]


def main() -> int:
    options = tyro.cli(Arguments)
    found = guards(options.rays, options.repeats)
    around = environment(torch.device("cpu"))
    for guard in found:
        print(json.dumps(guard.describe() | {key: around[key] for key in ("commit", "torch", "warp", "device")}))
    return 0 if all(guard.holds for guard in found) else 1


if __name__ == "__main__":
    sys.exit(main())
