"""Labelled triangles, and the solids that streets are built of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray

from splattingocc.synthetic.materials import Material

Number = float | int
"""The test-time type checker does not take an int for a float."""
Color = tuple[Number, Number, Number]
"""Linear RGB in [0, 1]."""
Point = tuple[Number, Number, Number]
"""Metres."""


def scaled(color: Color, factor: Number) -> Color:
    """Return a lighter or darker colour."""
    return color[0] * factor, color[1] * factor, color[2] * factor


@dataclass(frozen=True)
class Mesh:
    """Triangles that share no corners, each with what it shows and what it is."""

    corners: Float32[ndarray, "triangle 3 3"]
    """Metres."""
    uvs: Float32[ndarray, "triangle 3 2"]
    """Texture coordinates, metres along the surface; v points up on walls."""
    materials: UInt8[ndarray, " triangle"]
    colors: Float32[ndarray, "triangle 3"]
    """Base colour of the material, linear RGB."""
    categories: UInt8[ndarray, " triangle"]
    """nuScenes-lidarseg index."""
    things: Int32[ndarray, " triangle"]
    """Number of the annotated thing that the triangle belongs to; −1 for the rest of the scene."""

    def __len__(self) -> int:
        return len(self.corners)

    def moved(self, dst_from_src: Float[ndarray, "4 4"]) -> Mesh:
        """Return the mesh in another place."""
        corners = self.corners @ dst_from_src[:3, :3].T.astype(np.float32) + dst_from_src[:3, 3].astype(np.float32)
        return dataclasses.replace(self, corners=corners)

    def labelled(self, category: int, thing: int = -1) -> Mesh:
        """Return the mesh as a part of one thing."""
        return dataclasses.replace(
            self, categories=np.full(len(self), category, dtype=np.uint8), things=np.full(len(self), thing, dtype=np.int32)
        )


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Put meshes together, in order."""
    columns = {field.name: np.concatenate([getattr(mesh, field.name) for mesh in meshes]) for field in dataclasses.fields(Mesh)}
    return Mesh(**columns)


EMPTY = Mesh(
    np.zeros((0, 3, 3), np.float32),
    np.zeros((0, 3, 2), np.float32),
    np.zeros(0, np.uint8),
    np.zeros((0, 3), np.float32),
    np.zeros(0, np.uint8),
    np.zeros(0, np.int32),
)


def placement(x: Number, y: Number, z: Number = 0.0, yaw: Number = 0.0, scale: Number = 1.0) -> Float[ndarray, "4 4"]:
    """Return the transform that scales, turns about z by `yaw` radians, then shifts."""
    cos, sin = np.cos(yaw) * scale, np.sin(yaw) * scale
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, scale, z], [0, 0, 0, 1]], dtype=np.float64)


def tilt(angle: Number, x: Number = 0.0, z: Number = 0.0) -> Float[ndarray, "4 4"]:
    """Return the rotation by `angle` radians about the y axis through (x, ·, z) that lifts the +x side."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, -sin, x - cos * x + sin * z], [0, 1, 0, 0], [sin, 0, cos, z - sin * x - cos * z], [0, 0, 0, 1]])


def roll(angle: Number) -> Float[ndarray, "4 4"]:
    """Return the rotation by `angle` radians about the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1.0]])


def triangles(corners: ndarray, uvs: ndarray, material: Material, color: Color) -> Mesh:
    """Make an unlabelled mesh (category 0, no thing) of one material from corners (t, 3, 3) and uvs (t, 3, 2)."""
    count = len(corners)
    return Mesh(
        np.ascontiguousarray(corners, dtype=np.float32),
        np.ascontiguousarray(uvs, dtype=np.float32),
        np.full(count, material, dtype=np.uint8),
        np.broadcast_to(np.asarray(color, dtype=np.float32), (count, 3)).copy(),
        np.zeros(count, dtype=np.uint8),
        np.full(count, -1, dtype=np.int32),
    )


def quads(corners: ndarray, uvs: ndarray, material: Material, color: Color) -> Mesh:
    """Make a mesh from quadrilaterals with corners (q, 4, 3) in turning order and uvs (q, 4, 2)."""
    order = [0, 1, 2, 0, 2, 3]
    return triangles(corners[:, order].reshape(-1, 3, 3), uvs[:, order].reshape(-1, 3, 2), material, color)


_BOX_FACES = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7], [3, 2, 1, 0]])
"""Corners of the sides −y, +x, +y, −x, the top and the bottom; corners 0–3 go round the bottom, 4–7 round the top."""


def box(
    size: Point,
    center: Point,
    material: Material,
    color: Color,
    *,
    taper: tuple[Number, Number] = (1.0, 1.0),
    lean: Number = 0.0,
) -> Mesh:
    """Make a box of `size` (x, y, z) whose top is `taper` times as wide in x and y, and shifted by `lean` metres along x."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(size[:2]) / 2
    bottom = np.column_stack([half, np.full(4, -size[2] / 2)])
    top = np.column_stack([half * np.array(taper) + [lean, 0.0], np.full(4, size[2] / 2)])
    points = np.concatenate([bottom, top]) + np.array(center)
    corners = points[_BOX_FACES]
    x, y, z = size
    lengths = np.array([[x, z], [y, z], [x, z], [y, z], [x, y], [x, y]])
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])[None] * lengths[:, None]
    return quads(corners, uvs, material, color)


def cylinder(
    radius: Number,
    height: Number,
    base: Point,
    material: Material,
    color: Color,
    *,
    top_radius: Number | None = None,
    sides: int = 8,
) -> Mesh:
    """Make an upright cylinder, or a truncated cone, that stands on `base`."""
    angles = np.arange(sides + 1) * (2 * np.pi / sides)
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides + 1)], axis=-1)
    bottom = circle * radius + np.array(base)
    top = circle * (radius if top_radius is None else top_radius) + np.array(base) + [0, 0, height]
    side = np.stack([bottom[:-1], bottom[1:], top[1:], top[:-1]], axis=1)
    arc = angles * radius
    low, high = np.zeros(sides), np.full(sides, height)
    uvs_round = [(arc[:-1], low), (arc[1:], low), (arc[1:], high), (arc[:-1], high)]
    side_uvs = np.stack([np.stack(uv, axis=-1) for uv in uvs_round], axis=1)
    hub = np.broadcast_to(np.array(base) + [0, 0, height], (sides, 3))
    lid = np.stack([hub, top[:-1], top[1:]], axis=1)
    return join([quads(side, side_uvs, material, color), triangles(lid, lid[..., :2] - np.array(base)[:2], material, color)])


def wheel(radius: Number, width: Number, center: Point, color: Color = (0.02, 0.02, 0.02)) -> Mesh:
    """Make a wheel that rolls along x."""
    tyre = cylinder(radius, width, (0.0, 0.0, -width / 2), Material.RUBBER, color, sides=10)
    other = dataclasses.replace(tyre, corners=tyre.corners * np.array([1, 1, -1], dtype=np.float32))
    lids = join([tyre, other]).moved(roll(np.pi / 2))
    return lids.moved(placement(*center))


def ring(radius: Number, thickness: Number, center: Point, color: Color) -> Mesh:
    """Make a spokeless wheel in the x–z plane."""
    angles = np.arange(13) * (2 * np.pi / 12)
    circle = np.stack([np.cos(angles), np.zeros(13), np.sin(angles)], axis=-1)
    inner, outer = circle * (radius - thickness), circle * radius
    faces = np.stack([inner[:-1], outer[:-1], outer[1:], inner[1:]], axis=1)
    sides = [faces + [0.0, offset, 0.0] + np.array(center) for offset in (-0.02, 0.02)]
    corners = np.concatenate(sides)
    return quads(corners, np.zeros((*corners.shape[:2], 2)), Material.RUBBER, color)


@cache
def _sphere(subdivisions: int) -> ndarray:
    golden = (1 + 5**0.5) / 2
    points = np.array([[-1, golden, 0], [1, golden, 0], [-1, -golden, 0], [1, -golden, 0]])
    points = np.concatenate([points, np.roll(points, 1, axis=1), np.roll(points, 2, axis=1)])
    points /= np.linalg.norm(points[0])
    # The twenty faces are the triples of neighbours.
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) < 1.2
    faces = [(i, j, k) for i in range(12) for j in range(i + 1, 12) for k in range(j + 1, 12) if near[i, j] and near[j, k] and near[i, k]]
    corners = points[np.array(faces)]
    for _ in range(subdivisions):
        middles = corners + np.roll(corners, -1, axis=1)
        middles /= np.linalg.norm(middles, axis=-1, keepdims=True)
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = middles[:, 0], middles[:, 1], middles[:, 2]
        corners = np.concatenate([np.stack(face, axis=1) for face in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return corners


def blob(
    radii: Point, center: Point, material: Material, color: Color, *, bumps: Number = 0.0, phase: Number = 0.0, detail: int = 1
) -> Mesh:
    """Make an ellipsoid whose surface waves in and out by the share `bumps` of its radius."""
    sphere = _sphere(detail)
    x, y, z = sphere[..., 0], sphere[..., 1], sphere[..., 2]
    wave = np.sin(5.1 * x + phase) * np.sin(4.3 * y + 2 * phase) + np.sin(6.7 * z + 3 * phase) * np.cos(3.9 * x - phase)
    corners = sphere * (1 + bumps * wave[..., None]) * np.array(radii) + np.array(center)
    uvs = np.stack([np.arctan2(y, x) * radii[0], z * radii[2]], axis=-1)
    return triangles(corners, uvs, material, color)
