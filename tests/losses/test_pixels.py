import math

import torch

from splattingocc.losses.pixels import PixelLabels, pixel_nll
from splattingocc.taxonomy import IGNORE


def test_targets_are_read_at_the_pixel_that_holds_the_point():
    logits = torch.zeros(2, 4, 3, 5)
    logits[1, 2, 1, 4] = 20.0
    ones = torch.ones(3)
    positions = torch.tensor([[0.9, 0.5]]).repeat(3, 1)
    pixels = PixelLabels(torch.tensor([1, 0, 0]), positions, ones, torch.tensor([2, 2, IGNORE]), ones, (2, 1))
    nll = pixel_nll(logits, pixels, pixels.semantics)
    assert nll[0] < 1e-6
    assert math.isclose(nll[1].item(), math.log(4), rel_tol=1e-5)
    assert nll[2] == 0
