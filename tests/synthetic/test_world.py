"""What a scene is made of."""

import numpy as np

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.synthetic.ground import TERRAIN
from splattingocc.synthetic.layout import HALF_WIDTH, MIN_CURVE_RADIUS
from splattingocc.synthetic.rig import quat_from_rotation, rotation_from_euler
from splattingocc.synthetic.street_kinds import STREET_KINDS, LotKind, kind_of_scene
from splattingocc.synthetic.things import MovingThings
from splattingocc.synthetic.world import World, draw_world
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES, NUM_CLASSES

DURATION = 4.0


def draw(number: int) -> World:
    return draw_world(np.random.default_rng([0, number]), DURATION, kind_of_scene(0, 5 * number))


WORLDS = [draw(number) for number in range(6)]


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
                    place = thing.world_from_thing(world.ground.layout, float(time))[:3, 3]
                    assert np.linalg.norm(place[:2] - ego[:2]) > 1.0


def test_moving_things_are_moved_as_each_says_and_stay_upright_on_the_street():
    for world in WORLDS:
        layout = world.ground.layout
        assert world.moving_things
        moving = MovingThings(world.moving_things, layout)
        for time in (0.0, 1.27):
            one_by_one = [thing.shape.moved(thing.world_from_thing(layout, time)).corners for thing in world.moving_things]
            np.testing.assert_allclose(moving.corners_at(time), np.concatenate(one_by_one), atol=1e-4)
        assert np.median(np.linalg.norm(moving.corners_at(1.0) - moving.corners_at(0.0), axis=-1)) > 0.3
        for thing in world.moving_things:
            pose, (s, l, _) = thing.world_from_thing(layout, 1.0), thing.motion.at(1.0)
            assert pose[2, 2] == 1.0
            if thing.is_there(1.0):
                assert -1e-6 < pose[2, 3] - float(layout.road_height(s, l)) < 0.2


def test_the_ego_vehicle_drives_along_its_street_and_leans_with_it():
    for world in WORLDS:
        poses = [world.ego.world_from_ego(time) for time in np.arange(0.0, DURATION, 0.5)]
        for before, after in zip(poses, poses[1:]):
            step = after[:3, 3] - before[:3, 3]
            assert np.linalg.norm(step) < 7.5
            if np.linalg.norm(step) > 0.5:
                assert step @ before[:3, 0] > 0.99 * np.linalg.norm(step)
        lean = np.arccos(np.clip(poses[1][2, 2], -1, 1))
        assert 0.0 < lean < np.deg2rad(8)


def test_roads_are_cambered_and_what_lies_beside_them_goes_on_at_their_edge():
    layout = WORLDS[0].ground.layout
    right, left = layout.curb(False), layout.curb(True)
    camber = [float(layout.road_height(100.0, l) - layout.course.hill(100.0, l)) for l in (right, (right + left) / 2, left, left + 20.0)]
    half = (left - right) / 2
    np.testing.assert_allclose(camber, [-0.02 * half, 0.0, -0.02 * half, -0.02 * half], atol=1e-9)


def test_lots_have_the_ground_of_their_kind_on_both_sides():
    """A strip at one curb once covered the lots of the other side with grass."""
    for world in WORLDS:
        ground, layout = world.ground, world.ground.layout
        for lot in layout.lots:
            s, l = sum(lot.s_range) / 2, layout.lot_line(lot.left) + (3.0 if lot.left else -3.0)
            category = ground.surfaces[int(ground.kinds_at(np.array(s), np.array(l)))].category
            assert (category == TERRAIN) == (lot.kind in (LotKind.HOUSE, LotKind.PARK, LotKind.WORKS, LotKind.GREEN, LotKind.WALLED))


def test_every_kind_of_street_is_shown_by_successive_scenes():
    for seed in (0, 7, 777):
        kinds = [kind_of_scene(seed, number).name for number in range(len(STREET_KINDS))]
        assert set(kinds) == {kind.name for kind in STREET_KINDS}


def test_quaternions_stand_for_the_rotations_they_were_made_from():
    for angles in np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 3)):
        rotation = rotation_from_euler(*angles)
        w, x, y, z = quat_from_rotation(rotation)
        assert np.isclose(w * w + x * x + y * y + z * z, 1.0)
        rebuilt_x = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
        np.testing.assert_allclose(rebuilt_x, rotation[:, 0], atol=1e-9)
