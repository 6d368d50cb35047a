import math
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch

from splattingocc.data.key_frames import Index
from splattingocc.data.nuscenes import read_index
from splattingocc.data.occ3d import truth_path
from splattingocc.evaluation.fscore import f_score
from splattingocc.evaluation.miou import confusion, scores
from splattingocc.evaluation.predictions import CachedFrame, CachedPrediction, PredictionCache, PredictionWriter, Provenance
from splattingocc.evaluation.ray_iou import RayCounts, cast_grid, count_rays, ray_iou, ray_origins
from splattingocc.evaluation.scoring import count_split, none_counted, score_split, scored

SHAPE = (200, 200, 16)


def labels(seed: int) -> torch.Tensor:
    return torch.tensor([4, 11, 17], dtype=torch.uint8)[torch.randint(3, SHAPE, generator=torch.Generator().manual_seed(seed))]


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.fixture(scope="module")
def truths(index: Index) -> list[tuple[torch.Tensor, torch.Tensor]]:
    masks = [torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.3 for seed in range(3)]
    return [(labels(seed), mask) for seed, mask in enumerate(masks)]


@pytest.fixture(scope="module")
def gts(index: Index, truths: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gts")
    for position, (semantics, mask) in enumerate(truths):
        path = truth_path(folder, index[position].scene, index[position].token)
        path.parent.mkdir(parents=True)
        mask = mask.numpy().astype(np.uint8)
        np.savez(path, semantics=semantics.numpy(), mask_camera=mask, mask_lidar=mask)
    return folder


@pytest.fixture(scope="module")
def cache(index: Index, tmp_path_factory: pytest.TempPathFactory) -> PredictionCache:
    writer = PredictionWriter(tmp_path_factory.mktemp("cache"), Provenance("config", "c", "d", "e", 0.5, "val"))
    frames = [CachedFrame(index[position].scene, index[position].index_in_scene, index[position].token) for position in range(3)]
    for seed, frame in enumerate(frames):
        writer.write(frame, labels(seed + 9))
    return writer.finish(frames)


def test_every_score_is_that_of_the_whole_split(cache: PredictionCache, index: Index, truths: list, gts: Path):
    free = torch.full(SHAPE, 17, dtype=torch.uint8)
    model, all_free = score_split(cache, gts, index=index, baselines={"all free": free})
    total, rays, f_scores = torch.zeros(18, 18, dtype=torch.int64), RayCounts.none(), []
    for position, (truth, mask) in enumerate(truths):
        prediction, origins = labels(position + 9), ray_origins(index, position)
        total += confusion(prediction, truth, mask)
        rays = rays + count_rays(cast_grid(prediction, origins), cast_grid(truth, origins))
        f_scores.append(f_score(prediction, truth, mask))
    assert model.camera == scores(total) or np.array_equal(model.camera.class_ious, scores(total).class_ious, equal_nan=True)
    assert model.camera.geometric_iou == scores(total).geometric_iou
    assert model.unmasked.miou_17 != model.camera.miou_17
    assert model.rays is not None
    assert model.rays.mean == ray_iou(rays).mean
    assert model.f_score == pytest.approx(100 * sum(f_scores) / 3)
    assert model.num_frames == 3
    assert all_free.name == "all free"
    assert all_free.camera.miou_17 == all_free.camera.geometric_iou == all_free.f_score == 0
    assert set(model.by_distance) == {"0 to 10 m", "10 to 20 m", "20 to 40 m"}
    assert set(model.by_height) == {"-1 to 0.6 m", "0.6 to 2.2 m", "2.2 to 5.4 m"}


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_scores_are_the_same_however_the_split_is_shared(cache: PredictionCache, index: Index, gts: Path, size: int):
    whole = scored("model", count_split(cache, gts, index=index)[0])
    parts = [count_split((cache.read(frame) for frame in cache.frames[rank::size]), gts, index=index)[0] for rank in range(size)]
    total = none_counted(rays=True)
    for part in reversed(parts):
        total = total + part
    shared = scored("model", total)
    assert repr(shared) == repr(whole)


def test_nothing_scored_is_nan_and_not_zero(gts: Path):
    nothing: list[CachedPrediction] = []
    (row,) = score_split(nothing, gts)
    assert all(math.isnan(value) for value in (row.camera.miou_17, row.camera.geometric_iou, row.f_score))
    assert row.rays is None
    assert row.num_frames == 0
