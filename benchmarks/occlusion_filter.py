"""How well `labels.occlusion.hidden_points` finds LiDAR points that a camera cannot see, on synthetic streets, where ray casting knows.

    python benchmarks/occlusion_filter.py --scenes 8
    python benchmarks/occlusion_filter.py --scenes 8 --other-key-frames -1 1

Prints one JSON line: the share of hidden labels before and after the filter, its precision and recall, and the labels lost for nothing.
With --other-key-frames, their points are projected too, as `splattingocc prepare --lidar.other-key-frames` does.
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
import torch

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.geometry.rays import Rays
from splattingocc.labels.occlusion import hidden_points
from splattingocc.provenance import environment
from splattingocc.synthetic.lidar_sweeps import Lidar
from splattingocc.synthetic.rig import draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import draw_world
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES

IMAGE_SIZE = (900, 1600)
INTERVAL = 0.5
"""Seconds between key frames."""
MIN_DEPTH = 1.0
"""Metres, as for labels."""
SLACK, RELATIVE_SLACK = 0.3, 0.02
"""A point counts as hidden if the camera's ray to it meets something nearer by more than both together, metres and share."""


def measure_scene(seed: int, other_key_frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return, for the labels of one key frame in all cameras, which are hidden, which the filter drops, and its seconds."""
    rng = np.random.default_rng(seed)
    first, last = min(0, *other_key_frames, 0), max(0, *other_key_frames, 0)
    world = draw_world(rng, INTERVAL * (last - first + 1))
    now = -first * INTERVAL
    *cameras, lidar = draw_rig(rng, IMAGE_SIZE)
    mesh = SceneMesh(world, torch.device("cpu"))
    sensor = Lidar(lidar.ego_from_sensor, torch.device("cpu"))
    parts = []
    for offset in (0, *other_key_frames):
        mesh.set_time(now + offset * INTERVAL)
        world_from_ego = world.ego.world_from_ego(now + offset * INTERVAL)
        sweep = sensor.measure(mesh, world_from_ego, rng)
        classes = np.array(CLASS_OF_LIDARSEG)[sweep.categories]
        kept = (classes != IGNORE) & ((offset == 0) | ~np.isin(classes, MOVING_CLASSES))
        world_from_lidar = world_from_ego @ lidar.ego_from_sensor
        parts.append(sweep.points[kept, :3].astype(np.float64) @ world_from_lidar[:3, :3].T + world_from_lidar[:3, 3])
    points_world = np.concatenate(parts)
    truths, drops, seconds = [], [], 0.0
    for camera in cameras:
        assert camera.K is not None
        mesh.set_time(now + camera.delay)
        world_from_cam = world.ego.world_from_ego(now + camera.delay) @ camera.ego_from_sensor
        points_cam = (points_world - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]
        points_cam = points_cam[points_cam[:, 2] > MIN_DEPTH]
        pixels = ((points_cam / points_cam[:, 2:]) @ camera.K.T)[:, :2].astype(np.float32)
        points_cam, pixels = (part[((pixels >= 0) & (pixels < IMAGE_SIZE[::-1])).all(axis=1)] for part in (points_cam, pixels))
        distances = np.linalg.norm(points_cam, axis=1)
        directions = torch.from_numpy((points_cam / distances[:, None]) @ world_from_cam[:3, :3].T).float()
        origins = torch.from_numpy(world_from_cam[:3, 3]).float().expand_as(directions).contiguous()
        met = mesh.cast(Rays(origins, directions), 2 * float(distances.max())).distances.numpy()
        truths.append(met < (1 - RELATIVE_SLACK) * distances - SLACK)
        start = time.perf_counter()
        drops.append(hidden_points(pixels, distances.astype(np.float32), IMAGE_SIZE, float(camera.K[0, 0])))
        seconds += time.perf_counter() - start
    return np.concatenate(truths), np.concatenate(drops), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--other-key-frames", type=int, nargs="*", default=[], help="key frames before and after, e.g. -1 1")
    arguments = parser.parse_args()
    truths, drops, seconds = zip(*(measure_scene(seed, arguments.other_key_frames) for seed in range(arguments.scenes)))
    hidden, dropped = np.concatenate(truths), np.concatenate(drops)
    figures = {
        "what": "occlusion filter",
        "scenes": arguments.scenes,
        "other_key_frames": arguments.other_key_frames,
        "labels": len(hidden),
        "hidden_before": hidden.mean(),
        "hidden_after": hidden[~dropped].mean(),
        "precision": hidden[dropped].mean(),
        "recall": dropped[hidden].mean(),
        "lost_for_nothing": dropped[~hidden].mean(),
        "p50_ms_per_key_frame": 1000 * float(np.median(seconds)),
    }
    print(
        json.dumps(
            {name: value if isinstance(value, str | list) else round(float(value), 4) for name, value in figures.items()} | environment()
        )
    )


if __name__ == "__main__":
    main()
