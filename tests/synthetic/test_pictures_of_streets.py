"""Pictures of whole scenes in every weather, and of little scenes whose look is known."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy import ndarray

from splattingocc.synthetic.camera_effects import vehicle_state
from splattingocc.synthetic.camera_images import render_image
from splattingocc.synthetic.light import WEATHER_SHARES, Light, Weather, draw_light
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Mesh, box, join
from splattingocc.synthetic.rig import draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import World, draw_world

SIZE = (90, 160)
NUSCENES = {"brightness": 0.42, "contrast": 0.20, "saturation": 0.09, "blown": 0.026}
"""Averages over nuScenes' images; `benchmarks/synthetic_images.py` says how they are taken."""
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
K = np.array([[120.0, 0.0, 80.0], [0.0, 120.0, 45.0], [0.0, 0.0, 1.0]])
ROAD = box((200.0, 200.0, 0.2), (0.0, 0.0, -0.1), Material.ASPHALT, (0.1, 0.1, 0.1))


def scene_of(world: World, *parts: Mesh) -> SceneMesh:
    return SceneMesh(dataclasses.replace(world, static=join(parts), things=()), torch.device("cpu"))


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(np.random.default_rng(5), 1.0)


@pytest.fixture(scope="module")
def images() -> dict[Weather, list[ndarray]]:
    """Three cameras of each of four scenes in every weather."""
    seen: dict[Weather, list[ndarray]] = {weather: [] for weather in Weather}
    for number in range(4):
        rng = np.random.default_rng([0, number])
        world, rig = draw_world(rng, 1.0), draw_rig(rng, SIZE)
        mesh = SceneMesh(world, torch.device("cpu"))
        mesh.set_time(0.0)
        vehicle = vehicle_state(world.ego, 0.0)
        for weather, sensor in [(weather, sensor) for weather in Weather for sensor in rig[:6:2]]:
            assert sensor.K is not None
            light = draw_light(np.random.default_rng(number), weather)
            seen[weather].append(
                render_image(mesh, light, sensor.K, vehicle.world_from_ego @ sensor.ego_from_sensor, SIZE, 1, vehicle=vehicle)
            )
    return seen


def test_night_is_darker_than_day(images: dict[Weather, list[ndarray]]):
    mean = {weather: np.mean(pictures) for weather, pictures in images.items()}
    assert mean[Weather.NIGHT] < 0.6 * min(mean[Weather.CLEAR], mean[Weather.OVERCAST], mean[Weather.RAIN])
    for pictures in images.values():
        assert np.std(pictures) > 10


def test_pictures_have_the_statistics_of_nuscenes(images: dict[Weather, list[ndarray]]):
    totals = dict.fromkeys(NUSCENES, 0.0)
    for weather, pictures in images.items():
        for picture in pictures:
            values = picture / 255
            grey, largest = values @ [0.299, 0.587, 0.114], values.max(axis=-1)
            saturation = (largest - values.min(axis=-1)) / np.maximum(largest, 1 / 255)
            figures = (grey.mean(), grey.std(), saturation.mean(), (picture.max(axis=-1) >= 250).mean())
            for name, figure in zip(NUSCENES, figures, strict=True):
                totals[name] += WEATHER_SHARES[weather] * float(figure) / len(pictures)
    for name, known in NUSCENES.items():
        assert known / 1.5 < totals[name] < known * 1.5, (name, totals)


def under(weather: Weather, **changes: float) -> Light:
    return dataclasses.replace(draw_light(np.random.default_rng(2), weather), **changes)


def test_a_wet_road_mirrors_what_stands_on_it(world: World):
    wall = box((0.5, 6.0, 6.0), (14.0, 0.0, 3.0), Material.SIGNAL, (1.0, 0.0, 0.0))
    scene = scene_of(world, ROAD, wall)

    def redness(wetness: float) -> float:
        image = render_image(scene, under(Weather.RAIN, wetness=wetness), K, FORWARD, SIZE, 1).astype(float)
        # Just below the foot of the wall (1.5 m below the camera at 14 m: row 58), ahead.
        patch = image[62:70, 74:86]
        return float((patch[..., 0] - patch[..., 1]).mean())

    assert redness(1.0) > redness(0.0) + 15


def test_street_lamps_light_the_ground_below_them_at_night(world: World):
    lamp = box((0.6, 0.3, 0.1), (12.0, 0.0, 6.0), Material.STREET_LAMP, (0.6, 0.6, 0.6))
    scene = scene_of(world, ROAD, lamp)
    image = render_image(scene, under(Weather.NIGHT, wetness=0.0), K, FORWARD, SIZE, 1).astype(float)
    # The ground 12 m ahead is seen at row 60; to the right at 12 m away from the lamp, 120 pixels further.
    assert image[59:62, 76:84].mean() > image[59:62, 150:158].mean() + 10
    off = render_image(scene, under(Weather.NIGHT, wetness=0.0, lamps=0.0), K, FORWARD, SIZE, 1).astype(float)
    assert abs(off[59:62, 76:84].mean() - off[59:62, 150:158].mean()) < 10


def test_something_between_a_street_lamp_and_the_ground_throws_a_shadow(world: World):
    lamp = box((0.6, 0.3, 0.1), (12.0, 3.0, 6.0), Material.STREET_LAMP, (0.6, 0.6, 0.6))
    board = box((4.0, 0.1, 1.0), (12.0, 1.5, 3.5), Material.PLAIN, (0.2, 0.2, 0.2))
    light = under(Weather.NIGHT, wetness=0.0)
    free, hidden = (render_image(scene_of(world, ROAD, lamp, *more), light, K, FORWARD, SIZE, 1).astype(float) for more in ((), (board,)))
    # The shadow falls about the course itself: seen at row 60 in the middle.
    assert hidden[59:61, 78:82].mean() < free[59:61, 78:82].mean() - 8


def test_headlights_shine_ahead_of_the_vehicle_that_carries_the_camera(world: World):
    scene = scene_of(world, ROAD)
    light = under(Weather.NIGHT, wetness=0.0)
    vehicle = dataclasses.replace(vehicle_state(world.ego, 0.0), world_from_ego=np.eye(4), velocity=np.zeros(3), yaw_rate=0.0)
    image = render_image(scene, light, K, FORWARD, SIZE, 1, vehicle=vehicle).astype(float)
    assert image[64:70, 70:90].mean() > image[64:70, :10].mean() + 20


def test_under_a_closed_sky_it_is_darker_below_a_vehicle(world: World):
    body = box((4.0, 2.0, 1.0), (8.0, 0.0, 0.9), Material.PLAIN, (0.5, 0.5, 0.5))
    light = under(Weather.OVERCAST, sun_color=(0.0, 0.0, 0.0))
    image = render_image(scene_of(world, ROAD, body), light, K, FORWARD, SIZE, 1).astype(float)
    # The ground 7 m ahead, below the body (rows 70 to 72), beside the ground at the same distance.
    assert image[70:73, 70:90].mean() < 0.85 * image[70:73, 130:150].mean()


def test_the_second_rays_of_every_other_pixel_leave_no_chequerboard(world: World):
    wall = box((100.0, 0.5, 8.0), (0.0, 4.0, 4.0), Material.PLAIN, (0.3, 0.3, 0.3))
    light = under(Weather.OVERCAST, sun_color=(0.0, 0.0, 0.0))
    image = render_image(scene_of(world, ROAD, wall), light, K, FORWARD, SIZE, 1).astype(float).mean(axis=-1)
    beside, open_ground = image[64:88, 20:60], image[64:88, 120:158]
    assert beside.mean() < open_ground.mean() - 3
    odd = np.indices(beside.shape).sum(axis=0) % 2 == 1
    assert abs(beside[odd].mean() - beside[~odd].mean()) < 1.0
