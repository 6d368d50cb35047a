import pytest
import torch
from rigs import surround_cameras

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.lift import ImageReading, SamplingLift, SamplingLiftConfig
from splattingocc.models.sampling import place
from splattingocc.struct import stack

GRID = VoxelGrid((-8.0, -8.0, -0.8), (8.0, 8.0, 2.4), 0.4)


def test_a_cell_reads_the_pixel_it_projects_to_and_the_depth_it_stands_at():
    cameras = surround_cameras(1, (32, 48), focal=20.0)
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    cells, positions = place(lift.centers, cameras[0], lift.config.depth_bins)
    pixels, visible = cameras[0].project(lift.centers)
    assert torch.equal(cells, visible.nonzero().squeeze(1))
    assert torch.allclose((positions[:, :2] + 1) / 2 * torch.tensor([48.0, 32.0]), pixels[cells], atol=1e-4)
    bins = lift.config.depth_bins
    depths = lift.centers[cells][:, 0]  # the camera looks along x from the origin
    assert torch.allclose((positions[:, 2] + 1) / 2 * bins.count, bins.position(depths), atol=1e-4)


def test_cells_no_camera_sees_know_only_their_height_and_the_others_more():
    cameras = stack([surround_cameras(2, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    reading = lift.read(torch.randn(1, 2, 4, 4, 6), cameras)
    assert reading.depth_logits.shape == (1, 2, lift.config.depth_bins.count, 16, 6)
    assert reading.class_logits.shape == (1, 2, 5, 16, 6)
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
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    features = torch.randn(1, 3, 4, 4, 6)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    volume, mirrored = (lift(lift.read(features, rig), rig) for rig in (stack([cameras]), stack([cameras.transform_ego(mirror)])))
    assert torch.allclose(mirrored, volume.flip(3), atol=1e-4)


def test_gradients_reach_depth_and_context():
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    cameras = stack([surround_cameras(2, (32, 48), focal=20.0)])
    volume = lift(lift.read(torch.randn(1, 2, 4, 4, 6), cameras), cameras)
    volume.square().sum().backward()
    for parameter in (lift.depth_head.smooth.weight, lift.context_head.weight, lift.class_head.differences.weight, lift.mix.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_evidence_stands_where_the_depth_distribution_and_the_pixel_say():
    cameras = stack([surround_cameras(1, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    bins = lift.config.depth_bins
    depth_logits = torch.full((1, 1, bins.count, 4, 6), -10.0)
    depth_logits[:, :, bins.index(torch.tensor(5.0))] = 10.0
    class_logits = torch.zeros(1, 1, 5, 4, 6)
    class_logits[:, :, 3] = 10.0
    reading = ImageReading(torch.zeros(1, 1, 2, 4, 6), depth_logits, class_logits)
    ahead = torch.tensor([[5.0, 0.0, 1.5], [2.5, 0.0, 1.5], [7.9, 0.0, 1.5], [-5.0, 0.0, 1.5]])
    hazards, classes = lift.evidence(reading, cameras, ahead, cell_size=0.4)
    assert hazards[0, 0] > 0.9
    assert hazards[0, 1] < 1e-3
    assert hazards[0, 3] == 0
    assert classes[0, 0].argmax() == 3
    assert classes[0, 3].sum() == 0


def test_ground_is_evident_where_the_pixel_says_ground_whatever_its_depth_says():
    cameras = stack([surround_cameras(1, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2, ground_classes=(3,)), 4, 5, GRID)
    class_logits = torch.zeros(1, 1, 5, 4, 6)
    class_logits[:, :, 3] = 10.0
    reading = ImageReading(torch.zeros(1, 1, 2, 4, 6), torch.zeros(1, 1, lift.config.depth_bins.count, 4, 6), class_logits)
    points = torch.tensor([[5.0, 0.0, 0.1], [5.0, 0.0, 0.9]])
    hazards, classes = lift.evidence(reading, cameras, points, cell_size=0.4)
    assert hazards[0, 0] > 0.9
    assert hazards[0, 1] < 0.3
    assert classes[0].argmax(dim=-1).tolist() == [3, 3]


def test_a_ground_class_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"lift\.ground_classes: \(3, 5\), expected class indices below 5"):
        SamplingLift(SamplingLiftConfig(ground_classes=(3, 5)), 4, 5, GRID)


def test_of_what_a_thing_hides_its_pixel_knows_no_class():
    cameras = stack([surround_cameras(1, (32, 48), focal=20.0)])
    lift = SamplingLift(SamplingLiftConfig(channels=2, coarsening=2, ground_classes=(2,)), 4, 5, GRID)
    bins = lift.config.depth_bins
    depth_logits = torch.full((1, 1, bins.count, 16, 6), -10.0)
    depth_logits[:, :, bins.index(torch.tensor(4.0))] = 10.0
    class_logits = torch.zeros(1, 1, 5, 16, 6)
    class_logits[:, :, 3] = 10.0
    reading = ImageReading(torch.zeros(1, 1, 2, 4, 6), depth_logits, class_logits)
    _, classes = lift.evidence(reading, cameras, torch.tensor([[4.0, 0.0, 1.5], [7.0, 0.0, 1.5]]), cell_size=0.4)
    assert classes[0, 0, 3] > 0.9
    assert classes[0, 1].sum() < 1e-2
