"""The truth that a drive's LiDAR gives, against the surfaces that are there."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.synthetic.accumulation import NEAR_THINNING, Accumulation, DriveScan, RayChoice, scan_drive
from splattingocc.synthetic.lidar_sweeps import NUM_AZIMUTHS, NUM_BEAMS, Lidar
from splattingocc.synthetic.localization import Localization
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.motion import standing
from splattingocc.synthetic.occupancy import observed_truth, voxelize
from splattingocc.synthetic.rig import draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.street_kinds import DOWNTOWN
from splattingocc.synthetic.world import World, draw_world
from splattingocc.taxonomy import FREE, MOVING_CLASSES

KEY_TIME = 4.0
DURATION = 8.0
NEIGHBOURS = torch.nn.MaxPool3d(3, stride=1, padding=1)


def without(mesh: Mesh, left_out: np.ndarray) -> Mesh:
    return Mesh(**{field.name: getattr(mesh, field.name)[~left_out] for field in dataclasses.fields(Mesh)})


@cache
def accumulate_static(pose_errors: bool) -> tuple[Accumulation, SceneMesh, World]:
    """The same street as `world`, and nothing moves in it."""
    world = draw()
    away = standing(-200.0, 0.0, 0.0)
    things = tuple(dataclasses.replace(thing, motion=away) if thing.motion.moves else thing for thing in world.things)
    static_world = dataclasses.replace(world, things=things)
    return *accumulate(static_world, pose_errors=pose_errors), static_world


@cache
def draw() -> World:
    return draw_world(np.random.default_rng([7, 1]), DURATION, DOWNTOWN)


def accumulate(world: World, *, pose_errors: bool = False) -> tuple[Accumulation, SceneMesh]:
    rng = np.random.default_rng(3)
    lidar = Lidar(draw_rig(rng, (90, 160))[-1].ego_from_sensor, torch.device("cpu"))
    scene = SceneMesh(world, torch.device("cpu"))
    scan = scan_drive(scene, world.ego, lidar, world.things, DURATION, [KEY_TIME], rng)
    localization = Localization(rng, world.ego, errors=pose_errors)
    return Accumulation(scan, world.ego, localization, world.things, world.ground.layout), scene


def test_what_is_accumulated_in_a_static_scene_is_there():
    accumulation, scene, static_world = accumulate_static(False)
    semantics = accumulation.voxelized(KEY_TIME)
    complete = voxelize(scene, np.linalg.inv(static_world.ego.world_from_ego(KEY_TIME)))
    found, there = semantics != FREE, complete != FREE
    assert found.sum() > 10_000
    # Range noise carries points over the border into the next cell, never further.
    assert (there[found]).float().mean() > 0.93
    near = NEIGHBOURS(there.float()[None])[0].bool()
    assert near[found].float().mean() > 0.9995
    both = found & there
    assert (semantics == complete)[both].float().mean() > 0.95
    # Holes where no ray came: the backs and insides of things are not in it.
    assert found.sum() < 0.7 * there.sum()


def test_moving_things_leave_no_trail():
    world = draw()
    is_vehicle = world.static.things >= 0
    only_moving = dataclasses.replace(world, static=without(world.static, is_vehicle))
    accumulation, _ = accumulate(only_moving)
    points, classes = accumulation.points_at(KEY_TIME)
    ego_from_world = np.linalg.inv(world.ego.world_from_ego(KEY_TIME))
    on_things = np.isin(classes, list(MOVING_CLASSES))
    assert on_things.sum() > 500
    in_some_box = np.zeros(on_things.sum(), dtype=bool)
    for thing in world.moving_things:
        center, size = thing.box()
        box_from_ego = np.linalg.inv(ego_from_world @ thing.world_from_thing(world.ground.layout, KEY_TIME))
        local = points[on_things] @ box_from_ego[:3, :3].T + box_from_ego[:3, 3]
        in_some_box |= (np.abs(local - center) < size / 2 + 0.12).all(axis=-1)
    assert in_some_box.all()
    # Some of them moved while they were measured.
    ways = [np.ptp(thing.motion.places[:, 0]) for thing in world.moving_things]
    assert max(ways) > 10.0


def test_the_turn_of_a_moment_is_where_its_vehicle_saw_it():
    accumulation, _, static_world = accumulate_static(True)
    scan: DriveScan = accumulation._scan
    turn = int(np.flatnonzero(np.isclose(scan.times, KEY_TIME))[0])
    measured = scan.points[scan.turns == turn]
    ego_from_world = np.linalg.inv(static_world.ego.world_from_ego(KEY_TIME))
    points, _ = accumulation.points_at(KEY_TIME)
    own = points[scan.turns[scan.things < 0] == turn]
    np.testing.assert_allclose(own, measured @ ego_from_world[:3, :3].T + ego_from_world[:3, 3], atol=2e-3)


def test_errors_of_poses_blur_what_stands_still():
    (exact, *_), (blurred, *_) = accumulate_static(False), accumulate_static(True)
    differences = np.linalg.norm(exact.points_at(KEY_TIME)[0] - blurred.points_at(KEY_TIME)[0], axis=-1)
    assert 0.01 < np.median(differences) < 0.15
    counts = [int((accumulation.voxelized(KEY_TIME) != FREE).sum()) for accumulation in (exact, blurred)]
    assert counts[0] < counts[1] < 1.6 * counts[0]


def test_rays_are_thinned_where_something_near_or_nothing_was_met_and_all_come_in_turn():
    choice, every = RayChoice(), np.arange(NUM_AZIMUTHS * NUM_BEAMS)
    distances = np.full(len(every), 8.0)
    assert len(choice.of_turn(0)) == pytest.approx(len(every) / 2, rel=0.01)
    far, nothing = every % NUM_BEAMS == 20, every % NUM_BEAMS == 30
    distances[far], distances[nothing] = 40.0, np.inf
    choice.learn(every, distances)
    chosen = choice.of_turn(1)
    assert (chosen % NUM_BEAMS == 20).sum() == pytest.approx(NUM_AZIMUTHS / 2, abs=1)
    for beam in (3, 30):
        assert (chosen % NUM_BEAMS == beam).sum() == pytest.approx(NUM_AZIMUTHS / NEAR_THINNING, abs=1)
    assert np.array_equal(np.unique(np.concatenate([choice.of_turn(turn) for turn in range(NEAR_THINNING)])), every)


def test_the_lidar_saw_every_cell_that_it_filled_from_where_it_was():
    accumulation, _, static_world = accumulate_static(False)
    rays, lengths = accumulation.sight_lines(np.eye(4), KEY_TIME)
    ends = rays.origins + rays.directions * lengths[:, None]
    ego_from_world = torch.from_numpy(np.linalg.inv(static_world.ego.world_from_ego(KEY_TIME)))
    cells, inside = OCC3D_GRID.cells_of(ends @ ego_from_world[:3, :3].T + ego_from_world[:3, 3])
    semantics = accumulation.voxelized(KEY_TIME)
    x, y, z = cells[inside].T
    assert (semantics[x, y, z] != FREE).float().mean() > 0.999


def test_what_the_lidar_never_met_is_not_marked_as_seen_in_the_complete_truth():
    accumulation, scene, static_world = accumulate_static(False)
    pose = static_world.ego.world_from_ego(KEY_TIME)
    complete, measured = voxelize(scene, np.linalg.inv(pose)), accumulation.voxelized(KEY_TIME) != FREE
    rig = draw_rig(np.random.default_rng(3), (90, 160))
    cameras = [(sensor, pose @ sensor.ego_from_sensor) for sensor in rig[:-1]]
    truth = observed_truth(complete, measured, pose, accumulation.sight_lines(rig[-1].ego_from_sensor, KEY_TIME), cameras, (90, 160))
    seen, there = torch.from_numpy(truth.mask_lidar).bool(), complete != FREE
    # The insides of buildings and the ground under them are there, far from all that was ever measured.
    near = NEIGHBOURS(measured.float()[None])[0].bool()
    assert (there & ~near).sum() > 10_000
    assert (seen & there & ~near).sum() < 0.01 * (there & ~near).sum()
    assert seen[measured].all()
    assert (truth.mask_camera <= truth.mask_lidar).all()


def test_the_turn_of_a_key_frame_is_among_those_whose_lines_are_followed():
    accumulation, _, static_world = accumulate_static(False)
    for time in (KEY_TIME, KEY_TIME + 0.3):
        place = torch.from_numpy(static_world.ego.world_from_ego(time)[:3, 3])
        rays, _ = accumulation.sight_lines(np.eye(4), time)
        assert ((rays.origins - place).norm(dim=-1) < 1e-6).sum() > 1000
        assert len(rays.origins.unique(dim=0)) <= DURATION / 0.5
