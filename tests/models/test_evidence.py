import pytest
import torch

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import rigid
from splattingocc.models.depth import DepthBins
from splattingocc.models.evidence import PixelBeliefs, collect, collect_reference

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
    beliefs = PixelBeliefs(density, 1 - density.cumsum(dim=1) + density, classes, classes[:, :2].sum(dim=1))
    centers = torch.rand(4000, 3, generator=generator) * torch.tensor([80.0, 80.0, 6.4]) - torch.tensor([40.0, 40.0, 1.0])
    # Cells on level ground, and right before the cameras
    centers[:500, 2] = 0.1
    centers[500:600] *= 0.05
    arguments = (beliefs, overlapping_cameras(num_views), bins, centers)
    hazards, weighed = collect(*(argument.to(device) if hasattr(argument, "to") else argument for argument in arguments), cell_size=0.4)
    expected_hazards, expected_classes = collect_reference(*arguments, cell_size=0.4)
    assert 0.1 < (expected_hazards > 0).float().mean() < 0.9
    torch.testing.assert_close(hazards.cpu(), expected_hazards, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighed.cpu(), expected_classes, rtol=1e-4, atol=1e-5)


def test_beliefs_in_half_precision_are_collected_in_full():
    density = torch.full((1, 4, 2, 2), 0.25, dtype=torch.bfloat16)
    classes = torch.full((1, 2, 2, 2), 0.5, dtype=torch.bfloat16)
    beliefs = PixelBeliefs(density, torch.ones_like(density), classes, classes[:, 0])
    hazards, weighed = collect(beliefs, overlapping_cameras(1), DepthBins(count=4), torch.tensor([[10.0, -6.0, 1.5]]), cell_size=0.4)
    assert hazards.dtype == weighed.dtype == torch.float32
    torch.testing.assert_close(hazards, torch.tensor([0.25]))
