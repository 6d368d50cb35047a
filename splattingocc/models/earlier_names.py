"""How networks that were written before call their options and parameters. What a file holds under a name of then counts as of today."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

OPTIONS = {
    "lift.depth_bins": "image_reader.depth_bins",
    "lift.rows_per_feature": "image_reader.rows_per_feature",
    "lift.ground_classes": "image_reader.ground_classes",
}
"""Of the sampling lift, which read the images itself."""
PARAMETERS = {
    "lift.standing.": "image_reader.depth_prior.",
    "lift.depth_head.": "image_reader.depth_head.",
    "lift.class_head.": "image_reader.class_head.",
}
"""Beginnings of names."""


def rename_options(network: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a network by today's names; what stands under both names is left for its class to refuse."""
    if not isinstance(lift := network.get("lift"), dict) or lift.get("kind", "sampling") != "sampling":
        return network
    renamed = dict(network)
    for before, now in OPTIONS.items():
        (old_part, old_name), (part, name) = before.split("."), now.split(".")
        target = renamed.get(part, {})
        if old_name in renamed[old_part] and isinstance(target, dict) and name not in target:
            renamed[part] = {**target, name: renamed[old_part][old_name]}
            renamed[old_part] = {key: value for key, value in renamed[old_part].items() if key != old_name}
    return renamed


def rename_parameters(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename, in place, parameters that the network does not have by names that it has: a hook for loading a state."""
    own = {f"{prefix}{name}" for name in network.state_dict()}
    for before, now in PARAMETERS.items():
        for key in [key for key in state if key.startswith(prefix + before) and key not in own]:
            renamed = prefix + now + key.removeprefix(prefix + before)
            if renamed in own and renamed not in state:
                state[renamed] = state.pop(key)
