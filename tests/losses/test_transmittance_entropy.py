import dataclasses
import math

import torch
from labelled_scene import NUM_RAYS, loss_inputs

from splattingocc.losses.transmittance_entropy import TransmittanceEntropyLoss


def cost(alpha: float) -> torch.Tensor:
    inputs = loss_inputs()
    alphas = torch.full((2, NUM_RAYS), alpha, dtype=torch.float64)
    return TransmittanceEntropyLoss()(dataclasses.replace(inputs, rendering=dataclasses.replace(inputs.rendering, alphas=alphas)))


def test_a_ray_half_stopped_costs_most_and_one_wholly_stopped_or_passing_nearly_nothing():
    assert torch.allclose(cost(0.5), torch.tensor(math.log(2), dtype=torch.float64))
    assert (cost(0.2) < cost(0.4)).all()
    assert torch.allclose(cost(0.3), cost(0.7))
    assert max(cost(0.0).max(), cost(1.0).max()) < 1e-3
