import math

import torch
from torch.autograd import gradcheck

from splattingocc.losses.distance import log_distance_error, silog


def test_the_error_is_the_difference_of_logarithms_where_both_are_known():
    errors = log_distance_error(torch.tensor([20.0, 10.0, 0.0]), torch.tensor([10.0, math.nan, 10.0]))
    assert torch.allclose(errors, torch.tensor([math.log(2.0), 0.0, 0.0]))


def test_unknown_targets_and_empty_rays_give_no_gradient():
    distances = torch.tensor([20.0, 0.0, 5.0], requires_grad=True)
    log_distance_error(distances, torch.tensor([math.nan, 3.0, 4.0])).square().sum().backward()
    assert distances.grad.tolist()[:2] == [0.0, 0.0]
    assert distances.grad[2] > 0


def test_silog_forgives_a_common_scale_as_far_as_it_is_told_to():
    errors, weights = torch.full((8,), 0.5), torch.ones(8)
    assert math.isclose(silog(errors, weights, variance_focus=0.0).item(), 0.5, rel_tol=1e-5)
    assert math.isclose(silog(errors, weights, variance_focus=0.75).item(), 0.25, rel_tol=1e-5)


def test_silog_counts_rays_by_weight():
    errors = torch.tensor([0.1, 5.0])
    alone = silog(errors[:1], torch.ones(1), variance_focus=0.85)
    assert torch.allclose(silog(errors, torch.tensor([1.0, 0.0]), variance_focus=0.85), alone)


def test_silog_has_right_gradients():
    errors = torch.randn(6, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, dtype=torch.float64)
    assert gradcheck(lambda e: silog(e, weights, variance_focus=0.85), errors)
