"""Published weights: reading the files that others wrote, and filling an encoder with them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from splattingocc.config import Config
from splattingocc.files import BadFile, decoding, has_all_records, only_plain_values, open_regular
from splattingocc.models.backbones.layouts import NO_PART_OF_ENCODERS, Layout, State, inside_prefixes, recognise

LARGEST_WEIGHTS = 2**32
"""Bytes of a file of weights."""
HOLDERS = ("state_dict", "model")
"""Keys under which checkpoints keep their weights, beside what is not looked at."""
NAMES_SAID = 3
"""Keys of a kind that a message names."""
COUNTER = "num_batches_tracked"
"""Of a BatchNorm; older files have none, and a momentum that is given does not ask for it."""


class WeightsConfig(Config):
    """What an encoder starts from."""

    weights: Path | None = None
    """Weights to start from: .safetensors, or .pth and .ckpt with tensors and plain values only; random without."""
    allow_partial: bool = False
    """Whether weights may be missing in that file, be too many or of other shapes; what does not fit starts from random numbers."""


@dataclass(frozen=True)
class LoadedWeights:
    """What of a file went into an encoder."""

    path: Path
    layout: Layout | None
    """None where the keys are those of the encoder, which is not a known one."""
    loaded: Sequence[str]
    skipped: Sequence[str]
    """Keys of the file that the encoder has no use for."""
    missing: Sequence[str]
    """Keys of the encoder that stay as they were; only where that is allowed."""

    def describe(self) -> str:
        known = "" if self.layout is None else f" ({self.layout.name})"
        skipped, missing = _some(self.skipped), _some(self.missing)
        return (
            f"weights from {self.path}{known}: {len(self.loaded)} loaded, {len(self.skipped)} skipped{skipped}, {len(self.missing)} "
            f"missing{missing}"
        )


def _some(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > NAMES_SAID else ""
    return f" ({', '.join(sorted(keys)[:NAMES_SAID])}{more})" if keys else ""


HELD_AS = "encoder"
"""What the module is in a backbone that only wraps it, whose names are not the published ones."""


def read_weights(path: Path) -> State:
    """Return the tensors of a file by their names; of a checkpoint only its weights, which may lie beside plain values."""
    with open_regular(path, limit=LARGEST_WEIGHTS), decoding(path, "a file of weights"), only_plain_values():
        # Older versions of torch wrote files that are no archives and have no checksums
        if zipfile.is_zipfile(path) and not has_all_records(path):
            raise ValueError("damaged")
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        while isinstance(found, dict) and (holder := next((key for key in HOLDERS if isinstance(found.get(key), dict)), None)):
            found = found[holder]
        if not isinstance(found, dict) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
            raise ValueError("expected tensors by name and nothing else")
    return dict(found)


def load_weights(module: nn.Module, config: WeightsConfig, published_names: Mapping[str, str] | None = None) -> LoadedWeights | None:
    """Fill an encoder from the file that its configuration names, whatever layout that has, and say what of it was used.

    `published_names` are the names of the module's own weights in published files, by the module's names, where they differ. A file that
    lacks a weight of the encoder, has one that it does not know or one of another shape is a `ValueError`, unless `allow_partial` says
    that it may. One of another encoder always is.
    """
    if config.weights is None:
        return None
    path, names = config.weights, published_names or {}
    own = {names.get(key, key): value for key, value in module.state_dict().items()}
    state, others = inside_prefixes(read_weights(path))
    # A network of this project holds them by the module's own names
    of_this_project = {f"{HELD_AS}.{key}": name for key, name in names.items()}
    state = {of_this_project.get(key, key): value for key, value in state.items()}
    layout = recognise(state)
    state = _converted(state, layout, own, path)
    ignored = [key for key in state if key not in own and NO_PART_OF_ENCODERS.match(key)]
    foreign = [key for key in state if key not in own and key not in set(ignored)]
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if not config.allow_partial:
        _refuse_partial(path, layout, own, state, missing, foreign, reshaped)
    fitting = {key: value for key, value in state.items() if key in own and key not in set(reshaped)}
    if not fitting:
        raise BadFile(path, "no weight of it fits this encoder")
    for key, value in fitting.items():
        if not value.isfinite().all():
            raise BadFile(path, f"key {key} holds numbers that are not finite")
    module.load_state_dict({key: fitting.get(names.get(key, key), value) for key, value in module.state_dict().items()})
    return LoadedWeights(path, layout, list(fitting), [*others, *ignored, *foreign], [*missing, *reshaped])


def _converted(state: State, layout: Layout | None, own: State, path: Path) -> State:
    """Return weights by the names of the encoder at hand; those of another encoder are a `ValueError`."""
    expected = recognise(own)
    if layout is None:
        if own.keys().isdisjoint(state):
            known = "" if expected is None else f", which is a {expected.encoder}"
            raise BadFile(path, f"weights in no known layout (first key {next(iter(state), 'missing')[:100]}), none of this encoder{known}")
        return state
    if expected is not None and expected.encoder != layout.encoder:
        raise BadFile(path, f"weights of {layout.name}, but this encoder is a {expected.encoder}")
    if layout.convert is None:
        raise BadFile(path, f"weights of {layout.name}, which is not converted; give them in timm's")
    return layout.convert(state)


def _refuse_partial(
    path: Path, layout: Layout | None, own: State, state: State, missing: Sequence[str], foreign: Sequence[str], reshaped: Sequence[str]
) -> None:
    """Raise a `ValueError` where a file and an encoder do not have the same weights."""
    known = "" if layout is None else f"{layout.name}: "
    if reshaped:
        key = reshaped[0]
        shapes = f"key {key} has shape {tuple(state[key].shape)}, the network needs {tuple(own[key].shape)}"
        wrong = shapes if len(reshaped) == 1 else f"{len(reshaped)} weights have other shapes, the first: {shapes}"
    elif missing:
        which = f"key {missing[0]} is missing" if len(missing) == 1 else f"{len(missing)} of {len(own)} keys are missing{_some(missing)}"
        wrong = which
    elif foreign:
        which = f"key {foreign[0][:100]} does not" if len(foreign) == 1 else f"{len(foreign)} keys do not{_some(foreign)}"
        wrong = f"{which} belong to this network"
    else:
        return
    raise BadFile(path, f"{known}{wrong}; --network.backbone.allow-partial takes what fits")
