import dataclasses

import torch
from labelled_scene import loss_inputs

from splattingocc.losses.distortion import DistortionLoss


def test_it_is_the_mean_spread_of_the_rays_that_are_no_padding():
    inputs = loss_inputs()
    labelled = inputs.labels.weights > 0
    assert inputs.rendering.distortion is not None
    expected = torch.stack([spread[own].mean() for spread, own in zip(inputs.rendering.distortion, labelled)])
    assert torch.allclose(DistortionLoss()(inputs), expected)
    weightless = dataclasses.replace(inputs.labels, weights=torch.zeros_like(inputs.labels.weights))
    assert DistortionLoss()(dataclasses.replace(inputs, labels=weightless)).tolist() == [0.0, 0.0]
