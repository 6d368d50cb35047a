from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import auxiliary_rays, draw_rays, held_out_rays, inside, labelled_rays, pad
from splattingocc.data.nuscenes import read_index
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.taxonomy import IGNORE, MOVING_CLASSES

ROAD, WALL, CAR = 11, 15, 4


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> LabelStore:
    return LabelStore.open(tiny_store)


def hits_world(rays: Rays, labels: RayLabels, key_frame: KeyFrame) -> np.ndarray:
    points_ego = rays.at(labels.distances).double().numpy()
    world_from_ego = key_frame.lidar.world_from_ego
    return points_ego @ world_from_ego[:3, :3].T + world_from_ego[:3, 3]


def synthetic_labels(semantics: torch.Tensor) -> tuple[Rays, RayLabels]:
    count = len(semantics)
    directions = torch.tensor([1.0, 0.0, 0.0]).expand(count, 3)
    origins = torch.stack([torch.arange(float(count)), torch.zeros(count), torch.zeros(count)], dim=-1)
    return Rays(origins, directions), RayLabels(semantics, torch.ones(count), torch.ones(count))


def test_labelled_surfaces_lie_where_the_world_has_them(index: Index, store: LabelStore):
    for position in range(len(index)):
        rays, labels = labelled_rays(index[position], store)
        points = hits_world(rays, labels, index[position])
        assert np.abs(points[labels.semantics == ROAD][:, 2]).max() < 0.02
        assert np.abs(points[labels.semantics == WALL][:, 1] - tiny_nuscenes.WALL_Y).max() < 0.02
        torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(len(rays.directions)))


@pytest.mark.parametrize("offset", [-1, 1])
def test_auxiliary_rays_land_on_static_surfaces_within_five_centimetres(index: Index, store: LabelStore, offset: int):
    key_frame, neighbour = index[1], index[1 + offset]
    rays, labels = auxiliary_rays(neighbour, key_frame, store, weight=0.3, part="all", held_out_fraction=0.0)
    points = hits_world(rays, labels, key_frame)
    assert np.abs(points[labels.semantics == ROAD][:, 2]).max() < 0.05
    assert np.abs(points[labels.semantics == WALL][:, 1] - tiny_nuscenes.WALL_Y).max() < 0.05
    # The vehicle moved by 2.5 m meanwhile, so leaving the poses out could not pass.
    own, own_labels = labelled_rays(neighbour, store)
    unmoved = hits_world(own, own_labels, key_frame)
    assert np.abs(unmoved[own_labels.semantics == WALL][:, 1] - tiny_nuscenes.WALL_Y).max() > 0.2


def test_auxiliary_rays_of_moving_classes_stay_out_and_weigh_less(index: Index, store: LabelStore):
    _, own = labelled_rays(index[0], store)
    assert (own.semantics == CAR).any()
    _, labels = auxiliary_rays(index[0], index[1], store, weight=0.3, part="all", held_out_fraction=0.0)
    assert not torch.isin(labels.semantics, torch.tensor(MOVING_CLASSES)).any()
    assert len(labels.semantics) == (own.semantics != CAR).sum()
    assert torch.equal(labels.weights, torch.full_like(labels.weights, 0.3))
    assert own.is_own.all()
    assert not labels.is_own.any()


def test_of_other_key_frames_labels_of_unknown_class_may_have_moved_and_stay_out(tiny_dataroot: Path, index: Index, tmp_path: Path):
    config = LidarLabelConfig(with_classes=False)
    generate_labels(index, tiny_dataroot, tmp_path, source=LidarLabels(config), show_progress=False)
    _, labels = auxiliary_rays(index[0], index[1], LabelStore.open(tmp_path), weight=0.3, part="all", held_out_fraction=0.0)
    assert not len(labels.semantics)


def test_parts_are_disjoint_complete_and_of_the_asked_size(index: Index, store: LabelStore):
    key_frame = index[0]
    all_rays, _ = labelled_rays(key_frame, store)
    train, _ = labelled_rays(key_frame, store, part="train", held_out_fraction=0.2)
    held_out, _ = labelled_rays(key_frame, store, part="held_out", held_out_fraction=0.2)
    total = len(all_rays.directions)
    assert len(train.directions) + len(held_out.directions) == total
    assert 0.15 * total < len(held_out.directions) < 0.25 * total
    assert not (train.directions[:, None] == held_out.directions[None]).all(dim=-1).any()


def test_the_held_out_draw_depends_on_the_token_only():
    assert np.array_equal(held_out_rays("a", 1000, 0.2), held_out_rays("a", 1000, 0.2))
    assert not np.array_equal(held_out_rays("a", 1000, 0.2), held_out_rays("b", 1000, 0.2))
    # Growing the share only adds rays, and the draw is the same on every machine.
    assert (held_out_rays("a", 1000, 0.2) <= held_out_rays("a", 1000, 0.4)).all()
    assert held_out_rays("ca9a282c9e77460f8360f564131a8af5", 8, 0.5).tolist() == [False, False, False, True, True, True, True, True]


def test_held_out_rays_stay_out_as_auxiliary_rays_too(index: Index, store: LabelStore):
    key_frame, neighbour = index[0], index[1]
    held_out, held_out_labels = labelled_rays(neighbour, store, part="held_out", held_out_fraction=0.3, in_ego_of=key_frame)
    rays, _ = auxiliary_rays(neighbour, key_frame, store, weight=0.3, part="train", held_out_fraction=0.3)
    assert len(held_out_labels.semantics) > 100
    assert not (rays.directions[:, None] == held_out.directions[None]).all(dim=-1).any()


def test_rays_whose_surface_is_outside_the_grid_are_dropped():
    rays, labels = synthetic_labels(torch.tensor([1, 2, 3, 4, 5]))
    grid = VoxelGrid((0.0, -1.0, -1.0), (3.0, 1.0, 1.0), 1.0)
    _, kept = inside(rays, labels, grid)
    assert kept.semantics.tolist() == [1, 2]


def test_real_rays_inside_the_grid_are_counted(real_dataroot: Path, tmp_path: Path, real_store: Path):
    key_frame = read_index(real_dataroot, "v1.0-mini", cache_dir=tmp_path)[0]
    rays, labels = labelled_rays(key_frame, LabelStore.open(real_store))
    kept, _ = inside(rays, labels, OCC3D_GRID)
    assert len(labels.semantics) == 21_698
    assert 19_000 < len(kept.directions) < 20_000


def test_too_few_rays_are_padded_with_what_no_loss_counts():
    rays, labels = pad(*synthetic_labels(torch.tensor([1, 2])), 5)
    assert labels.weights.tolist() == [1, 1, 0, 0, 0]
    assert labels.semantics.tolist() == [1, 2, IGNORE, IGNORE, IGNORE]
    assert labels.distances.isnan().tolist() == [False, False, True, True, True]
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(5))


def test_too_many_rays_are_drawn_without_replacement():
    rays, labels = synthetic_labels(torch.zeros(500, dtype=torch.int64))
    drawn, _ = draw_rays(rays, labels, 200, class_balance=0.5, rng=np.random.default_rng(0))
    assert len(drawn.origins[:, 0].unique()) == 200


def test_class_balance_favours_rare_classes_and_zero_does_not():
    semantics = torch.cat([torch.zeros(10_000, dtype=torch.int64), torch.ones(100, dtype=torch.int64)])
    rays, labels = synthetic_labels(semantics)

    def share_of_rare(class_balance: float) -> int:
        _, drawn = draw_rays(rays, labels, 1000, class_balance=class_balance, rng=np.random.default_rng(0))
        return int((drawn.semantics == 1).sum())

    assert 3 <= share_of_rare(0.0) <= 20
    assert 45 <= share_of_rare(0.5) <= 80
    assert share_of_rare(1.0) == 100


def test_draws_repeat_with_the_generator():
    rays, labels = synthetic_labels(torch.randint(0, 5, (900,), generator=torch.Generator().manual_seed(0)))
    draws = [draw_rays(rays, labels, 300, class_balance=0.5, rng=np.random.default_rng(seed))[0].origins for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
