import dataclasses
import math

import pytest
import torch
from jaxtyping import Float
from labelled_scene import BINS, loss_inputs
from pydantic import ValidationError
from torch import Tensor

from splattingocc.config import describe_validation
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.losses.distance import DistanceConfig
from splattingocc.losses.inputs import ImageInputs
from splattingocc.losses.loss import Loss, LossConfig, Shared
from splattingocc.losses.objective import Objective, ObjectiveConfig, about_missing_labels
from splattingocc.losses.semantic import SemanticConfig
from splattingocc.taxonomy import IGNORE, SKY

OF_IMAGES = ("depth_bins", "pixel_classes")


WEIGHTS = {name: loss.weight or 1.0 for name, loss in ObjectiveConfig().losses.items()}
"""Of every loss, also those that have none by default."""


def only(*names: str) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate({name: {"weight": WEIGHTS[name] if name in names else 0.0} for name in WEIGHTS})


def without(*names: str) -> ObjectiveConfig:
    return only(*(set(WEIGHTS) - set(names)))


def of_images(inputs: ImageInputs) -> ImageInputs:
    return ImageInputs(reading=inputs.reading, rays=inputs.rays, labels=inputs.labels, cameras=inputs.cameras)


def test_the_total_is_the_sum_of_the_parts_and_weights_scale_them():
    inputs = loss_inputs()
    losses = Objective(ObjectiveConfig(), BINS)(inputs)
    assert torch.allclose(losses.total, sum(losses.parts.values(), torch.zeros(())))
    doubled = Objective(ObjectiveConfig(semantic=SemanticConfig(weight=2.0)), BINS)(inputs)
    assert torch.allclose(doubled.parts["semantic"], 2 * losses.parts["semantic"])
    assert torch.equal(doubled.parts["distance"], losses.parts["distance"])


@pytest.mark.parametrize("name", ObjectiveConfig().losses)
def test_a_loss_of_weight_zero_is_not_even_built(name: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: LossConfig, shared: Shared) -> Loss:
        raise AssertionError(f"{type(self).__name__} was built")

    monkeypatch.setattr(type(ObjectiveConfig().losses[name]), "build", refuse)
    with pytest.raises(AssertionError, match="was built"):
        Objective(without(), BINS)
    objective = Objective(without(name), BINS)
    assert name not in objective(loss_inputs()).parts


@pytest.mark.parametrize("name", ObjectiveConfig().losses)
def test_a_loss_computes_alone_what_it_computes_beside_the_others(name: str):
    beside = Objective(without(), BINS)(loss_inputs()).parts[name]
    # The opacity prior alone would be refused: it learns from no label
    config = only(name) if ObjectiveConfig().losses[name].learns_from_labels else only(name, "semantic")
    assert torch.equal(Objective(config, BINS)(loss_inputs()).parts[name], beside)


def test_the_image_branch_alone_is_trained_by_the_losses_that_need_no_volume():
    inputs, objective = loss_inputs(), Objective(ObjectiveConfig(), BINS)
    parts = objective.on_images(of_images(inputs)).parts
    assert tuple(parts) == OF_IMAGES
    whole = objective(inputs).parts
    assert all(torch.equal(parts[name], whole[name]) for name in OF_IMAGES)


def test_padding_changes_nothing():
    inputs, objective = loss_inputs(), Objective(without(), BINS)

    def pad(tensor: Tensor, value: float) -> Tensor:
        return torch.cat([tensor, torch.full_like(tensor[:, :5], value)], dim=1)

    rays, labels = inputs.rays, inputs.labels
    padded = dataclasses.replace(
        inputs,
        rays=Rays(pad(rays.origins, 0.0), torch.cat([rays.directions, rays.directions[:, :5]], dim=1)),
        labels=RayLabels(pad(labels.semantics, IGNORE), pad(labels.distances, math.nan), pad(labels.weights, 0.0)),
        rendering=inputs.rendering.map(lambda tensor: pad(tensor, 0.3)),
    )
    found = objective(padded).parts
    for name, value in objective(inputs).parts.items():
        assert torch.allclose(found[name], value, rtol=1e-5), name


def test_a_ray_stopped_outside_of_the_grid_is_asked_for_nothing_but_emptiness():
    inputs = loss_inputs()
    far = dataclasses.replace(inputs.labels, distances=torch.full_like(inputs.labels.distances, 100.0))
    parts = Objective(only("semantic", "distance", "line_of_sight", "empty"), BINS)(dataclasses.replace(inputs, labels=far)).parts
    assert parts["semantic"] == parts["line_of_sight"] == 0
    assert parts["distance"] < 1e-3  # the root in it has a floor
    assert parts["empty"] > 0


def test_sky_asks_for_emptiness_and_an_unknown_distance_for_the_class_alone():
    inputs, objective = loss_inputs(), Objective(only("semantic", "line_of_sight", "empty"), BINS)
    nowhere = torch.full_like(inputs.labels.distances, math.nan)
    sky = RayLabels(torch.full_like(inputs.labels.semantics, SKY), nowhere, inputs.labels.weights)
    parts = objective(dataclasses.replace(inputs, labels=sky)).parts
    assert parts["empty"] > 0
    assert parts["semantic"] == parts["line_of_sight"] == 0
    of_cars = RayLabels(torch.full_like(inputs.labels.semantics, 4), nowhere, inputs.labels.weights)
    parts = objective(dataclasses.replace(inputs, labels=of_cars)).parts
    assert parts["semantic"] > 0
    assert parts["empty"] == parts["line_of_sight"] == 0


@pytest.mark.parametrize("missing", ["class", "distance"])
def test_what_a_loss_says_of_its_labels_is_what_it_computes(missing: str):
    inputs = loss_inputs()
    semantics, distances = inputs.labels.semantics, inputs.labels.distances
    if missing == "class":
        semantics = torch.full_like(semantics, IGNORE)
    else:
        distances = torch.full_like(distances, math.nan)
    inputs = dataclasses.replace(inputs, labels=dataclasses.replace(inputs.labels, semantics=semantics, distances=distances))
    for name, config in ObjectiveConfig().losses.items():
        loss = Objective(only(name, "semantic"), BINS)(inputs).parts[name]
        predictions = [value for part in (inputs.reading, inputs.field, inputs.rendering) for value in vars(part).values()]
        tensors = [value for value in predictions if isinstance(value, Tensor)]
        gradients = [None] * len(tensors) if not loss.requires_grad else torch.autograd.grad(loss, tensors, allow_unused=True)
        learns = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        assert learns == (missing not in config.needs_labels), name


def test_what_missing_labels_leave_unlearned_follows_from_the_losses_in_use():
    assert list(about_missing_labels(ObjectiveConfig(), set())) == []
    (said,) = about_missing_labels(ObjectiveConfig(), {"class"})
    assert said == "no label has a class: semantic, pixel_classes cannot learn and show 0; empty, query can without"
    (said,) = about_missing_labels(ObjectiveConfig(), {"distance"})
    idle = "distance, line_of_sight, query, depth_bins, pixel_classes"
    assert said == f"no label has a distance: {idle} cannot learn and show 0; empty can without"
    assert list(about_missing_labels(only("distance", "opacity_prior"), {"class"})) == []


def test_labels_that_no_loss_in_use_can_learn_from_are_refused():
    with pytest.raises(ValueError, match=r"no label has a class, and of the losses with a weight \(semantic\) none can do without"):
        list(about_missing_labels(only("semantic", "opacity_prior"), {"class"}))
    with pytest.raises(ValueError, match="no label has a class or a distance, and of "):
        list(about_missing_labels(ObjectiveConfig(), {"class", "distance"}))


def refusal(**options: object) -> str:
    with pytest.raises(ValidationError) as refused:
        ObjectiveConfig.model_validate(options)
    return describe_validation(refused.value)


def test_what_learns_from_no_label_is_refused():
    nothing = {name: {"weight": 0} for name, loss in ObjectiveConfig().losses.items() if name != "opacity_prior"}
    assert "nothing would be learned from labels; give one of semantic, distance," in refusal(**nothing)
    assert "opacity_prior" not in refusal(**nothing)


def test_wrong_options_are_refused_in_one_line_that_says_what_is_right():
    assert "'cra' is not a class" in refusal(class_weights={"cra": 2.0})
    assert refusal(semantic=0.5) == "ObjectiveConfig.semantic: is 0.5, expected the options of a SemanticConfig, such as its weight"
    assert "ObjectiveConfig.query: num_point is not an option of QueryConfig; did you mean num_points?" in refusal(query={"num_point": 4})
    assert "weight is -1" in refusal(empty={"weight": -1})


class ScalarConfig(DistanceConfig):
    def build(self, shared: Shared) -> Loss:
        return ScalarLoss()


class ScalarLoss(Loss):
    def forward(self, inputs: ImageInputs) -> Float[Tensor, ""]:
        return inputs.labels.weights.mean()


def test_a_loss_that_returns_no_number_per_sample_is_named():
    with pytest.raises(AssertionError, match="distance: \\(\\), expected a number per sample"):
        Objective(ObjectiveConfig(distance=ScalarConfig()), BINS)(loss_inputs())


class LearnedConfig(DistanceConfig):
    def build(self, shared: Shared) -> Loss:
        loss = ScalarLoss()
        loss.scale = torch.nn.Parameter(torch.ones(()))
        return loss


def test_a_loss_with_parameters_is_refused_because_nothing_would_train_them():
    with pytest.raises(AssertionError, match=r"found 1\.scale: only the network's would be trained"):
        Objective(ObjectiveConfig(distance=LearnedConfig()), BINS)


def test_nothing_of_the_objective_goes_into_checkpoints():
    assert Objective(ObjectiveConfig(class_weights={"car": 2.0}), BINS).state_dict() == {}
