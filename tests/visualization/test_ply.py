"""Files for other programs, read back by a library that is not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import FREE, NUM_CLASSES
from splattingocc.visualization.palettes import CLASS_COLORS
from splattingocc.visualization.ply import save_cells, save_gaussians

GRID = VoxelGrid((-2.0, -1.0, 0.0), (2.0, 1.0, 1.5), 0.5)


def some_gaussians() -> Gaussians:
    """Three of the classes car, road and vegetation, the second of which is nearly empty; no two numbers of them are equal."""
    classes = torch.nn.functional.one_hot(torch.tensor([4, 11, 16]), NUM_CLASSES).float()
    quats = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3, 4], [1, 0, 0, 0], [4, -3, 2, 1]]), dim=-1)
    scales = torch.tensor([[0.05, 0.1, 0.2], [0.1, 0.1, 0.1], [0.25, 0.04, 0.15]])
    means = torch.tensor([[1.0, -2, 0.3], [0, 0, 0], [20.5, 7.25, 3]])
    return Gaussians(means, quats, scales, torch.tensor([0.9, 0.02, 0.25]), 0.5 * classes + 0.01, OCC3D_GRID)


def test_gaussians_have_the_layout_of_splat_viewers_and_the_values_that_those_undo(tmp_path: Path):
    gaussians = some_gaussians()
    assert save_gaussians(tmp_path / "scene.ply", gaussians, min_opacity=0.1) == 2
    read = PlyData.read(tmp_path / "scene.ply")
    assert (read.text, read.byte_order) == (False, "<")
    (vertices,) = read.elements
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert [(property.name, property.val_dtype) for property in vertices.properties] == [(name, "f4") for name in names]
    x = {name: np.asarray(vertices[name], dtype=np.float64) for name in names}
    kept = gaussians[torch.tensor([0, 2])]
    np.testing.assert_array_equal(np.stack([x["x"], x["y"], x["z"]], -1), kept.means)
    np.testing.assert_allclose(1 / (1 + np.exp(-x["opacity"])), kept.opacities, rtol=1e-6)
    np.testing.assert_allclose(np.exp(np.stack([x[f"scale_{axis}"] for axis in range(3)], -1)), kept.scales, rtol=1e-6)
    np.testing.assert_array_equal(np.stack([x[f"rot_{part}"] for part in range(4)], -1), kept.quats)
    shown = 0.5 + 0.28209479177387814 * np.stack([x[f"f_dc_{channel}"] for channel in range(3)], -1)
    np.testing.assert_allclose(255 * shown, [CLASS_COLORS[4], CLASS_COLORS[16]], atol=1e-3)
    assert not np.stack([x["nx"], x["ny"], x["nz"]]).any()


def test_all_gaussians_can_be_written_and_none_as_well(tmp_path: Path):
    assert save_gaussians(tmp_path / "all.ply", some_gaussians(), min_opacity=0.0) == 3
    assert save_gaussians(tmp_path / "none.ply", some_gaussians(), min_opacity=0.95) == 0
    assert len(PlyData.read(tmp_path / "none.ply")["vertex"]) == 0
    with pytest.raises(ValueError, match=r"^min_opacity is 1\.0, expected 0 to less than 1$"):
        save_gaussians(tmp_path / "none.ply", some_gaussians(), min_opacity=1.0)


def test_an_opaque_gaussian_has_a_finite_logit(tmp_path: Path):
    gaussians = some_gaussians()
    save_gaussians(tmp_path / "opaque.ply", gaussians.map(lambda values: torch.ones_like(values) if values.ndim == 1 else values))
    assert np.isfinite(PlyData.read(tmp_path / "opaque.ply")["vertex"]["opacity"]).all()


def test_cells_become_a_closed_mesh_whose_faces_look_outwards(tmp_path: Path):
    semantics = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    semantics[0, 0, 0], semantics[1, 0, 0], semantics[5, 2, 1] = 4, 4, 11
    # Two cells that touch share no face; one at the border of the grid has faces there, too
    assert save_cells(tmp_path / "cells.ply", semantics, GRID) == 10 + 6
    read = PlyData.read(tmp_path / "cells.ply")
    vertices = np.stack([read["vertex"][axis] for axis in "xyz"], -1).astype(np.float64)
    colors = np.stack([read["vertex"][channel] for channel in ("red", "green", "blue")], -1)
    quads = np.stack(list(read["face"]["vertex_indices"]))
    corners = vertices[quads]
    middles = corners.mean(axis=1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
    assert np.allclose(np.linalg.norm(normals, axis=1), GRID.cell_size**2)
    inside = GRID.cells_of(torch.from_numpy(middles - normals).float())
    outside = GRID.cells_of(torch.from_numpy(middles + normals).float())
    occupied = semantics != FREE
    assert occupied[tuple(inside[0].T)].all()
    assert inside[1].all()
    assert not (occupied[tuple(outside[0].T)] & outside[1]).any()
    # The signed volume of what the faces enclose, by the divergence theorem
    assert np.isclose((middles * normals).sum() / 3, 3 * GRID.cell_size**3)
    of_faces = semantics[tuple(inside[0].T)].numpy()
    np.testing.assert_array_equal(colors[quads[:, 0]], np.array(CLASS_COLORS)[of_faces])
    assert (colors[quads] == colors[quads[:, :1]]).all()


def test_an_empty_grid_is_a_mesh_without_faces(tmp_path: Path):
    assert save_cells(tmp_path / "empty.ply", torch.full(GRID.shape, FREE, dtype=torch.uint8), GRID) == 0
    assert len(PlyData.read(tmp_path / "empty.ply")["face"]) == 0
