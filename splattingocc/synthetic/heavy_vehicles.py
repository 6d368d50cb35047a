"""Lorries, buses, trailers and building machines. Local frame: x forward, y left, z up, the origin on the ground under the middle."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, box, cylinder, join, placement, tilt, wheel
from splattingocc.synthetic.vehicle_parts import DARK, GLASS, METAL, hull, lamps, paint, wheels

WORKS_COLORS: tuple[Color, ...] = ((0.58, 0.36, 0.05), (0.55, 0.27, 0.06), (0.5, 0.5, 0.47), (0.2, 0.22, 0.2), (0.1, 0.2, 0.12))


def bus(rng: Generator) -> Mesh:
    """A city bus, a coach, a double-decker or a minibus."""
    kind = rng.choice(["city", "coach", "double", "mini"], p=[0.5, 0.2, 0.12, 0.18])
    color, width = paint(rng), rng.uniform(2.45, 2.6)
    if kind == "mini":
        length, width, height = rng.uniform(6.0, 7.5), rng.uniform(2.0, 2.2), rng.uniform(2.6, 2.8)
        decks: tuple[tuple[float, float], ...] = ((0.5, 0.8),)
    elif kind == "double":
        length, height, decks = rng.uniform(9.5, 11.0), rng.uniform(4.1, 4.3), ((0.26, 0.42), (0.64, 0.86))
    elif kind == "coach":
        length, height, decks = rng.uniform(11.0, 13.0), rng.uniform(3.3, 3.7), ((0.5, 0.85),)
    else:
        length, height, decks = rng.uniform(9.5, 12.5), rng.uniform(2.9, 3.3), ((0.42, 0.78),)
    parts = _bus_body(rng, length, width, height, color, 0.0, decks)
    parts.append(box((0.06, width * 0.9, height * 0.42), (length / 2 + 0.01, 0, height * 0.56), Material.GLASS, GLASS))
    parts.append(box((0.05, width * 0.6, 0.28), (length / 2 + 0.02, 0, height - 0.25), Material.SIGNAL, (0.4, 0.25, 0.03)))
    if kind == "city":
        # What stands on the roof: batteries, gas bottles, air conditioning.
        parts.append(box((length * rng.uniform(0.2, 0.5), width * 0.7, 0.3), (rng.uniform(-2, 1), 0, height + 0.12), Material.PAINT, color))
    parts += lamps(length / 2, -length / 2, width, 0.8)
    return join(parts + wheels(0.42 if kind == "mini" else 0.5, 0.3, width * 1.01, [length * 0.32, -length * 0.28]))


def _bus_body(
    rng: Generator, length: float, width: float, height: float, color: Color, center: float, decks: tuple[tuple[float, float], ...]
) -> list[Mesh]:
    half, front, rear = width / 2, center + length / 2, center - length / 2
    stations = [
        (front, height * 0.9, half * 0.93),
        (front - 0.35, height, half * 0.95),
        (rear + 0.2, height, half * 0.95),
        (rear, height * 0.93, half * 0.93),
    ]
    material = Material.PRINT if rng.random() < 0.4 else Material.PAINT
    parts = [hull(stations, 0.33, half, material, color)]
    second = paint(rng) if rng.random() < 0.5 else color
    parts.append(box((length * 0.99, width * 1.004, 0.3), (center, 0, 0.5), Material.PAINT, second))
    for low, high in decks:
        middle, tall = height * (low + high) / 2, height * (high - low)
        parts.append(box((length * 0.94, width * 1.0, tall), (center, 0, middle), Material.GLASS, GLASS, taper=(1.0, 0.985)))
        for x in np.arange(rear + 1.4, front - 0.8, 1.9):
            parts.append(box((0.1, width * 1.004, tall), (float(x), 0, middle), Material.PAINT, second, taper=(1.0, 0.985)))
    return parts


def bendy_bus(rng: Generator) -> Mesh:
    """A bus of two halves with a bellows between."""
    length, width, height = rng.uniform(15.5, 18.0), 2.55, rng.uniform(3.0, 3.3)
    color = paint(rng)
    half = length / 2 - 0.5
    decks = ((0.42, 0.78),)
    parts = _bus_body(rng, half, width, height, color, length / 2 - half / 2, decks)
    parts += _bus_body(rng, half, width, height, color, -length / 2 + half / 2, decks)
    parts.append(box((1.0, width * 0.9, height - 0.6), (0, 0, height / 2 + 0.2), Material.RIBS, DARK))
    parts += lamps(length / 2, -length / 2, width, 0.8)
    return join(parts + wheels(0.5, 0.3, width * 1.01, [length * 0.36, length * 0.1, -length * 0.32]))


def truck(rng: Generator) -> Mesh:
    """A box lorry, a tanker, a flat bed, a dumper, a concrete mixer, a delivery van or a pick-up."""
    color = paint(rng)
    if rng.random() < 0.25:
        return _pickup(rng, color)
    kind = rng.choice(["box", "tank", "flat", "dumper", "mixer", "van"], p=[0.36, 0.1, 0.14, 0.13, 0.07, 0.2])
    length, width = rng.uniform(6.0, 9.5), rng.uniform(2.2, 2.55)
    if kind == "van":
        return _delivery_van(rng, color)
    cab_length, cab_height = rng.uniform(1.7, 2.3), rng.uniform(2.3, 2.95)
    parts = _cab(length, width, cab_length, cab_height, color)
    parts.append(box((length * 0.95, width * 0.6, 0.3), (0, 0, 0.72), Material.PLAIN, DARK))
    parts += _load(rng, str(kind), length - cab_length - 0.15, width, -length / 2, color)
    parts += [box((1.0, 0.3, 0.45), (0.2, side * width * 0.36, 0.7), Material.PLAIN, METAL) for side in (-1, 1)]
    return join(parts + wheels(0.47, 0.3, width, [length / 2 - 1.1, -length * 0.25, -length * 0.38]))


def _cab(length: float, width: float, cab_length: float, cab_height: float, color: Color) -> list[Mesh]:
    front, half = length / 2, width / 2
    rear = front - cab_length
    stations = [
        (front, cab_height * 0.5, half * 0.94),
        (front - 0.12, cab_height * 0.56, half * 0.96), (front - 0.45, cab_height * 0.94, half * 0.9),
        (front - 0.75, cab_height, half * 0.88), (rear, cab_height, half * 0.9),
    ]  # fmt: skip
    screen = hull(
        [(front - 0.13, cab_height * 0.6, half * 0.9), (front - 0.42, cab_height * 0.93, half * 0.82)],
        cab_height * 0.58,
        half * 0.91,
        Material.GLASS,
        GLASS,
    )
    pane = box(
        (cab_length * 0.42, width * 0.985, cab_height * 0.26),
        (front - cab_length * 0.5, 0, cab_height * 0.72),
        Material.GLASS,
        GLASS,
        taper=(0.9, 0.95),
    )
    mirrors = [box((0.12, 0.16, 0.5), (front - 0.2, side * (half + 0.14), cab_height * 0.7), Material.PLAIN, DARK) for side in (-1, 1)]
    grille = box((0.08, width * 0.6, 0.45), (front, 0, cab_height * 0.36), Material.RIBS, DARK)
    return [
        hull(stations, 0.45, half * 0.96, Material.PAINT, color),
        screen.moved(placement(0.04, 0, 0)),
        pane,
        *mirrors,
        grille,
        *lamps(front + 0.01, -length / 2, width, 0.75),
    ]


def _load(rng: Generator, kind: str, length: float, width: float, rear: float, color: Color) -> list[Mesh]:
    """What stands on a chassis from `rear` on, `length` metres long."""
    middle = rear + length / 2
    if kind == "tank":
        return _tank(length, width * 0.46, middle, 1.0, paint(rng))
    if kind == "mixer":
        drum = cylinder(1.0, length * 0.75, (0, 0, 0), Material.BANDS, (0.4, 0.38, 0.34), top_radius=0.55, sides=10)
        return [
            drum.moved(tilt(np.pi / 2 - 0.25)).moved(placement(middle + length * 0.36, 0, 1.75)),
            box((length, width * 0.5, 0.5), (middle, 0, 1.05), Material.PLAIN, color),
        ]
    if kind == "dumper":
        body = paint(rng)
        return [
            box((length, width, 1.15), (middle, 0, 1.6), Material.RIBS, body, taper=(1.08, 1.05)),
            box((length * 0.9, width * 0.9, 0.5), (middle, 0, 2.2), Material.SOIL, (0.22, 0.18, 0.13), taper=(0.5, 0.5)),
        ]
    if kind == "flat":
        parts = [box((length, width, 0.18), (middle, 0, 1.05), Material.PLAIN, (0.17, 0.15, 0.12))]
        parts += [box((length, 0.06, 0.45), (middle, side * width * 0.49, 1.35), Material.PAINT, color) for side in (-1, 1)]
        parts.append(box((0.08, width, 1.2), (rear + length, 0, 1.7), Material.RIBS, METAL))
        for x in np.linspace(rear + 0.9, rear + length - 0.9, int(rng.integers(1, 4))):
            tall = rng.uniform(0.4, 1.5)
            material = [Material.PLAIN, Material.BARK, Material.CONCRETE, Material.CLOTH][int(rng.integers(4))]
            parts.append(box((1.2, width * 0.75, tall), (float(x), 0, 1.15 + tall / 2), material, paint(rng)))
        return parts
    height = rng.uniform(1.9, 2.7)
    material = [Material.PAINT, Material.PRINT, Material.RIBS][int(rng.integers(3))]
    return [box((length, width, height), (middle, 0, 0.95 + height / 2), material, paint(rng))]


def _tank(length: float, radius: float, middle: float, foot: float, color: Color) -> list[Mesh]:
    tank = cylinder(radius, length, (0, 0, -length / 2), Material.PAINT, color, sides=12)
    ends = join([tank, dataclasses.replace(tank, corners=tank.corners * np.array([1, 1, -1], dtype=np.float32))])
    lying = ends.moved(tilt(np.pi / 2)).moved(placement(middle, 0, foot + radius))
    return [lying, box((length * 0.7, 0.5, 0.12), (middle, 0, foot + 2 * radius + 0.03), Material.PLAIN, METAL)]


def _delivery_van(rng: Generator, color: Color) -> Mesh:
    length, width, height = rng.uniform(5.6, 6.8), rng.uniform(2.0, 2.2), rng.uniform(2.5, 2.9)
    front, half = length / 2, width / 2
    stations = [
        (front, 0.85, half * 0.86), (front - 0.15, 1.1, half * 0.9),
        (front - 0.9, 1.35, half * 0.96), (front - 1.6, height * 0.93, half * 0.86),
        (front - 2.0, height, half * 0.88), (-front + 0.05, height, half * 0.9), (-front, height * 0.95, half * 0.9),
    ]  # fmt: skip
    screen = hull([(front - 0.92, 1.38, half * 0.9), (front - 1.55, height * 0.9, half * 0.8)], 1.34, half * 0.92, Material.GLASS, GLASS)
    pane = box((0.8, width * 0.99, height * 0.26), (front - 1.95, 0, height * 0.66), Material.GLASS, GLASS, taper=(0.8, 0.96))
    body = hull(stations, 0.3, half * 0.97, Material.PRINT if rng.random() < 0.5 else Material.PAINT, color)
    parts = [body, screen.moved(placement(0.05, 0, 0.02)), pane, *lamps(front - 0.02, -front, width, 0.8)]
    return join(parts + wheels(0.36, 0.24, width, [front - 1.0, -front + 1.3]))


def _pickup(rng: Generator, color: Color) -> Mesh:
    length, width, height = rng.uniform(5.2, 6.0), rng.uniform(1.9, 2.05), rng.uniform(1.75, 2.0)
    front, half, belt = length / 2, width / 2, height * 0.6
    body = [
        (front, belt * 0.7, half * 0.9), (front - 0.1, belt * 0.92, half * 0.93),
        (front - length * 0.26, belt, half * 0.97), (-front * 0.22, belt, half * 0.97),
    ]  # fmt: skip
    glass = [
        (front - length * 0.25, belt, half * 0.88), (front - length * 0.36, height - 0.02, half * 0.74),
        (-front * 0.1, height, half * 0.74), (-front * 0.22, belt, half * 0.86),
    ]  # fmt: skip
    bed_length = front * 0.78
    parts = [
        hull(body, 0.35, half * 0.97, Material.PAINT, color),
        hull(glass, belt - 0.02, half * 0.9, Material.GLASS, GLASS, roof=color),
        box((bed_length, width * 0.96, 0.3), (-front + bed_length / 2, 0, 0.6), Material.PAINT, color),
        box((0.08, width * 0.96, 0.5), (-front + 0.05, 0, belt - 0.12), Material.PAINT, color),
        *[
            box((bed_length, 0.08, 0.5), (-front + bed_length / 2, side * (half - 0.06), belt - 0.12), Material.PAINT, color)
            for side in (-1, 1)
        ],
        *lamps(front, -front, width, belt * 0.8),
    ]
    if rng.random() < 0.4:
        parts.append(
            box((bed_length * 0.7, width * 0.7, 0.5), (-front * 0.65, 0, belt + 0.15), Material.PLAIN, paint(rng), taper=(0.8, 0.8))
        )
    return join(parts + wheels(0.4, 0.26, width, [length * 0.32, -length * 0.3]))


def trailer(rng: Generator) -> Mesh:
    """A parked semi-trailer: a box, a curtain, a tank, a container or a flat bed with a load."""
    length, width = rng.uniform(8.0, 12.5), rng.uniform(2.4, 2.55)
    kind = rng.choice(["box", "tank", "container", "flat"], p=[0.45, 0.12, 0.25, 0.18])
    parts = [box((length, width * 0.9, 0.25), (0, 0, 1.12), Material.PLAIN, (0.12, 0.1, 0.09))]
    if kind == "container":
        colors: list[Color] = [(0.3, 0.1, 0.06), (0.08, 0.14, 0.25), (0.2, 0.21, 0.2), (0.4, 0.4, 0.37)]
        parts.append(box((length * 0.97, width, 2.55), (0, 0, 1.25 + 1.28), Material.RIBS, colors[int(rng.integers(4))]))
    elif kind == "tank":
        parts += _tank(length * 0.95, width * 0.45, 0.0, 1.2, paint(rng))
    elif kind == "flat":
        parts += _load(rng, "flat", length, width, -length / 2, METAL)
    else:
        height = rng.uniform(2.3, 2.75)
        parts.append(
            box((length, width, height), (0, 0, 1.25 + height / 2), Material.PRINT if rng.random() < 0.5 else Material.PAINT, paint(rng))
        )
    legs = [box((0.15, 0.15, 1.05), (length * 0.32, side * 0.8, 0.52), Material.PLAIN, DARK) for side in (-1, 1)]
    guards = [box((length * 0.3, 0.05, 0.35), (0, side * width * 0.47, 0.75), Material.PLAIN, METAL) for side in (-1, 1)]
    return join(parts + legs + guards + wheels(0.5, 0.32, width, [-length * 0.28, -length * 0.4]))


def construction_vehicle(rng: Generator) -> Mesh:
    """An excavator, a wheel loader, a roller, a mobile crane or a telescopic handler."""
    color = WORKS_COLORS[int(rng.choice(len(WORKS_COLORS), p=[0.4, 0.2, 0.15, 0.15, 0.1]))]
    makers = (_excavator, _loader, _roller, _crane, _handler)
    return makers[int(rng.choice(len(makers), p=[0.34, 0.24, 0.14, 0.14, 0.14]))](rng, color)


def _excavator(rng: Generator, color: Color) -> Mesh:
    tracks = [box((3.6, 0.55, 0.85), (0, side * 1.05, 0.43), Material.RIBS, DARK, taper=(0.85, 1)) for side in (-1, 1)]
    boom = box((3.4, 0.4, 0.5), (1.7, 0, 0), Material.PAINT, color).moved(tilt(rng.uniform(0.5, 0.9))).moved(placement(0.9, -0.3, 1.7))
    arm = box((2.6, 0.3, 0.35), (1.3, 0, 0), Material.PAINT, color).moved(tilt(-rng.uniform(0.8, 1.2))).moved(placement(3.2, -0.3, 3.6))
    return join([
        *tracks, boom, arm,
        box((3.4, 2.3, 1.0), (-0.4, 0, 1.55), Material.PAINT, color, taper=(0.95, 0.9)),
        box((0.8, 2.2, 0.9), (-1.9, 0, 1.65), Material.PLAIN, METAL, taper=(0.8, 0.95)),
        box((1.3, 0.95, 1.5), (0.6, 0.65, 2.4), Material.GLASS, GLASS, taper=(0.8, 0.9)),
        box((1.1, 0.9, 0.1), (0.6, 0.65, 3.15), Material.PAINT, color),
        box((0.7, 1.0, 0.8), (4.5, -0.3, 1.3), Material.PLAIN, DARK, taper=(0.6, 1)),
    ])  # fmt: skip


def _loader(rng: Generator, color: Color) -> Mesh:
    lift = rng.uniform(0.0, 0.5)
    arms = [box((2.4, 0.25, 0.4), (1.9, side * 0.45, 1.0), Material.PAINT, color).moved(tilt(lift - 0.15, 0.8, 1.2)) for side in (-1, 1)]
    parts = [
        box((2.6, 1.7, 1.1), (-1.4, 0, 1.5), Material.PAINT, color, taper=(0.9, 0.85)),
        box((1.4, 1.5, 1.5), (0.0, 0, 2.4), Material.GLASS, GLASS, taper=(0.85, 0.85)),
        box((1.3, 1.4, 0.12), (0.0, 0, 3.2), Material.PAINT, color),
        *arms,
        box((1.0, 2.5, 0.9), (3.1, 0, 0.6), Material.PLAIN, (0.2, 0.19, 0.18), taper=(0.5, 1)).moved(tilt(lift, 0.8, 1.2)),
    ]
    return join(parts + wheels(0.75, 0.55, 2.3, [1.2, -1.6], rim=color))


def _roller(rng: Generator, color: Color) -> Mesh:
    drum = wheel(0.75, 1.9, (1.5, 0, 0.75), (0.15, 0.14, 0.13))
    parts = [
        drum,
        box((2.2, 1.7, 0.95), (-0.9, 0, 1.25), Material.PAINT, color, taper=(0.85, 0.85)),
        box((1.0, 2.1, 0.3), (1.2, 0, 1.4), Material.PAINT, color),
        *[box((0.1, 0.1, 1.3), (x, side * 0.75, 2.2), Material.PLAIN, DARK) for x in (-0.9, 0.5) for side in (-1, 1)],
        box((1.9, 1.8, 0.12), (-0.2, 0, 2.85), Material.PAINT, color),
    ]
    second = wheel(0.75, 1.9, (-1.5, 0, 0.75), (0.15, 0.14, 0.13))
    return join([*parts, second] if rng.random() < 0.5 else parts + wheels(0.7, 0.5, 1.9, [-1.4], rim=color))


def _crane(rng: Generator, color: Color) -> Mesh:
    length = rng.uniform(8.0, 10.0)
    boom = box((length * 0.95, 0.6, 0.65), (length * 0.42, 0, 0), Material.PAINT, color)
    parts = [
        box((length, 2.5, 0.8), (0, 0, 1.15), Material.PAINT, color),
        box((1.8, 2.4, 1.2), (length / 2 - 0.9, 0, 2.0), Material.GLASS, GLASS, taper=(0.75, 0.9)),
        box((1.3, 2.1, 0.1), (length / 2 - 0.9, 0, 2.62), Material.PAINT, color),
        box((2.4, 2.2, 1.1), (-length * 0.25, 0, 2.1), Material.PAINT, color, taper=(0.9, 0.9)),
        boom.moved(tilt(rng.uniform(0.03, 0.5))).moved(placement(-length * 0.3, 0, 2.6)),
        *[box((0.9, 3.6, 0.25), (x, 0, 0.8), Material.BANDS, (0.3, 0.2, 0.03)) for x in (-length * 0.42, length * 0.2)],
    ]
    return join(parts + wheels(0.62, 0.45, 2.5, [length * 0.36, length * 0.08, -length * 0.15, -length * 0.36]))


def _handler(rng: Generator, color: Color) -> Mesh:
    boom = box((4.6, 0.45, 0.45), (2.0, 0, 0), Material.PAINT, color).moved(tilt(rng.uniform(-0.02, 0.6))).moved(placement(-1.9, -0.5, 1.8))
    parts = [
        box((4.0, 1.5, 0.8), (-0.1, 0, 1.05), Material.PAINT, color, taper=(0.9, 0.9)),
        box((1.4, 0.9, 1.4), (0.2, 0.55, 2.0), Material.GLASS, GLASS, taper=(0.8, 0.9)),
        box((1.2, 0.8, 0.1), (0.2, 0.55, 2.72), Material.PAINT, color),
        boom,
    ]
    return join(parts + wheels(0.6, 0.42, 2.2, [1.3, -1.3], rim=color))
