"""What a trained network is on disk: Lightning's checkpoint to go on training, safetensors and a JSON config to share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from splattingocc.config import C, Config, describe_validation
from splattingocc.files import BadFile, decoding, has_all_records, only_plain_values, open_regular, write_atomically
from splattingocc.models.earlier_names import rename_parameters

CHECKPOINT_PATTERN = re.compile(r"step_(\d+)\.ckpt")
"""Names of the checkpoints that a training can go on from."""
CONFIG_KEY = "splattingocc_network"
"""Where a checkpoint keeps the network's configuration."""
NETWORK_FILE = "network.safetensors"
"""Of a trained network, in its run's folder."""
EXPERIMENT_KEY = "experiment"
"""Where it keeps the whole experiment's."""
KEPT_BACK_KEY = "kept_back"
"""Where it keeps the names of the scenes that its training kept back from itself: a list in JSON."""
DIGEST_KEY = "sha256"
NETWORK_SUFFIXES = (".safetensors", ".ckpt", ".pth")
"""Of the files of networks, and of links to them."""
ARCHIVE = b"PK\x03\x04"
"""Begins what torch saves."""
NEEDED_TO_GO_ON = ("state_dict", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks", "TrainingBatches")


def checkpoint_path(work_dir: Path, step: int) -> Path:
    """Return where the checkpoint after a number of optimizer steps lies."""
    return work_dir / "checkpoints" / f"step_{step:08d}.ckpt"


def newest_checkpoint(work_dir: Path) -> Path | None:
    """Return the newest checkpoint that training in this folder can go on from, if there is one; others are warned of.

    Where there is none, it may still be one that loads: then that is named by whoever goes on from it.
    """
    loadable: Path | None = None
    for path in checkpoints_by_step(work_dir / "checkpoints"):
        try:
            _load(path)
            loadable = loadable or path
            read_checkpoint(path)
        except BadFile as error:
            logging.getLogger(__name__).warning("%s; going on from the one before it", error)
        else:
            return path
    return loadable


def checkpoints_by_step(folder: Path) -> dict[Path, int]:
    """Return the steps of the checkpoints in a folder, newest first."""
    steps = {path: int(match[1]) for path in folder.glob("*.ckpt") if (match := CHECKPOINT_PATTERN.fullmatch(path.name))}
    return dict(sorted(steps.items(), key=lambda item: item[1], reverse=True))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint that training can go on from; its tensors are mapped, not copied.

    Every checksum is compared first, and nothing but tensors and plain values is unpickled. What is damaged, foreign or of another kind is
    a `BadFile`.
    """
    found = _load(path)
    if CONFIG_KEY not in found:
        raise BadFile(path, f"not a checkpoint of this project (key {CONFIG_KEY} is missing)")
    missing = [key for key in NEEDED_TO_GO_ON if key not in found]
    if missing:
        raise BadFile(path, f"not a checkpoint to go on from: without {', '.join(missing)}")
    return found


def _load(path: Path) -> dict[str, Any]:
    if not has_all_records(path):
        raise BadFile(path, "damaged or not a checkpoint")
    with decoding(path, "a checkpoint that can be loaded"), only_plain_values():
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(found, dict):
        raise BadFile(path, f"damaged or not a checkpoint: holds a {type(found).__name__}")
    return found


def is_whole(path: Path) -> bool:
    """Say whether a checkpoint holds all that was written: its table of contents is there, every checksum is right, and it loads."""
    try:
        _load(path)
    except BadFile:
        return False
    return True


def check_weights(module: nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Raise a `ValueError` naming the first weight of a checkpoint that is none of the module's, or of another shape."""
    expected = module.state_dict()
    found = checkpoint["state_dict"]
    if not isinstance(found, dict):
        raise BadFile(path, f"not a checkpoint to go on from: its weights are a {type(found).__name__}")
    found = dict(found)
    if isinstance(network := getattr(module, "network", None), nn.Module):
        rename_parameters(network, found, "network.")
    for name in [*expected, *found]:
        of_checkpoint, own = found.get(name), expected.get(name)
        if not isinstance(of_checkpoint, Tensor) or own is None:
            raise BadFile(path, f"written by another version of the network (weight {str(name)[:100]})")
        if of_checkpoint.shape != own.shape:
            shapes = f"{tuple(of_checkpoint.shape)} there and {tuple(own.shape)} here"
            raise BadFile(path, f"written by another version of the network (weight {name} is {shapes})")
        _check_finite(name, of_checkpoint, path)


def _check_finite(name: str, weight: Tensor, path: Path) -> None:
    if not weight.isfinite().all():
        raise BadFile(path, f"weight {name} holds numbers that are not finite")


def check_network(expected: Config, found_json: str | None, path: Path) -> None:
    """Raise a `ValueError` naming the first option in which a checkpoint's network differs from the one at hand.

    An option that there was not yet when it was written has its default: it computes what was computed without.
    """
    found = network_config(type(expected), found_json, path)
    # Initial weights do not change what the network is
    here, there = expected.model_dump(mode="json"), found.model_dump(mode="json")
    difference = _first_difference(here, there, "network", ignore={"network.backbone.weights", "network.backbone.allow_partial"})
    if difference:
        raise BadFile(path, f"checkpoint of another network: {difference}")


def network_config(kind: type[C], found_json: str | None, path: Path) -> C:
    """Return the configuration of a checkpoint's network, of its entry `CONFIG_KEY`."""
    if found_json is None:
        raise BadFile(path, f"not a checkpoint of this project (key {CONFIG_KEY} is missing)")
    with decoding(path, "a checkpoint of this project"):
        found_options = json.loads(found_json)
    try:
        return kind.model_validate(found_options)
    except ValidationError as error:
        raise BadFile(path, f"checkpoint of another network: {describe_validation(error)}") from error


def _first_difference(expected: Any, found: Any, name: str, ignore: set[str]) -> str | None:
    if name in ignore:
        return None
    if isinstance(expected, dict) and isinstance(found, dict):
        # Options of another kind differ in more than that
        for key in sorted(expected | found, key=lambda key: key != "kind"):
            if key not in found or key not in expected:
                return f"{name}.{key} is known to only one of the two"
            if difference := _first_difference(expected[key], found[key], f"{name}.{key}", ignore):
                return difference
        return None
    return None if expected == found else f"{name} is {found!r} there and {expected!r} in this configuration"


def save_network(network: nn.Module, config: Config, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights as safetensors; the configuration, `metadata` and a digest of all of it travel in the header."""
    save_weights(network.state_dict(), path, {CONFIG_KEY: json.dumps(config.model_dump(mode="json"))} | metadata)


def save_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write weights of any number format as safetensors, with their metadata, the network's configuration among it, and a digest."""
    state = {key: value.contiguous() for key, value in weights.items()}
    header = metadata | {DIGEST_KEY: _digest(state, metadata)}
    content = _with_metadata_in_order(save(state, metadata=header))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _with_metadata_in_order(content: bytes) -> bytes:
    """Return a safetensors file whose metadata are sorted: the library writes them in any order, and equal networks must make equal bytes.

    The format: eight bytes with the length of the JSON header, the header, padded with spaces to a multiple of eight, then the tensors.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _digest(state: dict[str, Tensor], header: dict[str, str]) -> str:
    """Return a digest of weights and of what travels with them."""
    digest = hashlib.sha256(json.dumps({key: value for key, value in header.items() if key != DIGEST_KEY}, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_network(path: Path) -> bool:
    """Say whether a path is meant to be a network's file, by its name or by what is in it; it need not be there, or be whole."""
    return path.suffix in NETWORK_SUFFIXES or (path.is_file() and _kind_by_content(path) is not None)


def is_safetensors(path: Path) -> bool:
    """Say of which of its two kinds a network's file is: what is in it decides, a link may have any name; of a damaged file its name."""
    return (_kind_by_content(path) or path.resolve().suffix) == ".safetensors"


def _kind_by_content(path: Path) -> str | None:
    """Return the suffix of the kind that a file's first bytes are of: an archive, or the length of a header and its brace."""
    with open_regular(path) as file, decoding(path, "a file"):
        size, head = os.fstat(file.fileno()).st_size, file.read(9)
    if head.startswith(ARCHIVE):
        return ".ckpt"
    return ".safetensors" if head[8:] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size else None


def read_network(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights and what travels with them of a `.safetensors` network, or of a Lightning checkpoint (the averaged weights, where
    it averages). A changed byte is a `BadFile`.
    """
    with open_regular(path), decoding(path, "a checkpoint, or a damaged one"):
        if not is_safetensors(path):
            checkpoint = _load(path)
            metadata = {key: checkpoint[key] for key in (CONFIG_KEY, EXPERIMENT_KEY, KEPT_BACK_KEY) if key in checkpoint}
            prefix = "network."
            weights: dict[str, Tensor] = checkpoint["state_dict"]
            return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, metadata
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != _digest(state, metadata):
            raise BadFile(path, f"damaged: its weights do not give the {DIGEST_KEY} in its header")
        return state, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Return what travels with a network, as `read_network` does, but without reading the weights and comparing their digest."""
    if not is_safetensors(path):
        return read_network(path)[1]
    with open_regular(path), decoding(path, "a checkpoint, or a damaged one"), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def kept_back_in(contents: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """Return the scenes that a training kept back from itself, as its checkpoint or network says; None where it does not."""
    if KEPT_BACK_KEY not in contents:
        return None
    with decoding(path, "a checkpoint of this project"):
        return msgspec.json.decode(contents[KEPT_BACK_KEY], type=tuple[str, ...])


def load_network(network: nn.Module, config: Config, path: Path, *, without: Collection[str] = ()) -> dict[str, str]:
    """Fill the network from a `.safetensors` or Lightning `.ckpt` file and return its metadata; `ValueError` names what does not fit.

    `config` is that of the file's network: the one at hand may have modules more, those of the names `without`, which stay as they are.
    """
    if not path.exists():
        raise BadFile(path, "no such checkpoint")
    state, metadata = read_network(path)
    check_network(config, metadata.get(CONFIG_KEY), path)
    own = {name: value for name, value in network.state_dict().items() if any(name.startswith(f"{module}.") for module in without)}
    try:
        network.load_state_dict(state | own)
    except RuntimeError as error:
        raise BadFile(path, f"written by another version of the network ({str(error).splitlines()[-1].strip()})") from error
    for name, weight in state.items():
        _check_finite(name, weight, path)
    return metadata
