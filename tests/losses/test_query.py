import dataclasses
import math

import torch
from labelled_scene import BINS, NUM_RAYS, loss_inputs

from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.losses.query import QueryConfig, QueryLoss, free_cost, free_points, hit_cost
from splattingocc.taxonomy import IGNORE


def test_free_points_lie_on_their_ray_within_reach_and_spread_evenly():
    rays = Rays(torch.zeros(200, 3), torch.tensor([0.0, 1.0, 0.0]).expand(200, 3))
    reach = torch.full((200,), 10.0)
    reach[0] = 0
    along = free_points(rays, reach, count=4)[..., 1]
    assert along[0].abs().max() == 0
    assert along[1:].min() >= 0
    assert along[1:].max() < 10.0
    counts = torch.histc(along[1:], bins=10, min=0, max=10)
    assert counts.min() > 70
    assert counts.max() < 90


def test_costs_pull_hits_up_and_free_points_down_with_bounded_gradients():
    responses = torch.tensor([0.0, 0.5, 0.99], requires_grad=True)
    (hit,) = torch.autograd.grad(hit_cost(responses).sum(), responses)
    (free,) = torch.autograd.grad(free_cost(responses).sum(), responses)
    assert (hit < 0).all()
    assert (free > 0).all()
    assert hit.abs().max() <= 100 + 1e-3
    assert free.abs().max() <= 51


def test_only_labels_with_a_distance_are_asked_and_those_without_a_class_for_matter_alone():
    inputs, loss = loss_inputs(), QueryLoss(QueryConfig(), torch.ones(17))
    unclassed = dataclasses.replace(inputs.labels, semantics=torch.full_like(inputs.labels.semantics, IGNORE))
    without_classes = loss(dataclasses.replace(inputs, labels=unclassed))
    assert ((without_classes > 0) & (without_classes < loss(inputs))).all()
    nowhere = dataclasses.replace(inputs.labels, distances=torch.full((2, NUM_RAYS), math.nan, dtype=torch.float64))
    assert loss(dataclasses.replace(inputs, labels=nowhere)).tolist() == [0.0, 0.0]


def test_the_class_at_the_end_counts_by_the_weights_of_classes():
    inputs = loss_inputs()
    of_cars = dataclasses.replace(inputs.labels, semantics=torch.full_like(inputs.labels.semantics, 4))
    inputs = dataclasses.replace(inputs, labels=of_cars)
    none, plain, triple = (
        Objective(ObjectiveConfig(class_weights={"car": weight}), BINS)(inputs).parts["query"].item() for weight in (0.0, 1.0, 3.0)
    )
    assert none < plain
    assert math.isclose(triple - none, 3 * (plain - none), rel_tol=1e-6)


def test_nothing_is_asked_within_a_cell_of_the_ground_that_a_ray_meets_at_a_low_angle():
    origins = torch.tensor([0.0, 0.0, 1.8]).expand(300, 3)
    ends = torch.stack([torch.linspace(4, 38, 300), torch.linspace(-5, 5, 300), torch.full((300,), -0.1)], dim=1)
    distances = (ends - origins).norm(dim=1)
    rays = Rays(origins, (ends - origins) / distances[:, None])
    on_road, on_car = (RayLabels(torch.full((300,), label), distances, torch.ones(300)) for label in (11, 4))
    loss = QueryLoss(QueryConfig(), torch.ones(17))
    heights = {name: loss.points(rays, labels)[300:, 2] for name, labels in (("road", on_road), ("car", on_car))}
    assert heights["road"].min() > 0.3 - 1e-4
    assert heights["car"].min() < 0
    whole_way = QueryLoss(QueryConfig(ground_clearance=0.0), torch.ones(17))
    torch.testing.assert_close(whole_way.points(rays, on_road), loss.points(rays, on_car))
