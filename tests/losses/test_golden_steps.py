"""The default objective computes what it always computed: losses and gradients of a joint and of an image-only step."""

import pytest
import torch
from labelled_scene import BINS, loss_inputs

from splattingocc.losses.objective import Losses, Objective, ObjectiveConfig
from splattingocc.struct import Struct

RTOL = 1e-6
IMAGE_LOSSES = {"depth_bins": 1.6709602622072404, "pixel_classes": 1.7438605519692842}
VOLUME_LOSSES = {
    "semantic": 3.727953740401592,
    "distance": 0.2919127360020807,
    "line_of_sight": 0.9109660222174645,
    "empty": 0.4872293292349456,
    "query": 1.7787413400768517,
    "opacity_prior": 0.022698349866693907,
}
IMAGE_GRADIENTS = {"ImageReading.depth_logits": 0.0053799940394342795, "ImageReading.class_logits": -0.005451583193935085}
VOLUME_GRADIENTS = {
    "Gaussians.means": -0.18338935070080792,
    "Gaussians.quats": -0.20889163026181712,
    "Gaussians.scales": -0.9970883900541063,
    "Gaussians.opacities": -0.21516186695114675,
    "Gaussians.features": -6.561370695471317,
    "Rendering.features": -178.7916037116457,
    "Rendering.distances": -0.05379831776507063,
    "Rendering.alphas": 2.6256415183902733,
    "Rendering.in_front": 0.7887912083877064,
    "Rendering.at_hit": -6.636435593144778,
}


def fingerprint(struct: Struct) -> dict[str, float]:
    """Return a number for the gradient of each tensor that depends on every entry and its place; tensors without one are left out."""
    found = {}
    for name, value in vars(struct).items():
        if isinstance(value, torch.Tensor) and value.grad is not None:
            places = torch.linspace(1, 2, value.numel(), dtype=torch.float64).reshape(value.shape)
            found[f"{type(struct).__name__}.{name}"] = (value.grad * places).sum().item()
    return found


def step(*, on_images: bool) -> tuple[Losses, dict[str, float]]:
    """Return the losses of the fixed batch and the fingerprints of their gradients."""
    inputs = loss_inputs()
    objective = Objective(ObjectiveConfig(), BINS)
    losses = objective.on_images(inputs) if on_images else objective(inputs)
    losses.total.backward()
    return losses, fingerprint(inputs.field) | fingerprint(inputs.reading) | fingerprint(inputs.rendering)


@pytest.mark.parametrize("on_images", [False, True], ids=["joint", "images only"])
def test_losses_and_gradients_of_a_step_are_those_they_have_always_been(on_images: bool):
    losses, gradients = step(on_images=on_images)
    assert {name: value.item() for name, value in losses.parts.items()} == pytest.approx(
        IMAGE_LOSSES if on_images else IMAGE_LOSSES | VOLUME_LOSSES, rel=RTOL
    )
    assert gradients == pytest.approx(IMAGE_GRADIENTS if on_images else IMAGE_GRADIENTS | VOLUME_GRADIENTS, rel=RTOL)
