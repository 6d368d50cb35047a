import math

import torch

from splattingocc.losses.line_of_sight import line_of_sight


def test_all_mass_at_the_hit_is_best_and_fog_in_front_is_worst():
    targets = torch.full((3,), 10.0)
    in_front, at_hit = torch.tensor([0.0, 0.4, 0.9]), torch.tensor([1.0, 0.5, 0.0])
    costs = line_of_sight(in_front, at_hit, targets)
    assert costs[0] < costs[1] < costs[2]
    assert costs[0] <= 0


def test_rays_without_a_distance_cost_nothing():
    assert line_of_sight(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([math.nan])).item() == 0.0


def test_the_gradient_pushes_fog_down_and_the_surface_up_and_is_bounded():
    in_front = torch.tensor([0.3], requires_grad=True)
    at_hit = torch.tensor([0.0], requires_grad=True)
    line_of_sight(in_front, at_hit, torch.tensor([5.0])).sum().backward()
    assert in_front.grad.item() == 1.0
    assert -101 < at_hit.grad.item() < -1
