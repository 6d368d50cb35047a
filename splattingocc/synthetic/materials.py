"""What surfaces look like: procedural textures, evaluated where a ray hits."""

from __future__ import annotations

from enum import IntEnum


class Material(IntEnum):
    """The texture of a triangle; each has a function of its own in `textures.py`."""

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
    CONCRETE = 16
    """Stained, in slabs."""
    RIBS = 17
    """Corrugated sheet metal: containers, trailers, shutters."""
    PRINT = 18
    """Large lettering and fields of colour on the base colour: vans, buses, awnings, hoardings."""
    CLOTH = 19
    STREET_LAMP = 20
    """Shines in the dark; each run of such triangles in the mesh is a source that lights its surroundings."""
    HEAD_LAMP = 21
    """A vehicle's; shines in the dark and in rain if the vehicle moves."""
    TAIL_LAMP = 22
    SIGNAL = 23
    """Shines always: the lit lamp of a traffic light, a light bar."""
