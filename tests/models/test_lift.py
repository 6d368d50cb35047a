import dataclasses
import math

import torch
from rigs import surround_cameras

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.lift import DepthBins, ImageReading, SamplingLift, SamplingLiftConfig, ground_encoding
from splattingocc.struct import stack

GRID = VoxelGrid((-8.0, -8.0, -0.8), (8.0, 8.0, 2.4), 0.4)


def test_depth_bins_are_even_in_the_logarithm_and_clamped():
    bins = DepthBins(nearest=2.0, farthest=32.0, count=4)
    depths = torch.tensor([0.5, 2.0, 3.9, 4.1, 16.1, 31.9, 99.0])
    assert bins.index(depths).tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert torch.allclose(bins.position(torch.tensor([2.0, 4.0, 8.0, 32.0])), torch.tensor([0.0, 1.0, 2.0, 4.0]))


def test_a_cell_reads_the_pixel_it_projects_to_and_the_depth_it_stands_at():
    cameras = surround_cameras(1, (32, 48), focal=20.0)
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2), 4, 5, GRID)
    (cells,), (positions,), _ = lift._project(lift.centers, cameras)
    pixels, visible = cameras[0].project(lift.centers)
    assert torch.equal(cells, visible.nonzero().squeeze(1))
    assert torch.allclose((positions[:, :2] + 1) / 2 * torch.tensor([48.0, 32.0]), pixels[cells], atol=1e-4)
    bins = lift.config.depth_bins
    depths = lift.centers[cells][:, 0]  # the camera looks along x from the origin
    assert torch.allclose((positions[:, 2] + 1) / 2 * bins.count, bins.position(depths), atol=1e-4)


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


def test_cells_no_camera_sees_know_only_their_height_and_the_others_more():
    cameras = stack([surround_cameras(2, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2), 4, 5, GRID)
    reading = lift.read(torch.randn(1, 2, 4, 4, 6), cameras)
    assert reading.depth_logits.shape == (1, 2, lift.config.depth_bins.count, 4, 6)
    assert reading.class_logits.shape == (1, 2, 5, 4, 6)
    volume = lift(reading, cameras)
    seen = torch.zeros(len(lift.centers), dtype=torch.bool)
    for view in range(2):
        seen |= cameras[0, view].project(lift.centers)[1]
    filled = (volume[0] - lift.height_embedding[:, None, None, :]).flatten(1).abs().sum(dim=0) > 0
    assert torch.equal(filled, seen)
    assert seen.any()
    assert not seen.all()


def test_mirroring_the_ego_frame_mirrors_the_volume():
    cameras = surround_cameras(3, (32, 48), focal=20.0)
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2), 4, 5, GRID)
    features = torch.randn(1, 3, 4, 4, 6)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    volume, mirrored = (lift(lift.read(features, rig), rig) for rig in (stack([cameras]), stack([cameras.transform_ego(mirror)])))
    assert torch.allclose(mirrored, volume.flip(3), atol=1e-4)


def test_gradients_reach_depth_and_context():
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2), 4, 5, GRID)
    cameras = stack([surround_cameras(2, (32, 48), focal=20.0)])
    volume = lift(lift.read(torch.randn(1, 2, 4, 4, 6), cameras), cameras)
    volume.square().sum().backward()
    for parameter in (lift.depth_head.weight, lift.context_head.weight, lift.class_head.weight, lift.mix.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_evidence_stands_where_the_depth_distribution_and_the_pixel_say():
    cameras = stack([surround_cameras(1, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2), 4, 5, GRID)
    bins = lift.config.depth_bins
    depth_logits = torch.full((1, 1, bins.count, 4, 6), -10.0)
    depth_logits[:, :, bins.index(torch.tensor(5.0))] = 10.0
    class_logits = torch.zeros(1, 1, 5, 4, 6)
    class_logits[:, :, 3] = 10.0
    reading = ImageReading(torch.zeros(1, 1, 2, 4, 6), depth_logits, class_logits)
    ahead = torch.tensor([[5.0, 0.0, 1.5], [2.5, 0.0, 1.5], [7.9, 0.0, 1.5], [-5.0, 0.0, 1.5]])
    hazards, classes = lift.evidence(reading, cameras, ahead, cell_size=0.4)
    assert hazards[0, 0] > 0.3
    assert hazards[0, 1] < 1e-3
    assert hazards[0, 3] == 0
    assert classes[0, 0].argmax() == 3
    assert classes[0, 3].sum() == 0
