"""Gaussians on their way to the page's viewer: which ones go, and how exactly they arrive."""

import zlib

import numpy as np
import torch

from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.report.gaussians import FAINTEST, SCALE_STEPS_PER_OCTAVE, SMALLEST_SCALE, pack_gaussians
from splattingocc.splatting.gaussians import Gaussians


def some_gaussians(num: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    lower, upper = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
    return Gaussians(
        means=lower + (upper - lower) * torch.rand(num, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(num, 4, generator=generator), dim=-1),
        scales=0.04 + 0.21 * torch.rand(num, 3, generator=generator),
        opacities=FAINTEST + (0.99 - FAINTEST) * torch.rand(num, generator=generator),
        features=torch.rand(num, 17, generator=generator).softmax(dim=-1),
        grid=OCC3D_GRID,
    )


def planes_of(content: bytes) -> np.ndarray:
    return np.frombuffer(zlib.decompress(content), np.uint8).reshape(15, -1)


def test_gaussians_arrive_within_a_step_of_their_numbers() -> None:
    gaussians = some_gaussians(300)
    packed = pack_gaussians(gaussians, OCC3D_GRID, most=1000)
    planes = planes_of(packed.content)
    assert packed.there == planes.shape[1] == 300
    lower, upper = np.array(OCC3D_GRID.lower), np.array(OCC3D_GRID.upper)
    shares = (planes[0:6:2] + planes[1:6:2].astype(int) * 256).T / 65535
    assert np.abs(lower + shares * (upper - lower) - gaussians.means.numpy()).max() < 1e-3
    scales = SMALLEST_SCALE * 2.0 ** (planes[6:9].T / SCALE_STEPS_PER_OCTAVE)
    assert np.abs(scales / gaussians.scales.numpy() - 1).max() < 0.025
    assert np.abs(planes[9:13].view(np.int8).T / 127 - gaussians.quats.numpy()).max() < 0.005
    assert np.abs(planes[13] / 255 - gaussians.opacities.numpy()).max() < 0.003
    assert (planes[14] == gaussians.features.argmax(dim=-1).numpy()).all()


def test_the_most_opaque_go_and_the_faint_never() -> None:
    gaussians = some_gaussians(300)
    gaussians.opacities[:100] = FAINTEST / 2
    gaussians.means[100] = torch.tensor([99.0, 0.0, 0.0])  # outside of the grid
    packed = pack_gaussians(gaussians, OCC3D_GRID, most=20)
    assert packed.there == 199
    opacities = planes_of(packed.content)[13] / 255
    wanted = gaussians.opacities[101:].sort(descending=True).values[:20]
    assert np.abs(np.sort(opacities)[::-1] - wanted.numpy()).max() < 0.003
    assert planes_of(pack_gaussians(gaussians, OCC3D_GRID, most=1000).content).shape[1] == 199
