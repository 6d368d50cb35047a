"""Averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from splattingocc.engine.averaging import AveragedWeights


def averaged_over_steps(decay: float, weights: list[float]) -> AveragedModel:
    """Return the average over steps that leave a linear layer with these weights; it also has constants, a bias of zeros and BatchNorm."""
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    module.register_buffer("constants", torch.linspace(-40, 40, 1001) / 3, persistent=False)
    callback = AveragedWeights(decay)
    model = AveragedModel(module, use_buffers=callback._use_buffers, **callback._kwargs)
    for number, weight in enumerate(weights, start=1):
        with torch.no_grad():
            module[0].weight.fill_(weight)  # type: ignore[operator]
            module[0].bias.fill_(0.485)  # type: ignore[operator]
            module[1].num_batches_tracked.fill_(number)  # type: ignore[operator]
        model.update_parameters(module)
    return model


def test_what_changes_is_averaged_from_the_first_step_on():
    model = averaged_over_steps(0.75, [2.0, 6.0, 4.0])
    assert model.module[0].weight.item() == pytest.approx(0.75 * (0.75 * 2 + 0.25 * 6) + 0.25 * 4)


@pytest.mark.parametrize("decay", [0.3, 0.7, 0.999])
def test_what_does_not_change_stays_to_the_last_bit(decay: float):
    model = averaged_over_steps(decay, [float(number) for number in range(50)])
    assert torch.equal(model.module.constants, torch.linspace(-40, 40, 1001) / 3)
    assert torch.equal(model.module[0].bias, torch.tensor([0.485]))


def test_batches_are_counted_and_not_averaged():
    assert averaged_over_steps(0.999, [0.0] * 7).module[1].num_batches_tracked == 7
