"""What a camera makes of the light that reaches it.

In the order of the light's way: dirt and drops on the lens, lens blur and blur by the vehicle's motion, light scattered in the lens,
vignetting, an automatic exposure that errs, shot noise and read noise, a sensor that clips, pale colours, the tone curve of sRGB. None of
it shifts what is seen: a pixel shows what lies along its ray. Things that move blur as if they stood still.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.launch import launch
from splattingocc.synthetic.camera_kernels import CELL, Lens, Motion, expose
from splattingocc.synthetic.light import Light, Weather
from splattingocc.synthetic.rig import EgoMotion

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
KEY = 0.142
"""Linear value that the exposure gives to the geometric mean of what a camera sees by day."""
DARKNESS = 0.02
"""Radiance at which the exposure gives only half of that: cameras leave the night dark."""
NATIVE_WIDTH = 1600
"""Width in pixels of the images for which sizes in pixels are given."""
LONGEST_STREAK = 40.0
"""Of motion blur, pixels at the native width: the nearest ground moves faster than five taps can follow."""


@dataclass(frozen=True)
class VehicleState:
    """What carries the cameras, at the moment of a picture."""

    world_from_ego: Float[ndarray, "4 4"]
    velocity: Float[ndarray, " 3"]
    """Metres per second, world frame."""
    yaw_rate: float
    """Radians per second."""


def vehicle_state(ego: EgoMotion, time: float) -> VehicleState:
    """Return the state of the ego vehicle at a time in seconds since the start of the scene."""
    before, after = ego.world_from_ego(time - 0.01), ego.world_from_ego(time + 0.01)
    turned = before[:3, :3].T @ after[:3, :3]
    return VehicleState(ego.world_from_ego(time), (after - before)[:3, 3] / 0.02, float(np.arctan2(turned[1, 0], turned[0, 0]) / 0.02))


def motion_of(vehicle: VehicleState | None, K: Float[ndarray, "3 3"], world_from_cam: Float[ndarray, "4 4"], shutter: float) -> Any:
    """Return the `Motion` of a vehicle's camera in `shutter` seconds: none without a vehicle."""
    motion = Motion()
    motion.cam_from_world, motion.focal = wp.mat33(world_from_cam[:3, :3].T.astype(np.float32)), float(K[0, 0])
    if vehicle is not None:
        x, y, _ = world_from_cam[:3, 3] - vehicle.world_from_ego[:3, 3]
        velocity = vehicle.velocity + vehicle.yaw_rate * np.array([-y, x, 0.0])
        motion.shift, motion.turn = wp.vec3(*(float(v) for v in velocity * shutter)), vehicle.yaw_rate * shutter
    return motion


@dataclass(frozen=True)
class CameraState:
    """How one camera of a scene is set, and how clean it is."""

    exposure: float
    """Factor by which its automatic exposure is wrong."""
    white_balance: tuple[float, float, float]
    color_strength: float
    """1 keeps colours, 0 makes them grey."""
    contrast: float
    """Steepness of the tone curve in its middle, in units of sRGB's."""
    vignetting: float
    """Share of the light that is lost in the corners."""
    scatter: float
    """Share of the light that the lens scatters over the image."""
    blur: float
    """Radius of the lens blur, pixels of the image."""
    shutter: float
    """Seconds."""
    shot_noise: float
    """Standard deviation at a linear value of 1, at the exposure of a sunny day."""
    read_noise: float
    softness: Float32[ndarray, "height width"]
    """Radius of the blur that drops on the lens add, pixels of the image."""
    dirt: Float32[ndarray, "height width"]
    """Share of the light that dirt replaces by a haze."""


def draw_camera(light: Light, K: Float[ndarray, "3 3"], image_size: tuple[int, int]) -> CameraState:
    """Return the state of the camera with intrinsics `K`, by which the cameras of a scene are told apart; always the same one."""
    fingerprint = zlib.crc32(np.ascontiguousarray(K, dtype=np.float64).tobytes())
    return _draw_camera(light, fingerprint, image_size)


@lru_cache(maxsize=12)
def _draw_camera(light: Light, fingerprint: int, image_size: tuple[int, int]) -> CameraState:
    scene_rng, rng = np.random.default_rng(light.camera_seed), np.random.default_rng([light.camera_seed, fingerprint])
    shutter = {Weather.CLEAR: 0.002, Weather.LOW_SUN: 0.004, Weather.NIGHT: 0.025, Weather.DUSK: 0.018}.get(light.weather, 0.008)
    pixels = image_size[1] / NATIVE_WIDTH
    softness, dirt = _film(rng, light, image_size)
    balance = scene_rng.uniform(0.95, 1.05, 3) * rng.uniform(0.98, 1.02, 3)
    return CameraState(
        exposure=float(np.exp(scene_rng.normal(0.05, 0.14) + rng.normal(0, 0.22))),
        white_balance=(float(balance[0]), float(balance[1]), float(balance[2])),
        color_strength=float(scene_rng.uniform(0.5, 0.85) * (0.85 if light.is_dark else 1.0)),
        contrast=float(scene_rng.uniform(1.02, 1.18)),
        vignetting=float(rng.uniform(0.1, 0.35)),
        scatter=float(rng.uniform(0.02, 0.05) + 0.06 * light.glare),
        blur=float(0.25 + pixels * rng.uniform(0.3, 1.2)),
        shutter=shutter * float(rng.uniform(0.7, 1.4)),
        shot_noise=float(rng.uniform(0.006, 0.014)),
        read_noise=float(rng.uniform(0.0003, 0.0009)),
        softness=softness,
        dirt=dirt,
    )


def jpeg_quality(light: Light) -> int:
    """Return how well a scene's pictures are stored."""
    return int(np.random.default_rng([light.camera_seed, 1]).integers(72, 96))


def _film(
    rng: Generator, light: Light, image_size: tuple[int, int]
) -> tuple[Float32[ndarray, "height width"], Float32[ndarray, "height width"]]:
    """Draw what sticks to a lens: drops in rain, on some cameras smudges."""
    height, width = image_size
    softness, dirt = np.zeros(image_size, np.float32), np.zeros(image_size, np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    is_rain = light.wetness > 0.0
    for _ in range(int(rng.poisson(9)) if is_rain and rng.random() < 0.7 else 0):
        radius = width * float(rng.gamma(3.0, 0.006))
        column, row = rng.uniform(0, width), rng.uniform(0, height)
        inside = np.clip(1.5 * (1 - np.hypot(x - column, (y - row) * 0.85) / radius), 0, 1)
        softness = np.maximum(softness, inside * (0.35 * radius))
        dirt = np.maximum(dirt, inside * 0.15)
    for _ in range(int(rng.integers(1, 5)) if rng.random() < (0.4 if is_rain else 0.2) else 0):
        radius = width * float(rng.uniform(0.02, 0.12))
        column, row, thickness = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.1, 0.45)
        dirt = np.maximum(dirt, thickness * np.exp(-(((x - column) / radius) ** 2) - ((y - row) / radius) ** 2))
    return softness, dirt.astype(np.float32)


def take_picture(
    camera: CameraState,
    radiances: Float[Tensor, "pixel 3"],
    motion: Any,
    points: tuple[Rays, Float[Tensor, " pixel"]],
    image_size: tuple[int, int],
    seed: int,
) -> UInt8[ndarray, "height width 3"]:
    """Return the picture of linear RGB radiances, row by row.

    `motion` is what `motion_of` returns; `points` are the rays of the pixels and how far away they met something.
    """
    height, width = image_size
    device = radiances.device
    # Sums are taken by NumPy: torch would add up in another order for another number of threads.
    seen = radiances.cpu().numpy().reshape(height, width, 3)
    gain = exposure_gain(seen) * camera.exposure
    scattered = _scattered(seen)
    image = torch.empty(len(radiances), 3, dtype=torch.uint8, device=device)
    lens = Lens()
    lens.gain = wp.vec3(*(gain * balance for balance in camera.white_balance))
    lens.color_strength, lens.contrast, lens.vignetting = camera.color_strength, camera.contrast, camera.vignetting
    lens.scatter, lens.blur = camera.scatter, camera.blur
    lens.shot_noise, lens.read_noise = camera.shot_noise * float(np.sqrt(gain)), camera.read_noise * gain
    lens.haze = wp.vec3(*(float(value) for value in seen[::CELL, ::CELL].reshape(-1, 3).mean(axis=0)))
    lens.longest, lens.height, lens.width = LONGEST_STREAK * width / NATIVE_WIDTH, height, width
    grids = [torch.from_numpy(grid).to(device) for grid in (scattered, camera.softness.reshape(-1), camera.dirt.reshape(-1))]
    rays, distances = points
    inputs = [
        lens, motion, wp.from_torch(radiances, dtype=wp.vec3), wp.from_torch(rays.directions, dtype=wp.vec3), wp.from_torch(distances),
        wp.from_torch(grids[0], dtype=wp.vec3), wp.from_torch(grids[1]), wp.from_torch(grids[2]), seed, wp.from_torch(image),
    ]  # fmt: skip
    launch(expose, len(radiances), inputs, device=device)
    return image.reshape(height, width, 3).cpu().numpy()


def exposure_gain(radiances: Float32[ndarray, "height width 3"]) -> float:
    """Return the factor from radiance to the sensor's linear value, of which 1 is the largest, that an automatic exposure chooses."""
    grey = radiances[::4, ::4] @ GREY_WEIGHTS
    mean = float(np.exp(np.log(np.clip(grey, 1e-4, 5.0)).mean()))
    return KEY / (mean + DARKNESS)


def _scattered(radiances: Float32[ndarray, "height width 3"]) -> Float32[ndarray, "row column 3"]:
    """Return the light scattered within the lens on a grid of cells: a narrow halo and a wide one."""
    height, width, _ = radiances.shape
    padded = np.pad(radiances, ((0, -height % CELL), (0, -width % CELL), (0, 0)), mode="edge")
    rows = padded.reshape(padded.shape[0] // CELL, CELL, -1).sum(axis=1)
    cells = rows.reshape(len(rows), -1, CELL, 3).sum(axis=2) / (CELL * CELL)
    wide = max(1, width // (CELL * 8))
    return (0.5 * _spread(cells, 1) + 0.5 * _spread(cells, wide)).astype(np.float32)


def _spread(cells: ndarray, reach: int) -> ndarray:
    """Average over squares of 2 · `reach` + 1 cells, twice."""
    for axis in (0, 1, 0, 1):
        padding = [(reach + 1, reach) if a == axis else (0, 0) for a in range(3)]
        sums = np.cumsum(np.pad(cells, padding, mode="edge"), axis=axis)
        count = cells.shape[axis]
        cells = (np.take(sums, range(2 * reach + 1, 2 * reach + 1 + count), axis) - np.take(sums, range(count), axis)) / (2 * reach + 1)
    return cells
