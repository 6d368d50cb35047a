"""What stands beside and on a street: plants, poles, barriers, buildings. Local frame: z up, the origin on the ground."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, blob, box, cylinder, join, placement, ring, scaled, tilt, wheel
from splattingocc.synthetic.people import cloth
from splattingocc.synthetic.vehicles import DARK, bicycle

STEEL: Color = (0.22, 0.23, 0.24)
WHITE: Color = (0.6, 0.6, 0.58)
ROOTED = 0.4
"""How far things that stand on uneven land reach into it, metres."""


def leaf_color(rng: Generator) -> Color:
    """Draw the colour of a scene's leaves: dark green, grey-green, dusty, dry, or of autumn."""
    greens: list[Color] = [(0.08, 0.125, 0.05), (0.12, 0.165, 0.075), (0.15, 0.17, 0.115), (0.22, 0.18, 0.1), (0.3, 0.17, 0.07)]
    return _varied(rng, greens[int(rng.choice(5, p=[0.36, 0.28, 0.16, 0.1, 0.1]))], 0.3)


def _varied(rng: Generator, color: Color, amount: float = 0.25) -> Color:
    return tuple(float(c) for c in np.array(color) * rng.uniform(1 - amount, 1 + amount, 3))  # type: ignore[return-value]


def tree(rng: Generator, leaves: Color) -> Mesh:
    """A broad-leaved tree or, sometimes, a conifer."""
    height = rng.uniform(4.5, 10.0)
    trunk_height = height * rng.uniform(0.3, 0.45)
    radius = height * rng.uniform(0.015, 0.028)
    bark = _varied(rng, (0.14, 0.11, 0.085))
    trunk = cylinder(radius, trunk_height + ROOTED + 1.0, (0, 0, -ROOTED), Material.BARK, bark, top_radius=radius * 0.6, sides=6)
    if rng.random() < 0.2:
        tiers = []
        for i in range(4):
            foot, wide = (0.0, 0.0, trunk_height * 0.5 + i * height * 0.16), height * 0.2 * (1 - 0.2 * i)
            tiers.append(cylinder(wide, height * 0.3, foot, Material.FOLIAGE, scaled(leaves, 0.8), top_radius=0.05, sides=7))
        return join([trunk, *tiers])
    crown = height - trunk_height
    # Many small tufts about a few branches: the outline is ragged and lets the sky through.
    branches = [cylinder(radius * 0.5, crown * 0.5, (0, 0, 0), Material.BARK, bark, top_radius=radius * 0.2, sides=4) for _ in range(3)]
    turns = rng.uniform(0, 2) + np.arange(3) * 2.1
    parts = [trunk]
    for branch, turn in zip(branches, turns, strict=True):
        parts.append(branch.moved(tilt(-rng.uniform(0.5, 0.9))).moved(placement(0, 0, trunk_height * 0.95, turn)))
    wide, tall = crown * rng.uniform(0.3, 0.48), crown * rng.uniform(0.34, 0.46)
    for _ in range(int(rng.integers(7, 12))):
        way = rng.normal(0, 1, 3)
        way *= rng.uniform(0.3, 0.8) / np.linalg.norm(way)
        size = crown * rng.uniform(0.16, 0.27)
        middle = (way[0] * wide, way[1] * wide, trunk_height + crown * 0.48 + way[2] * tall)
        radii = (size * rng.uniform(0.9, 1.3), size * rng.uniform(0.9, 1.3), size * rng.uniform(0.6, 0.95))
        shade = _varied(rng, scaled(leaves, 0.85 + 0.3 * way[2]), 0.15)
        parts.append(blob(radii, middle, Material.FOLIAGE, shade, bumps=0.19, phase=rng.uniform(0, 6), detail=1))
    return join(parts)


def bush(rng: Generator, leaves: Color) -> Mesh:
    """A bush."""
    size = rng.uniform(0.4, 1.0)
    radii = (size, size * rng.uniform(0.7, 1.3), size)
    return blob(radii, (0, 0, size * 0.7), Material.FOLIAGE, _varied(rng, leaves), bumps=0.15, phase=rng.uniform(0, 6))


def hedge(rng: Generator, length: float, height: float, leaves: Color) -> Mesh:
    """A clipped hedge along x."""
    body = box((length, 0.8, height + ROOTED), (0, 0, (height - ROOTED) / 2), Material.FOLIAGE, leaves, taper=(1.0, 0.85))
    tufts = [
        blob((0.5, 0.35, 0.18), (x, 0, height), Material.FOLIAGE, leaves, bumps=0.2, phase=rng.uniform(0, 6), detail=1)
        for x in np.arange(-length / 2 + 0.4, length / 2, 0.9)
    ]
    return join([body, *tufts])


def wall(length: float, height: float, color: Color, brick: bool) -> Mesh:
    """A garden wall along x with a coping."""
    body = box((length, 0.3, height + ROOTED), (0, 0, (height - ROOTED) / 2), Material.BRICK if brick else Material.CONCRETE, color)
    return join([body, box((length, 0.4, 0.1), (0, 0, height + 0.03), Material.PLAIN, (0.3, 0.29, 0.27))])


def fence(length: float, height: float, color: Color) -> Mesh:
    """A picket fence along x."""
    posts = [box((0.1, 0.1, height + ROOTED), (x, 0, (height - ROOTED) / 2), Material.PLAIN, color) for x in (-length / 2, 0.0)]
    rails = [box((length, 0.06, 0.1), (0, 0, height * share), Material.PLAIN, color) for share in (0.25, 0.85)]
    pickets = [
        box((0.09, 0.03, height - 0.15), (x, 0.05, height / 2 + 0.05), Material.PLAIN, color)
        for x in np.arange(-length / 2 + 0.2, length / 2, 0.25)
    ]
    return join([*posts, *rails, *pickets])


def lamp_post(rng: Generator) -> Mesh:
    """A street lamp whose arm reaches along x."""
    height, reach = rng.uniform(6.0, 8.5), rng.uniform(1.0, 2.2)
    color = STEEL if rng.random() < 0.6 else (0.05, 0.08, 0.06)
    pole = cylinder(0.1, height + ROOTED, (0, 0, -ROOTED), Material.PLAIN, color, top_radius=0.06)
    arm = box((reach, 0.08, 0.08), (reach / 2, 0, height), Material.PLAIN, color)
    return join([pole, arm, box((0.6, 0.25, 0.12), (reach, 0, height - 0.08), Material.STREET_LAMP, WHITE)])


def traffic_light(rng: Generator) -> Mesh:
    """A traffic light that faces +x."""
    pole = cylinder(0.08, 3.4 + ROOTED, (0, 0, -ROOTED), Material.PLAIN, STEEL)
    head = box((0.25, 0.35, 0.95), (0.12, 0, 2.95), Material.PLAIN, DARK)
    lit = int(rng.integers(3))
    colors: list[Color] = [(0.7, 0.02, 0.02), (0.7, 0.4, 0.02), (0.02, 0.6, 0.1)]
    lamps = [
        box((0.06, 0.2, 0.2), (0.26, 0, 3.25 - 0.3 * i), *((Material.SIGNAL, color) if i == lit else (Material.PLAIN, scaled(color, 0.1))))
        for i, color in enumerate(colors)
    ]
    return join([pole, head, *lamps])


def sign(rng: Generator) -> Mesh:
    """A traffic sign that faces +x."""
    color: Color = [(0.03, 0.08, 0.3), (0.4, 0.03, 0.03), (0.5, 0.36, 0.05), (0.04, 0.2, 0.1), WHITE, WHITE][int(rng.integers(6))]
    pole = cylinder(0.04, 2.6 + ROOTED, (0, 0, -ROOTED), Material.PLAIN, STEEL, sides=6)
    board = box((0.04, rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.8)), (0.06, 0, 2.35), Material.PLAIN, color)
    return join([pole, board, box((0.02, 0.3, 0.12), (0.09, 0, 2.35), Material.PLAIN, WHITE)])


def bench(rng: Generator) -> Mesh:
    """A bench: street furniture, a static object of no class of its own."""
    wood = _varied(rng, [(0.3, 0.18, 0.09), (0.2, 0.19, 0.17), (0.36, 0.35, 0.33), (0.06, 0.12, 0.08)][int(rng.integers(4))])
    slats = [box((0.12, 1.7, 0.05), (x, 0, 0.48), Material.BARK, wood) for x in (-0.15, 0.0, 0.15)]
    back = box((0.06, 1.7, 0.4), (-0.25, 0, 0.75), Material.BARK, wood)
    legs = [box((0.45, 0.08, 0.48), (0, side * 0.7, 0.24), Material.PLAIN, DARK) for side in (-1, 1)]
    return join([*slats, back, *legs])


def post_box(rng: Generator) -> Mesh:
    """A post box, a hydrant, a bin, a cabinet or a planter."""
    color, kind = cloth(rng), int(rng.integers(4))
    if kind == 0:
        cabinet: Color = [(0.35, 0.35, 0.32), (0.12, 0.16, 0.13), (0.2, 0.2, 0.2)][int(rng.integers(3))]
        return box((0.4, rng.uniform(0.7, 1.3), rng.uniform(0.9, 1.4)), (0, 0, 0.5), Material.RIBS, cabinet)
    if kind == 1:
        pot = box((0.9, 0.9, 0.6), (0, 0, 0.3), Material.CONCRETE, (0.32, 0.31, 0.29), taper=(1.15, 1.15))
        return join([pot, blob((0.45, 0.45, 0.35), (0, 0, 0.75), Material.FOLIAGE, leaf_color(rng), bumps=0.2)])
    body = cylinder(0.28, 1.0, (0, 0, 0), Material.PLAIN if kind == 2 else Material.RIBS, color)
    return join([body, cylinder(0.32, 0.12, (0, 0, 1.0), Material.PLAIN, scaled(color, 0.7), top_radius=0.12)])


def bus_shelter(rng: Generator) -> Mesh:
    """A bus shelter open to +x."""
    panes = [box((0.06, 3.4, 1.8), (-0.7, 0, 1.25), Material.GLASS, (0.1, 0.13, 0.14))]
    panes.append(box((1.3, 0.06, 2.0), (0, 1.7, 1.2), Material.PRINT, cloth(rng)))
    posts = [cylinder(0.05, 2.4, (x, y, 0), Material.PLAIN, STEEL, sides=6) for x in (-0.7, 0.6) for y in (-1.6, 1.6)]
    return join([*panes, *posts, box((1.7, 3.8, 0.12), (0, 0, 2.45), Material.PLAIN, STEEL), bench(rng).moved(placement(-0.3, 0))])


def barrier(rng: Generator) -> Mesh:
    """A road barrier along x: concrete, plastic, boards on feet, a building fence, a crowd barrier or a guard rail."""
    length = rng.uniform(1.8, 2.2)
    kind = rng.choice(["concrete", "plastic", "boards", "fence", "crowd", "rail"], p=[0.27, 0.27, 0.12, 0.14, 0.12, 0.08])
    if kind in ("concrete", "plastic"):
        plains: list[Color] = [(0.6, 0.6, 0.58), (0.5, 0.12, 0.04), (0.5, 0.33, 0.06), (0.1, 0.14, 0.3)]
        plain: Color = _varied(rng, (0.36, 0.35, 0.33)) if kind == "concrete" else plains[int(rng.integers(4))]
        striped = Material.BANDS if rng.random() < 0.15 else Material.PLAIN
        material = Material.CONCRETE if kind == "concrete" else striped
        foot = box((length, 0.6, 0.3), (0, 0, 0.15), material, plain, taper=(1.0, 0.75))
        return join([foot, box((length, 0.42, 0.6), (0, 0, 0.6), material, plain, taper=(1.0, 0.45))])
    if kind == "fence":
        color: Color = [(0.25, 0.25, 0.25), (0.08, 0.18, 0.12), (0.4, 0.39, 0.36)][int(rng.integers(3))]
        panel = box((length, 0.05, 1.8), (0, 0, 1.0), Material.PRINT if rng.random() < 0.3 else Material.RIBS, color)
        return join(
            [panel, *[box((0.3, 0.7, 0.15), (side * length * 0.45, 0, 0.08), Material.CONCRETE, (0.3, 0.3, 0.28)) for side in (-1, 1)]]
        )
    if kind == "crowd":
        bars = [box((0.03, 0.03, 0.85), (float(x), 0, 0.6), Material.PLAIN, STEEL) for x in np.linspace(-length / 2, length / 2, 12)]
        rails = [box((length, 0.05, 0.05), (0, 0, z), Material.PLAIN, STEEL) for z in (0.2, 1.05)]
        return join([*bars, *rails, *[box((0.06, 0.6, 0.05), (side * length * 0.4, 0, 0.03), Material.PLAIN, STEEL) for side in (-1, 1)]])
    if kind == "rail":
        posts = [box((0.1, 0.12, 0.75), (side * length * 0.3, 0, 0.37), Material.PLAIN, STEEL) for side in (-1, 1)]
        return join([*posts, *[box((length, 0.08, 0.14), (0, 0.08, z), Material.PLAIN, (0.38, 0.38, 0.38)) for z in (0.5, 0.68)]])
    colors: list[Color] = [(0.5, 0.08, 0.04), (0.5, 0.3, 0.05), (0.05, 0.05, 0.05)]
    stripes = colors[int(rng.integers(3))]
    boards = [box((length, 0.05, 0.2), (0, 0, z), Material.BANDS, stripes) for z in (0.55, 0.9)]
    legs = [box((0.08, 0.5, 1.05), (side * length * 0.42, 0, 0.52), Material.PLAIN, WHITE, taper=(1, 0.2)) for side in (-1, 1)]
    return join([*boards, *legs])


def cone(rng: Generator) -> Mesh:
    """A traffic cone, with or without bands, or a slim post."""
    height = rng.uniform(0.65, 1.0)
    colors: list[Color] = [(0.55, 0.13, 0.03), (0.5, 0.38, 0.05), (0.4, 0.05, 0.04), (0.12, 0.2, 0.1)]
    # The sun bleaches them, the road blackens them.
    color = scaled(_varied(rng, colors[int(rng.choice(4, p=[0.65, 0.15, 0.12, 0.08]))]), rng.uniform(0.4, 1.1))
    material = Material.BANDS if rng.random() < 0.7 else Material.PLAIN
    foot = box((0.42, 0.42, 0.06), (0, 0, 0.03), Material.PLAIN, DARK)
    base, top = (0.19, 0.04) if rng.random() < 0.8 else (0.07, 0.05)
    return join([foot, cylinder(base, height, (0, 0, 0.06), material, color, top_radius=top, sides=10)])


def debris(rng: Generator) -> Mesh:
    """A heap of bags, boards and boxes."""
    parts = [
        blob((0.4, 0.35, 0.28), (*rng.normal(0, 0.4, 2), 0.22), Material.PLAIN, cloth(rng), bumps=0.15, phase=rng.uniform(0, 6))
        for _ in range(3)
    ]
    size = rng.uniform(0.3, 0.7)
    parts.append(
        box((size, size * 1.3, size), (*rng.normal(0, 0.5, 2), size / 2), Material.PLAIN, (0.35, 0.24, 0.13)).moved(
            placement(0, 0, 0, rng.uniform(0, 3))
        )
    )
    return join(parts)


def container(rng: Generator) -> Mesh:
    """A rubbish container on wheels: pushable."""
    bins: list[Color] = [(0.06, 0.14, 0.08), (0.05, 0.05, 0.055), (0.25, 0.25, 0.25), (0.07, 0.1, 0.2), (0.3, 0.2, 0.06)]
    color = _varied(rng, bins[int(rng.integers(5))], 0.4)
    body = box((1.3, 0.95, 1.0), (0, 0, 0.68), Material.PLAIN, color, taper=(1.1, 1.1))
    lid = box((1.45, 1.05, 0.14), (0, 0, 1.25), Material.PLAIN, scaled(color, 0.5), taper=(0.95, 0.6))
    return join([body, lid, *[wheel(0.1, 0.06, (x, y, 0.1)) for x in (-0.5, 0.5) for y in (-0.35, 0.35)]])


def bicycle_rack(rng: Generator) -> Mesh:
    """A rack of hoops with bicycles in it; the whole counts as the rack."""
    count = int(rng.integers(3, 6))
    hoops = [ring(0.4, 0.05, (0, 0, 0.42), STEEL).moved(placement(0, 0.6 * i)) for i in range(count)]
    bikes = [bicycle(rng).moved(placement(0.25, 0.6 * i + 0.12)) for i in range(count) if rng.random() < 0.7]
    return join([box((0.1, 0.6 * count, 0.06), (0, 0.3 * (count - 1), 0.03), Material.PLAIN, STEEL), *hoops, *bikes])


def facade_color(rng: Generator) -> Color:
    """Draw the colour of a house wall; some are as green as leaves and some as grey as roads."""
    base: list[Color] = [
        (0.3, 0.14, 0.1), (0.44, 0.4, 0.34), (0.17, 0.17, 0.17), (0.4, 0.31, 0.2), (0.13, 0.17, 0.14), (0.55, 0.54, 0.51), (0.2, 0.24, 0.3),
        (0.3, 0.3, 0.29), (0.38, 0.37, 0.36), (0.09, 0.1, 0.11), (0.25, 0.2, 0.16),
    ]  # fmt: skip
    return _varied(rng, base[int(rng.integers(len(base)))], 0.2)


def building(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """A block along x whose street front is at y = 0 and faces −y; it extends to y = `depth`."""
    color = facade_color(rng)
    middle = depth / 2
    kind = rng.random()
    material = Material.FACADE if kind < 0.86 else Material.BRICK if kind < 0.93 else Material.CONCRETE
    # Some towers step back above a wider base.
    step = height * rng.uniform(0.3, 0.6) if height > 14 and rng.random() < 0.45 else height
    body = box((width, depth, step + ROOTED), (0, middle, (step - ROOTED) / 2), material, color)
    base = box((width + 0.1, depth + 0.1, 0.7 + ROOTED), (0, middle, 0.35 - ROOTED / 2), Material.CONCRETE, scaled(color, 0.7))
    parts = [body, base, box((width + 0.5, depth + 0.5, 0.35), (0, middle, step), Material.PLAIN, scaled(color, 0.75))]
    if step < height:
        upper = facade_color(rng) if rng.random() < 0.5 else color
        parts.append(box((width * 0.72, depth * 0.7, height - step), (0, middle, (height + step) / 2), Material.FACADE, upper))
    door = rng.uniform(-0.35, 0.35) * width
    parts.append(box((1.3, 0.16, 2.3), (door, -0.02, 1.2), Material.PAINT, cloth(rng)))
    if rng.random() < 0.4:
        awning = [Material.BANDS, Material.CLOTH, Material.PRINT][int(rng.integers(3))]
        parts.append(box((width * 0.7, 1.1, 0.12), (0, -0.5, 2.9), awning, cloth(rng)))
    if rng.random() < 0.4:
        parts.append(
            box((width * rng.uniform(0.2, 0.6), 0.2, 0.8), (rng.uniform(-0.15, 0.15) * width, -0.1, 3.5), Material.PRINT, cloth(rng))
        )
    if height > 6 and rng.random() < 0.4:
        for floor in np.arange(3.4, step - 2, 3.0):
            rail = Material.RIBS if rng.random() < 0.5 else Material.PLAIN
            parts += [box((2.2, 0.9, 0.9), (x, -0.45, floor + 0.2), rail, scaled(color, 1.2)) for x in (-width * 0.25, width * 0.25)]
    elif rng.random() < 0.35:
        # Piers from the ground to the roof.
        parts += [
            box((0.5, 0.5, step), (float(x), -0.2, step / 2), Material.CONCRETE, scaled(color, 0.9))
            for x in np.linspace(-width / 2 + 0.25, width / 2 - 0.25, 5)
        ]
    parts.append(box((2.0, 2.0, 1.6), (width * 0.2, middle, height + 0.9), Material.RIBS, STEEL))
    return join(parts)


def house(rng: Generator, width: float, depth: float) -> Mesh:
    """A house with a pitched roof along x; front at y = 0, facing −y."""
    color, height = facade_color(rng), rng.uniform(2.8, 6.0)
    middle = depth / 2
    body = box((width, depth, height + ROOTED), (0, middle, (height - ROOTED) / 2), Material.FACADE, color)
    roof_color = _varied(rng, [(0.2, 0.1, 0.07), (0.08, 0.08, 0.09), (0.17, 0.15, 0.13), (0.25, 0.25, 0.24)][int(rng.integers(4))])
    rise = rng.uniform(1.5, 3.0)
    roof = box(
        (width + 0.8, depth + 0.8, rise),
        (0, middle, height + rise / 2),
        Material.BRICK,
        roof_color,
        taper=(0.95 if rng.random() < 0.5 else 0.6, 0.04),
    )
    door = box((1.1, 0.16, 2.1), (rng.uniform(-0.3, 0.3) * width, -0.02, 1.1), Material.PAINT, cloth(rng))
    chimney = box((0.6, 0.6, 1.6), (width * 0.25, middle, height + rise * 0.8), Material.BRICK, (0.26, 0.13, 0.1))
    step = box((1.6, 0.9, 0.3), (0, -0.4, 0.15), Material.PLAIN, (0.3, 0.3, 0.28))
    return join([body, roof, door, chimney, step])
