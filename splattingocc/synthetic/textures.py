"""Procedural textures: what a surface scatters, mirrors and emits at the place where a ray hits it.

Texture coordinates are metres along the surface, v upwards on walls. A pattern fades into its mean where a pixel's footprint swallows it.
"""

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
CONCRETE = wp.constant(int(Material.CONCRETE))
RIBS = wp.constant(int(Material.RIBS))
PRINT = wp.constant(int(Material.PRINT))
CLOTH = wp.constant(int(Material.CLOTH))


@wp.struct
@no_type_check
class Surface:
    """What a surface does with light at one place."""

    color: wp.vec3
    """Share of the light that it scatters, per colour."""
    gloss: float
    """Share that it mirrors when seen straight on."""
    glow: wp.vec3
    """Radiance that it emits when all lamps are on."""


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
    grain = 0.3 * wave(uv, 1.5, 2) + 0.3 * wave(uv, 0.17, 3)
    if footprint < 0.03:
        grain = grain + 0.35 * wave(uv, 25.0, 1) * fade(0.04, footprint)
    # Tar fills the cracks.
    crack = wp.where(wp.abs(wave(uv, 0.45, 4)) < 0.012 and wave(uv, 0.3, 23) > 0.08, 0.6, 1.0)
    crack = 1.0 + (crack - 1.0) * fade(0.1, footprint)
    patch = wp.where(wave(uv, 0.09, 5) > 0.33, 0.72, 1.0)
    return color * ((1.0 + grain) * crack * patch)


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
    return color * shade * (1.0 + 0.35 * wave(uv, 0.5, 7))


@wp.func
@no_type_check
def bricks(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    row = wp.floor(uv[1] / 0.12)
    u = uv[0] + 0.15 * modulo(row, 2.0)
    column = wp.floor(u / 0.3)
    joint = wp.where(modulo(u, 0.3) < 0.03, 1.0, wp.where(modulo(uv[1], 0.12) < 0.025, 1.0, 0.0))
    visible = fade(0.15, footprint)
    brick = color * (1.0 + 0.5 * visible * (hash_of(column, row, 2.0) - 0.5) + 0.2 * wave(uv, 0.4, 24))
    return brick * (1.0 - visible * joint) + (brick * 0.5 + wp.vec3(0.16, 0.15, 0.14)) * visible * joint


@wp.func
@no_type_check
def concrete(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    stain = 0.25 * wave(uv, 0.5, 25) + 0.15 * wave(wp.vec2(uv[0] * 3.0, uv[1] * 0.4), 1.0, 26)
    joint = wp.min(modulo(uv[0], 2.4), modulo(uv[1], 1.2))
    return color * (1.0 + stain - wp.where(joint < 0.03, 0.4, 0.0) * fade(0.15, footprint))


@wp.func
@no_type_check
def facade(color: wp.vec3, uv: wp.vec2, footprint: float) -> Surface:
    """A wall with windows; the wall's colour also decides its style: masonry, ribbon windows, slabs, or all of glass."""
    surface = Surface()
    style = hash_of(wp.floor(color[0] * 4096.0), wp.floor(color[1] * 4096.0), 3.0)
    trait = hash_of(style * 50.0, 2.0, 5.0)
    spacing = 1.8 + 1.6 * trait
    floor_height = 2.9 + 0.7 * hash_of(style * 100.0, 1.0, 4.0)
    half_width, half_height = 0.2 + 0.22 * trait, 0.22 + 0.1 * style
    if style < 0.22:
        # All of glass, in a grid of thin frames.
        spacing, half_width, half_height = 1.2 + 0.8 * trait, 0.47, 0.45
    elif style < 0.42:
        # Ribbons of windows from one end to the other.
        half_width = 0.49
    column = wp.floor(uv[0] / spacing)
    row = wp.floor((uv[1] - 0.9) / floor_height)
    x = modulo(uv[0], spacing) / spacing
    y = modulo(uv[1] - 0.9, floor_height) / floor_height
    shop = row < 1.0 and trait > 0.55
    if shop:
        half_width, half_height = 0.44, 0.4
    wall = color * (1.0 + 0.2 * wave(uv, 0.3, 8))
    if style > 0.75:
        wall = bricks(color, uv, footprint)
    elif style > 0.6:
        wall = concrete(color, uv, footprint)
    # Rain leaves streaks under the sills.
    wall = wall * (1.0 - 0.18 * wp.clamp(wave(wp.vec2(uv[0] * 2.5, uv[1] * 0.25), 1.0, 9), 0.0, 1.0))
    dx = wp.abs(x - 0.5) / half_width
    dy = wp.abs(y - 0.5) / half_height
    reach = wp.max(dx, dy)
    visible = fade(spacing, footprint)
    share = visible * wp.where(reach < 1.0, 1.0, 0.0) + (1.0 - visible) * wp.min(4.0 * half_width * half_height, 0.9)
    if uv[1] < 0.9:
        share = 0.0
    frame = wp.where(reach > 0.93 or (dx < 0.05 and trait < 0.6), 1.0, 0.0) * visible
    if reach >= 1.0 and reach < 1.1:
        wall = wall * 0.6
    room = hash_of(column, row, 6.0 + style)
    curtain = wp.where(room > 0.7, 0.25, wp.where(room > 0.55 and y > 0.5, 0.18, 0.015))
    pane = wp.vec3(curtain, curtain, curtain * 0.94) * (1.0 - frame) + (color * 0.3 + wp.vec3(0.1, 0.1, 0.1)) * frame
    surface.color = wall * (1.0 - share) + pane * share
    surface.gloss = share * (1.0 - frame) * (0.16 + 0.22 * trait)
    lit = wp.where(hash_of(column, row, 9.0 + style) < 0.22 or (shop and room > 0.3), 1.0, 0.0) * visible + (1.0 - visible) * 0.25
    warmth = hash_of(column, row, 12.0)
    tone = wp.vec3(1.0, 0.85, 0.6) * warmth + wp.vec3(0.8, 0.92, 1.0) * (1.0 - warmth)
    surface.glow = tone * (share * lit * (1.0 - frame) * (0.012 + 0.05 * room * room + wp.where(shop, 0.05, 0.0)))
    return surface


@wp.func
@no_type_check
def foliage(color: wp.vec3, point: wp.vec3, footprint: float) -> wp.vec3:
    coarse = wp.noise(wp.uint32(11), point * 1.7)
    fine = wp.noise(wp.uint32(12), point * 6.0) * fade(0.25, footprint)
    if footprint < 0.05:
        fine = fine + wp.noise(wp.uint32(13), point * 17.0) * fade(0.08, footprint)
    brightness = wp.clamp(0.85 + 0.8 * coarse + 1.2 * fine, 0.06, 2.2)
    return wp.cw_mul(color, wp.vec3(brightness * (1.0 + 0.3 * coarse), brightness, brightness * 0.9))


@wp.func
@no_type_check
def printed(color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
    """Fields and strokes of other colours, decided by the base colour."""
    key = hash_of(wp.floor(color[0] * 4096.0), wp.floor(color[2] * 4096.0), 13.0)
    hue = wp.vec3(hash_of(key * 90.0, 1.0, 14.0), hash_of(key * 90.0, 2.0, 15.0), hash_of(key * 90.0, 3.0, 16.0))
    second = hue * 0.5
    field = wave(wp.vec2(uv[0] * 0.35, uv[1] * 0.6), 1.0 + key, 27)
    base = wp.where(field > 0.1 + 0.2 * key, second, color)
    # Strokes like those of letters, in lines that end somewhere.
    stroke = hash_of(wp.floor(uv[0] / 0.09), wp.floor(uv[1] / 0.1), 17.0)
    in_line = modulo(uv[1], 1.1) > 0.8 and modulo(uv[0] + 5.0 * key, 3.7) > 1.4 and modulo(uv[0], 0.36) < 0.27
    ink = wp.where(in_line and stroke > 0.4, 1.0, 0.0) * fade(0.2, footprint)
    ink = ink + wp.where(in_line, 0.5, 0.0) * (1.0 - fade(0.2, footprint))
    darkness = wp.where(color[0] + color[1] + color[2] > 0.9, 0.06, 0.6)
    return base * (1.0 - ink) + wp.vec3(darkness, darkness, darkness) * ink


@wp.func
@no_type_check
def ground(material: int, color: wp.vec3, uv: wp.vec2, footprint: float) -> wp.vec3:
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
        blades = 0.5 * wave(uv, 2.1, 15)
        if footprint < 0.07:
            blades = blades + 0.5 * wave(uv, 14.0, 14) * fade(0.1, footprint)
        dry = wp.clamp(0.5 + 1.8 * wave(uv, 0.2, 16), 0.0, 1.0)
        mixed = color * (1.0 - 0.7 * dry) + wp.vec3(0.2, 0.17, 0.1) * (0.7 * dry)
        return mixed * (1.0 + blades)
    if material == SOIL:
        return color * (1.0 + 0.5 * wave(uv, 1.2, 17) + 0.5 * wave(uv, 9.0, 18) * fade(0.15, footprint))
    return asphalt(color, uv, footprint)


@wp.func
@no_type_check
def is_ground(material: int) -> bool:
    return (material >= ASPHALT and material <= GRASS) or material == SOIL


@wp.func
@no_type_check
def surface_at(material: int, color: wp.vec3, uv: wp.vec2, point: wp.vec3, footprint: float) -> Surface:
    """Return what the texture of a material shows at one place."""
    surface = Surface()
    if is_ground(material):
        surface.color = ground(material, color, uv, footprint)
        return surface
    if material == FACADE:
        return facade(color, uv, footprint)
    surface.color = color * (1.0 + 0.12 * wave(uv, 3.0, 20))
    if material == BRICK:
        surface.color = bricks(color, uv, footprint)
    elif material == FOLIAGE:
        surface.color = foliage(color, point, footprint)
    elif material == BARK:
        surface.color = color * (1.0 + 0.9 * wave(wp.vec2(uv[0] * 12.0, uv[1] * 1.5), 1.0, 19))
    elif material == BANDS:
        visible = fade(0.5, footprint)
        share = wp.where(modulo(uv[0] + uv[1], 0.5) < 0.25, 1.0, 0.0) * visible + 0.5 * (1.0 - visible)
        surface.color = color * share + wp.vec3(0.62, 0.62, 0.6) * (1.0 - share)
    elif material == CONCRETE:
        surface.color = concrete(color, uv, footprint)
    elif material == RIBS:
        surface.color = color * (1.0 + 0.3 * wp.sin(uv[0] * 25.0) * fade(0.25, footprint) + 0.25 * wave(uv, 0.6, 28))
    elif material == PRINT:
        surface.color = printed(color, uv, footprint)
        surface.gloss = 0.04
    elif material == CLOTH:
        folds = 0.4 * wave(wp.vec2(uv[0] * 9.0, uv[1] * 4.0), 1.0, 29)
        stripes = wp.where(modulo(uv[1], 0.12) < 0.06 and color[0] > color[1], 0.35, 0.0) * fade(0.12, footprint)
        surface.color = color * (1.0 + folds - stripes)
    elif material == PAINT:
        # Dirt gathers low on a body.
        dirt = wp.clamp(0.25 + 0.6 * wave(uv, 1.6, 30) - 0.4 * uv[1], 0.0, 0.5)
        surface.color = color * (1.0 - dirt) + wp.vec3(0.12, 0.11, 0.09) * dirt
        surface.gloss = 0.06
    elif material == GLASS:
        surface.gloss = 0.08
    return surface
