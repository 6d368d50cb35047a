"""What surfaces look like: procedural textures and daylight, evaluated where a ray hits."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from splattingocc.synthetic.materials import Material

ASPHALT = wp.constant(int(Material.ASPHALT))
DASHED_LINE = wp.constant(int(Material.DASHED_LINE))
SOLID_LINE = wp.constant(int(Material.SOLID_LINE))
ZEBRA = wp.constant(int(Material.ZEBRA))
PAVERS = wp.constant(int(Material.PAVERS))
GRASS = wp.constant(int(Material.GRASS))
BRICK = wp.constant(int(Material.BRICK))
FACADE = wp.constant(int(Material.FACADE))
FOLIAGE = wp.constant(int(Material.FOLIAGE))
BARK = wp.constant(int(Material.BARK))
PAINT = wp.constant(int(Material.PAINT))
GLASS = wp.constant(int(Material.GLASS))
BANDS = wp.constant(int(Material.BANDS))
SOIL = wp.constant(int(Material.SOIL))


@wp.func
@no_type_check
def wave(uv: wp.vec2, scale: float, seed: int) -> float:
    """Smooth noise in about −0.7..0.7 with `scale` bumps a metre."""
    return wp.noise(wp.uint32(seed), uv * scale)


@wp.func
@no_type_check
def hash_of(x: float, y: float, seed: float) -> float:
    """A number in [0, 1) for each integer place."""
    value = wp.sin(x * 12.9898 + y * 78.233 + seed * 37.719) * 43758.547
    return value - wp.floor(value)


@wp.func
@no_type_check
def fade(period: float, footprint: float) -> float:
    """Return 1 where a pattern of this period is resolved and 0 where a pixel's footprint on the surface swallows it."""
    return wp.clamp(1.6 - 2.4 * footprint / period, 0.0, 1.0)


@wp.func
@no_type_check
def modulo(x: float, period: float) -> float:
    return x - wp.floor(x / period) * period


@wp.func
@no_type_check
def asphalt(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    grain = 0.35 * wave(uv, 25.0, 1) * fade(0.04, footprint) + 0.3 * wave(uv, 1.5, 2) + 0.25 * wave(uv, 0.17, 3)
    # Tar fills the cracks.
    crack = wp.where(wp.abs(wave(uv, 0.45, 4)) < 0.012 and wave(uv, 0.3, 23) > 0.08, 0.6, 1.0)
    crack = 1.0 + (crack - 1.0) * fade(0.1, footprint)
    patch = wp.where(wave(uv, 0.09, 5) > 0.33, 0.72, 1.0)
    return color * (1.0 + grain) * crack * patch


@wp.func
@no_type_check
def line_paint(color: wp.vec3, uv: wp.vec2) -> wp.vec3:
    wear = wp.clamp(1.1 - 1.6 * wp.abs(wave(uv, 2.3, 6)), 0.25, 1.0)
    return color * wear


@wp.func
@no_type_check
def pavers(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    size = 0.6
    column = wp.floor(uv[0] / size)
    v = uv[1] + 0.3 * modulo(column, 2.0)
    row = wp.floor(v / size)
    joint = wp.min(wp.min(modulo(uv[0], size), size - modulo(uv[0], size)), wp.min(modulo(v, size), size - modulo(v, size)))
    visible = fade(size, footprint)
    shade = 1.0 + visible * (0.35 * (hash_of(column, row, 1.0) - 0.5) - wp.where(joint < 0.02, 0.4, 0.0))
    return color * shade * (1.0 + 0.25 * wave(uv, 0.5, 7))


@wp.func
@no_type_check
def bricks(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    row = wp.floor(uv[1] / 0.12)
    u = uv[0] + 0.15 * modulo(row, 2.0)
    column = wp.floor(u / 0.3)
    joint = wp.where(modulo(u, 0.3) < 0.03, 1.0, wp.where(modulo(uv[1], 0.12) < 0.025, 1.0, 0.0))
    visible = fade(0.15, footprint)
    brick = color * (1.0 + 0.5 * visible * (hash_of(column, row, 2.0) - 0.5))
    return brick * (1.0 - visible * joint) + (brick * 0.5 + wp.vec3(0.16, 0.15, 0.14)) * visible * joint


@wp.func
@no_type_check
def facade(color: wp.vec3, uv: wp.vec2, footprint: float, sky: wp.vec3) -> wp.vec3:
    """A wall with windows; the wall's colour also decides how wide they are and how far apart."""
    style = hash_of(wp.floor(color[0] * 4096.0), wp.floor(color[1] * 4096.0), 3.0)
    spacing = 1.8 + 1.6 * style
    floor_height = 2.9 + 0.5 * hash_of(style * 100.0, 1.0, 4.0)
    column = wp.floor(uv[0] / spacing)
    row = wp.floor((uv[1] - 0.9) / floor_height)
    x = modulo(uv[0], spacing) / spacing
    y = modulo(uv[1] - 0.9, floor_height) / floor_height
    half_width = 0.2 + 0.24 * hash_of(style * 50.0, 2.0, 5.0)
    wall = color * (1.0 + 0.15 * wave(uv, 0.3, 8) + 0.1 * wave(uv, 6.0, 9) * fade(0.2, footprint))
    if style > 0.6:
        wall = bricks(color, uv, footprint)
    dx = wp.abs(x - 0.5) / half_width
    dy = wp.abs(y - 0.5) / 0.29
    reach = wp.max(dx, dy)
    if uv[1] < 0.9 or reach > 1.12:
        return wall
    if reach > 1.0:
        return wall * 0.4 + wp.vec3(0.25, 0.25, 0.24)
    room = hash_of(column, row, 6.0 + style)
    curtain = wp.where(room > 0.7, 0.28, wp.where(room > 0.55 and y > 0.5, 0.2, 0.015))
    frame = wp.where(dx < 0.06, 0.2, 0.0)
    return wp.vec3(curtain, curtain, curtain * 0.92) + sky * (0.1 + 0.25 * y) + wp.vec3(frame, frame, frame)


@wp.func
@no_type_check
def foliage(color: wp.vec3, point: wp.vec3, footprint: float) -> wp.vec3:
    coarse = wp.noise(wp.uint32(11), point * 1.7)
    fine = wp.noise(wp.uint32(12), point * 6.0) * fade(0.25, footprint) + wp.noise(wp.uint32(13), point * 17.0) * fade(0.08, footprint)
    brightness = wp.clamp(0.95 + 0.7 * coarse + 0.95 * fine, 0.12, 2.0)
    return wp.cw_mul(color, wp.vec3(brightness * (1.0 + 0.3 * coarse), brightness, brightness * 0.9))


@wp.func
@no_type_check
def albedo(material: int, color: wp.vec3, uv: wp.vec2, point: wp.vec3, footprint: float, sky: wp.vec3) -> wp.vec3:
    """Return how much light a surface scatters back, per colour."""
    if material == ASPHALT:
        return asphalt(color, uv, footprint)
    if material == DASHED_LINE:
        if modulo(uv[0], 9.0) < 3.2:
            return line_paint(wp.vec3(0.6, 0.6, 0.58), uv)
        return asphalt(color, uv, footprint)
    if material == SOLID_LINE:
        return line_paint(color, uv)
    if material == ZEBRA:
        stripe = wp.where(modulo(uv[1], 1.1) < 0.55, 1.0, 0.0)
        visible = fade(1.1, footprint)
        share = visible * stripe + (1.0 - visible) * 0.5
        return line_paint(wp.vec3(0.58, 0.58, 0.56), uv) * share + asphalt(color, uv, footprint) * (1.0 - share)
    if material == PAVERS:
        return pavers(color, uv, footprint)
    if material == GRASS:
        blades = 0.5 * wave(uv, 14.0, 14) * fade(0.1, footprint) + 0.5 * wave(uv, 2.1, 15)
        dry = wp.clamp(0.5 + 1.6 * wave(uv, 0.2, 16), 0.0, 1.0)
        mixed = color * (1.0 - 0.5 * dry) + wp.vec3(0.2, 0.17, 0.08) * (0.5 * dry)
        return mixed * (1.0 + blades)
    if material == SOIL:
        return color * (1.0 + 0.5 * wave(uv, 1.2, 17) + 0.5 * wave(uv, 9.0, 18) * fade(0.15, footprint))
    if material == BRICK:
        return bricks(color, uv, footprint)
    if material == FACADE:
        return facade(color, uv, footprint, sky)
    if material == FOLIAGE:
        return foliage(color, point, footprint)
    if material == BARK:
        return color * (1.0 + 0.9 * wave(wp.vec2(uv[0] * 12.0, uv[1] * 1.5), 1.0, 19))
    if material == BANDS:
        share = wp.where(modulo(uv[0] + uv[1], 0.5) < 0.25, 1.0, 0.0) * fade(0.5, footprint) + 0.5 * (1.0 - fade(0.5, footprint))
        return color * share + wp.vec3(0.62, 0.62, 0.6) * (1.0 - share)
    return color * (1.0 + 0.12 * wave(uv, 3.0, 20))


@wp.func
@no_type_check
def sky_at(direction: wp.vec3, sun: wp.vec3, sun_color: wp.vec3, zenith: wp.vec3, horizon: wp.vec3, cloudiness: float) -> wp.vec3:
    """Return the radiance of the sky; below the horizon the haze that hides what lies beyond the built street."""
    height = wp.max(direction[2], 0.0)
    blend = 1.0 - wp.exp(-4.0 * height)
    color = horizon * (1.0 - blend) + zenith * blend
    if direction[2] > 0.0:
        plane = wp.vec2(direction[0], direction[1]) / (direction[2] + 0.12)
        density = 0.5 + 0.55 * wp.noise(wp.uint32(21), plane * 0.9) + 0.3 * wp.noise(wp.uint32(22), plane * 2.7)
        cloud = wp.clamp((density - 1.0 + cloudiness) * 2.2, 0.0, 1.0) * wp.clamp(direction[2] * 6.0, 0.0, 1.0)
        bright = 0.65 + 0.45 * density
        color = color * (1.0 - 0.85 * cloud) + wp.vec3(bright, bright, bright) * (0.85 * cloud)
        glow = wp.pow(wp.max(wp.dot(direction, sun), 0.0), 180.0) * (1.0 - cloudiness)
        return color + sun_color * glow
    ground = horizon * 0.55
    below = wp.clamp(-direction[2] * 12.0, 0.0, 1.0)
    return color * (1.0 - below) + ground * below


@wp.func
@no_type_check
def shade(
    material: int,
    color: wp.vec3,
    uv: wp.vec2,
    point: wp.vec3,
    normal: wp.vec3,
    direction: wp.vec3,
    footprint: float,
    in_sun: float,
    sun: wp.vec3,
    sun_color: wp.vec3,
    zenith: wp.vec3,
    horizon: wp.vec3,
    cloudiness: float,
) -> wp.vec3:
    """Return the radiance that a surface sends back along a ray. `normal` faces the viewer."""
    surface = albedo(material, color, uv, point, footprint, zenith)
    slant = wp.max(wp.dot(normal, sun), 0.0)
    ambient = (zenith * 0.75 + horizon * 0.25) * (0.62 + 0.38 * normal[2])
    if material == FOLIAGE:
        # Leaves point every way and let light through.
        slant = 0.25 + 0.55 * slant
        ambient = ambient * 0.85
    radiance = wp.cw_mul(surface, ambient + sun_color * (slant * in_sun))
    if material == PAINT or material == GLASS:  # noqa: SIM109 - a kernel has no tuples to search
        mirrored = direction - normal * (2.0 * wp.dot(direction, normal))
        grazing = 1.0 - wp.abs(wp.dot(direction, normal))
        share = wp.where(material == GLASS, 0.12, 0.05) + 0.6 * wp.pow(grazing, 5.0)
        seen = sky_at(mirrored, sun, sun_color, zenith, horizon, cloudiness)
        if mirrored[2] < 0.08:
            seen = seen * 0.35
        radiance = radiance + seen * share
        radiance = radiance + sun_color * (in_sun * wp.pow(wp.max(wp.dot(mirrored, sun), 0.0), 60.0) * 0.4)
    return radiance
