import math

import torch

from splattingocc.losses.semantic import EPSILON, class_nll
from splattingocc.taxonomy import IGNORE, SKY


def test_the_loss_is_the_weighted_negative_log_of_the_composited_probability():
    probabilities = torch.tensor([[0.7, 0.2], [0.1, 0.3]])
    nll = class_nll(probabilities, torch.tensor([0, 1]), class_weights=torch.tensor([1.0, 2.0]))
    assert torch.allclose(nll, torch.tensor([-math.log(0.7 + EPSILON), -2 * math.log(0.3 + EPSILON)]))


def test_labels_that_are_no_class_cost_nothing():
    nll = class_nll(torch.full((2, 3), 0.1), torch.tensor([IGNORE, SKY]), class_weights=torch.ones(3))
    assert nll.tolist() == [0.0, 0.0]


def test_a_ray_that_hits_little_does_not_look_confident():
    thin, solid = torch.tensor([[0.05, 0.0]]), torch.tensor([[0.9, 0.0]])
    label, weights = torch.tensor([0]), torch.ones(2)
    assert class_nll(thin, label, class_weights=weights) > 10 * class_nll(solid, label, class_weights=weights)


def test_an_empty_ray_has_a_finite_loss_and_gradient():
    probabilities = torch.zeros(1, 2, requires_grad=True)
    class_nll(probabilities, torch.tensor([1]), class_weights=torch.ones(2)).sum().backward()
    assert torch.isfinite(probabilities.grad).all()
    assert probabilities.grad[0, 1] < 0
