import torch
from labelled_scene import GRID, loss_inputs

from splattingocc.losses.opacity_prior import OpacityPrior


def test_every_opacity_costs_the_same_per_unit_however_small():
    inputs = loss_inputs()
    costs = OpacityPrior()(inputs)
    costs.sum().backward()
    assert torch.allclose(costs, inputs.field.opacities.sum(dim=1) / GRID.num_cells)
    assert torch.allclose(inputs.field.opacities.grad * GRID.num_cells, torch.ones(2, GRID.num_cells, dtype=torch.float64))
