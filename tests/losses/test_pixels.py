import dataclasses
import math

import pytest
import torch
from labelled_scene import NUM_RAYS, NUM_SAMPLES, cameras, loss_inputs

from splattingocc.losses.pixels import PixelLabels, label_pixels, mean_pixel_nll, pixel_nll
from splattingocc.taxonomy import IGNORE


def test_targets_are_read_at_the_pixel_that_holds_the_point():
    logits = torch.zeros(2, 4, 3, 5)
    logits[1, 2, 1, 4] = 20.0
    ones = torch.ones(3)
    positions = torch.tensor([[0.9, 0.5]]).repeat(3, 1)
    pixels = PixelLabels(torch.tensor([1, 0, 0]), positions, ones, torch.tensor([2, 2, IGNORE]), ones, (2, 1))
    nll = pixel_nll(logits, pixels, pixels.semantics)
    assert nll[0] < 1e-6
    assert math.isclose(nll[1].item(), math.log(4), rel_tol=1e-5)
    assert nll[2] == 0


def test_points_whose_target_is_no_channel_do_not_count_in_the_mean():
    ones = torch.ones(4)
    semantics = torch.tensor([0, IGNORE, IGNORE, IGNORE])
    pixels = PixelLabels(torch.zeros(4, dtype=torch.int64), torch.full((4, 2), 0.5), ones, semantics, ones, (2, 2))
    means = mean_pixel_nll(torch.zeros(1, 5, 3, 3), pixels, pixels.semantics)
    torch.testing.assert_close(means, torch.tensor([math.log(5), 0.0]))


@pytest.mark.parametrize("flip", [False, True])
def test_points_in_the_black_corners_of_a_turned_image_are_in_none(flip: bool):
    inputs, window = loss_inputs(), cameras().crop(8, 12, (16, 24))
    turned = window.rotate(40.0).flip() if flip else window.rotate(40.0)
    before, after = (set(label_pixels(inputs.rays, inputs.labels, each).depths.tolist()) for each in (window, turned))
    assert after < before
    assert len(after) > 0.5 * len(before)


def test_what_other_key_frames_saw_of_a_vehicle_that_stands_is_in_no_image():
    inputs = loss_inputs()
    labels = dataclasses.replace(inputs.labels, is_own=torch.arange(NUM_RAYS).expand(NUM_SAMPLES, -1) % 3 == 0)
    seen, own = (label_pixels(inputs.rays, each, inputs.cameras) for each in (inputs.labels, labels))
    own_only = label_pixels(inputs.rays[:, ::3], inputs.labels[:, ::3], inputs.cameras)
    assert 0 < len(own.depths) < len(seen.depths)
    assert torch.equal(own.depths, own_only.depths)
    assert torch.equal(own.positions, own_only.positions)
