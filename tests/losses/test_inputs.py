import dataclasses

import pytest
import torch
from labelled_scene import loss_inputs, meets_nothing


def test_inputs_cannot_be_changed_and_what_follows_from_them_is_computed_once():
    inputs = loss_inputs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        inputs.rays = inputs.rays
    assert inputs.pixels is inputs.pixels
    assert inputs.stopped is inputs.stopped


def test_changed_inputs_do_not_keep_what_followed_from_the_old_ones():
    inputs = loss_inputs()
    before = inputs.stopped
    weightless = dataclasses.replace(inputs.labels, weights=torch.zeros_like(inputs.labels.weights))
    changed = dataclasses.replace(inputs, labels=weightless)
    assert before.any()
    assert not changed.stopped.any()
    assert len(changed.pixels.images) == 0


def test_rays_of_the_sky_and_those_stopped_beyond_the_grid_are_empty_and_all_others_stopped():
    inputs = loss_inputs()
    empty = meets_nothing(inputs)
    assert torch.equal(inputs.empty, empty)
    assert torch.equal(inputs.stopped, inputs.labels.weights * ~empty)
    assert torch.equal(inputs.stopped_at_distance > 0, inputs.labels.distances.isfinite() & ~empty)


def test_labels_behind_what_is_rendered_are_of_rays_that_meet_nothing_on_the_way():
    inputs = dataclasses.replace(loss_inputs(), far=8.0)
    behind = inputs.labels.distances > 8.0
    assert (behind & ~meets_nothing(inputs)).any()
    assert torch.equal(inputs.empty, meets_nothing(inputs) | behind)
    assert (inputs.stopped[behind] == 0).all()
