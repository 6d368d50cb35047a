import math

import numpy as np
import pytest
import torch

from splattingocc.evaluation.fscore import f_score
from splattingocc.taxonomy import FREE

SHAPE = (12, 14, 8)


def slow(prediction: np.ndarray, truth: np.ndarray) -> float:
    """All pairs of voxel centres."""
    p, t = 0.4 * np.argwhere(prediction != FREE), 0.4 * np.argwhere(truth != FREE)
    distances = np.linalg.norm(p[:, None] - t[None], axis=-1)
    accuracy, completeness = (distances.min(axis=1) <= 0.6).mean(), (distances.min(axis=0) <= 0.6).mean()
    return 2 * accuracy * completeness / (accuracy + completeness) if accuracy + completeness else 0.0


def grid(seed: int, filled: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(SHAPE) < filled, rng.integers(0, 17, SHAPE), FREE).astype(np.uint8)


@pytest.mark.parametrize(("filled", "also_filled"), [(0.02, 0.02), (0.001, 0.3), (0.3, 0.005)])
def test_it_agrees_with_all_pairs(filled: float, also_filled: float):
    for seed in range(5):
        prediction, truth = grid(seed, filled), grid(100 + seed, also_filled)
        prediction[0, 0, 0] = truth[-1, -1, -1] = 3
        assert f_score(torch.from_numpy(prediction), torch.from_numpy(truth)) == pytest.approx(slow(prediction, truth), abs=1e-12)


def test_voxels_outside_of_the_mask_are_not_there():
    prediction, truth = grid(1, 0.1), grid(2, 0.1)
    mask = np.random.default_rng(3).random(SHAPE) < 0.5
    expected = slow(np.where(mask, prediction, FREE), np.where(mask, truth, FREE))
    found = f_score(torch.from_numpy(prediction), torch.from_numpy(truth), torch.from_numpy(mask))
    assert found == pytest.approx(expected, abs=1e-12)


def test_empty_grids():
    empty, full = torch.full(SHAPE, FREE, dtype=torch.uint8), torch.zeros(SHAPE, dtype=torch.uint8)
    assert math.isnan(f_score(empty, empty))
    assert f_score(empty, full) == f_score(full, empty) == 0
    assert f_score(full, full) == 1
    apart = empty.clone(), empty.clone()
    apart[0][0, 0, 0] = apart[1][1, 1, 1] = 4  # 0.69 m
    assert f_score(*apart) == 0
    apart[1][1, 1, 0] = 4  # 0.57 m
    assert f_score(*apart) == pytest.approx(2 * 1 * 0.5 / 1.5)
