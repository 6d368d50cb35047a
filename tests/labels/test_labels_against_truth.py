"""The whole data path against the synthetic world, whose 3D truth is known: tables, poses, projection, store, rays."""

from pathlib import Path

import numpy as np
import pytest

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import LabelledRays, auxiliary_rays, inside, labelled_rays
from splattingocc.data.nuscenes import read_index
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.generate import generate_labels
from splattingocc.taxonomy import FREE

INTO_THE_SURFACE = 0.02
"""Metres past a label, so that a point on the face between two cells is looked up behind it."""


@pytest.fixture(scope="module")
def index(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return read_index(synthetic_dataroot, "v1.0-mini", cache_dir=tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def store(index: Index, synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    out = tmp_path_factory.mktemp("labels")
    generate_labels(index, synthetic_dataroot, out, show_progress=False)
    return LabelStore.open(out)


def agreement(labelled: LabelledRays, key_frame: KeyFrame, dataroot: Path) -> tuple[float, float]:
    """The shares of labelled points that lie in an occupied cell, and in one of their own class."""
    rays, labels = inside(*labelled, OCC3D_GRID)
    assert len(labels.semantics) > 1000
    cells, _ = OCC3D_GRID.cells_of(rays.at(labels.distances + INTO_THE_SURFACE))
    truth = np.load(dataroot / "gts" / key_frame.scene / key_frame.token / "labels.npz")["semantics"]
    found = truth[tuple(cells.numpy().T)]
    return float((found != FREE).mean()), float((found == labels.semantics.numpy()).mean())


def test_labelled_points_lie_in_occupied_cells_of_their_class(index: Index, store: LabelStore, synthetic_dataroot: Path):
    for position in range(len(index)):
        key_frame = index[position]
        occupied, same_class = agreement(labelled_rays(key_frame, store), key_frame, synthetic_dataroot)
        assert occupied > 0.95
        assert same_class > 0.93


def test_points_of_the_next_key_frame_do_so_too_once_moved_by_the_poses(index: Index, store: LabelStore, synthetic_dataroot: Path):
    num_checked = 0
    for position in range(len(index)):
        neighbour = index.neighbour(position, 1)
        if neighbour is None:
            continue
        key_frame = index[position]
        moved = auxiliary_rays(index[neighbour], key_frame, store, weight=0.3, part="all", held_out_fraction=0.0)
        occupied, same_class = agreement(moved, key_frame, synthetic_dataroot)
        assert occupied > 0.95
        assert same_class > 0.93
        num_checked += 1
    assert num_checked == 3
