"""The volume encoder in half the digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splattingocc.models.volume_encoder import UNet3d, UNet3dConfig


def encoded(encoder: UNet3d, volume: Tensor, *, half: bool) -> list[Tensor]:
    """Return what becomes of a volume and the gradients of all weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        found = encoder(volume).float()
    return [found, *torch.autograd.grad(found.square().sum(), list(encoder.parameters()))]


@pytest.mark.parametrize("size", [(12, 12, 8), (25, 25, 4), (25, 25, 2), (6, 6, 2), (4, 25, 2), (3, 3, 1), (2, 2, 2)])
def test_volumes_of_any_size_are_the_same_in_half_the_digits(size: tuple[int, int, int]):
    torch.manual_seed(0)
    encoder = UNet3d(UNet3dConfig(channels=(16, 32, 64), blocks=(1, 2, 1)), in_channels=8)
    volume = torch.randn(2, 8, *size)
    expected = encoded(encoder, volume, half=False)
    for _ in range(3):
        # What is freed here is what memory that nothing was written to would hold
        del [torch.full((length,), torch.nan) for length in (1_000, 10_000, 100_000, 1_000_000)][:]
        for found, exact in zip(encoded(encoder, volume, half=True), expected, strict=True):
            assert (found - exact).norm() < 0.3 * exact.norm(), tuple(exact.shape)


def test_what_is_wide_enough_is_computed_in_half_the_digits():
    encoder = UNet3d(UNet3dConfig(channels=(16, 32), blocks=(1, 1)), in_channels=16)
    formats: list[torch.dtype] = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda part, inputs, output: formats.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(torch.randn(1, 16, 12, 12, 4))
    # Its two layers of cells on the coarser level are not
    assert formats == [torch.bfloat16] * 2 + [torch.float32] * 3 + [torch.bfloat16] * 3
