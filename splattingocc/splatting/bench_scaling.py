"""Time our renderer on a CPU against the number of rays, and against the number of Gaussians that nothing is met of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splattingocc.splatting import bench_scenes as scenes
from splattingocc.splatting.bench_peers import Case, circumstances, rounds
from splattingocc.splatting.peers import Ours, Scene

RAYS = (3000, 6000, 12000, 24000, 48000)
TIMES_EMPTY = (1, 2, 4, 7, 10)
RAYS_AMONG_EMPTY = 12000


def bench_scaling(
    *,
    repeats: int = 5,
    num_rays: Sequence[int] = RAYS,
    times_empty: Sequence[int] = TIMES_EMPTY,
    rays_among_empty: int = RAYS_AMONG_EMPTY,
) -> list[dict[str, Any]]:
    """Return a flat record for each point of the two curves, in the trained-like volume with 18 channels; all take turns."""
    scene = Case("trained-like", scenes.NUM_CHANNELS, max(*num_rays, rays_among_empty)).scene()
    points = {f"{count:,} rays": scene.first(count) for count in num_rays}
    few = scene.first(rays_among_empty)
    for times in times_empty:
        points[f"{times} times the empty Gaussians"] = Scene(scenes.with_more_empty(few.gaussians, times), few.rays, few.labels)
    seconds = rounds({name: Ours(point) for name, point in points.items()}, repeats)
    curves = ["rays"] * len(num_rays) + ["empty Gaussians"] * len(times_empty)
    return [
        {
            "what": f"ours, {name}",
            "curve": curve,
            "num_rays": len(point.labels),
            "num_gaussians": len(point.gaussians.opacities),
            "num_empty": int((point.gaussians.opacities < scenes.MOST_EMPTY).sum()),
            "num_channels": scenes.NUM_CHANNELS,
            "repeats": repeats,
            **seconds[name],
            **circumstances(),
        }
        for curve, (name, point) in zip(curves, points.items())
    ]
