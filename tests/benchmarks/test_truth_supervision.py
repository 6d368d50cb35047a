"""The ceiling of a comparison (`benchmarks/truth_supervision.py`): truth lies where the labels and the head's cells are."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from truth_supervision import mirrored_axes, places_in, truth_losses

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.key_frames import camera_of
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.occ3d import read_truth
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.generate import generate_labels
from splattingocc.models.evidence import Evidence
from splattingocc.models.gaussian_head import GaussianHead, GaussianHeadConfig
from splattingocc.taxonomy import FREE


@pytest.mark.parametrize(("mirror_x", "mirror_y", "axes"), [(0.0, 0.0, ()), (1.0, 0.0, (0,)), (0.0, 1.0, (1,)), (1.0, 1.0, (0, 1))])
def test_labels_end_in_filled_cells_of_the_mirrored_truth(synthetic_dataroot, tmp_path, mirror_x, mirror_y, axes):
    out = tmp_path / "data"
    shutil.copytree(synthetic_dataroot, out)
    index = read_index(out, "v1.0-mini")
    generate_labels(index, out, out / "labels_2d", show_progress=False)
    augment = AugmentConfig(mirror_x_probability=mirror_x, mirror_y_probability=mirror_y)
    config = LoaderConfig(image_size=(32, 64), num_rays=5000, augment=augment)
    sample = TrainingSet(index, LabelStore.open(out / "labels_2d"), out, config)[0]
    key_frame = index[index.position_of(sample.token)]
    found = mirrored_axes(sample.views.cameras[0, 0], camera_of(key_frame.cameras[0], in_ego_of=key_frame))
    assert found == axes
    labelled = sample.labels.distances.isfinite() & (sample.labels.weights > 0)
    cells, inside = OCC3D_GRID.cells_of(sample.rays.at(sample.labels.distances)[labelled])
    x, y, z = cells[inside].unbind(-1)
    truth = read_truth(out / "gts", key_frame.scene, key_frame.token).semantics
    share = {way: (truth.flip(way)[x, y, z] != FREE).float().mean().item() for way in [(), (0,), (1,), (0, 1)]}
    assert max(share, key=lambda way: share[way]) == axes
    assert share[axes] > 0.8


def test_another_ego_frame_than_a_mirror_is_refused(synthetic_dataroot, tmp_path):
    index = read_index(synthetic_dataroot, "v1.0-mini", cache_dir=tmp_path)
    cameras = index[0].cameras
    with pytest.raises(ValueError, match="truth does not fit"):
        mirrored_axes(camera_of(cameras[0], in_ego_of=index[0]), camera_of(cameras[1], in_ego_of=index[0]))


@pytest.mark.parametrize("coarsening", [1, 2, 4])
def test_the_places_of_a_head_are_those_of_its_gaussians(coarsening):
    head = GaussianHead(GaussianHeadConfig(learn_offsets=False), 3, OCC3D_GRID, coarsening)
    volume = torch.zeros(1, 3, *OCC3D_GRID.coarsen(coarsening).shape)
    cells = OCC3D_GRID.num_cells
    gaussians = head(volume, Evidence(surface=torch.zeros(1, cells), classes=torch.zeros(1, cells, 17)))[0]
    x, y, z = OCC3D_GRID.cells_of(gaussians.means)[0].unbind(-1)
    assert torch.equal(places_in(head), (x * OCC3D_GRID.shape[1] + y) * OCC3D_GRID.shape[2] + z)


def test_only_cells_inside_the_mask_are_asked():
    opacities = torch.tensor([0.5, 0.25, 0.9, 0.1], requires_grad=True)
    classes = torch.full((4, 17), 0.05)
    classes[0, 4] = 0.2
    semantics = torch.tensor([4, FREE, FREE, 3], dtype=torch.uint8)
    mask = torch.tensor([True, True, False, False])
    occupancy, of_class = truth_losses(opacities, classes, semantics, mask)
    assert occupancy.item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert of_class.item() == pytest.approx(-math.log(0.2))
    occupancy.backward()
    assert opacities.grad is not None
    assert opacities.grad[0] < 0 < opacities.grad[1]
    assert not opacities.grad[2:].any()
    nothing = truth_losses(opacities, classes, semantics, torch.zeros(4, dtype=torch.bool))
    assert [value.item() for value in nothing] == [0, 0]
