import math
import time

import pytest
import torch

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.evaluation.miou import DISTANCE_BANDS, HEIGHT_BANDS, confusion, count_voxels, scores

SHAPE = (200, 200, 16)


def _slow_confusion(prediction, truth, mask):
    counts = [[0] * 18 for _ in range(18)]
    for p, t, m in zip(prediction.flatten().tolist(), truth.flatten().tolist(), mask.flatten().tolist()):
        if m:
            counts[t][p] += 1
    return counts


def _mean(values):
    return sum(values) / len(values) if values else math.nan


def _slow_scores(counts):
    ious = []
    for c in range(17):
        union = sum(counts[c]) + sum(row[c] for row in counts) - counts[c][c]
        ious.append(100 * counts[c][c] / union if union else math.nan)
    present = [iou for iou in ious if not math.isnan(iou)]
    present_15 = [iou for c, iou in enumerate(ious) if c not in (0, 12) and not math.isnan(iou)]
    both = sum(counts[t][p] for t in range(17) for p in range(17))
    either = sum(map(sum, counts)) - counts[17][17]
    return ious, _mean(present), _mean(present_15), 100 * both / either if either else math.nan


def _labels(classes, seed, shape=(7, 6, 5)):
    return torch.tensor(classes, dtype=torch.uint8)[torch.randint(len(classes), shape, generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize(
    ("prediction", "truth", "kept"),
    [
        (_labels(range(18), 0), _labels(range(18), 1), 0.5),
        (_labels(range(18), 0), _labels(range(18), 1), 1.0),
        (_labels([0, 12, 17], 0), _labels([0, 12, 17], 1), 1.0),  # nothing of m15 anywhere
        (_labels([4, 11, 17], 2), _labels([4, 15, 17], 3), 0.7),  # classes absent on one side or both
        (_labels([17], 0), _labels([3, 17], 1), 1.0),  # nothing predicted
        (_labels([3, 17], 0), _labels([17], 1), 1.0),  # nothing there
        (_labels([17], 0), _labels([17], 1), 1.0),  # nothing at all
        (_labels(range(18), 0), _labels(range(18), 1), 0.0),  # nothing counted
    ],
)
def test_scores_agree_with_loops_to_the_last_count(prediction, truth, kept):
    mask = torch.rand(prediction.shape, generator=torch.Generator().manual_seed(4)) < kept
    counts = confusion(prediction, truth, mask)
    expected = _slow_confusion(prediction, truth, mask)
    assert counts.tolist() == expected
    ious, miou_17, miou_15, geometric_iou = _slow_scores(expected)
    result = scores(counts)
    assert result.class_ious == pytest.approx(ious, rel=1e-12, nan_ok=True)
    assert [result.miou_17, result.miou_15, result.geometric_iou] == pytest.approx(
        [miou_17, miou_15, geometric_iou], rel=1e-12, nan_ok=True
    )


def test_without_a_mask_every_voxel_counts():
    prediction, truth = _labels(range(18), 0), _labels(range(18), 1)
    assert torch.equal(confusion(prediction, truth), confusion(prediction, truth, torch.ones_like(truth, dtype=torch.bool)))


def test_rows_are_truth_and_columns_are_prediction():
    counts = confusion(torch.tensor([4], dtype=torch.uint8), torch.tensor([10], dtype=torch.uint8))
    assert counts[10, 4] == 1
    assert counts.sum() == 1


def test_a_perfect_prediction_scores_a_hundred_and_m15_leaves_two_classes_out():
    truth = _labels(range(18), 0)
    assert scores(confusion(truth, truth)).miou_17 == 100
    prediction = torch.where((truth == 0) | (truth == 12), torch.tensor(17, dtype=torch.uint8), truth)
    result = scores(confusion(prediction, truth))
    assert result.miou_15 == 100
    assert result.miou_17 == pytest.approx(100 * 15 / 17)


@pytest.mark.parametrize("which", ["prediction", "truth"])
def test_a_class_out_of_range_is_refused(which):
    good, bad = torch.tensor([1, 17], dtype=torch.uint8), torch.tensor([1, 255], dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"{which} holds class 255"):
        confusion(*((bad, good) if which == "prediction" else (good, bad)))


def test_a_pair_of_whole_grids_takes_milliseconds():
    prediction, truth = _labels(range(18), 0, SHAPE), _labels(range(18), 1, SHAPE)
    mask = torch.rand(SHAPE) < 0.2
    durations = []
    for _ in range(10):
        start = time.perf_counter()
        confusion(prediction, truth, mask)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.5  # idle it is 3 to 5 ms, on a busy machine ten times that; loops take seconds


def test_voxels_are_counted_by_distance_and_height_as_loops_count_them():
    prediction, truth = _labels(range(18), 0, SHAPE), _labels(range(18), 1, SHAPE)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)) < 0.1
    counts = count_voxels(prediction, OccupancyTruth("token", truth, mask, mask))
    assert torch.equal(counts[0].sum(dim=(0, 1)), confusion(prediction, truth, mask))
    assert torch.equal(counts[1].sum(dim=(0, 1)), confusion(prediction, truth))
    for x, y, z in [[0, 0, 0], [199, 100, 15], [75, 99, 3], [75, 99, 4], [124, 100, 7]]:
        only = torch.zeros(SHAPE, dtype=torch.bool)
        only[x, y, z] = True
        distance = math.hypot(-39.8 + 0.4 * x, -39.8 + 0.4 * y)
        band = next(i for i, (low, high) in enumerate(DISTANCE_BANDS) if low <= distance < high)
        level = next(i for i, (low, high) in enumerate(HEIGHT_BANDS) if low <= -0.8 + 0.4 * z < high)
        found = count_voxels(prediction, OccupancyTruth("token", truth, only, only))[0]
        assert found.sum() == 1
        assert found[band, level, int(truth[x, y, z]), int(prediction[x, y, z])] == 1
