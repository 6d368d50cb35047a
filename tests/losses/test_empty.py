import dataclasses
import math

import torch
from labelled_scene import loss_inputs, meets_nothing

from splattingocc.losses.empty import EPSILON, EmptyLoss, empty_ray_cost
from splattingocc.taxonomy import SKY


def test_passing_costs_nothing_much_and_the_gradient_of_a_stopped_ray_is_bounded():
    alphas = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    costs = empty_ray_cost(alphas)
    assert -EPSILON < costs[0] < costs[1] < costs[2]
    (gradient,) = torch.autograd.grad(costs.sum(), alphas)
    assert (gradient > 0).all()
    assert gradient.max() <= 1 / EPSILON + 1e-3


def test_rays_of_the_sky_and_those_stopped_outside_of_the_grid_count_by_label_weight():
    inputs = loss_inputs()
    empty = meets_nothing(inputs)
    assert empty[:, :6].all()
    weights = inputs.labels.weights * empty
    expected = (empty_ray_cost(inputs.rendering.alphas) * weights).sum(dim=1) / weights.sum(dim=1)
    assert torch.allclose(EmptyLoss()(inputs), expected)


def test_without_such_rays_there_is_no_cost():
    inputs = loss_inputs()
    semantics = inputs.labels.semantics.where(inputs.labels.semantics != SKY, 0)
    nowhere = torch.full_like(inputs.labels.distances, math.nan)
    labels = dataclasses.replace(inputs.labels, semantics=semantics, distances=nowhere)
    assert EmptyLoss()(dataclasses.replace(inputs, labels=labels)).tolist() == [0.0, 0.0]
