import dataclasses
import math

import torch
from rigs import surround_cameras

from splattingocc.models.depth import DepthBins, StandingDepth, ground_encoding, standing_encoding

SHARP = torch.tensor(0.2)
"""Spread of the ground's depth, in bins."""


def test_depth_bins_are_even_in_the_logarithm_and_clamped():
    bins = DepthBins(nearest=2.0, farthest=32.0, count=4)
    depths = torch.tensor([0.5, 2.0, 3.9, 4.1, 16.1, 31.9, 99.0])
    assert bins.index(depths).tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert torch.allclose(bins.position(torch.tensor([2.0, 4.0, 8.0, 32.0])), torch.tensor([0.0, 1.0, 2.0, 4.0]))


def test_level_ground_is_expected_where_it_is():
    cameras = surround_cameras(1, (32, 48), focal=20.0)
    bins = DepthBins(nearest=1.5, farthest=60.0, count=16)
    encoding = ground_encoding(cameras, bins, torch.zeros(1, 32, 48), SHARP)[0]
    above, below = encoding[:, :16], encoding[:, 17:]
    assert above.abs().max() == 0
    assert torch.allclose(below.sum(dim=0), torch.ones(()), atol=1e-5)
    # Row 25, centre 25.5: 9.5 pixels under the horizon at focal length 20, from a height of 1.5 m
    depth = torch.tensor(1.5 * 20 / 9.5)
    assert encoding[:, 25, 10].argmax() == bins.index(depth)
    expected = (encoding[:, 25, 10] * (torch.arange(16) + 0.5)).sum()
    assert torch.allclose(expected, bins.position(depth), atol=0.5)


def test_a_rolled_camera_sees_the_ground_where_its_points_project():
    cameras = surround_cameras(2, (32, 48), focal=20.0)
    roll = torch.eye(4)
    roll[:2, :2] = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    cameras = dataclasses.replace(cameras, cam_from_ego=roll @ cameras.cam_from_ego)
    bins = DepthBins(nearest=1.0, farthest=60.0, count=64)
    encoding = ground_encoding(cameras, bins, torch.zeros(2, 32, 48), SHARP)
    points = torch.tensor([[6.0, 0.5, 0.0], [4.0, -1.0, 0.0], [9.0, 2.0, 0.0]])
    pixels, visible = cameras[0].project(points)
    assert visible.all()
    for point, (u, v) in zip(points, pixels):
        found = (encoding[0, :, int(v), int(u)] * (torch.arange(64) + 0.5)).sum()
        assert (found - bins.position(point[:1])).abs() < 3  # the camera looks along x; a pixel is up to three bins wide


def test_a_thing_stands_where_the_ground_below_it_ends():
    bins = DepthBins(nearest=1.5, farthest=60.0, count=16)
    ground = ground_encoding(surround_cameras(1, (32, 48), focal=20.0), bins, torch.zeros(1, 32, 48), SHARP)
    # Ground from row 24 down, in column 10 only from row 28 down: something nearer stands there
    probability = torch.zeros(1, 32, 48)
    probability[:, 24:] = 1
    probability[:, 24:28, 10] = 0
    standing = standing_encoding(ground, probability)
    for row in (3, 17, 24):
        assert torch.allclose(standing[0, :, row, 20], ground[0, :, 24, 20], atol=3e-2)
    for row in (3, 24, 27):
        assert torch.allclose(standing[0, :, row, 10], ground[0, :, 28, 10], atol=3e-2)
    assert torch.allclose(standing[0, :, 30], ground[0, :, 30], atol=1e-2)


def test_a_standing_guess_is_the_chance_to_meet_ground_first_on_the_way_down():
    torch.manual_seed(0)
    ground, g = torch.rand(2, 3, 5, 4).softmax(dim=1), torch.rand(2, 5, 4) * 0.8 + 0.1
    nearer = 1 - ground[:, :, -1].cumsum(dim=1)
    nearer = nearer / nearer.sum(dim=1, keepdim=True)
    expected = torch.zeros(2, 3, 5, 4)
    for q in range(5):
        left = torch.ones(2, 4)
        for r in range(q, 5):
            expected[:, :, q] += (left * g[:, r])[:, None] * ground[:, :, r]
            left = left * (1 - g[:, r])
        expected[:, :, q] += left[:, None] * nearer
    standing = standing_encoding(ground, g)
    assert torch.allclose(standing, expected, atol=1e-6)
    assert torch.allclose(standing.sum(dim=1), torch.ones(()), atol=1e-5)


def test_without_ground_below_a_thing_is_nearer_than_ground_in_the_last_row_and_gradients_are_finite():
    bins = DepthBins()
    ground = ground_encoding(surround_cameras(1, (32, 48), focal=20.0), bins, torch.zeros(1, 32, 48), SHARP)
    probability = torch.zeros(1, 32, 48, requires_grad=True)
    standing = standing_encoding(ground, probability)
    # Row 31, centre 31.5: 15.5 pixels under the horizon at focal length 20, from a height of 1.5 m
    first_farther = bins.index(torch.tensor(1.5 * 20 / 15.5)) + 1
    assert standing[:, first_farther:].sum(dim=1).max() < 0.05
    standing.square().sum().backward()
    assert probability.grad is not None
    assert probability.grad.isfinite().all()


def test_shares_within_a_cell_add_up_to_its_size():
    bins = DepthBins(nearest=2.0, farthest=32.0, count=8)
    within, before = bins.shares_within(0.4)
    widths = bins.edges().diff()
    middles = (bins.edges()[:-1] * bins.edges()[1:]).sqrt()
    assert torch.allclose(within @ widths, torch.full((8,), 0.4), atol=1e-5)
    assert torch.allclose(before @ widths, middles - 0.2 - 2.0, atol=1e-5)
    # Of narrow bins, several lie within one cell
    narrow, _ = DepthBins(nearest=2.0, farthest=32.0, count=200).shares_within(0.4)
    assert (narrow[:50].sum(dim=1) > 2).all()


def test_a_thing_on_the_sidewalk_stands_farther_away_than_its_lowest_row_says():
    cameras, bins = surround_cameras(1, (32, 48), focal=20.0), DepthBins(farthest=30.0)
    standing = StandingDepth(bins, ground_classes=(1, 2))
    with torch.no_grad():
        standing.heights.copy_(torch.tensor([0.0, 0.15]))
    classes = torch.zeros(1, 3, 32, 48)  # from above: thing, then ground from row 24 on
    classes[:, 0, :24] = 1
    classes[:, 1, 24:, :24] = 1
    classes[:, 2, 24:, 24:] = 1
    distribution = standing(classes, cameras).softmax(dim=1)
    found = torch.einsum("b,vbhw->vhw", (bins.edges()[:-1] * bins.edges()[1:]).sqrt(), distribution * (distribution > 0.05))
    found = found / (distribution * (distribution > 0.05)).sum(dim=1)
    # Row 24, centre 24.5: 8.5 pixels under the horizon at focal length 20, from a height of 1.5 m
    assert abs(found[0, 10, 5].item() - 1.5 * 20 / 8.5) < 0.15
    assert abs(found[0, 10, 40].item() - 1.35 * 20 / 8.5) < 0.15


def test_heights_of_ground_classes_learn_from_depths():
    cameras, bins = surround_cameras(1, (32, 48), focal=20.0), DepthBins(farthest=30.0)
    standing = StandingDepth(bins, ground_classes=(1,))
    classes = torch.zeros(1, 2, 32, 48)
    classes[:, 1, 20:] = 1
    rows = torch.arange(20, 32)
    targets = bins.index(1.3 * 20 / (rows + 0.5 - 16))  # the ground lies 0.2 m high
    optimizer = torch.optim.Adam(standing.parameters(), lr=0.02)
    for _ in range(40):
        nll = torch.nn.functional.cross_entropy(standing(classes, cameras)[0, :, 20:, 7].T, targets)
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
    assert abs(standing.heights.item() - 0.2) < 0.04


def test_ground_nearer_than_the_first_bin_in_the_last_row_leaves_the_guess_finite():
    bins = DepthBins(nearest=8.0, farthest=60.0)
    ground = ground_encoding(surround_cameras(1, (32, 48), focal=20.0), bins, torch.zeros(1, 32, 48), torch.tensor(0.02))
    standing = standing_encoding(ground, torch.full((1, 32, 48), 0.2))
    assert standing.isfinite().all()
    assert standing.min() >= 0
