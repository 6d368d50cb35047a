"""Published weights: reading the files that others wrote, and filling an encoder with them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from splattingocc.files import decoding, has_all_records, only_plain_values, open_regular

LARGEST_WEIGHTS = 2**32
"""Bytes of a file of weights."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights by their key names. torchvision's classifier (`fc.*`) is left out; any other difference is a `ValueError`."""
    with open_regular(path, limit=LARGEST_WEIGHTS), decoding(path, "a file of weights"), only_plain_values():
        # Older versions of torch wrote files that are no archives and have no checksums
        if zipfile.is_zipfile(path) and not has_all_records(path):
            raise ValueError("damaged")
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
            raise ValueError("expected tensors by name and nothing else")
    state = {key: value for key, value in found.items() if not key.startswith("fc.")}
    own = module.state_dict()
    for key in own.keys() | state.keys():
        if key not in state:
            raise ValueError(f"{path}: key {key} is missing")
        if key not in own:
            raise ValueError(f"{path}: key {key} does not belong to this network")
        if own[key].shape != state[key].shape:
            raise ValueError(f"{path}: key {key} has shape {tuple(state[key].shape)}, the network needs {tuple(own[key].shape)}")
        if not state[key].isfinite().all():
            raise ValueError(f"{path}: key {key} holds numbers that are not finite")
    module.load_state_dict(state)
