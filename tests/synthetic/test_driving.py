"""How traffic drives."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from splattingocc.synthetic.driving import WARM_UP, Driver, RedLight, simulate
from splattingocc.synthetic.layout import Lane, Layout, SideRoad, draw_layout
from splattingocc.synthetic.motion import MOTION_INTERVAL, Motion, motion_times, place_number, places_at, standing, steady
from splattingocc.synthetic.street_kinds import AVENUE, DOWNTOWN, STREET_KINDS
from splattingocc.synthetic.traffic import draw_traffic

DURATION = 20.0


@pytest.fixture
def layout() -> Layout:
    """An avenue with two lanes ahead and no side roads."""
    plan = draw_layout(np.random.default_rng(1), AVENUE, 400.0)
    lanes = (Lane(-2.0, 1, 9.0), Lane(-5.4, 1, 9.0))
    return dataclasses.replace(plan, lanes=lanes, lane_width=3.4, side_roads=(), drives_on_left=False)


def drive(layout: Layout, drivers: list[Driver], lights: tuple[RedLight, ...] = ()) -> list[Motion]:
    return simulate(np.random.default_rng(0), layout, drivers, lights, DURATION)


def test_a_vehicle_waits_at_the_stop_line_while_the_light_is_red(layout: Layout):
    light = RedLight(s=150.0, stop=8.0, red_from=-WARM_UP, red_until=12.0)
    motion = drive(layout, [Driver(4.0, layout.lanes[0], 20.0, 9.0, may_leave=False)], (light,))[0]
    waiting = motion.at(11.9)[0] + 2.0
    assert 138.0 < waiting <= 142.0
    assert motion.speed_at(11.5) < 0.3
    assert motion.at(19.9)[0] > 160.0


def test_a_faster_vehicle_overtakes_a_slower_one_without_touching_it(layout: Layout):
    slow = Driver(5.0, layout.lanes[0], 60.0, 4.0, may_leave=False)
    fast = Driver(4.0, layout.lanes[0], 30.0, 10.0)
    slow_motion, fast_motion = drive(layout, [slow, fast])
    assert fast_motion.places[-1, 0] > slow_motion.places[-1, 0] + 10.0
    assert fast_motion.places[-1, 1] == pytest.approx(layout.lanes[1].l)
    apart = np.abs(fast_motion.places - slow_motion.places)
    assert ((apart[:, 0] > 4.5) | (apart[:, 1] > 2.0)).all()


def test_vehicles_that_turn_off_end_up_in_the_side_road(layout: Layout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("splattingocc.synthetic.driving.TURNING_OFF", 1.0)
    road = SideRoad(150.0, 4.0, False, True, False)
    with_road = dataclasses.replace(layout, side_roads=(road,))
    drivers = [Driver(4.0, layout.lanes[1], 20.0 - 40.0 * i, 8.0) for i in range(12)]
    ends = np.array([motion.places[-1] for motion in drive(with_road, drivers)])
    turned = ends[:, 1] < -12.0
    assert turned.sum() >= 1
    np.testing.assert_allclose(ends[turned, 0], road.s - 0.45 * road.half_width, atol=0.2)
    np.testing.assert_allclose(ends[turned, 2], -np.pi / 2, atol=1e-6)


def test_oncoming_vehicles_turn_off_on_the_shorter_way_round(layout: Layout, monkeypatch: pytest.MonkeyPatch):
    """A heading is read between two places too: one that jumped by a whole turn would spin the vehicle round."""
    monkeypatch.setattr("splattingocc.synthetic.driving.TURNING_OFF", 1.0)
    road = SideRoad(150.0, 4.0, True, False, False)
    lanes = (*layout.lanes, Lane(2.0, -1, 9.0))
    for drives_on_left, keep in ((False, 1), (True, -1)):
        roads = (dataclasses.replace(road, left=keep > 0, right=keep < 0),)
        sides = dataclasses.replace(layout, side_roads=roads, drives_on_left=drives_on_left)
        mirrored = tuple(dataclasses.replace(lane, l=keep * lane.l) for lane in lanes)
        street = dataclasses.replace(sides, lanes=mirrored)
        motions = drive(street, [Driver(4.0, mirrored[-1], -(280.0 + 40.0 * i), 8.0) for i in range(6)])
        ends = np.array([motion.places[-1] for motion in motions])
        assert (keep * ends[:, 1] > 12.0).any(), "nobody turned off"
        for motion in motions:
            assert np.abs(np.diff(motion.places[:, 2])).max() < 0.5


def test_nobody_drives_through_anybody_in_any_kind_of_street():
    for number, kind in enumerate(STREET_KINDS[:9]):
        rng = np.random.default_rng([4, number])
        plan = draw_layout(rng, kind, 300.0)
        traffic = draw_traffic(rng, plan, 60.0, DURATION)
        lengths = [4.1, *(float(np.ptp(vehicle.shape.corners[..., 0])) for vehicle in traffic.vehicles)]
        motions = [Motion(traffic.ego.places + [1.35, 0.0, 0.0]), *(vehicle.motion for vehicle in traffic.vehicles)]
        touching = 0
        for i, first in enumerate(motions):
            for j in range(i + 1, len(motions)):
                apart = np.abs(first.places[:, :2] - motions[j].places[:, :2])
                touching += int(((apart[:, 0] < (lengths[i] + lengths[j]) / 2 - 0.3) & (apart[:, 1] < 0.8)).any())
        assert touching == 0


def test_traffic_moves_stops_and_changes_lanes_over_a_few_streets():
    stops = turns = changes = 0
    for number in range(6):
        rng = np.random.default_rng([5, number])
        traffic = draw_traffic(rng, draw_layout(rng, AVENUE if number % 2 else DOWNTOWN, 350.0), 60.0, DURATION)
        for vehicle in traffic.vehicles:
            speeds = [vehicle.motion.speed_at(time) for time in np.arange(0.5, DURATION, 1.0)]
            stops += min(speeds) < 0.3 and max(speeds) > 2.0
            turns += bool(np.ptp(vehicle.motion.places[:, 2]) > 1.5)
            changes += bool(2.5 < np.ptp(vehicle.motion.places[:, 1]) < 4.5)
    assert stops > 3
    assert turns > 1
    assert changes > 1


def test_motions_are_read_between_their_places_and_stand_still_beyond():
    motion = steady(10.0, -2.0, 0.3, (2.0, 0.0), 4.0)
    np.testing.assert_allclose(motion.at(0.0), [10.0, -2.0, 0.3])
    np.testing.assert_allclose(motion.at(1.234), [12.468, -2.0, 0.3])
    assert motion.speed_at(2.0) == pytest.approx(2.0)
    times = motion_times(4.0)
    assert times[0] == -0.5
    assert times[-1] == pytest.approx(4.5)
    np.testing.assert_allclose(motion.at(100.0), motion.places[-1])
    np.testing.assert_allclose(places_at(motion.places[None], 1.234)[0], motion.at(1.234))
    assert place_number(-0.5 + 3.5 * MOTION_INTERVAL, len(times)) == 3
    assert not standing(0.0, 0.0, 0.0).moves
    assert standing(1.0, 2.0, 3.0).speed_at(1.0) == 0.0


def test_speeds_change_smoothly():
    rng = np.random.default_rng([5, 1])
    traffic = draw_traffic(rng, draw_layout(rng, AVENUE, 350.0), 60.0, DURATION)
    for vehicle in traffic.vehicles:
        steps = np.linalg.norm(np.diff(vehicle.motion.places[:, :2], axis=0), axis=-1) / MOTION_INTERVAL
        assert max(abs(b - a) for a, b in pairwise(steps)) < 1.5
