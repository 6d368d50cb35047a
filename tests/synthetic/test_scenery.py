"""What stands where in a street, and who is in whose way."""

import numpy as np
import pytest

from splattingocc.data.nuscenes_taxonomy import LIDARSEG_CATEGORIES
from splattingocc.synthetic import scenery
from splattingocc.synthetic.ground import ASPHALT, DASHES, Ground
from splattingocc.synthetic.layout import Layout, draw_layout
from splattingocc.synthetic.street_kinds import AVENUE, DOWNTOWN, NARROW, PARKWAY, SITE, StreetKind
from splattingocc.synthetic.things import CATEGORY_INDEX, SceneBuilder, Thing
from splattingocc.synthetic.traffic import EGO_CENTER, EGO_LENGTH
from splattingocc.synthetic.world import VIEW_MARGIN, World, draw_world

DURATION = 20.0
KINDS = (AVENUE, DOWNTOWN, PARKWAY, NARROW, SITE)
VEHICLES = {name for name, _ in LIDARSEG_CATEGORIES if name.startswith("vehicle.")} - {"vehicle.bicycle", "vehicle.ego"}
PEOPLE = {name for name, _ in LIDARSEG_CATEGORIES if name.startswith("human.")} | {"animal"}


@pytest.fixture(scope="module", params=range(len(KINDS)), ids=lambda number: KINDS[number].name)
def world(request: pytest.FixtureRequest) -> World:
    return draw_world(np.random.default_rng([request.param, 77]), DURATION, KINDS[request.param])


def street_coordinates(layout: Layout, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert `Course.xy`: the nearest point of the course, then how far it is to the left of there."""
    s = np.arange(-5.0, layout.length + 5.0, 0.5)
    middle, heading = layout.course.xy(s, 0.0), np.asarray(layout.course.heading(s))
    nearest = np.concatenate([np.linalg.norm(part[:, None] - middle, axis=-1).argmin(axis=1) for part in np.array_split(xy, 50)])
    x, y = (xy - middle[nearest]).T
    cos, sin = np.cos(heading[nearest]), np.sin(heading[nearest])
    return s[nearest] + cos * x + sin * y, cos * y - sin * x


def furnish(kind: StreetKind, number: int) -> SceneBuilder:
    rng = np.random.default_rng([number, 78])
    layout = draw_layout(rng, kind, 300.0)
    builder = SceneBuilder(rng, Ground(rng, layout), (0.0, 300.0), DURATION)
    scenery.add_scenery(builder)
    return builder


def is_in_box(thing: Thing, layout: Layout, time: float, places: np.ndarray, margin: float) -> np.ndarray:
    """Say which world places (…, 2) lie within `margin` metres of a thing, seen from above."""
    pose, (center, size) = thing.world_from_thing(layout, time), thing.box()
    local = (places - pose[:2, 3]) @ pose[:2, :2]
    return np.all(np.abs(local - center[:2]) < size[:2] / 2 + margin, axis=-1)


def test_no_house_and_no_wall_stands_on_a_side_road():
    for number in range(2):
        builder = furnish(DOWNTOWN, number)
        layout, mesh = builder.layout, builder.static_mesh()
        corners = mesh.corners[mesh.categories == CATEGORY_INDEX["static.manmade"]].reshape(-1, 3)
        s, l = street_coordinates(layout, corners[:, :2])
        low = corners[:, 2] < layout.road_height(s, l) + 1.0
        kinds = builder.ground.kinds_at(s, l)
        beside = (l > layout.curb(True) + 1.0) | (l < layout.curb(False) - 1.0)
        assert low.sum() > 1000
        assert not (low & beside & np.isin(kinds, (ASPHALT, DASHES))).any()


def test_what_stands_at_the_curb_leaves_the_lanes_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scenery, "_every", lambda builder, spacing, l, put: put(150.0))
    builder = furnish(AVENUE, 1)
    layout = builder.layout
    racks = [thing for thing in builder.things if thing.category == "static_object.bicycle_rack"]
    assert len(racks) == 2
    for thing in racks:
        center, size = thing.box()
        corners = center + size / 2 * np.array([[x, y, 0] for x in (-1, 1) for y in (-1, 1)])
        placed = corners @ thing.world_from_thing(layout, 0.0)[:3, :3].T + thing.world_from_thing(layout, 0.0)[:3, 3]
        _, l = street_coordinates(layout, placed[:, :2])
        assert (l > layout.curb(True) - 0.5).all() or (l < layout.curb(False) + 0.5).all()


def test_nobody_is_run_over_and_nothing_stands_in_the_way_of_the_ego_vehicle(world: World):
    layout = world.ground.layout
    s, l = np.meshgrid(np.linspace(-0.5, 0.5, 9) * EGO_LENGTH + EGO_CENTER, (-0.75, 0.0, 0.75))
    ego = np.stack([s.ravel(), l.ravel(), np.zeros(s.size), np.ones(s.size)], axis=-1)
    for time in np.arange(0.0, DURATION, 0.5):
        there = [thing for thing in world.things if thing.is_there(time)]
        people = [thing.world_from_thing(layout, time)[:2, 3] for thing in there if thing.category in PEOPLE and thing.motion.moves]
        driven = (ego @ world.ego.world_from_ego(time).T)[:, :2]
        for thing in there:
            assert not is_in_box(thing, layout, time, driven, 0.0).any(), (thing.category, time)
            if thing.category in VEHICLES and people:
                assert not is_in_box(thing, layout, time, np.array(people), 0.1).any(), (thing.category, time)


def test_the_street_is_built_as_far_as_can_be_seen_from_every_place_of_the_drive(world: World):
    places = world.ego.motion.places[:, 0]
    assert places.min() - VIEW_MARGIN > -1.0
    assert world.ground.layout.length - places.max() > VIEW_MARGIN - 1.0
