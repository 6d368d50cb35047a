"""PLY files that other programs open: Gaussians for splat viewers, occupied cells as a mesh with colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from splattingocc.files import write_atomically
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import FREE
from splattingocc.visualization.palettes import class_colors

MIN_OPACITY = 0.1
"""Least opacity of a Gaussian that is written by default: most of a volume is emptiness, which a viewer would sort for nothing."""
SH_OF_DEGREE_0 = 0.28209479177387814
"""Value of the spherical harmonic that has no direction, ½ / √π: a viewer shows ½ + this · f_dc."""
AXES = "ego frame: x forward, y left, z up, metres"

SPLAT = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity")]
    + [(name, "<f4") for name in ("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")]
)
"""A Gaussian as Kerbl et al. 2023 write it and splat viewers read it: opacity as a logit, scales as logarithms, w first of the rotation."""
VERTEX = np.dtype([(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")])
QUAD = np.dtype([("count", "u1"), ("corners", "<i4", 4)])
TYPES = {"<f4": "float", "|u1": "uchar"}
"""What PLY calls numpy's types."""


def save_gaussians(path: Path, gaussians: Gaussians, *, min_opacity: float = MIN_OPACITY) -> int:
    """Write one set of Gaussians in the colours of their likeliest classes, without those less opaque; return how many there are."""
    if not 0 <= min_opacity < 1:
        raise ValueError(f"min_opacity is {min_opacity}, expected 0 to less than 1")
    gaussians = gaussians[gaussians.opacities >= max(min_opacity, np.finfo(np.float32).tiny)].to("cpu")
    splats = np.zeros(len(gaussians.means), SPLAT)
    colors = class_colors(gaussians.features.argmax(dim=-1)).numpy() / 255
    opacities = gaussians.opacities.double().clamp(max=1 - 1e-6)
    for names, values in (
        (("x", "y", "z"), gaussians.means.numpy()),
        (("f_dc_0", "f_dc_1", "f_dc_2"), (colors - 0.5) / SH_OF_DEGREE_0),
        (("opacity",), opacities.logit()[:, None].numpy()),
        (("scale_0", "scale_1", "scale_2"), gaussians.scales.log().numpy()),
        (("rot_0", "rot_1", "rot_2", "rot_3"), gaussians.quats.numpy()),
    ):
        for axis, name in enumerate(names):
            splats[name] = values[:, axis]
    _write(path, _properties("vertex", splats), [splats])
    return len(splats)


def save_cells(path: Path, semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid) -> int:
    """Write the faces of occupied cells that border on free ones or end the grid, in class colours; return how many there are."""
    corners, of_cells = _exposed_faces(semantics.cpu().numpy() != FREE, grid)
    vertices = np.zeros(corners.shape[:2], VERTEX)
    colors = class_colors(semantics.cpu()).numpy()[tuple(of_cells.T)]
    for axis, (name, color) in enumerate((("x", "red"), ("y", "green"), ("z", "blue"))):
        vertices[name], vertices[color] = corners[..., axis], colors[:, None, axis]
    faces = np.zeros(len(vertices), QUAD)
    faces["count"], faces["corners"] = 4, np.arange(vertices.size).reshape(-1, 4)
    header = [*_properties("vertex", vertices), f"element face {len(faces)}", "property list uchar int vertex_indices"]
    _write(path, header, [vertices, faces])
    return len(faces)


def _exposed_faces(occupied: np.ndarray, grid: VoxelGrid) -> tuple[Float[np.ndarray, "face 4 3"], Int[np.ndarray, "face 3"]]:
    """Return the corners of each face, counter-clockwise as seen from outside, and whose cell's face it is."""
    framed = np.pad(occupied, 1)
    corners, of_cells = [], []
    for axis in range(3):
        across = [(axis + 1) % 3, (axis + 2) % 3]
        for side in (-1, 1):
            neighbor = np.roll(framed, -side, axis=axis)[1:-1, 1:-1, 1:-1]
            cells = np.argwhere(occupied & ~neighbor)
            around = np.zeros((4, 3))
            around[:, axis] = side
            around[:, across] = [(-1, -1), (1, -1), (1, 1), (-1, 1)][::side]
            corners.append((cells[:, None] + 0.5 + around / 2) * grid.cell_size + grid.lower)
            of_cells.append(cells)
    return np.concatenate(corners), np.concatenate(of_cells)


def _properties(element: str, records: np.ndarray) -> list[str]:
    names = records.dtype.names or ()
    return [f"element {element} {records.size}", *(f"property {TYPES[records.dtype[name].str]} {name}" for name in names)]


def _write(path: Path, header: list[str], records: list[np.ndarray]) -> None:
    lines = ["ply", "format binary_little_endian 1.0", f"comment {AXES}", *header, "end_header"]
    content = "".join(f"{line}\n" for line in lines).encode("ascii") + b"".join(part.tobytes() for part in records)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
