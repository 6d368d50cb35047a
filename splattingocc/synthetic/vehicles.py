"""Vehicles, built of several parts each. Local frame: x forward, y left, z up, the origin on the ground under the middle."""

from __future__ import annotations

from numpy.random import Generator

from splattingocc.synthetic.heavy_vehicles import bendy_bus, bus, construction_vehicle, trailer, truck
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, blob, box, cylinder, join, ring, tilt, wheel
from splattingocc.synthetic.vehicle_parts import DARK, GLASS, LAMP, METAL, TAIL_LAMP, hull, lamps, paint, wheels

__all__ = [
    "DARK",
    "bendy_bus",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "emergency_vehicle",
    "motorcycle",
    "paint",
    "small_scooter",
    "trailer",
    "truck",
]

# Length, width and height in metres; then shares of the length, from the front: where the windscreen starts, where the roof starts and
# ends, where the rear window ends; then shares of the height: bonnet, belt line, boot.
_CAR_KINDS = {
    "saloon": ((4.4, 5.0), (1.75, 1.9), (1.40, 1.50), (0.26, 0.41, 0.68, 0.84), (0.58, 0.64, 0.66)),
    "estate": ((4.4, 4.95), (1.75, 1.9), (1.43, 1.55), (0.26, 0.41, 0.90, 0.985), (0.58, 0.63, 0.64)),
    "hatchback": ((3.6, 4.3), (1.65, 1.8), (1.42, 1.58), (0.22, 0.38, 0.84, 0.985), (0.58, 0.63, 0.64)),
    "off-roader": ((4.4, 5.1), (1.85, 2.05), (1.65, 1.90), (0.24, 0.37, 0.90, 0.985), (0.58, 0.62, 0.62)),
    "coupe": ((4.2, 4.6), (1.78, 1.9), (1.28, 1.38), (0.30, 0.47, 0.66, 0.90), (0.58, 0.66, 0.66)),
    "people carrier": ((4.4, 5.0), (1.8, 1.98), (1.65, 1.9), (0.13, 0.34, 0.92, 0.99), (0.55, 0.58, 0.58)),
    "van": ((4.7, 5.6), (1.85, 2.05), (1.9, 2.4), (0.12, 0.28, 0.985, 0.99), (0.48, 0.55, 0.55)),
}
_CAR_SHARES = (0.27, 0.12, 0.19, 0.22, 0.04, 0.09, 0.07)


def car(rng: Generator) -> Mesh:
    """A saloon, an estate, a hatchback, an off-roader, a coupé, a people carrier or a van."""
    kind = list(_CAR_KINDS)[int(rng.choice(len(_CAR_KINDS), p=_CAR_SHARES))]
    lengths, widths, heights, (screen, roof_start, roof_end, rear), (bonnet, belt, boot) = _CAR_KINDS[kind]
    length, width, height = rng.uniform(*lengths), rng.uniform(*widths), rng.uniform(*heights)
    color, half = paint(rng), width / 2
    bonnet, belt, boot = bonnet * height, belt * height, boot * height
    clearance = 0.24 if kind == "off-roader" else 0.18

    def along(share: float) -> float:
        return length * (0.5 - share)

    body = hull(
        [
            (along(0.0), bonnet * 0.62, half * 0.84), (along(0.025), bonnet * 0.88, half * 0.9),
            (along(screen), bonnet + 0.06, half * 0.97),
            (along(screen + 0.03), belt, half * 0.98), (along(rear), boot, half * 0.96), (along(0.985), boot * 0.97, half * 0.9),
            (along(1.0), boot * 0.66, half * 0.86),
        ],
        clearance, half * 0.96, Material.PAINT, color,
    )  # fmt: skip
    windows = (rear - 0.02) if kind != "van" else 0.45
    inset = half * 0.9
    greenhouse = [
        (along(screen), belt - 0.02, inset), (along(roof_start), height - 0.03, half * 0.74),
        (along((roof_start + roof_end) / 2), height, half * 0.74), (along(roof_end), height - 0.04, half * 0.72),
        (along(rear), belt - 0.02, inset),
    ]  # fmt: skip
    parts = [body, hull(greenhouse, belt - 0.04, inset, Material.GLASS, GLASS, roof=color)]
    # The edge of the roof and the posts stand a little proud of the glass; a van has a post at the cab only.
    edge = [
        (along(roof_start) + 0.03, height - 0.045),
        (along((roof_start + roof_end) / 2), height + 0.01),
        (along(roof_end) - 0.03, height - 0.05),
    ]
    parts.append(hull([(x, z, half * 0.75) for x, z in edge], height - 0.13, half * 0.785, Material.PAINT, color))
    posts = ((0.5 * (roof_start + roof_end), 0.05), (roof_end - 0.02, 0.09)) if kind != "van" else ((0.36, 0.06),)
    for share, reach in posts:
        stations = [(along(share) + end * reach, height - 0.06, half * 0.755) for end in (1, -1)]
        parts.append(hull(stations, belt - 0.03, inset + 0.015, Material.PAINT, color))
    if kind == "van":
        panel = [(along(windows), height, half * 0.8), (along(0.985), height, half * 0.8), (along(0.992), height - 0.1, half * 0.79)]
        printed = Material.PRINT if rng.random() < 0.35 else Material.PAINT
        parts.append(hull(panel, belt - 0.05, half * 0.965, printed, color))
    parts += lamps(along(0.015), along(0.99), width, bonnet * 0.76)
    parts.append(box((0.1, width * 0.5, 0.16), (along(0.012), 0, bonnet * 0.62), Material.PLAIN, DARK))
    bumper = color if rng.random() < 0.6 else DARK
    for end in (-1, 1):
        parts.append(box((0.2, width * 0.9, 0.2), (end * (length / 2 - 0.06), 0, 0.38), Material.PAINT, bumper, taper=(0.8, 0.98)))
        parts.append(box((0.13, 0.18, 0.13), (along(screen + 0.1), end * (half + 0.07), belt + 0.05), Material.PAINT, color))
    radius = rng.uniform(0.30, 0.36) + (0.04 if kind == "off-roader" else 0.0)
    rim = METAL if rng.random() < 0.7 else DARK
    return join(parts + wheels(radius, 0.22, width * 0.99, [along(0.19), along(0.79)], rim=rim))


def emergency_vehicle(rng: Generator) -> Mesh:
    """A police car or an ambulance with a light bar."""
    base = car(rng)
    height, length = float(base.corners[..., 2].max()), float(base.corners[..., 0].max())
    bar = [
        box((0.3, 0.55, 0.14), (-0.3, side * 0.3, height + 0.05), Material.SIGNAL, c)
        for side, c in ((-1, (0.5, 0.02, 0.02)), (1, (0.02, 0.05, 0.5)))
    ]
    half = float(base.corners[..., 1].max()) - 0.1
    color: Color = (0.05, 0.1, 0.45) if rng.random() < 0.5 else (0.55, 0.06, 0.04)
    stripe = box((length * 1.3, 2 * half, 0.18), (-0.1, 0, 0.62), Material.BANDS, color)
    return join([base, *bar, stripe])


def motorcycle(rng: Generator) -> Mesh:
    """A motorcycle, a scooter with a floor, or a tourer with cases; without its rider."""
    color, kind = paint(rng), rng.choice(["naked", "scooter", "tourer"], p=[0.4, 0.38, 0.22])
    radius = 0.24 if kind == "scooter" else 0.32
    parts = [
        ring(radius, 0.12, (0.66, 0, radius), DARK),
        ring(radius, 0.12, (-0.66, 0, radius), DARK),
        box((0.1, 0.16, 0.7), (0.6, 0, 0.62), Material.PLAIN, METAL, lean=-0.2),
        box((0.06, 0.72, 0.05), (0.46, 0, 1.03), Material.PLAIN, DARK),
        box((0.14, 0.2, 0.18), (0.64, 0, 0.9), Material.HEAD_LAMP, LAMP),
        box((0.06, 0.14, 0.08), (-0.82, 0, 0.72), Material.TAIL_LAMP, TAIL_LAMP),
        blob((0.42, 0.15, 0.09), (-0.38, 0, 0.82), Material.PLAIN, DARK),
        box((0.4, 0.2, 0.06), (0.66, 0, radius * 2 + 0.06), Material.PAINT, color),
    ]
    if kind == "scooter":
        parts += [
            box((0.1, 0.42, 0.62), (0.42, 0, 0.62), Material.PAINT, color, taper=(0.8, 0.7), lean=-0.1),
            box((0.5, 0.36, 0.1), (0.15, 0, 0.34), Material.PAINT, color),
            box((0.8, 0.36, 0.4), (-0.4, 0, 0.56), Material.PAINT, color, taper=(0.9, 0.7)),
        ]
        if rng.random() < 0.4:
            parts.append(box((0.42, 0.42, 0.4), (-0.78, 0, 1.05), Material.PRINT, paint(rng)))
        return join(parts)
    parts += [
        box((0.65, 0.3, 0.36), (0.0, 0, 0.5), Material.PLAIN, (0.12, 0.12, 0.12)),
        blob((0.32, 0.17, 0.16), (0.15, 0, 0.86), Material.PAINT, color),
        box((0.7, 0.08, 0.08), (-0.45, -0.2, 0.35), Material.PLAIN, METAL),
    ]
    if kind == "tourer":
        parts += [box((0.45, 0.16, 0.35), (-0.6, side * 0.28, 0.62), Material.PAINT, color) for side in (-1, 1)]
        parts.append(box((0.06, 0.4, 0.4), (0.5, 0, 1.15), Material.GLASS, GLASS, lean=-0.15))
    return join(parts)


def bicycle(rng: Generator) -> Mesh:
    """A bicycle without its rider, some with a basket, a child's seat or bags."""
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
    extra = rng.random()
    if extra < 0.25:
        bars.append(box((0.3, 0.34, 0.24), (0.55, 0, 0.92), Material.PLAIN, (0.2, 0.17, 0.13), taper=(1.15, 1.15)))
    elif extra < 0.4:
        bars += [box((0.35, 0.12, 0.34), (-0.52, side * 0.12, 0.58), Material.CLOTH, paint(rng)) for side in (-1, 1)]
    elif extra < 0.5:
        bars.append(box((0.3, 0.28, 0.5), (-0.5, 0, 0.98), Material.PLAIN, paint(rng), taper=(0.5, 0.9)))
    return join([ring(0.34, 0.06, (0.52, 0, 0.34), DARK), ring(0.34, 0.06, (-0.52, 0, 0.34), DARK), *bars])


def small_scooter(rng: Generator) -> Mesh:
    """A kick scooter: personal mobility."""
    deck = box((0.7, 0.16, 0.08), (0, 0, 0.14), Material.PLAIN, DARK)
    stem = cylinder(0.03, 1.0, (0.32, 0, 0.1), Material.PAINT, paint(rng), sides=5)
    handle = box((0.05, 0.45, 0.05), (0.32, 0, 1.1), Material.PLAIN, DARK)
    return join([deck, stem, handle, wheel(0.1, 0.05, (0.38, 0, 0.1)), wheel(0.1, 0.05, (-0.32, 0, 0.1))])
