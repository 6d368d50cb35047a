"""What cameras make of light, checked on made-up radiances."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy import ndarray

from splattingocc.geometry.rays import Rays
from splattingocc.synthetic.camera_effects import (
    DARKNESS,
    KEY,
    CameraState,
    VehicleState,
    draw_camera,
    exposure_gain,
    jpeg_quality,
    motion_of,
    take_picture,
)
from splattingocc.synthetic.camera_images import pixel_rays
from splattingocc.synthetic.camera_kernels import MIDDLE_GREY
from splattingocc.synthetic.light import Weather, draw_light

SIZE = (48, 96)
K = np.array([[80.0, 0.0, 48.0], [0.0, 80.0, 24.0], [0.0, 0.0, 1.0]])
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
"""World from a camera that looks along +x."""
SIDEWAYS = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
"""World from a camera that looks along +y."""
PERFECT = CameraState(
    exposure=1.0,
    white_balance=(1.0, 1.0, 1.0),
    color_strength=1.0,
    contrast=1.0,
    vignetting=0.0,
    scatter=0.0,
    blur=0.0,
    shutter=0.01,
    shot_noise=0.0,
    read_noise=0.0,
    softness=np.zeros(SIZE, np.float32),
    dirt=np.zeros(SIZE, np.float32),
)


def picture(
    radiances: ndarray,
    camera: CameraState = PERFECT,
    *,
    pose: ndarray = FORWARD,
    vehicle: VehicleState | None = None,
    distance: float = 10.0,
) -> ndarray:
    rays: Rays = pixel_rays(K, pose, SIZE)
    light = torch.from_numpy(np.broadcast_to(radiances, (*SIZE, 3)).astype(np.float32).reshape(-1, 3).copy())
    motion = motion_of(vehicle, K, pose, camera.shutter)
    return take_picture(camera, light, motion, (rays, torch.full((len(light),), distance)), SIZE, seed=3).astype(np.float64)


def stripe(width: int = 2) -> ndarray:
    radiances = np.full((*SIZE, 3), 0.02)
    radiances[:, 48 - width // 2 : 48 + width // 2] = 1.0
    return radiances


def test_an_even_grey_has_the_tone_that_exposure_and_srgb_give():
    for radiance in (0.01, 0.2, 3.0):
        linear = KEY * radiance / (radiance + DARKNESS)
        expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
        np.testing.assert_allclose(picture(np.full(3, radiance)), expected, atol=1.0)
    steeper = dataclasses.replace(PERFECT, contrast=1.2)
    linear = KEY * 0.2 / (0.2 + DARKNESS)
    tone = 1.055 * linear ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(picture(np.full(3, 0.2), steeper), 255 * (MIDDLE_GREY + 1.2 * (tone - MIDDLE_GREY)), atol=1.0)


def test_the_exposure_evens_out_the_day_but_not_the_night():
    scene = np.random.default_rng(0).uniform(0.2, 1.0, (*SIZE, 3)).astype(np.float32)
    assert exposure_gain(scene) * 4 == pytest.approx(exposure_gain(scene / 4), rel=0.2)
    assert picture(scene / 1000).mean() < 0.5 * picture(scene).mean()


def test_a_sky_much_brighter_than_the_ground_is_blown():
    radiances = np.full((*SIZE, 3), 0.1)
    radiances[:10] = 3.0
    image = picture(radiances)
    assert (image[:10] == 255).all()
    assert image[20:].max() < 200


def test_blur_and_scattered_light_leave_things_where_they_are():
    point = np.full((*SIZE, 3), 0.02)
    point[20, 60] = 2.0
    camera = dataclasses.replace(PERFECT, blur=1.2, scatter=0.05)
    image = picture(point, camera)[..., 1]
    excess = np.clip(image - np.median(image), 0, None) * (image > image.max() / 3)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    assert (rows * excess).sum() / excess.sum() == pytest.approx(20, abs=0.2)
    assert (columns * excess).sum() / excess.sum() == pytest.approx(60, abs=0.2)


def test_motion_spreads_light_as_far_as_the_vehicle_drives():
    driving = VehicleState(np.eye(4), np.array([25.0, 0.0, 0.0]), 0.0)
    # 25 m/s for 0.02 s at 80 pixels of focal length and 5 m: 8 pixels.
    camera = dataclasses.replace(PERFECT, shutter=0.02)
    rays = pixel_rays(K, SIDEWAYS, SIZE)
    depth = 5.0 / rays.directions[24 * SIZE[1] + 48, 1].item()

    def width(vehicle: VehicleState | None) -> int:
        return spread(picture(stripe(), camera, pose=SIDEWAYS, vehicle=vehicle, distance=depth))

    def spread(image: ndarray) -> int:
        row = image[24, :, 1]
        return int((row > np.median(row) + 0.25 * np.ptp(row)).sum())

    assert width(None) == 2
    # LONGEST_STREAK shortens them to 40 / 1600 of the width, 2.4 pixels.
    assert 3 <= width(driving) <= 6
    assert spread(picture(stripe(), camera, vehicle=driving, distance=depth)) == 2


def test_noise_grows_in_the_dark():
    camera = dataclasses.replace(PERFECT, shot_noise=0.01, read_noise=0.0006)

    def noise(radiance: float) -> float:
        image = picture(np.full(3, radiance), camera)
        return float(image.std() / image.mean())

    assert noise(0.002) > 2 * noise(0.5) > 0


def test_drops_blur_and_dirt_veils_only_where_they_are():
    softness, dirt = (np.zeros(SIZE, np.float32) for _ in range(2))
    softness[:24], dirt[:, :20] = 4.0, 0.5
    image = picture(stripe(), dataclasses.replace(PERFECT, softness=softness, dirt=dirt))[..., 1]
    clean = picture(stripe())[..., 1]
    assert image[5, 45] > clean[5, 45] + 20
    assert (image[5:, :20] > clean[5:, :20]).all()
    np.testing.assert_array_equal(image[30:, 30:], clean[30:, 30:])


def test_each_camera_of_a_scene_has_a_state_of_its_own_that_stays():
    light = draw_light(np.random.default_rng(1), Weather.RAIN)
    other = K + np.array([[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0]])
    assert draw_camera(light, K, SIZE) is draw_camera(light, K.copy(), SIZE)
    assert draw_camera(light, K, SIZE).exposure != draw_camera(light, other, SIZE).exposure
    qualities = {jpeg_quality(draw_light(np.random.default_rng(seed))) for seed in range(30)}
    assert len(qualities) > 5
    assert min(qualities) >= 70
