"""What a scene is made of."""

import numpy as np

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.synthetic.layout import HALF_WIDTH, MIN_CURVE_RADIUS
from splattingocc.synthetic.rig import quat_from_rotation, rotation_from_euler
from splattingocc.synthetic.things import MovingThings
from splattingocc.synthetic.world import World, draw_world
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES, NUM_CLASSES

DURATION = 4.0


def draw(number: int) -> World:
    return draw_world(np.random.default_rng([0, number]), DURATION)


WORLDS = [draw(number) for number in range(4)]


def test_every_class_appears_over_a_few_scenes():
    categories = {int(c) for world in WORLDS for c in np.unique(world.static.categories)}
    categories |= {int(c) for world in WORLDS for thing in world.things for c in np.unique(thing.shape.categories)}
    assert {CLASS_OF_LIDARSEG[category] for category in categories} - {IGNORE} == set(range(NUM_CLASSES))


def test_a_scene_stays_within_its_budget_of_triangles():
    for world in WORLDS:
        moving = sum(len(thing.shape) for thing in world.moving_things)
        assert 20_000 < len(world.static) + moving < 300_000
        assert np.isfinite(world.static.corners).all()


def test_curves_never_fold_the_street():
    assert MIN_CURVE_RADIUS > HALF_WIDTH
    for world in WORLDS:
        course = world.ground.layout.course
        s = np.arange(0.0, world.ground.layout.length, 1.0)
        for l in (-HALF_WIDTH, HALF_WIDTH):
            steps = np.diff(course.xy(s, l), axis=0)
            ahead = np.stack([np.cos(course.heading(s[:-1])), np.sin(course.heading(s[:-1]))], axis=-1)
            assert ((steps * ahead).sum(-1) > 0.1).all()


def test_no_moving_vehicle_ever_meets_the_ego_vehicle():
    for world in WORLDS:
        for time in np.arange(0.0, DURATION, 0.5):
            ego = world.ego.world_from_ego(float(time)) @ [1.0, 0.0, 0.0, 1.0]
            for thing in world.things:
                if CLASS_OF_LIDARSEG[int(thing.shape.categories[0])] in MOVING_CLASSES:
                    place = thing.world_from_thing(world.ground.layout.course, float(time))[:3, 3]
                    assert np.linalg.norm(place[:2] - ego[:2]) > 1.0


def test_moving_things_move_and_stay_upright_on_the_street():
    for world in WORLDS:
        course = world.ground.layout.course
        assert world.moving_things
        moving = MovingThings(world.moving_things, course)
        before, after = moving.corners_at(0.0), moving.corners_at(1.0)
        assert (np.linalg.norm(after - before, axis=-1) > 0.3).all()
        one_by_one = [thing.shape.moved(thing.world_from_thing(course, 1.0)).corners for thing in world.moving_things]
        np.testing.assert_allclose(after, np.concatenate(one_by_one), atol=1e-4)
        for thing in world.moving_things:
            pose = thing.world_from_thing(course, 1.0)
            assert pose[2, 2] == 1.0
            height = pose[2, 3] - float(course.hill(pose[:2, 3]))
            assert -1e-6 < height < 0.2


def test_the_ego_vehicle_drives_along_its_lane_at_street_speed():
    for world in WORLDS:
        poses = [world.ego.world_from_ego(time) for time in (0.0, 0.5, 1.0)]
        for before, after in zip(poses, poses[1:]):
            step = after[:3, 3] - before[:3, 3]
            assert 1.2 < np.linalg.norm(step) < 5.8
            assert step @ before[:3, 0] > 0.99 * np.linalg.norm(step)
        lean = np.arccos(np.clip(poses[1][2, 2], -1, 1))
        assert 0.0 < lean < np.deg2rad(6)


def test_quaternions_stand_for_the_rotations_they_were_made_from():
    for angles in np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 3)):
        rotation = rotation_from_euler(*angles)
        w, x, y, z = quat_from_rotation(rotation)
        assert np.isclose(w * w + x * x + y * y + z * z, 1.0)
        rebuilt_x = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
        np.testing.assert_allclose(rebuilt_x, rotation[:, 0], atol=1e-9)
