import math

import pytest
import torch

from splattingocc.evaluation.calibrate import CalibrationConfig, ThresholdCalibration
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import VoxelGrid

BY_CELLS = CalibrationConfig(criterion="cells")
GRID = VoxelGrid((0.0, 0.0, 0.0), (10.0, 4.0, 4.0), 0.5)


def _rays_to_wall(wall_x=8.2):
    """Rays along x through the centre of every row of cells, hitting a wall."""
    centers = GRID.centers()[0].reshape(-1, 3)
    origins = centers * torch.tensor([0.0, 1.0, 1.0])
    labels = RayLabels(torch.full((len(origins),), 15), torch.full((len(origins),), wall_x), torch.ones(len(origins)))
    return Rays(origins, torch.tensor([1.0, 0.0, 0.0]).expand(len(origins), 3)), labels


def test_a_volume_that_can_be_separated_gets_the_threshold_between():
    probabilities = torch.full(GRID.shape, 0.2)
    probabilities[16] = 0.7  # the cells of the wall at 8.0..8.5 m
    probabilities[17:] = 0.9  # behind the wall: unknown, must not count
    calibration = ThresholdCalibration(BY_CELLS, GRID)
    calibration.update(probabilities, *_rays_to_wall())
    result = calibration.compute()
    assert 0.2 < result.threshold <= 0.7
    assert result.f1 == 1
    assert result.threshold == pytest.approx(0.45, abs=0.01)  # the middle of all that separate
    assert result.num_occupied == 64
    # cells whose samples are more than 0.6 m before 8.2 m: x indices 0 to 15
    assert result.num_free == 64 * 16


def test_overlapping_probabilities_get_the_threshold_of_best_f1_found_by_trying_all():
    torch.manual_seed(0)
    probabilities = torch.rand(GRID.shape) * 0.6
    probabilities[16] = 0.3 + 0.7 * torch.rand(GRID.shape[1:])
    calibration = ThresholdCalibration(BY_CELLS, GRID)
    calibration.update(probabilities, *_rays_to_wall())
    result = calibration.compute()
    truth = torch.zeros(GRID.shape, dtype=torch.bool)
    truth[16] = True
    known = slice(0, 17)
    curve = []
    for threshold in result.thresholds:
        predicted = probabilities >= threshold
        hits = (predicted & truth)[known].sum()
        curve.append((2 * hits / (predicted[known].sum() + truth.sum())).item())
    assert result.f1_curve.tolist() == pytest.approx(curve, abs=1e-6)
    assert result.f1 == pytest.approx(max(curve), abs=1e-6)


def test_ground_has_its_share_of_the_threshold_that_is_chosen():
    probabilities = torch.full(GRID.shape, 0.2)
    probabilities[16] = 0.7
    calibration = ThresholdCalibration(BY_CELLS.model_copy(update={"ground_ratio": 0.5}), GRID)
    calibration.update(probabilities, *_rays_to_wall())
    result = calibration.compute()
    assert (result.threshold, result.occupancy_threshold.others) == pytest.approx((0.45, 0.45), abs=0.01)
    assert result.occupancy_threshold.ground == result.describe()["ground_threshold"] == result.threshold / 2


def test_frames_accumulate():
    torch.manual_seed(1)
    both = ThresholdCalibration(BY_CELLS, GRID)
    for seed in range(2):
        torch.manual_seed(seed)
        both.update(torch.rand(GRID.shape), *_rays_to_wall())
    assert both.compute().num_occupied == 128


def test_a_cell_that_one_ray_hits_is_not_free_because_another_passes():
    rays, labels = _rays_to_wall()
    passing = Rays(torch.tensor([[0.0, 0.25, 0.25]]), torch.tensor([[1.0, 0.0, 0.0]]))
    beyond = RayLabels(torch.tensor([15]), torch.tensor([9.7]), torch.ones(1))
    rays = Rays(torch.cat([rays.origins, passing.origins]), torch.cat([rays.directions, passing.directions]))
    labels = RayLabels(*(torch.cat([getattr(labels, name), getattr(beyond, name)]) for name in ("semantics", "distances", "weights")))
    calibration = ThresholdCalibration(BY_CELLS, GRID)
    calibration.update(torch.rand(GRID.shape), rays, labels)
    result = calibration.compute()
    assert result.num_occupied == 65
    # of the cells 16, 17 and 18 of the passing ray only 17 and 18 (up to 9.1 m) are new and free
    assert result.num_free == 64 * 16 + 2


def test_cells_just_above_the_ground_are_not_free_for_a_ray_that_meets_it_at_a_low_angle():
    slope = torch.tensor([8.0, 0.0, -0.8])
    rays = Rays(torch.tensor([[0.1, 0.25, 1.1]]), slope[None] / slope.norm())
    counts = {}
    for name, label in (("road", 11), ("wall", 15)):
        labels = RayLabels(torch.tensor([label]), slope.norm()[None], torch.ones(1))
        calibration = ThresholdCalibration(BY_CELLS, GRID)
        calibration.update(torch.rand(GRID.shape), rays, labels)
        counts[name] = calibration.compute().num_free
    # The ray is 0.4 m above its end at x = 4.1, and 0.6 m of way before it at x = 7.503. It goes one row of cells down at x = 1.1 and 6.1
    assert counts["road"] == 9 + 1
    assert counts["wall"] == 16 + 2


def test_rays_without_distance_or_weight_say_nothing():
    rays, labels = _rays_to_wall()
    calibration = ThresholdCalibration(BY_CELLS, GRID)
    calibration.update(torch.rand(GRID.shape), rays, RayLabels(labels.semantics, labels.distances * math.nan, labels.weights))
    calibration.update(torch.rand(GRID.shape), rays, RayLabels(labels.semantics, labels.distances, labels.weights * 0))
    with pytest.raises(ValueError, match="calibration saw 0 free and 0 occupied cells"):
        calibration.compute()


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(ValueError, match="probabilities have shape"):
        ThresholdCalibration(BY_CELLS, GRID).update(torch.rand(4, 4, 4), *_rays_to_wall())


def test_reliability_says_how_often_cells_of_a_probability_were_hit():
    probabilities = torch.full(GRID.shape, 0.12)
    probabilities[16, 4:] = 0.77
    calibration = ThresholdCalibration(BY_CELLS, GRID)
    calibration.update(probabilities, *_rays_to_wall())
    result = calibration.compute()
    described = result.describe()
    low, high = described["reliability"]
    assert low == {"from": 0.1, "cells": 64 * 16 + 32, "hit": 32 / (64 * 16 + 32)}
    assert high == {"from": 0.75, "cells": 32, "hit": 1.0}
    assert described["f1_by_threshold"]["0.50"] == result.f1_curve[500].item() == pytest.approx(2 * 32 / (32 + 64))


def test_rays_choose_the_threshold_at_which_they_are_stopped_where_the_labels_say():
    probabilities = torch.full(GRID.shape, 0.2)
    probabilities[8, :4] = 0.4  # before half of the wall
    probabilities[16] = 0.7  # the wall, at 8.0 to 8.5 m
    probabilities[17:] = 0.9
    calibration = ThresholdCalibration(CalibrationConfig(), GRID)
    calibration.update(probabilities, *_rays_to_wall())
    result = calibration.compute()
    assert result.threshold == 0.7  # the highest at which the wall stands
    found = result.describe()["ray_error_by_threshold"]
    wall, before, first, behind = ((abs(x - 8.2) / 8.2) for x in (8.25, 4.25, 0.25, 8.75))
    expected = {"0.10": first, "0.30": (wall + before) / 2, "0.50": wall, "0.80": behind, "0.96": 1.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert result.f1 == 1
    by_cells = ThresholdCalibration(BY_CELLS, GRID)
    by_cells.update(probabilities, *_rays_to_wall())
    assert "ray_error_by_threshold" not in by_cells.compute().describe()


def test_a_ray_that_ends_outside_of_the_grid_does_not_choose():
    rays, labels = _rays_to_wall()
    outside = RayLabels(labels.semantics, labels.distances.clone(), labels.weights)
    outside.distances[0] = 40.0
    probabilities = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for given, kept in ((outside, slice(0, None)), (labels, slice(1, None))):
        calibration = ThresholdCalibration(CalibrationConfig(), GRID)
        calibration.update(probabilities, rays[kept], given[kept])
        found.append(calibration.compute().ray_errors)
    assert torch.equal(*found)


def test_of_thresholds_that_rays_hardly_tell_apart_the_highest_is_taken():
    probabilities = torch.full(GRID.shape, 0.01)
    probabilities[16] = 0.7
    probabilities[16, 0, 0] = 0.5
    # Labels at 6 m: rays through the wall are 2.25 m off, and one of 64 that meets nothing counts 1, 2.6 % more in all
    chosen = {}
    for tolerance in (0.0, 0.01, 0.05):
        calibration = ThresholdCalibration(CalibrationConfig(ray_tolerance=tolerance), GRID)
        calibration.update(probabilities, *_rays_to_wall(6.0))
        chosen[tolerance] = calibration.compute().threshold
    assert chosen == {0.0: 0.5, 0.01: 0.5, 0.05: 0.7}


@pytest.mark.parametrize("num_bins", [100, 200, 10_000])
@pytest.mark.parametrize("criterion", ["cells", "rays"])
def test_what_is_told_of_a_threshold_is_its_own_whatever_the_number_of_candidates(num_bins: int, criterion: str):
    rays, labels = _rays_to_wall()
    generator = torch.Generator().manual_seed(0)
    # On the thresholds themselves lies nothing: hundredths of a float32 and of a float64 are not the same
    probabilities = (torch.randint(0, 100, GRID.shape, generator=generator) + 0.5) / 100
    calibration = ThresholdCalibration(CalibrationConfig(criterion=criterion, num_bins=num_bins), GRID)
    calibration.update(probabilities, rays, labels)
    found = calibration.compute()
    usual = ThresholdCalibration(CalibrationConfig(criterion=criterion), GRID)
    usual.update(probabilities, rays, labels)
    told, expected = found.describe(), usual.compute().describe()
    assert told["f1_by_threshold"] == expected["f1_by_threshold"]
    assert len(told["f1_by_threshold"]) == 100
    if criterion == "rays":
        assert told == expected
    if (key := f"{found.threshold:.2f}") and float(key) == found.threshold:
        assert told["f1"] == told["f1_by_threshold"][key]
