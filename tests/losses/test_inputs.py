import dataclasses

import pytest
import torch
from labelled_scene import loss_inputs, meets_nothing

from splattingocc.geometry.rays import Rays
from splattingocc.taxonomy import SKY


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


def test_of_a_ray_that_is_stopped_before_the_grid_begins_nothing_is_known():
    inputs = loss_inputs()
    origins = inputs.rays.origins - torch.tensor([30.0, 0.0, 0.0], dtype=torch.float64)
    moved = dataclasses.replace(inputs, rays=Rays(origins, inputs.rays.directions))
    distances = moved.labels.distances
    meets_grid = moved.field.grid.exit_distances(moved.rays) > 0
    before = (distances < 20) & meets_grid  # the others end in the grid, or behind it
    assert before.any()
    assert not moved.empty[before].any()
    assert (moved.stopped[before] == 0).all()
    assert moved.empty[moved.labels.semantics == SKY].all()
    behind = (distances >= 20) & meets_nothing(moved)
    assert behind.any()
    assert moved.empty[behind].all()


def test_labels_before_what_is_rendered_ask_for_nothing():
    inputs = dataclasses.replace(loss_inputs(), near=5.0)
    before = inputs.labels.distances < 5.0
    assert before.any()
    assert not inputs.empty[before].any()
    assert (inputs.stopped[before] == 0).all()
    assert torch.equal(inputs.stopped[~before], loss_inputs().stopped[~before])
