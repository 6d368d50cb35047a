"""Speed of scoring one key frame: counting its voxels, RayIoU's rays into prediction and truth, the F-score.

    python benchmarks/scoring.py

Made-up grids: a road with boxes on it, and the same shifted by a voxel. Prints one JSON line for each measurement.
"""

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.evaluation.fscore import f_score
from splattingocc.evaluation.miou import confusion, count_voxels
from splattingocc.evaluation.ray_iou import MAX_ORIGINS, cast_grid, count_rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.provenance import environment
from splattingocc.taxonomy import FREE

NUM_BOXES = 300
REPEATS = 20


def street(seed: int) -> torch.Tensor:
    """Return a grid with about as many occupied voxels as a published one, 31 k."""
    rng = np.random.default_rng(seed)
    grid = np.full(OCC3D_GRID.shape, FREE, dtype=np.uint8)
    grid[:, 40:160, 2] = 11
    for x, y, size_x, size_y, size_z, label in zip(*rng.integers((0, 0, 2, 2, 2, 0), (190, 190, 8, 8, 12, 17), (NUM_BOXES, 6)).T):
        grid[x : x + size_x, y : y + size_y, 2 : 2 + size_z] = label
    return torch.from_numpy(grid)


def measure(what: str, run: Callable[[], object], **sizes: object) -> None:
    """Print the median and the 95th percentile of the milliseconds that `run` takes."""
    run()
    milliseconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        milliseconds.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(milliseconds, (50, 95))
    print(json.dumps({"what": what, **sizes, "p50_ms": round(p50, 2), "p95_ms": round(p95, 2)} | environment()), flush=True)


def main() -> None:
    truth, mask = street(0), torch.rand(OCC3D_GRID.shape) < 0.2
    prediction = truth.roll(1, dims=0)
    whole = OccupancyTruth("token", truth, mask, mask)
    origins = torch.tensor([[5.0 * i - 17.5, 0.0, 1.84] for i in range(MAX_ORIGINS)], dtype=torch.float64)
    rays = MAX_ORIGINS * 14_040
    measure("confusion of a pair of grids", lambda: confusion(prediction, truth, mask), voxels=truth.numel())
    measure("voxels by mask, distance and height", lambda: count_voxels(prediction, whole), voxels=truth.numel())
    measure("F-score", lambda: f_score(prediction, truth, mask), voxels=truth.numel())
    measure("RayIoU of prediction and truth", lambda: count_rays(cast_grid(prediction, origins), cast_grid(truth, origins)), rays=2 * rays)


if __name__ == "__main__":
    main()
