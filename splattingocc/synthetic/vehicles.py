"""Vehicles, built of several parts each. Local frame: x forward, y left, z up, the origin on the ground under the middle."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, box, cylinder, join, placement, ring, tilt, wheel

GLASS: Color = (0.03, 0.04, 0.05)
LAMP: Color = (0.75, 0.72, 0.6)
TAIL_LAMP: Color = (0.45, 0.02, 0.02)
DARK: Color = (0.03, 0.03, 0.03)


def paint(rng: Generator) -> Color:
    """Draw a vehicle's colour: most are white, grey or black."""
    if rng.random() < 0.6:
        gray = float(rng.choice([0.02, 0.06, 0.15, 0.3, 0.5, 0.65]))
        return (gray, gray, gray * float(rng.uniform(0.95, 1.05)))
    hue, strength = rng.dirichlet([0.5, 0.5, 0.5]), rng.uniform(0.15, 0.45)
    return tuple(float(value) for value in strength * (0.15 + 0.85 * hue))  # type: ignore[return-value]


def _wheels(radius: float, width: float, track: float, axles: list[float]) -> list[Mesh]:
    return [wheel(radius, width, (x, side * (track - width) / 2, radius)) for x in axles for side in (-1, 1)]


def _lamps(front: float, rear: float, width: float, height: float) -> list[Mesh]:
    parts = []
    for side in (-1, 1):
        y = side * width * 0.36
        parts.append(box((0.06, width * 0.2, 0.14), (front, y, height), Material.PLAIN, LAMP))
        parts.append(box((0.06, width * 0.18, 0.16), (rear, y, height * 1.1), Material.PLAIN, TAIL_LAMP))
    return parts


def car(rng: Generator) -> Mesh:
    """A saloon, an estate or an off-roader."""
    length, width, height = rng.uniform(3.8, 4.9), rng.uniform(1.7, 1.95), rng.uniform(1.42, 1.85)
    color = paint(rng)
    belt = height * rng.uniform(0.52, 0.6)
    is_estate = rng.random() < 0.55
    cabin_length = length * (0.62 if is_estate else 0.5)
    cabin_center = -length * (0.15 if is_estate else 0.05)
    body = box((length, width, belt - 0.42), (0, 0, 0.42 + (belt - 0.42) / 2), Material.PAINT, color, taper=(0.97, 0.94))
    sill = box((length * 0.97, width * 0.97, 0.22), (0, 0, 0.31), Material.PLAIN, DARK)
    glass_height = height - belt - 0.05
    cabin = box(
        (cabin_length, width * 0.92, glass_height), (cabin_center, 0, belt + glass_height / 2), Material.GLASS, GLASS, taper=(0.72, 0.82)
    )
    roof = box((cabin_length * 0.72, width * 0.76, 0.06), (cabin_center, 0, height - 0.03), Material.PAINT, color, taper=(0.9, 0.9))
    pillar = box(
        (0.14, width * 0.87, glass_height), (cabin_center - 0.1, 0, belt + glass_height / 2), Material.PAINT, color, taper=(1, 0.9)
    )
    radius = rng.uniform(0.3, 0.38)
    parts = [body, sill, cabin, roof, pillar, *_lamps(length / 2 - 0.02, -length / 2 + 0.02, width, belt * 0.75)]
    for end in (-1, 1):
        parts.append(box((0.16, width * 0.94, 0.26), (end * (length / 2 - 0.05), 0, 0.45), Material.PLAIN, DARK))
        parts.append(box((0.14, 0.2, 0.13), (cabin_center + cabin_length * 0.4, end * width * 0.52, belt + 0.06), Material.PAINT, color))
    return join(parts + _wheels(radius, 0.22, width, [length * 0.3, -length * 0.3]))


def _bus_section(length: float, width: float, height: float, color: Color, center: float) -> list[Mesh]:
    floor = 0.35
    body = box((length, width, height - floor), (center, 0, (height + floor) / 2), Material.PAINT, color, taper=(1.0, 0.97))
    windows = box((length * 0.94, width * 1.005, height * 0.3), (center, 0, height * 0.63), Material.GLASS, GLASS, taper=(1.0, 0.985))
    return [body, windows]


def bus(rng: Generator) -> Mesh:
    """A city bus."""
    length, width, height = rng.uniform(9.5, 12.5), rng.uniform(2.5, 2.75), rng.uniform(2.9, 3.4)
    parts = _bus_section(length, width, height, paint(rng), 0.0)
    parts.append(box((0.06, width * 0.9, height * 0.42), (length / 2 + 0.01, 0, height * 0.6), Material.GLASS, GLASS))
    parts.append(box((0.05, width * 0.6, 0.28), (length / 2 + 0.02, 0, height - 0.25), Material.PLAIN, (0.8, 0.5, 0.05)))
    parts += _lamps(length / 2, -length / 2, width, 0.8)
    return join(parts + _wheels(0.5, 0.3, width, [length * 0.32, -length * 0.28]))


def bendy_bus(rng: Generator) -> Mesh:
    """A bus of two halves with a bellows between."""
    length, width, height = rng.uniform(15.5, 18.0), 2.55, rng.uniform(3.0, 3.3)
    color = paint(rng)
    half = length / 2 - 0.5
    parts = _bus_section(half, width, height, color, length / 2 - half / 2) + _bus_section(
        half, width, height, color, -length / 2 + half / 2
    )
    parts.append(box((1.0, width * 0.9, height - 0.6), (0, 0, height / 2 + 0.2), Material.PLAIN, DARK))
    parts += _lamps(length / 2, -length / 2, width, 0.8)
    return join(parts + _wheels(0.5, 0.3, width, [length * 0.36, length * 0.1, -length * 0.32]))


def truck(rng: Generator) -> Mesh:
    """A delivery van, a box lorry or a pick-up."""
    color, radius = paint(rng), 0.45
    if rng.random() < 0.3:
        return _pickup(rng, color)
    length, width, height = rng.uniform(6.0, 9.5), rng.uniform(2.2, 2.6), rng.uniform(2.7, 3.7)
    cab_length, cab_height = rng.uniform(1.7, 2.3), min(height - 0.2, rng.uniform(2.2, 2.8))
    cab_size, cab_center = (cab_length, width * 0.95, cab_height - 0.5), (length / 2 - cab_length / 2, 0, cab_height / 2 + 0.25)
    cab = box(cab_size, cab_center, Material.PAINT, color, taper=(0.85, 0.95), lean=-0.12)
    shield = box(
        (0.5, width * 0.86, cab_height * 0.32),
        (length / 2 - 0.32, 0, cab_height * 0.74),
        Material.GLASS,
        GLASS,
        taper=(0.6, 0.97),
        lean=-0.05,
    )
    cargo_length = length - cab_length - 0.15
    cargo_color = paint(rng) if rng.random() < 0.5 else (0.6, 0.6, 0.58)
    cargo = box((cargo_length, width, height - 0.85), (-length / 2 + cargo_length / 2, 0, height / 2 + 0.42), Material.PAINT, cargo_color)
    frame = box((length * 0.95, width * 0.6, 0.3), (0, 0, 0.72), Material.PLAIN, DARK)
    parts = [cab, shield, cargo, frame, *_lamps(length / 2, -length / 2, width, 0.85)]
    return join(parts + _wheels(radius, 0.28, width, [length / 2 - 1.1, -length * 0.25, -length * 0.38]))


def _pickup(rng: Generator, color: Color) -> Mesh:
    length, width, height = rng.uniform(5.2, 6.0), rng.uniform(1.9, 2.05), rng.uniform(1.8, 2.0)
    belt = height * 0.58
    bed = [
        box((length * 0.38, 0.08, 0.5), (-length * 0.29, side * (width / 2 - 0.05), belt - 0.1), Material.PAINT, color) for side in (-1, 1)
    ]
    parts = [
        box((length * 0.6, width, belt - 0.5), (length * 0.2, 0, 0.5 + (belt - 0.5) / 2), Material.PAINT, color, taper=(0.97, 0.95)),
        box((length * 0.42, width, 0.3), (-length * 0.28, 0, 0.65), Material.PAINT, color),
        box((0.08, width, 0.5), (-length / 2 + 0.05, 0, belt - 0.1), Material.PAINT, color),
        box(
            (length * 0.36, width * 0.92, height - belt), (length * 0.05, 0, (height + belt) / 2), Material.GLASS, GLASS, taper=(0.7, 0.85)
        ),
        box((length * 0.25, width * 0.78, 0.06), (length * 0.05, 0, height), Material.PAINT, color),
        *bed,
        *_lamps(length / 2, -length / 2, width, belt * 0.8),
    ]
    return join(parts + _wheels(0.4, 0.26, width, [length * 0.32, -length * 0.3]))


def trailer(rng: Generator) -> Mesh:
    """A parked semi-trailer, a box or a flat bed with a load."""
    length, width = rng.uniform(8.0, 12.5), rng.uniform(2.4, 2.6)
    deck = box((length, width, 0.3), (0, 0, 1.15), Material.PLAIN, (0.12, 0.1, 0.09))
    parts = [deck]
    if rng.random() < 0.6:
        height = rng.uniform(2.2, 2.7)
        body = paint(rng) if rng.random() < 0.3 else (0.58, 0.58, 0.56)
        parts.append(box((length, width, height), (0, 0, 1.3 + height / 2), Material.PAINT, body))
        parts.append(box((length * 0.5, width * 1.004, height * 0.3), (0, 0, 1.3 + height * 0.6), Material.PAINT, paint(rng)))
    else:
        for x in np.linspace(-length * 0.35, length * 0.35, 3):
            load = rng.uniform(0.6, 1.5)
            parts.append(box((length * 0.27, width * 0.8, load), (float(x), 0, 1.3 + load / 2), Material.PLAIN, paint(rng)))
    legs = [box((0.15, 0.15, 1.05), (length * 0.32, side * 0.8, 0.52), Material.PLAIN, DARK) for side in (-1, 1)]
    return join(parts + legs + _wheels(0.5, 0.32, width, [-length * 0.28, -length * 0.4]))


def construction_vehicle(rng: Generator) -> Mesh:
    """An excavator or a wheel loader."""
    color: Color = (float(rng.uniform(0.55, 0.75)), float(rng.uniform(0.3, 0.5)), 0.03) if rng.random() < 0.75 else paint(rng)
    if rng.random() < 0.5:
        tracks = [box((3.6, 0.55, 0.85), (0, side * 1.05, 0.43), Material.RUBBER, DARK, taper=(0.85, 1)) for side in (-1, 1)]
        boom = box((3.4, 0.4, 0.5), (1.7, 0, 0), Material.PAINT, color).moved(tilt(rng.uniform(0.5, 0.9))).moved(placement(0.9, -0.3, 1.7))
        arm = box((2.6, 0.3, 0.35), (1.3, 0, 0), Material.PAINT, color).moved(tilt(-rng.uniform(0.8, 1.2))).moved(placement(3.2, -0.3, 3.6))
        parts = [
            *tracks,
            box((3.4, 2.3, 1.0), (-0.4, 0, 1.55), Material.PAINT, color, taper=(0.95, 0.9)),
            box((1.3, 0.95, 1.5), (0.6, 0.65, 2.4), Material.GLASS, GLASS, taper=(0.8, 0.9)),
            box((1.1, 0.9, 0.1), (0.6, 0.65, 3.15), Material.PAINT, color),
            boom,
            arm,
            box((0.7, 1.0, 0.8), (4.5, -0.3, 1.3), Material.PLAIN, DARK, taper=(0.6, 1)),
        ]
        return join(parts)
    parts = [
        box((2.6, 1.7, 1.1), (-1.4, 0, 1.5), Material.PAINT, color, taper=(0.9, 0.85)),
        box((1.4, 1.5, 1.5), (0.0, 0, 2.4), Material.GLASS, GLASS, taper=(0.85, 0.85)),
        box((1.3, 1.4, 0.12), (0.0, 0, 3.2), Material.PAINT, color),
        box((2.4, 0.9, 0.4), (1.9, 0, 1.0), Material.PAINT, color).moved(tilt(-0.15)),
        box((1.0, 2.5, 0.9), (3.1, 0, 0.6), Material.PLAIN, (0.2, 0.19, 0.18), taper=(0.5, 1)),
    ]
    return join(parts + _wheels(0.75, 0.55, 2.3, [1.2, -1.6]))


def emergency_vehicle(rng: Generator) -> Mesh:
    """A police car with a light bar."""
    base = car(rng)
    height = float(base.corners[..., 2].max())
    bar = [
        box((0.3, 0.55, 0.14), (-0.3, side * 0.3, height + 0.07), Material.PLAIN, c)
        for side, c in ((-1, (0.6, 0.02, 0.02)), (1, (0.02, 0.05, 0.6)))
    ]
    stripe = box((3.0, 1.97, 0.18), (0, 0, 0.72), Material.BANDS, (0.05, 0.1, 0.5))
    return join([base, *bar, stripe])


def motorcycle(rng: Generator) -> Mesh:
    """A motorcycle or a scooter without its rider."""
    color = paint(rng)
    parts = [
        ring(0.32, 0.12, (0.7, 0, 0.32), DARK),
        ring(0.32, 0.12, (-0.7, 0, 0.32), DARK),
        box((0.8, 0.32, 0.4), (0.0, 0, 0.5), Material.PLAIN, (0.15, 0.15, 0.15)),
        box((0.55, 0.36, 0.3), (0.2, 0, 0.85), Material.PAINT, color, taper=(0.7, 0.7)),
        box((0.8, 0.3, 0.12), (-0.4, 0, 0.82), Material.PLAIN, DARK),
        box((0.1, 0.2, 0.75), (0.62, 0, 0.65), Material.PLAIN, (0.3, 0.3, 0.3), lean=-0.2),
        box((0.08, 0.75, 0.06), (0.5, 0, 1.05), Material.PLAIN, DARK),
        box((0.18, 0.22, 0.2), (0.68, 0, 0.92), Material.PLAIN, LAMP),
        box((0.45, 0.24, 0.08), (0.7, 0, 0.68), Material.PAINT, color),
    ]
    return join(parts)


def bicycle(rng: Generator) -> Mesh:
    """A bicycle without its rider."""
    color = paint(rng)
    bars = [
        box((0.62, 0.05, 0.05), (0.05, 0, 0.78), Material.PAINT, color),
        box((0.6, 0.05, 0.05), (0.08, 0, 0.52), Material.PAINT, color).moved(tilt(0.6, 0.08, 0.52)),
        box((0.05, 0.05, 0.6), (-0.22, 0, 0.62), Material.PAINT, color, lean=-0.06),
        box((0.48, 0.04, 0.04), (-0.3, 0, 0.34), Material.PAINT, color),
        box((0.05, 0.05, 0.65), (0.44, 0, 0.66), Material.PAINT, color, lean=-0.12),
        box((0.05, 0.5, 0.05), (0.38, 0, 1.0), Material.PLAIN, DARK),
        box((0.24, 0.14, 0.06), (-0.26, 0, 0.95), Material.PLAIN, DARK),
    ]
    return join([ring(0.34, 0.06, (0.52, 0, 0.34), DARK), ring(0.34, 0.06, (-0.52, 0, 0.34), DARK), *bars])


def small_scooter(rng: Generator) -> Mesh:
    """A kick scooter: personal mobility."""
    deck = box((0.7, 0.16, 0.08), (0, 0, 0.14), Material.PLAIN, DARK)
    stem = cylinder(0.03, 1.0, (0.32, 0, 0.1), Material.PAINT, paint(rng), sides=5)
    handle = box((0.05, 0.45, 0.05), (0.32, 0, 1.1), Material.PLAIN, DARK)
    return join([deck, stem, handle, wheel(0.1, 0.05, (0.38, 0, 0.1)), wheel(0.1, 0.05, (-0.32, 0, 0.1))])
