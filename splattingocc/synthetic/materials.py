"""What surfaces look like: procedural textures, evaluated where a ray hits."""

from __future__ import annotations

from enum import IntEnum


class Material(IntEnum):
    """The texture of a triangle; each has a function of its own in `shading.py`."""

    PLAIN = 0
    ASPHALT = 1
    DASHED_LINE = 2
    SOLID_LINE = 3
    ZEBRA = 4
    PAVERS = 5
    GRASS = 6
    BRICK = 7
    FACADE = 8
    FOLIAGE = 9
    BARK = 10
    PAINT = 11
    GLASS = 12
    BANDS = 13
    RUBBER = 14
    SOIL = 15
