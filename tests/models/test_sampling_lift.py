import torch
from rigs import surround_cameras

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.image_reader import ImageReader, ImageReaderConfig
from splattingocc.models.lift.sampling import SamplingLift, SamplingLiftConfig
from splattingocc.models.projection import place
from splattingocc.struct import stack

GRID = VoxelGrid((-8.0, -8.0, -0.8), (8.0, 8.0, 2.4), 0.4)
READER = ImageReaderConfig(ground_classes=(2,))


def build_lift(channels: int) -> SamplingLift:
    return SamplingLift(SamplingLiftConfig(channels=channels, coarsening=2), 4, 5, READER.depth_bins, GRID)


def rig(num_views: int) -> Cameras:
    return stack([surround_cameras(num_views, (32, 48), focal=20.0)])


def test_a_cell_reads_the_pixel_it_projects_to_and_the_depth_it_stands_at():
    cameras, lift, bins = rig(1)[0], build_lift(2), READER.depth_bins
    cells, positions = place(lift.centers, cameras[0], bins)
    pixels, visible = cameras[0].project(lift.centers)
    assert torch.equal(cells, visible.nonzero().squeeze(1))
    assert torch.allclose((positions[:, :2] + 1) / 2 * torch.tensor([48.0, 32.0]), pixels[cells], atol=1e-4)
    depths = lift.centers[cells][:, 0]  # the camera looks along x from the origin
    assert torch.allclose((positions[:, 2] + 1) / 2 * bins.count, bins.position(depths), atol=1e-4)


def test_cells_no_camera_sees_know_only_their_height_and_the_others_more():
    cameras, lift = rig(2), build_lift(8)
    volume = lift(ImageReader(READER, 4, 5)(torch.randn(1, 2, 4, 4, 6), cameras), cameras)
    seen = torch.zeros(len(lift.centers), dtype=torch.bool)
    for view in range(2):
        seen |= cameras[0, view].project(lift.centers)[1]
    filled = (volume[0] - lift.height_embedding[:, None, None, :]).flatten(1).abs().sum(dim=0) > 0
    assert torch.equal(filled, seen)
    assert seen.any()
    assert not seen.all()


def test_mirroring_the_ego_frame_mirrors_the_volume():
    cameras, reader, lift = rig(3), ImageReader(READER, 4, 5), build_lift(8)
    features = torch.randn(1, 3, 4, 4, 6)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    volume, mirrored = (lift(reader(features, seen_by), seen_by) for seen_by in (cameras, stack([cameras[0].transform_ego(mirror)])))
    assert torch.allclose(mirrored, volume.flip(3), atol=1e-4)


def test_gradients_reach_depth_and_context():
    cameras, reader, lift = rig(2), ImageReader(READER, 4, 5), build_lift(8)
    lift(reader(torch.randn(1, 2, 4, 4, 6), cameras), cameras).square().sum().backward()
    for parameter in (reader.depth_head.smooth.weight, reader.class_head.differences.weight, lift.context_head.weight, lift.mix.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
