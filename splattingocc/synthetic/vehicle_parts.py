"""What vehicles are built of. Local frame: x forward, y left, z up, the origin on the ground under the middle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, Number, box, join, quads, triangles, wheel

GLASS: Color = (0.03, 0.035, 0.04)
LAMP: Color = (0.45, 0.45, 0.43)
TAIL_LAMP: Color = (0.28, 0.02, 0.02)
DARK: Color = (0.03, 0.03, 0.03)
METAL: Color = (0.28, 0.28, 0.28)
Station = tuple[Number, Number, Number]
"""Of a hull: x, the height of its top and half its width there, metres."""


def paint(rng: Generator) -> Color:
    """Draw a vehicle's colour: four of five are white, grey or black, the others muted."""
    if rng.random() < 0.8:
        gray = float(rng.choice([0.015, 0.04, 0.12, 0.25, 0.4, 0.62, 0.7])) * float(rng.uniform(0.85, 1.1))
        return (gray, gray * float(rng.uniform(0.97, 1.03)), gray * float(rng.uniform(0.93, 1.06)))
    hues = [(0.4, 0.03, 0.03), (0.03, 0.07, 0.25), (0.05, 0.13, 0.1), (0.28, 0.2, 0.1), (0.1, 0.18, 0.3), (0.5, 0.32, 0.04)]
    return tuple(float(c) for c in np.array(hues[int(rng.integers(len(hues)))]) * rng.uniform(0.6, 1.3, 3))  # type: ignore[return-value]


def hull(
    stations: Sequence[Station], bottom: Number, half_width: Number, material: Material, color: Color, *, roof: Color | None = None
) -> Mesh:
    """Make a closed body of cross-sections from the front to the rear; below, at height `bottom`, all are `half_width` wide each way.

    With a `roof`, faces of the top that are nearly level are painted in that colour.
    """
    x, top, half_top = np.array(stations, dtype=np.float64).T
    low, wide = np.full(len(x), float(bottom)), np.full(len(x), float(half_width))
    lines = {
        (side, level): np.stack([x, side * half, z], axis=-1)
        for side in (-1.0, 1.0)
        for level, half, z in (("low", wide, low), ("top", half_top, top))
    }
    faces, uvs = [], []
    for side in (-1.0, 1.0):
        faces.append(_strip(lines[side, "low"], lines[side, "top"]))
        uvs.append(faces[-1][..., [0, 2]])
    ends = np.stack([[lines[-1.0, "low"][i], lines[1.0, "low"][i], lines[1.0, "top"][i], lines[-1.0, "top"][i]] for i in (0, -1)])
    faces.append(ends)
    uvs.append(ends[..., [1, 2]])
    body = quads(np.concatenate(faces), np.concatenate(uvs), material, color)
    lid = _strip(lines[-1.0, "top"], lines[1.0, "top"])
    # Far up along v no texture shows the dirt of the road.
    lid_uvs = lid[..., :2] + [0.0, 3.0]
    level = np.abs(np.diff(top)) < 0.25 * np.abs(np.diff(x))
    if roof is None or not level.any():
        return join([body, quads(lid, lid_uvs, material, color)])
    parts = [body, quads(lid[level], lid_uvs[level], Material.PAINT, roof)]
    return join([*parts, quads(lid[~level], lid_uvs[~level], material, color)] if not level.all() else parts)


def _strip(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.stack([one[:-1], one[1:], other[1:], other[:-1]], axis=1)


def wheels(radius: Number, width: Number, track: Number, axles: Sequence[Number], *, rim: Color = METAL) -> list[Mesh]:
    """Make a pair of wheels on each axle, with rims outside."""
    parts = []
    angles = np.arange(7) * (2 * np.pi / 6)
    circle = np.stack([np.cos(angles), np.zeros(7), np.sin(angles)], axis=-1) * (radius * 0.62)
    for x in axles:
        for side in (-1, 1):
            parts.append(wheel(radius, width, (x, side * (track - width) / 2, radius)))
            hub = np.stack([np.zeros((6, 3)), circle[:-1], circle[1:]], axis=1) + [x, side * (track / 2 + 0.01), radius]
            parts.append(triangles(hub, hub[..., [0, 2]], Material.PLAIN, rim))
    return parts


def lamps(front: Number, rear: Number, width: Number, height: Number, *, size: Number = 0.14) -> list[Mesh]:
    """Make head lamps and tail lamps, and number plates between them."""
    parts = []
    for side in (-1, 1):
        y = side * width * 0.36
        parts.append(box((0.06, width * 0.2, size), (front, y, height), Material.HEAD_LAMP, LAMP))
        parts.append(box((0.06, width * 0.15, size * 1.2), (rear, y * 1.1, height * 1.12), Material.TAIL_LAMP, TAIL_LAMP))
    parts += [box((0.04, 0.5, 0.12), (x, 0, height * 0.72), Material.PLAIN, (0.5, 0.5, 0.45)) for x in (front, rear)]
    return parts
