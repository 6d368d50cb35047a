"""What people label wrong in a sweep: how much, where, and nothing else."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray

from splattingocc.synthetic import label_errors
from splattingocc.synthetic.label_errors import (
    BORDER_RADIUS,
    CONFUSED_SURFACES,
    CONFUSED_THINGS,
    FAR,
    FOOT_HEIGHT,
    WRONG_SHARE,
    LabelErrors,
    nearest_of_another_category,
)
from splattingocc.synthetic.lidar_sweeps import Lidar, Sweep
from splattingocc.synthetic.rig import draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.things import CATEGORY_INDEX
from splattingocc.synthetic.world import World, draw_world
from splattingocc.synthetic.writer import SynthConfig, write_dataset

EGO, NOISE, ROAD, CAR = 31, 0, CATEGORY_INDEX["flat.driveable_surface"], CATEGORY_INDEX["vehicle.car"]
Measured = tuple[World, Sweep, ndarray]


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    """Six worlds, a sweep of each, and the LiDAR's pose in it."""
    sweeps = []
    for seed in range(6):
        rng = np.random.default_rng((11, seed))
        world, rig = draw_world(rng, 1.0), draw_rig(rng, (90, 160))
        mesh = SceneMesh(world, torch.device("cpu"))
        mesh.set_time(0.5)
        pose = world.ego.world_from_ego(0.5)
        sweep = Lidar(rig[-1].ego_from_sensor, torch.device("cpu")).measure(mesh, pose, rng)
        sweeps.append((world, sweep, pose @ rig[-1].ego_from_sensor))
    return sweeps


def labels_of(measured: Measured, seed: int = 0) -> ndarray:
    world, sweep, world_from_lidar = measured
    return LabelErrors(world.things, np.random.default_rng(seed)).categories(sweep, world_from_lidar, np.random.default_rng((seed, 1)))


def without(monkeypatch: pytest.MonkeyPatch, *rates: str) -> None:
    """Leave out the errors of these rates."""
    for rate in rates:
        monkeypatch.setattr(label_errors, rate, {} if rate.startswith("CONFUSED") else 1e-12)


def test_as_many_labels_are_wrong_as_is_said(measured: list[Measured]):
    shares = []
    for one in measured:
        for seed in range(4):
            labelled = ~np.isin(one[1].categories, (EGO, NOISE))
            labels = labels_of(one, seed)
            assert (labels == one[1].categories)[~labelled].all()
            shares.append((labels != one[1].categories)[labelled].mean())
    assert min(shares) > WRONG_SHARE[0]
    assert max(shares) < WRONG_SHARE[1]
    assert 0.015 < np.mean(shares) < 0.035


def test_labels_are_drawn_from_the_seeds_and_the_sweep_stays_as_it_is(measured: list[Measured]):
    before = measured[0][1].categories.copy()
    assert np.array_equal(labels_of(measured[0]), labels_of(measured[0]))
    assert not np.array_equal(labels_of(measured[0]), labels_of(measured[0], seed=1))
    assert np.array_equal(measured[0][1].categories, before)


def test_a_wrong_border_lies_within_reach_of_the_label_that_it_gives(measured: list[Measured], monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "CONFUSED_THINGS", "CONFUSED_SURFACES", "FOOT_SHARE", "FAR_NOISE_SHARE", "BORDER_NOISE_SHARE")
    num_wrong = num_near = 0
    for one in measured:
        sweep, labels = one[1], labels_of(one)
        points, labelled = torch.from_numpy(sweep.points[:, :3]), ~np.isin(sweep.categories, (EGO, NOISE))
        wrong = np.flatnonzero(labels != sweep.categories)
        for some in np.array_split(wrong, 10):
            distances = torch.cdist(points[some], points, compute_mode="donot_use_mm_for_euclid_dist").numpy()
            distances[sweep.categories != labels[some, None]] = np.inf
            assert distances.min(axis=1).max() <= BORDER_RADIUS + 1e-4
        num_wrong += len(wrong)
        num_near += len(nearest_of_another_category(points.double().numpy(), np.where(labelled, sweep.categories, NOISE), BORDER_RADIUS)[0])
    # About half of the borders are wrong, and of each of them one side only
    assert 0.15 < num_wrong / num_near < 0.35


def test_a_border_moves_to_one_side_at_a_time(monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "CONFUSED_SURFACES", "FAR_NOISE_SHARE", "BORDER_NOISE_SHARE")
    x, y = np.meshgrid(np.linspace(-0.15, 0.15, 4), np.arange(0, 400, 0.05))
    categories = np.where(x < 0, ROAD, CATEGORY_INDEX["flat.sidewalk"]).astype(np.uint8).ravel()
    points = np.column_stack([x.ravel(), y.ravel(), np.zeros((x.size, 3))]).astype(np.float32)
    sweep = Sweep(points, categories, np.full(x.size, -1, np.int32))
    wrong = LabelErrors((), np.random.default_rng(0)).categories(sweep, np.eye(4), np.random.default_rng(1)) != categories
    at_left, at_right = wrong.reshape(-1, 4)[:, 1], wrong.reshape(-1, 4)[:, 2]
    assert at_left.mean() == pytest.approx(label_errors.BORDER_SHARE / 2, abs=0.06)
    assert at_right.mean() == pytest.approx(label_errors.BORDER_SHARE / 2, abs=0.06)
    assert not (at_left & at_right).any()


def test_the_nearest_point_of_another_category_is_that_of_a_search_through_all_pairs():
    rng = np.random.default_rng(0)
    points, categories = rng.uniform(-1, 1, (700, 3)), rng.integers(0, 4, 700).astype(np.uint8)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    distances[(categories[:, None] == categories) | (categories == NOISE) | (categories[:, None] == NOISE)] = np.inf
    rows, neighbours = nearest_of_another_category(points, categories, 0.12)
    expected = np.flatnonzero(distances.min(axis=1) <= 0.12)
    assert 100 < len(rows) < 600
    assert np.array_equal(rows, expected)
    assert np.array_equal(neighbours, distances.argmin(axis=1)[expected])
    nothing = nearest_of_another_category(points, np.zeros(700, np.uint8), 0.12)
    assert [len(column) for column in nothing] == [0, 0]


def test_other_errors_are_whole_instances_or_patches_of_confusable_surfaces(measured: list[Measured], monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "BORDER_SHARE", "FOOT_SHARE", "FAR_NOISE_SHARE", "BORDER_NOISE_SHARE")
    names = {index: name for name, index in CATEGORY_INDEX.items()}
    num_instances = 0
    for one in measured:
        world, sweep, labels = one[0], one[1], labels_of(one)
        wrong = labels != sweep.categories
        for thing in np.unique(sweep.things[wrong & (sweep.things >= 0)]):
            own = sweep.things == thing
            assert wrong[own].all()
            assert len(np.unique(labels[own])) == 1
            assert names[int(labels[own][0])] in CONFUSED_THINGS[world.things[thing].category]
            num_instances += 1
        patches = wrong & (sweep.things < 0)
        assert {(names[int(a)], names[int(b)]) for a, b in zip(sweep.categories[patches], labels[patches], strict=True)} <= {
            (name, other) for name, others in CONFUSED_SURFACES.items() for other in others
        }
        assert 0.002 < patches.sum() / np.isin(sweep.categories, [CATEGORY_INDEX[name] for name in CONFUSED_SURFACES]).sum() < 0.12
    assert num_instances > 3


def test_an_instance_and_a_patch_are_wrong_in_all_sweeps_of_a_scene(measured: list[Measured], monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "BORDER_SHARE", "FOOT_SHARE", "FAR_NOISE_SHARE", "BORDER_NOISE_SHARE")
    world, sweep, world_from_lidar = measured[0]
    errors = LabelErrors(world.things, np.random.default_rng(3))
    # The same points measured from another place
    moved = np.eye(4)
    moved[:3, 3] = 3.0, -2.0, 0.5
    seen_from_there = replace(sweep, points=sweep.points - np.float32([3.0, -2.0, 0.5, 0, 0]))
    labels = errors.categories(sweep, world_from_lidar, np.random.default_rng(0))
    again = errors.categories(seen_from_there, world_from_lidar @ moved, np.random.default_rng(1))
    assert (labels != sweep.categories).mean() > 0.005
    assert (labels != again).mean() < 2e-4


def test_feet_are_taken_for_ground_and_far_points_for_noise(monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "BORDER_SHARE", "BORDER_NOISE_SHARE")
    rng = np.random.default_rng(0)
    ground = np.column_stack([rng.uniform(4, 30, (4000, 2)), np.zeros(4000)])
    body = np.column_stack([np.full((300, 2), 10.0), rng.uniform(0.01, 1.5, 300)])
    far = np.column_stack([rng.uniform(FAR + 10, FAR + 40, (4000, 2)), np.full(4000, 8.0)])
    points = np.concatenate([ground, body, far])
    categories = np.repeat(np.array([ROAD, CAR, CATEGORY_INDEX["static.other"]], np.uint8), [4000, 300, 4000])
    things = np.repeat(np.array([-1, 0, -1], np.int32), [4000, 300, 4000])
    sweep = Sweep(np.column_stack([points, np.zeros((8300, 2))]).astype(np.float32), categories, things)
    labels = np.stack([LabelErrors((), np.random.default_rng(0)).categories(sweep, np.eye(4), np.random.default_rng(i)) for i in range(20)])
    feet = (labels == ROAD)[:, 4000:4300]
    assert 0.1 < feet.any(axis=1).mean() < 0.8
    assert 0.1 < points[4000:4300, 2][feet.any(axis=0)].max() < FOOT_HEIGHT
    noise = labels == NOISE
    assert noise[:, 4300:].mean() == pytest.approx(label_errors.FAR_NOISE_SHARE, rel=0.1)
    assert not noise[:, np.linalg.norm(points, axis=1) < FAR].any()


def test_label_errors_change_the_files_of_labels_and_no_other(tmp_path: Path):
    config = SynthConfig(num_scenes=1, num_val_scenes=0, frames_per_scene=1, drive_seconds=1.0, image_size=(32, 48))
    digests = []
    for name, errors in (("on", True), ("off", False)):
        write_dataset(config.model_copy(update={"label_errors": errors}), tmp_path / name, progress=False)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        digests.append({str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0].keys() == digests[1].keys()
    changed = {name for name in digests[0] if digests[0][name] != digests[1][name]}
    assert {name.split("/")[0] for name in changed} == {"lidarseg", "synthetic.json"}
    assert SynthConfig().label_errors
