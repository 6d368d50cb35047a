"""All views at once say what they say one after the other."""

import pytest
import torch
from test_evidence import overlapping_cameras

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.all_views import collect_all_views, lift_all_views
from splattingocc.models.depth import DepthBins
from splattingocc.models.evidence import PixelDistributions, collect_reference
from splattingocc.models.image_reader import ImageReading
from splattingocc.models.lift.sampling import SamplingLift, SamplingLiftConfig
from splattingocc.struct import stack

BINS = DepthBins(count=16)
GRID = VoxelGrid((-12.0, -12.0, -1.0), (12.0, 12.0, 2.2), 0.4)


def cameras_of(num_views: int, *, failed: bool) -> Cameras:
    cameras = overlapping_cameras(num_views)
    if not failed:
        return cameras
    return stack([*(cameras[view] for view in range(num_views - 1)), Cameras.nowhere(cameras.image_size)])


@pytest.mark.parametrize(("num_views", "failed"), [(1, False), (3, False), (3, True)])
def test_the_evidence_is_that_of_the_views_one_by_one(num_views: int, failed: bool):
    generator = torch.Generator().manual_seed(0)
    density = (2 * torch.randn(num_views, 16, 12, 20, generator=generator)).softmax(dim=1)
    classes = torch.randn(num_views, 5, 12, 20, generator=generator).softmax(dim=1)
    pixels = PixelDistributions(density, 1 - density.cumsum(dim=1) + density, classes, classes[:, :2].sum(dim=1))
    arguments = (pixels, cameras_of(num_views, failed=failed), BINS, GRID.centers().reshape(-1, 3), 0.4)
    found, expected = collect_all_views(*arguments), collect_reference(*arguments)
    assert 0.1 < (expected.surface > 0).float().mean() < 0.9
    torch.testing.assert_close(found.surface, expected.surface, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.classes, expected.classes, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("num_views", "failed"), [(1, False), (3, False), (3, True)])
def test_the_lift_is_that_of_the_views_one_by_one(num_views: int, failed: bool):
    torch.manual_seed(0)
    lift = SamplingLift(SamplingLiftConfig(channels=8, coarsening=2), 6, 5, BINS, GRID)
    reading = ImageReading(torch.randn(1, num_views, 6, 3, 5), torch.randn(1, num_views, 16, 12, 5), torch.randn(1, num_views, 5, 12, 5))
    cameras = cameras_of(num_views, failed=failed)
    expected = lift(reading, cameras[None])
    assert expected.std() > 0.1
    torch.testing.assert_close(lift_all_views(lift, reading, cameras), expected, rtol=1e-4, atol=1e-4)
