"""People, animals, and what they push. Local frame: x forward, y left, z up, the origin on the ground."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, blob, box, cylinder, join, placement, tilt, wheel
from splattingocc.synthetic.vehicles import DARK, bicycle, motorcycle


def cloth(rng: Generator) -> Color:
    """Draw the colour of a garment: black, grey, white, denim, earth, or something brighter."""
    tones = [(0.02, 0.02, 0.025), (0.1, 0.1, 0.11), (0.3, 0.3, 0.3), (0.6, 0.59, 0.56), (0.05, 0.08, 0.18), (0.2, 0.16, 0.11)]
    tones += [(0.4, 0.05, 0.05), (0.06, 0.18, 0.3), (0.1, 0.2, 0.08), (0.5, 0.36, 0.1), (0.35, 0.12, 0.25)]
    tone = tones[int(rng.choice(len(tones), p=[0.2, 0.16, 0.12, 0.1, 0.14, 0.1, 0.05, 0.05, 0.03, 0.03, 0.02]))]
    return tuple(float(c) for c in np.array(tone) * rng.uniform(0.6, 1.35) * rng.uniform(0.9, 1.1, 3))  # type: ignore[return-value]


def _skin(rng: Generator) -> Color:
    return tuple(float(c) for c in np.array([0.55, 0.36, 0.26]) * rng.uniform(0.2, 1.0))  # type: ignore[return-value]


def person(rng: Generator, *, height: float | None = None, jacket: Color | None = None, stride: float = 0.35) -> Mesh:
    """A person who walks, or holds something; `stride` is the angle between the legs in radians."""
    tall = height or float(rng.uniform(1.55, 1.9))
    skin, coat, trousers = _skin(rng), jacket or cloth(rng), cloth(rng)
    hip, shoulder, broad = tall * 0.5, tall * 0.82, float(rng.uniform(0.9, 1.15))
    stretch = stride * float(rng.uniform(0.2, 1.4))
    short_sleeves = jacket is None and rng.random() < 0.35
    # Arms swing, or one of them is lifted: to a telephone, a bag, an umbrella.
    lifted = int(rng.choice([-1, 0, 1], p=[0.15, 0.7, 0.15]))
    parts = []
    for side in (-1, 1):
        leg = box((0.15, 0.14, hip), (0, side * 0.1, hip / 2), Material.CLOTH, trousers, taper=(1.3, 1.2))
        foot = box((0.26, 0.1, 0.08), (0.05, side * 0.1, 0.04), Material.PLAIN, DARK)
        parts += [part.moved(tilt(side * stretch / 2, 0, hip)) for part in (leg, foot)]
        arm = [
            box((0.11, 0.1, tall * 0.19), (0, side * 0.27 * broad, shoulder - tall * 0.09), Material.CLOTH, coat),
            box(
                (0.09, 0.09, tall * 0.18),
                (0.02, side * 0.27 * broad, shoulder - tall * 0.27),
                Material.CLOTH,
                skin if short_sleeves else coat,
            ),
        ]
        parts += [part.moved(tilt(1.2 if side == lifted else -side * stretch / 2, 0, shoulder)) for part in arm]
    depth = 0.24 * broad
    torso = box((depth, 0.38 * broad, shoulder - hip + 0.05), (0, 0, (hip + shoulder) / 2), Material.CLOTH, coat, taper=(1.0, 1.12))
    parts.append(torso)
    if rng.random() < 0.2:
        # A coat or a skirt.
        parts.append(box((0.34, 0.42, tall * 0.26), (0, 0, hip - tall * 0.1), Material.CLOTH, coat, taper=(0.8, 0.85)))
    parts.append(cylinder(0.06, 0.1, (0, 0, shoulder), Material.PLAIN, skin, sides=6))
    parts.append(blob((0.1, 0.085, 0.13), (0.02, 0, tall - 0.13), Material.PLAIN, skin, detail=1))
    hair: Color = DARK if rng.random() < 0.6 else cloth(rng)
    parts.append(blob((0.11, 0.1, 0.11), (-0.02, 0, tall - 0.09), Material.PLAIN, hair, detail=1))
    carried = rng.random()
    if carried < 0.25:
        parts.append(box((0.18, 0.3, 0.4), (-0.2, 0, shoulder - 0.2), Material.CLOTH, cloth(rng)))
    elif carried < 0.4:
        parts.append(box((0.3, 0.12, 0.28), (0.03, 0.34, hip - 0.05), Material.CLOTH, cloth(rng)))
    elif carried < 0.45:
        shade = cylinder(0.5, 0.22, (0.1, 0, tall + 0.12), Material.CLOTH, cloth(rng), top_radius=0.03)
        parts += [shade, box((0.02, 0.02, 0.8), (0.1, 0, tall - 0.25), Material.PLAIN, DARK)]
    return join(parts)


def child(rng: Generator) -> Mesh:
    """A child on foot."""
    return person(rng, height=float(rng.uniform(1.0, 1.35)))


def worker(rng: Generator) -> Mesh:
    """A construction worker in a bright vest and a helmet."""
    vests: list[Color] = [(0.6, 0.24, 0.03), (0.45, 0.55, 0.06), (0.06, 0.09, 0.2), (0.3, 0.3, 0.28)]
    body = person(rng, jacket=vests[int(rng.choice(4, p=[0.35, 0.35, 0.15, 0.15]))])
    top = float(body.corners[..., 2].max())
    helmets: list[Color] = [(0.6, 0.5, 0.1), (0.62, 0.62, 0.6), (0.1, 0.15, 0.3)]
    return join([body, blob((0.14, 0.13, 0.1), (0, 0, top - 0.02), Material.PLAIN, helmets[int(rng.integers(3))], detail=0)])


def officer(rng: Generator) -> Mesh:
    """A police officer in dark blue."""
    return person(rng, jacket=(0.02, 0.03, 0.09))


def _rider(rng: Generator, seat: float) -> Mesh:
    lean = tilt(-0.3, 0, 0)
    torso = box((0.26, 0.38, 0.6), (0, 0, 0.3), Material.CLOTH, cloth(rng)).moved(lean)
    head = blob((0.14, 0.13, 0.15), (0.25, 0, 0.75), Material.PAINT, cloth(rng), detail=1)
    legs = [box((0.5, 0.14, 0.16), (0.22, side * 0.13, -0.12), Material.PLAIN, cloth(rng)).moved(tilt(-0.5)) for side in (-1, 1)]
    arms = [box((0.55, 0.09, 0.1), (0.4, side * 0.24, 0.4), Material.PLAIN, cloth(rng)).moved(tilt(-0.3, 0.2, 0.4)) for side in (-1, 1)]
    return join([torso, head, *legs, *arms]).moved(placement(-0.25, 0, seat))


def cyclist(rng: Generator) -> Mesh:
    """A ridden bicycle; the rider counts as the bicycle."""
    return join([bicycle(rng), _rider(rng, 0.95)])


def motorcyclist(rng: Generator) -> Mesh:
    """A ridden motorcycle; the rider counts as the motorcycle."""
    return join([motorcycle(rng), _rider(rng, 0.85)])


def dog(rng: Generator) -> Mesh:
    """A dog."""
    base = [(0.35, 0.22, 0.12), (0.25, 0.25, 0.25), (0.5, 0.46, 0.4)][int(rng.integers(3))]
    coat: Color = tuple(float(c) for c in np.array(base) * rng.uniform(0.15, 1.3))  # type: ignore[assignment]
    legs = [box((0.09, 0.08, 0.4), (x, side * 0.12, 0.2), Material.PLAIN, coat) for x in (-0.28, 0.28) for side in (-1, 1)]
    body = blob((0.45, 0.19, 0.2), (0, 0, 0.5), Material.PLAIN, coat, bumps=0.05)
    head = blob((0.19, 0.13, 0.14), (0.5, 0, 0.7), Material.PLAIN, coat)
    tail = box((0.35, 0.05, 0.05), (-0.5, 0, 0.65), Material.PLAIN, coat).moved(tilt(-0.5, -0.35, 0.65))
    return join([*legs, body, head, tail])


def stroller(rng: Generator) -> Mesh:
    """A pram."""
    basket = box((0.75, 0.45, 0.35), (0, 0, 0.65), Material.CLOTH, cloth(rng), taper=(1.2, 1.1))
    hood = blob((0.3, 0.26, 0.28), (-0.2, 0, 0.9), Material.PLAIN, cloth(rng), detail=1)
    handle = box((0.5, 0.4, 0.05), (0.5, 0, 0.95), Material.PLAIN, DARK).moved(tilt(0.4, 0.4, 0.9))
    wheels = [wheel(0.14, 0.05, (x, side * 0.25, 0.14)) for x in (-0.32, 0.32) for side in (-1, 1)]
    frame = box((0.6, 0.4, 0.3), (0, 0, 0.35), Material.PLAIN, (0.3, 0.3, 0.3), taper=(0.4, 1))
    return join([basket, hood, handle, frame, *wheels])


def wheelchair(rng: Generator) -> Mesh:
    """A wheelchair and its user."""
    seat = box((0.5, 0.5, 0.12), (0, 0, 0.5), Material.PLAIN, DARK)
    back = box((0.1, 0.5, 0.55), (-0.25, 0, 0.8), Material.PLAIN, DARK)
    wheels = [wheel(0.3, 0.05, (-0.1, side * 0.3, 0.3)) for side in (-1, 1)]
    return join([seat, back, *wheels, _rider(rng, 0.6).moved(placement(0.1, 0, 0))])
