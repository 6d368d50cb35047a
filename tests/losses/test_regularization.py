import torch

from splattingocc.losses.regularization import opacity_prior


def test_every_opacity_costs_the_same_per_unit_however_small():
    opacities = torch.tensor([0.001, 0.5, 0.9], requires_grad=True)
    opacity_prior(opacities).sum().backward()
    assert opacities.grad.tolist() == [1.0, 1.0, 1.0]
