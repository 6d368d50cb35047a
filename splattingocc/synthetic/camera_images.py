"""Rendering what a scene's cameras see."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.launch import launch
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.shading import shade, sky_at
from splattingocc.synthetic.world import Light

VIEW_DISTANCE = 160.0
"""Metres."""
SHADOW_DISTANCE = 60.0
"""How far away from a place something may stand and still throw its shadow on it, metres."""
SHADOW_OFFSET = 0.02
"""How far above a surface its shadow ray starts, metres."""


def pixel_rays(K: ndarray, world_from_cam: ndarray, image_size: tuple[int, int], step: int = 1) -> Rays:
    """Return the rays, row by row, through the centres of every `step`-th pixel of an image."""
    height, width = image_size
    x = torch.arange(step / 2, width, step, dtype=torch.float64).sub(K[0, 2]).div(K[0, 0]).float()
    y = torch.arange(step / 2, height, step, dtype=torch.float64).sub(K[1, 2]).div(K[1, 1]).float()
    right, down, ahead, origin = torch.from_numpy(world_from_cam[:3].astype(np.float32)).unbind(dim=-1)
    directions = (ahead + y[:, None, None] * down + x[:, None] * right).reshape(-1, 3)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return Rays(origin.expand_as(directions).contiguous(), directions)


@wp.kernel
@no_type_check
def _start_shadow_rays(
    first: int,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    triangles: wp.array(dtype=int),
    distances: wp.array(dtype=float),
    corners: wp.array(dtype=wp.vec3),
    sun: wp.vec3,
    shadow_distance: float,
    offset: float,
    starts: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    limits: wp.array(dtype=float),
):
    i = first + wp.tid()
    limits[i] = 0.0
    triangle = triangles[i]
    if triangle < 0:
        return
    a = corners[3 * triangle]
    normal = wp.normalize(wp.cross(corners[3 * triangle + 1] - a, corners[3 * triangle + 2] - a))
    if wp.dot(normal, directions[i]) > 0.0:
        normal = -normal
    normals[i] = normal
    starts[i] = origins[i] + directions[i] * distances[i] + normal * offset
    if wp.dot(normal, sun) > 0.0:
        limits[i] = shadow_distance


@wp.kernel
@no_type_check
def _paint(
    first: int,
    directions: wp.array(dtype=wp.vec3),
    triangles: wp.array(dtype=int),
    distances: wp.array(dtype=float),
    barycentrics: wp.array(dtype=wp.vec2),
    starts: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    limits: wp.array(dtype=float),
    shadowed: wp.array(dtype=wp.bool),
    uvs: wp.array(dtype=wp.vec2),
    materials: wp.array(dtype=wp.uint8),
    colors: wp.array(dtype=wp.vec3),
    sun: wp.vec3,
    sun_color: wp.vec3,
    zenith: wp.vec3,
    horizon: wp.vec3,
    cloudiness: float,
    haze: float,
    gain: wp.vec3,
    noise: float,
    pixel_angle: float,
    width: int,
    height: int,
    seed: int,
    image: wp.array2d(dtype=wp.uint8),
):
    i = first + wp.tid()
    direction = directions[i]
    radiance = sky_at(direction, sun, sun_color, zenith, horizon, cloudiness)
    triangle = triangles[i]
    if triangle >= 0:
        weights = barycentrics[i]
        uv = uvs[3 * triangle] * weights[0] + uvs[3 * triangle + 1] * weights[1]
        uv = uv + uvs[3 * triangle + 2] * (1.0 - weights[0] - weights[1])
        normal = normals[i]
        facing = wp.max(wp.abs(wp.dot(normal, direction)), 0.05)
        # The geometric mean of a pixel's footprint along and across the slant.
        footprint = distances[i] * pixel_angle / wp.sqrt(facing)
        in_sun = wp.where(limits[i] > 0.0 and not shadowed[i], 1.0, 0.0)
        surface = shade(
            int(materials[triangle]), colors[triangle], uv, starts[i], normal, direction, footprint,
            in_sun, sun, sun_color, zenith, horizon, cloudiness,
        )  # fmt: skip
        clear = wp.exp(-distances[i] / haze)
        radiance = surface * clear + horizon * (0.9 * (1.0 - clear))
    x = (float(i % width) + 0.5) / float(width) - 0.5
    y = (float(i / width) + 0.5) / float(height) - 0.5
    vignette = 1.0 - 0.35 * (x * x + y * y)
    random = wp.rand_init(seed, i)
    for channel in range(3):
        exposed = 1.0 - wp.exp(-1.35 * radiance[channel] * gain[channel] * vignette)
        value = 255.0 * wp.pow(exposed, 1.0 / 2.2) + noise * wp.randn(random)
        image[i, channel] = wp.uint8(wp.clamp(value + 0.5, 0.0, 255.0))


def render_image(
    scene: SceneMesh, light: Light, K: ndarray, world_from_cam: Float[ndarray, "4 4"], image_size: tuple[int, int], seed: int
) -> UInt8[ndarray, "height width 3"]:
    """Render one camera's picture of the scene at the time that the scene is set to; `seed` draws the sensor noise."""
    rays = pixel_rays(K, world_from_cam, image_size).to(scene.device)
    hits = scene.cast(rays, VIEW_DISTANCE)
    starts, normals, limits = (torch.zeros_like(t) for t in (rays.origins, rays.origins, hits.distances))
    sun = wp.vec3(*light.sun)
    casting = [*_vectors(rays.origins, rays.directions), wp.from_torch(hits.triangles), wp.from_torch(hits.distances)]
    shadow_rays = [*_vectors(starts, normals), wp.from_torch(limits)]
    corners = wp.from_torch(scene.corners.reshape(-1, 3), dtype=wp.vec3)
    inputs = [*casting, corners, sun, SHADOW_DISTANCE, SHADOW_OFFSET, *shadow_rays]
    launch(_start_shadow_rays, len(limits), inputs, device=scene.device)
    toward_sun = torch.tensor(light.sun, device=scene.device).expand_as(starts)
    shadowed = scene.is_blocked(Rays(starts, toward_sun), limits)
    image = torch.empty(len(limits), 3, dtype=torch.uint8, device=scene.device)
    height, width = image_size
    inputs = [
        *casting[1:], wp.from_torch(hits.barycentrics, dtype=wp.vec2), *shadow_rays, wp.from_torch(shadowed),
        *_surfaces(scene), sun, *_lights(light), float(1.0 / K[0, 0]), width, height, seed, wp.from_torch(image),
    ]  # fmt: skip
    launch(_paint, len(limits), inputs, device=scene.device)
    return image.reshape(height, width, 3).cpu().numpy()


def _vectors(*tensors: Tensor) -> list:
    return [wp.from_torch(tensor, dtype=wp.vec3) for tensor in tensors]


def _surfaces(scene: SceneMesh) -> list:
    uvs = wp.from_torch(scene.uvs.reshape(-1, 2), dtype=wp.vec2)
    return [uvs, wp.from_torch(scene.materials), wp.from_torch(scene.colors, dtype=wp.vec3)]


def _lights(light: Light) -> list:
    gain = wp.vec3(*(light.exposure * balance for balance in light.white_balance))
    colors = [wp.vec3(*color) for color in (light.sun_color, light.sky_color, light.horizon_color)]
    return [*colors, light.cloudiness, light.haze, gain, light.noise]
