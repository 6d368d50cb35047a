import pytest
import torch
from rigs import surround_cameras

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import rigid
from splattingocc.models.depth import DepthBins
from splattingocc.models.evidence import PixelDistributions, collect, collect_reference, find_evidence
from splattingocc.models.image_reader import ImageReaderConfig, ImageReading
from splattingocc.struct import stack

CPU_AND_CUDA = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")]
    ),
]


def overlapping_cameras(num_views: int) -> Cameras:
    """Cameras that look ahead and to the sides, so that some cells are seen by several and some by none."""
    looks_ahead = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    cam_from_ego = []
    for view in range(num_views):
        angle = torch.tensor(0.6 * (view - 1))
        turn = torch.tensor([[angle.cos(), angle.sin(), 0], [-angle.sin(), angle.cos(), 0], [0, 0, 1]])
        cam_from_ego.append(rigid(looks_ahead @ turn, torch.tensor([0.1 * view, 1.5, -0.3])))
    K = torch.tensor([[30.0, 0, 41], [0, 31, 22], [0, 0, 1]]).repeat(num_views, 1, 1)
    return Cameras(K, torch.stack(cam_from_ego), (48, 80))


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("num_views", [1, 3])
def test_the_kernel_says_what_the_reference_says(num_views, device):
    generator = torch.Generator().manual_seed(0)
    bins = DepthBins(count=16)
    density = (2 * torch.randn(num_views, 16, 12, 20, generator=generator)).softmax(dim=1)
    classes = torch.randn(num_views, 5, 12, 20, generator=generator).softmax(dim=1)
    pixels = PixelDistributions(density, 1 - density.cumsum(dim=1) + density, classes, classes[:, :2].sum(dim=1))
    centers = torch.rand(4000, 3, generator=generator) * torch.tensor([80.0, 80.0, 6.4]) - torch.tensor([40.0, 40.0, 1.0])
    # Cells on level ground, and right before the cameras
    centers[:500, 2] = 0.1
    centers[500:600] *= 0.05
    arguments = (pixels, overlapping_cameras(num_views), bins, centers)
    found = collect(*(argument.to(device) if hasattr(argument, "to") else argument for argument in arguments), cell_size=0.4)
    expected = collect_reference(*arguments, cell_size=0.4)
    assert 0.1 < (expected.surface > 0).float().mean() < 0.9
    torch.testing.assert_close(found.surface.cpu(), expected.surface, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.classes.cpu(), expected.classes, rtol=1e-4, atol=1e-5)


def test_distributions_in_half_precision_are_collected_in_full():
    density = torch.full((1, 4, 2, 2), 0.25, dtype=torch.bfloat16)
    classes = torch.full((1, 2, 2, 2), 0.5, dtype=torch.bfloat16)
    pixels = PixelDistributions(density, torch.ones_like(density), classes, classes[:, 0])
    found = collect(pixels, overlapping_cameras(1), DepthBins(count=4), torch.tensor([[10.0, -6.0, 1.5]]), cell_size=0.4)
    assert found.surface.dtype == found.classes.dtype == torch.float32
    torch.testing.assert_close(found.surface, torch.tensor([0.25]))


def reading_of(config: ImageReaderConfig, *, depth: float | None, label: int, rows: int = 4) -> ImageReading:
    """What one image says whose pixels are all of one class, and all at one depth or anywhere."""
    depth_logits = torch.zeros(1, 1, config.depth_bins.count, rows, 6)
    if depth is not None:
        depth_logits -= 10.0
        depth_logits[:, :, config.depth_bins.index(torch.tensor(depth))] = 10.0
    class_logits = torch.zeros(1, 1, 5, rows, 6)
    class_logits[:, :, label] = 10.0
    return ImageReading(torch.zeros(1, 1, 2, 4, 6), depth_logits, class_logits)


def test_evidence_stands_where_the_depth_distribution_and_the_pixel_say():
    cameras, config = stack([surround_cameras(1, (32, 48), focal=20.0)]), ImageReaderConfig(ground_classes=(2,))
    ahead = torch.tensor([[5.0, 0.0, 1.5], [2.5, 0.0, 1.5], [7.9, 0.0, 1.5], [-5.0, 0.0, 1.5]])
    evidence = find_evidence(reading_of(config, depth=5.0, label=3), cameras, config, ahead, cell_size=0.4)
    assert evidence.surface[0, 0] > 0.9
    assert evidence.surface[0, 1] < 1e-3
    assert evidence.surface[0, 3] == 0
    assert evidence.classes[0, 0].argmax() == 3
    assert evidence.classes[0, 3].sum() == 0


def test_ground_is_evident_where_the_pixel_says_ground_whatever_its_depth_says():
    cameras, config = stack([surround_cameras(1, (32, 48), focal=20.0)]), ImageReaderConfig(ground_classes=(3,))
    points = torch.tensor([[5.0, 0.0, 0.1], [5.0, 0.0, 0.9]])
    evidence = find_evidence(reading_of(config, depth=None, label=3), cameras, config, points, cell_size=0.4)
    assert evidence.surface[0, 0] > 0.9
    assert evidence.surface[0, 1] < 0.3
    assert evidence.classes[0].argmax(dim=-1).tolist() == [3, 3]


def test_of_what_a_thing_hides_its_pixel_knows_no_class():
    cameras, config = stack([surround_cameras(1, (32, 48), focal=20.0)]), ImageReaderConfig(ground_classes=(2,))
    points = torch.tensor([[4.0, 0.0, 1.5], [7.0, 0.0, 1.5]])
    evidence = find_evidence(reading_of(config, depth=4.0, label=3, rows=16), cameras, config, points, cell_size=0.4)
    assert evidence.classes[0, 0, 3] > 0.9
    assert evidence.classes[0, 1].sum() < 1e-2
