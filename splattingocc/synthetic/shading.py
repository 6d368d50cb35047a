"""How surfaces look in a scene's light: sun or lamps, sky, wet ground, haze."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from splattingocc.synthetic.light import Light
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.textures import Surface, is_ground, wave

FOLIAGE = wp.constant(int(Material.FOLIAGE))
STREET_LAMP = wp.constant(int(Material.STREET_LAMP))
HEAD_LAMP = wp.constant(int(Material.HEAD_LAMP))
TAIL_LAMP = wp.constant(int(Material.TAIL_LAMP))
SIGNAL = wp.constant(int(Material.SIGNAL))

STREET_LAMP_INTENSITY = wp.constant(9.0)
"""Irradiance one metre below a street lamp."""
HEADLIGHT_INTENSITY = wp.constant(14.0)
"""Irradiance one metre ahead of the ego vehicle's headlights, in the middle of the beam."""
HEADLIGHT_PLACE = wp.constant(wp.vec3(3.4, 0.0, 0.65))
"""In the ego frame, metres: both headlights as one."""
PUDDLE_SCALE = wp.constant(0.22)
"""Puddles a metre."""


@wp.struct
@no_type_check
class Sky:
    """A scene's `Light`, as kernels take it."""

    sun: wp.vec3
    sun_color: wp.vec3
    zenith: wp.vec3
    horizon: wp.vec3
    clouds: wp.vec3
    cloudiness: float
    haze: float
    wetness: float
    lamps: float
    headlights: float
    sun_disc: float
    """Radiance of the sun itself, in units of `sun_color`."""
    has_vehicle: int
    """Whether the next two are set."""
    vehicle_from_world: wp.mat44
    """World to ego frame, for the beam of its headlights."""


@no_type_check
def sky_of(light: Light) -> Sky:
    """Return the light of a scene for a kernel, without a vehicle's headlights."""
    sky = Sky()
    sky.sun, sky.sun_color = wp.vec3(*light.sun), wp.vec3(*light.sun_color)
    sky.zenith, sky.horizon, sky.clouds = wp.vec3(*light.sky_color), wp.vec3(*light.horizon_color), wp.vec3(*light.cloud_color)
    sky.cloudiness, sky.haze, sky.wetness = light.cloudiness, light.haze, light.wetness
    sky.lamps, sky.headlights = light.lamps, light.headlights
    sky.sun_disc = 15.0 if light.has_sun else 0.0
    return sky


@wp.func
@no_type_check
def sky_at(direction: wp.vec3, sky: Sky) -> wp.vec3:
    """Return the radiance of the sky; below the horizon the haze that hides what lies beyond the built street."""
    height = wp.max(direction[2], 0.0)
    blend = 1.0 - wp.exp(-2.5 * height)
    color = sky.horizon * (1.0 - blend) + sky.zenith * blend
    if direction[2] > 0.0:
        plane = wp.vec2(direction[0], direction[1]) / (direction[2] + 0.12)
        density = 0.5 + 0.55 * wp.noise(wp.uint32(21), plane * 0.9) + 0.3 * wp.noise(wp.uint32(22), plane * 2.7)
        cloud = wp.clamp((density - 1.0 + sky.cloudiness) * 2.2, 0.0, 1.0) * wp.clamp(direction[2] * 6.0, 0.0, 1.0)
        color = color * (1.0 - 0.85 * cloud) + sky.clouds * ((0.55 + 0.5 * density) * 0.85 * cloud)
        toward = wp.max(wp.dot(direction, sky.sun), 0.0)
        veil = 1.0 - sky.cloudiness
        color = color + sky.sun_color * (veil * (0.45 * wp.pow(toward, 12.0) + 0.8 * wp.pow(toward, 180.0)))
        if toward > 0.9997:
            color = color + sky.sun_color * (sky.sun_disc * veil)
        return color
    ground = sky.horizon * 0.55
    below = wp.clamp(-direction[2] * 12.0, 0.0, 1.0)
    return color * (1.0 - below) + ground * below


@wp.func
@no_type_check
def lamp_light(lamp: wp.vec3, point: wp.vec3, normal: wp.vec3) -> float:
    """Return the irradiance that a street lamp gives a surface if nothing stands between; lamps shine downwards."""
    to_lamp = lamp - point
    distance = wp.length(to_lamp) + 0.3
    to_lamp = to_lamp / distance
    downwards = wp.clamp(0.15 + 1.1 * to_lamp[2], 0.03, 1.0)
    return STREET_LAMP_INTENSITY * downwards * wp.max(wp.dot(normal, to_lamp), 0.0) / (distance * distance)


@wp.func
@no_type_check
def headlight(point: wp.vec3, normal: wp.vec3, sky: Sky) -> float:
    """Return the irradiance from the ego vehicle's dipped headlights: a cone ahead that is cut off above the lamps' height."""
    place = wp.transform_point(sky.vehicle_from_world, point) - HEADLIGHT_PLACE
    distance = wp.max(wp.length(place), 1.0)
    direction = place / distance
    if direction[0] < 0.2:
        return 0.0
    facing = wp.max(-wp.dot(wp.transform_vector(sky.vehicle_from_world, normal), direction), 0.0)
    cone = wp.exp(-5.0 * direction[1] * direction[1] / (direction[0] * direction[0]))
    cut = wp.clamp(0.5 - 40.0 * direction[2], 0.06, 1.0)
    return sky.headlights * HEADLIGHT_INTENSITY * cone * cut * facing / distance


@wp.func
@no_type_check
def glow_of(material: int, color: wp.vec3, moves: bool, surface: Surface, sky: Sky) -> wp.vec3:
    """Return what a surface emits in this scene."""
    if material == SIGNAL:
        return color * 1.3
    if material == STREET_LAMP:
        return wp.vec3(7.0, 5.9, 4.2) * sky.lamps
    if moves and sky.headlights > 0.0:
        if material == HEAD_LAMP:
            return wp.vec3(3.2, 3.1, 2.8)
        if material == TAIL_LAMP:
            return wp.vec3(1.1, 0.05, 0.03)
    return surface.glow * sky.lamps


@wp.func
@no_type_check
def mirror_share(material: int, normal: wp.vec3, direction: wp.vec3, uv: wp.vec2, surface: Surface, sky: Sky) -> float:
    """Return the share of the light along the mirrored ray that a surface sends back."""
    gloss = surface.gloss
    if sky.wetness > 0.0 and is_ground(material) and normal[2] > 0.8:
        # A film of water; puddles where the ground is low.
        puddle = wp.clamp(3.0 * wave(uv, PUDDLE_SCALE, 31) + 0.2 + sky.wetness * 0.5, 0.15, 1.0)
        gloss = 0.05 * sky.wetness * puddle
        grazing = 1.0 - wp.abs(wp.dot(direction, normal))
        return gloss + sky.wetness * puddle * 0.75 * wp.pow(grazing, 4.0)
    if gloss == 0.0:
        return 0.0
    grazing = 1.0 - wp.abs(wp.dot(direction, normal))
    return gloss + 0.6 * wp.pow(grazing, 5.0)


@wp.func
@no_type_check
def scattered(material: int, normal: wp.vec3, surface: Surface, in_sun: float, open_sky: float, sky: Sky) -> wp.vec3:
    """Return the radiance that a surface scatters of sun and sky.

    `normal` faces the viewer; `open_sky` is 1 where nothing hides the sky.
    """
    color = surface.color
    if sky.wetness > 0.0 and is_ground(material):
        color = color * (1.0 - 0.5 * sky.wetness)
    slant = wp.max(wp.dot(normal, sky.sun), 0.0)
    ambient = (sky.zenith * 0.7 + sky.horizon * 0.3) * ((0.45 + 0.4 * normal[2]) * open_sky)
    if material == FOLIAGE:
        # Leaves point every way and let light through.
        slant = 0.3 + 0.4 * slant
        in_sun = wp.max(in_sun, 0.3)
        ambient = ambient * 0.8
    return wp.cw_mul(color, ambient + sky.sun_color * (slant * in_sun))
