import dataclasses
import math

import torch
from labelled_scene import loss_inputs

from splattingocc.losses.pixel_classes import PixelClassesLoss
from splattingocc.taxonomy import IGNORE


def test_a_map_of_the_labelled_class_costs_nothing_and_one_that_knows_nothing_the_logarithm_of_the_classes():
    inputs = loss_inputs()
    of_cars = dataclasses.replace(inputs.labels, semantics=torch.full_like(inputs.labels.semantics, 4))
    unsure = torch.zeros_like(inputs.reading.class_logits)
    sure = unsure.clone()
    sure[:, :, 4] = 50.0
    for logits, expected in ((sure, 0.0), (unsure, math.log(17))):
        reading = dataclasses.replace(inputs.reading, class_logits=logits)
        costs = PixelClassesLoss()(dataclasses.replace(inputs, reading=reading, labels=of_cars))
        assert torch.allclose(costs, torch.full_like(costs, expected))


def test_points_without_a_class_or_a_distance_cost_nothing():
    inputs = loss_inputs()
    for changes in (
        {"semantics": torch.full_like(inputs.labels.semantics, IGNORE)},
        {"distances": torch.full_like(inputs.labels.distances, math.nan)},
    ):
        labels = dataclasses.replace(inputs.labels, **changes)
        assert PixelClassesLoss()(dataclasses.replace(inputs, labels=labels)).tolist() == [0.0, 0.0]
