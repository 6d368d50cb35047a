import dataclasses
import math

import torch
from rigs import surround_cameras

from splattingocc.models.depth import DepthBins, ground_encoding, standing_encoding


def test_depth_bins_are_even_in_the_logarithm_and_clamped():
    bins = DepthBins(nearest=2.0, farthest=32.0, count=4)
    depths = torch.tensor([0.5, 2.0, 3.9, 4.1, 16.1, 31.9, 99.0])
    assert bins.index(depths).tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert torch.allclose(bins.position(torch.tensor([2.0, 4.0, 8.0, 32.0])), torch.tensor([0.0, 1.0, 2.0, 4.0]))


def test_level_ground_is_expected_where_it_is():
    cameras = surround_cameras(1, (32, 48), focal=20.0)
    bins = DepthBins(nearest=1.5, farthest=60.0, count=16)
    encoding = ground_encoding(cameras, bins, (32, 48))[0]
    above, below = encoding[:, :16], encoding[:, 17:]
    assert above.abs().max() == 0
    assert torch.allclose(below.sum(dim=0), torch.ones(()), atol=1e-5)
    # Row 25, centre 25.5: 9.5 pixels under the horizon at focal length 20, from a height of 1.5 m
    depth = torch.tensor(1.5 * 20 / 9.5)
    expected = (encoding[:, 25, 10] * (torch.arange(16) + 0.5)).sum()
    assert torch.allclose(expected, bins.position(depth), atol=1e-4)


def test_a_rolled_camera_sees_the_ground_where_its_points_project():
    cameras = surround_cameras(2, (32, 48), focal=20.0)
    roll = torch.eye(4)
    roll[:2, :2] = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    cameras = dataclasses.replace(cameras, cam_from_ego=roll @ cameras.cam_from_ego)
    bins = DepthBins(nearest=1.0, farthest=60.0, count=64)
    encoding = ground_encoding(cameras, bins, (32, 48))
    points = torch.tensor([[6.0, 0.5, 0.0], [4.0, -1.0, 0.0], [9.0, 2.0, 0.0]])
    pixels, visible = cameras[0].project(points)
    assert visible.all()
    for point, (u, v) in zip(points, pixels):
        found = (encoding[0, :, int(v), int(u)] * (torch.arange(64) + 0.5)).sum()
        assert (found - bins.position(point[:1])).abs() < 3  # the camera looks along x; a pixel is up to three bins wide


def test_a_thing_stands_where_the_ground_below_it_ends():
    bins = DepthBins(nearest=1.5, farthest=60.0, count=16)
    ground = ground_encoding(surround_cameras(1, (32, 48), focal=20.0), bins, (32, 48))
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
    ground, g = torch.rand(2, 3, 5, 4), torch.rand(2, 5, 4) * 0.8 + 0.1
    expected = torch.zeros(2, 3, 5, 4)
    for q in range(5):
        left = torch.ones(2, 4)
        for r in range(q, 5):
            expected[:, :, q] += (left * g[:, r])[:, None] * ground[:, :, r]
            left = left * (1 - g[:, r])
    assert torch.allclose(standing_encoding(ground, g), expected, atol=1e-6)


def test_without_ground_below_a_column_says_nothing_and_gradients_are_finite():
    ground = ground_encoding(surround_cameras(1, (32, 48), focal=20.0), DepthBins(), (32, 48))
    probability = torch.zeros(1, 32, 48, requires_grad=True)
    standing = standing_encoding(ground, probability)
    assert standing.max() < 0.05
    standing.sum().backward()
    assert probability.grad is not None
    assert probability.grad.isfinite().all()
