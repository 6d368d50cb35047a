import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc.data.key_frames import Index
from splattingocc.data.nuscenes import read_index
from splattingocc.evaluation.ray_iou import CastGrid, RayCounts, cast_grid, count_rays, ray_iou, ray_origins, ray_pattern
from splattingocc.taxonomy import FREE, NUM_CLASSES

LOWER, CELL, SHAPE = (-40.0, -40.0, -1.0), 0.4, (200, 200, 16)


def random_grid(seed: int, *, filled: float) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, NUM_CLASSES, SHAPE, dtype=np.uint8)
    grid[rng.random(SHAPE) > filled] = FREE
    return torch.from_numpy(grid)


def walk(grid: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> tuple[int, float]:
    """Amanatides and Woo, one ray in plain Python: the class met, and where the ray leaves that voxel or the grid."""
    cell = [math.floor((o - low) / CELL) for o, low in zip(origin, LOWER)]
    left_at = 0.0
    while all(0 <= c < n for c, n in zip(cell, SHAPE)):
        exits = []
        for axis in range(3):
            if direction[axis] == 0:
                exits.append(math.inf)
            else:
                boundary = LOWER[axis] + (cell[axis] + (direction[axis] > 0)) * CELL
                exits.append((boundary - origin[axis]) / direction[axis])
        axis = int(np.argmin(exits))
        left_at = exits[axis]
        if grid[tuple(cell)] != FREE:
            return int(grid[tuple(cell)]), left_at
        cell[axis] += 1 if direction[axis] > 0 else -1
    return FREE, left_at


def test_the_pattern_is_the_published_one():
    directions = ray_pattern()
    assert directions.shape == (14_040, 3)
    assert torch.allclose(directions.norm(dim=1), torch.ones(14_040, dtype=torch.float64))
    pitches = torch.rad2deg(torch.asin(directions[::360, 2]))
    # The lowest looks at the ground one unit away, the tenth at ten; then equal steps up to the first at or above 0.21 rad
    assert pitches[0].item() == pytest.approx(-45.0)
    assert pitches[9].item() == pytest.approx(-math.degrees(math.atan(1 / 10)))
    assert torch.allclose(pitches[10:].diff(), (pitches[9] - pitches[8]).expand(28))
    assert math.radians(pitches[-1]) >= 0.21 > math.radians(pitches[-2])
    azimuths = torch.rad2deg(torch.atan2(directions[:360, 1], directions[:360, 0])) % 360
    assert torch.allclose(azimuths, torch.arange(360.0, dtype=torch.float64))


@pytest.mark.parametrize("filled", [0.0, 0.002, 0.2])
def test_casting_agrees_with_a_walk_in_plain_python(filled: float):
    grid = random_grid(1, filled=filled)
    origins = torch.tensor([[0.985793, 0.0, 1.84019], [-12.34, 31.7, 2.2]], dtype=torch.float64)
    cast = cast_grid(grid, origins)
    assert cast.semantics.shape == (2 * 14_040,)
    directions = ray_pattern().numpy()
    for ray in range(0, 2 * 14_040, 23):
        semantics, distance = walk(grid.numpy(), origins[ray // 14_040].numpy(), directions[ray % 14_040])
        assert cast.semantics[ray] == semantics
        assert cast.distances[ray].item() == pytest.approx(distance, abs=1e-9)


def slow_scores(frames: list[tuple[CastGrid, CastGrid]]) -> np.ndarray:
    """The IoU of each threshold and class, by loops."""
    ious = np.full((3, NUM_CLASSES), np.nan)
    for i, limit in enumerate((1.0, 2.0, 4.0)):
        for c in range(NUM_CLASSES):
            hits = truths = predictions = 0
            for prediction, truth in frames:
                for p, t, dp, dt in zip(prediction.semantics, truth.semantics, prediction.distances, truth.distances):
                    if t != FREE:
                        truths += int(t == c)
                        predictions += int(p == c)
                        hits += int(p == c and t == c and abs(dp - dt) < limit)
            if truths + predictions:
                ious[i, c] = 100 * hits / (truths + predictions - hits)
    return ious


def cast(rng: np.random.Generator, classes: list[int], count: int = 300) -> CastGrid:
    return CastGrid(torch.from_numpy(rng.choice(classes, count).astype(np.uint8)), torch.from_numpy(rng.integers(0, 12, count) / 2.0))


def test_scores_agree_with_loops_over_rays_and_count_the_whole_split_at_once():
    rng = np.random.default_rng(0)
    # Class 3 is in the truth only, 5 in the prediction only, the others nowhere; distances are multiples of 0.5: ties at each threshold
    frames = [(cast(rng, [0, 4, 5, FREE]), cast(rng, [0, 3, 4, 11, FREE])), (cast(rng, [4, 11]), cast(rng, [4, FREE]))]
    counts = RayCounts.none()
    for prediction, truth in frames:
        counts = counts + count_rays(prediction, truth)
    scores, expected = ray_iou(counts), slow_scores(frames)
    np.testing.assert_allclose(np.array(scores.class_ious), expected, rtol=1e-12)
    assert scores.mean == pytest.approx(np.nanmean(expected))
    assert [scores.at[limit] for limit in (1.0, 2.0, 4.0)] == pytest.approx(np.nanmean(expected, axis=1))
    without = np.delete(expected, [0, 12], axis=1)
    assert scores.mean_15 == pytest.approx(np.nanmean(without))
    assert np.isnan(expected).sum() == 3 * 12


def test_a_difference_of_exactly_the_threshold_is_no_hit():
    truth = CastGrid(torch.tensor([4, 4], dtype=torch.uint8), torch.tensor([10.0, 10.0], dtype=torch.float64))
    prediction = CastGrid(truth.semantics, torch.tensor([12.0, 11.999], dtype=torch.float64))
    counts = count_rays(prediction, truth)
    assert counts.hits[:, 4].tolist() == [0, 1, 2]


def test_edge_cases_all_free_truth_and_empty_prediction():
    empty, full = torch.full(SHAPE, FREE, dtype=torch.uint8), torch.full(SHAPE, 11, dtype=torch.uint8)
    origin = torch.tensor([[1.0, 0.0, 1.8]], dtype=torch.float64)
    free, road = cast_grid(empty, origin), cast_grid(full, origin)
    assert math.isnan(ray_iou(count_rays(road, free)).mean)
    assert ray_iou(count_rays(free, road)).mean == 0
    assert ray_iou(count_rays(road, road)).mean == 100
    assert road.distances.max() < 0.7  # each ray leaves the voxel it starts in
    assert math.isnan(ray_iou(RayCounts.none()).mean)


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


def test_origins_are_the_lidar_of_the_whole_scene_in_the_ego_frame(index: Index):
    origins = ray_origins(index, 1)
    assert len(origins) == 3
    for origin, position in zip(origins, range(3)):
        lidar = index[position].lidar
        assert lidar is not None
        in_world = lidar.world_from_ego @ lidar.ego_from_sensor @ [0, 0, 0, 1]
        np.testing.assert_allclose(origin, (index[1].key_ego_from_world @ in_world)[:3], atol=1e-9)


def test_origins_far_away_are_left_out_and_eight_are_kept(index: Index):
    import dataclasses

    scene = dataclasses.replace(index.scenes[0], count=41)
    drive = np.tile(np.eye(4), (41, 7, 1, 1))
    drive[:, :, 0, 3] = np.arange(41)[:, None] * 3.0
    mounts = np.tile(np.eye(4), (41, 7, 1, 1))
    long = dataclasses.replace(
        index,
        scenes=(scene,),
        tokens=[str(i) for i in range(41)],
        world_from_ego=drive,
        ego_from_sensor=mounts,
        world_from_key_ego=drive[:, 0],
        timestamps=np.arange(41),
        sensor_timestamps=np.zeros((41, 7), dtype=np.int64),
        image_sizes=np.ones((41, 6, 2), dtype=np.int64),
        K=np.tile(np.eye(3), (41, 6, 1, 1)),
        sensor_tokens=[""] * 41 * 7,
        filenames=[""] * 41 * 7,
        point_classes=[None] * 41,
    )
    near = np.arange(-36.0, 37.0, 3.0)  # ±39 m itself is out
    expected = near[np.round(np.linspace(0, len(near) - 1, 8)).astype(int)]
    np.testing.assert_allclose(ray_origins(long, 20)[:, 0], expected)


def test_rays_start_exactly_where_the_calibration_puts_the_lidar(real_dataroot: Path, tmp_path: Path):
    """nuScenes' LiDAR stands at y = 0.0, the border of rows 99 and 100, and belongs to row 100."""
    index = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)
    mount = torch.from_numpy(index[0].lidar.ego_from_sensor[:3, 3])
    assert mount[1] == 0.0
    (origin,) = ray_origins(index, 0)
    assert torch.equal(origin, mount)
    row, column, level = (math.floor((o - low) / CELL) for o, low in zip(origin.tolist(), LOWER))
    for y, is_beside in ((100, True), (99, False)):
        truth = torch.full(SHAPE, FREE, dtype=torch.uint8)
        truth[row, y, level] = 4
        directions = ray_pattern()
        seen = cast_grid(truth, origin[None])
        # The voxel that holds the LiDAR stops every ray; of the one on the other side of the border those that go there
        expected = torch.ones(len(directions), dtype=torch.bool) if is_beside else directions[:, 1] < -1e-9
        assert torch.equal(seen.semantics == 4, expected), (y, column)


def test_a_standing_vehicle_sees_from_one_place(tiny_dataroot: Path):
    index = read_index(tiny_dataroot, tiny_nuscenes.VERSION)
    far_away = index.world_from_ego[:1] + np.eye(4)[None, None] * 0
    far_away[..., :3, 3] += (4321.123, 1234.567, 0.0)
    standing = dataclasses.replace(
        index,
        world_from_ego=np.repeat(far_away, len(index), axis=0),
        world_from_key_ego=np.repeat(far_away[:, 0], len(index), axis=0),
    )
    origins = ray_origins(standing, 1)
    assert torch.equal(origins, torch.from_numpy(index.ego_from_sensor[:3, 0, :3, 3]))
