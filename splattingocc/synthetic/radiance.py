# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""The light that comes back along the rays of an image: the kernels behind `camera_images.py`."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from splattingocc.synthetic.shading import Sky, glow_of, headlight, lamp_light, mirror_share, scattered, sky_at
from splattingocc.synthetic.textures import Surface, is_ground, surface_at

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

SHADOW_DISTANCE = wp.constant(60.0)
"""How far away from a place something may stand and still throw its shadow on it, metres."""
SKY_DISTANCE = wp.constant(5.0)
"""How far away from a place something may stand and still hide a part of a closed sky from it, metres."""
SHADOW_OFFSET = wp.constant(0.02)
"""How far above a surface its second ray starts, metres."""
FAINT = wp.constant(0.012)
"""Irradiance of a lamp below which nobody misses its shadows."""
TO_SUN, TO_SKY, TO_LAMP = (wp.constant(mode) for mode in range(3))
"""Where second rays go."""


@wp.struct
@no_type_check
class Faces:
    """What the triangles of a scene look like."""

    uvs: wp.array(dtype=wp.vec2)
    materials: wp.array(dtype=wp.uint8)
    colors: wp.array(dtype=wp.vec3)
    num_static: int


@wp.struct
@no_type_check
class Hits:
    """What the rays of an image met."""

    origins: wp.array(dtype=wp.vec3)
    directions: wp.array(dtype=wp.vec3)
    triangles: wp.array(dtype=int)
    distances: wp.array(dtype=float)
    barycentrics: wp.array(dtype=wp.vec2)
    starts: wp.array(dtype=wp.vec3)
    normals: wp.array(dtype=wp.vec3)
    limits: wp.array(dtype=float)
    chosen: wp.array(dtype=int)
    blocked: wp.array(dtype=wp.bool)
    mirrored: wp.array(dtype=wp.vec3)
    mirrored_triangles: wp.array(dtype=int)
    """−1 where the mirrored ray meets the sky, −2 where none was cast."""
    width: int
    height: int


@wp.kernel
@no_type_check
def start_second_rays(
    first: int,
    hits: Hits,
    corners: wp.array(dtype=wp.vec3),
    mode: int,
    sun: wp.vec3,
    lamps: wp.array(dtype=wp.vec3),
    num_lamps: int,
    toward: wp.array(dtype=wp.vec3),
):
    i = first + wp.tid()
    hits.limits[i] = 0.0
    toward[i] = sun
    hits.chosen[i] = -1
    triangle = hits.triangles[i]
    if triangle < 0:
        return
    a = corners[3 * triangle]
    normal = wp.normalize(wp.cross(corners[3 * triangle + 1] - a, corners[3 * triangle + 2] - a))
    if wp.dot(normal, hits.directions[i]) > 0.0:
        normal = -normal
    hits.normals[i] = normal
    start = hits.origins[i] + hits.directions[i] * hits.distances[i] + normal * SHADOW_OFFSET
    hits.starts[i] = start
    if mode == TO_SUN:
        if wp.dot(normal, sun) > 0.0:
            hits.limits[i] = SHADOW_DISTANCE
    elif mode == TO_SKY:
        # On a chequerboard, four directions in turn, so that the nearest neighbours have all four.
        x, y = i % hits.width, i / hits.width
        part = ((x + y) / 2) % 2 + 2 * (((x - y) / 2 + hits.height) % 2)
        radius, angle = wp.float32(0.75), 0.4 + 1.5708 * float(part)
        side = wp.normalize(wp.cross(normal, wp.vec3(0.31, 0.95, 0.02)))
        other = wp.cross(normal, side)
        up = wp.sqrt(1.0 - 0.94 * radius * radius)
        toward[i] = wp.normalize(side * (radius * wp.cos(angle)) + other * (radius * wp.sin(angle)) + normal * up + wp.vec3(0.0, 0.0, 0.35))
        if (x + y) % 2 == 0:
            hits.limits[i] = SKY_DISTANCE
    else:
        strongest = wp.float32(0.0)
        for lamp in range(num_lamps):
            light = lamp_light(lamps[lamp], start, normal)
            if light > strongest:
                strongest = light
                hits.chosen[i] = lamp
        if strongest < FAINT:
            hits.chosen[i] = -1
        else:
            ray = lamps[hits.chosen[i]] - start
            # The lamp's own housing is no obstacle.
            hits.limits[i] = wp.max(wp.length(ray) - 0.5, 0.0)
            toward[i] = wp.normalize(ray)


@wp.kernel
@no_type_check
def start_mirror_rays(
    first: int,
    hits: Hits,
    materials: wp.array(dtype=wp.uint8),
    seed: int,
    mirrored: wp.array(dtype=wp.vec3),
    is_wet: wp.array(dtype=wp.bool),
):
    i = first + wp.tid()
    direction, normal = hits.directions[i], hits.normals[i]
    is_wet[i] = False
    if hits.triangles[i] >= 0:
        is_wet[i] = normal[2] > 0.8 and is_ground(int(materials[hits.triangles[i]]))
    # Ripples and grain draw out what is mirrored towards the viewer.
    random = wp.rand_init(seed, i)
    slope = wp.vec3(wp.randn(random), wp.randn(random), 0.0) * 0.012
    tilted = wp.normalize(normal + slope)
    ray = direction - tilted * (2.0 * wp.dot(direction, tilted))
    mirrored[i] = wp.normalize(wp.vec3(ray[0], ray[1], wp.max(ray[2], 0.01)))


@wp.func
@no_type_check
def open_share(i: int, hits: Hits) -> float:
    """Return the share of the second rays about a pixel, on the same surface, that met nothing; 0.7 where there are none.

    Weights give each of the four directions the same say: a pixel with a ray of its own has it, the diagonal neighbours half and those
    two pixels away a quarter each; one without has its four neighbours.
    """
    x, y = i % hits.width, i / hits.width
    own = (x + y) % 2 == 0
    count, clear = wp.float32(0.0), wp.float32(0.0)
    for place in range(9):
        right, down, weight = wp.int32(0), wp.int32(0), wp.float32(1.0)
        turn = place % 4
        if own and place < 4:
            right, down, weight = 2 * (turn % 2) - 1, 2 * (turn / 2) - 1, wp.float32(0.5)
        elif place < 8:
            reach = wp.where(own, 2, 1)
            right, down = wp.where(turn < 2, reach * (2 * turn - 1), 0), wp.where(turn < 2, 0, reach * (2 * turn - 5))
            weight = wp.where(own, wp.float32(0.25), wp.where(place < 4, wp.float32(1.0), wp.float32(0.0)))
        column, row = x + right, y + down
        if column >= 0 and column < hits.width and row >= 0 and row < hits.height:
            j = row * hits.width + column
            is_near = wp.abs(hits.distances[j] - hits.distances[i]) < 0.06 * hits.distances[i]
            if hits.limits[j] > 0.0 and is_near and wp.dot(hits.normals[j], hits.normals[i]) > 0.7:
                count = count + weight
                clear = clear + wp.where(hits.blocked[j], 0.0, weight)
    if count == 0.0:
        return 0.7
    return clear / count


@wp.func
@no_type_check
def mirrored_at(i: int, hits: Hits, faces: Faces, sky: Sky) -> wp.vec3:
    """Return roughly what comes along a cast mirrored ray: the sky, or what stands before it in the light of the sky alone."""
    other = hits.mirrored_triangles[i]
    if other < 0:
        return sky_at(hits.mirrored[i], sky)
    color = faces.colors[other]
    glow = glow_of(int(faces.materials[other]), color, other >= faces.num_static, Surface(), sky)
    return wp.cw_mul(color, (sky.zenith + sky.horizon) * 0.3) + glow


@wp.func
@no_type_check
def mirrored_light(i: int, hits: Hits, faces: Faces, ray: wp.vec3, sky: Sky) -> wp.vec3:
    """Return what a surface mirrors: on wet ground the mean over neighbours, for the water ripples; elsewhere a guess without a ray."""
    if hits.mirrored_triangles[i] == -2:
        # Along the street other houses stand before the sky.
        return sky_at(ray, sky) * wp.clamp(0.3 + 2.5 * ray[2], 0.3, 1.0)
    total, count = mirrored_at(i, hits, faces, sky), wp.float32(1.0)
    for step in range(2):
        j = i + (2 * step - 1) * hits.width
        if j >= 0 and j < hits.width * hits.height and hits.mirrored_triangles[j] > -2:
            total = total + mirrored_at(j, hits, faces, sky)
            count = count + 1.0
    return total / count


@wp.func
@no_type_check
def radiance_of(
    i: int,
    hits: Hits,
    faces: Faces,
    mode: int,
    lamps: wp.array(dtype=wp.vec3),
    num_lamps: int,
    pixel_angle: float,
    sky: Sky,
) -> wp.vec3:
    """Return the light that comes back along the ray of a pixel that met a surface."""
    triangle, direction, normal = hits.triangles[i], hits.directions[i], hits.normals[i]
    weights = hits.barycentrics[i]
    uv = faces.uvs[3 * triangle] * weights[0] + faces.uvs[3 * triangle + 1] * weights[1]
    uv = uv + faces.uvs[3 * triangle + 2] * (1.0 - weights[0] - weights[1])
    facing = wp.max(wp.abs(wp.dot(normal, direction)), 0.05)
    # The geometric mean of a pixel's footprint along and across the slant.
    footprint = hits.distances[i] * pixel_angle / wp.sqrt(facing)
    material, color = int(faces.materials[triangle]), faces.colors[triangle]
    surface = surface_at(material, color, uv, hits.starts[i], footprint)
    unblocked = wp.where(hits.limits[i] > 0.0 and not hits.blocked[i], 1.0, 0.0)
    in_sun, open_sky = wp.where(mode == TO_SUN, unblocked, 0.0), 1.0
    if mode == TO_SKY:
        open_sky = 0.3 + 0.75 * open_share(i, hits)
    light = scattered(material, normal, surface, in_sun, open_sky, sky)
    if mode == TO_LAMP:
        from_lamps = wp.float32(0.0)
        for lamp in range(num_lamps):
            from_lamps = from_lamps + wp.where(lamp == hits.chosen[i], unblocked, 1.0) * lamp_light(lamps[lamp], hits.starts[i], normal)
        light = light + wp.cw_mul(surface.color, wp.vec3(1.0, 0.86, 0.64) * (from_lamps * sky.lamps))
        if sky.has_vehicle > 0:
            light = light + surface.color * headlight(hits.starts[i], normal, sky)
    share = mirror_share(material, normal, direction, uv, surface, sky)
    if share > 0.0:
        ray = direction - normal * (2.0 * wp.dot(direction, normal))
        light = light + mirrored_light(i, hits, faces, ray, sky) * share
        if in_sun > 0.0:
            light = light + sky.sun_color * (wp.pow(wp.max(wp.dot(ray, sky.sun), 0.0), 150.0) * 12.0 * share)
    light = light + glow_of(material, color, triangle >= faces.num_static, surface, sky)
    clear = wp.exp(-hits.distances[i] / sky.haze)
    return light * clear + sky.horizon * (0.9 * (1.0 - clear))


@wp.kernel
@no_type_check
def gather_light(
    first: int,
    hits: Hits,
    faces: Faces,
    mode: int,
    lamps: wp.array(dtype=wp.vec3),
    num_lamps: int,
    pixel_angle: float,
    sky: Sky,
    radiances: wp.array(dtype=wp.vec3),
):
    i = first + wp.tid()
    if hits.triangles[i] >= 0:
        radiances[i] = radiance_of(i, hits, faces, mode, lamps, num_lamps, pixel_angle, sky)
    else:
        radiances[i] = sky_at(hits.directions[i], sky)
