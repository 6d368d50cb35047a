"""What a trained network is on disk: Lightning's checkpoint to go on training, safetensors and a JSON config to share."""

from __future__ import annotations

import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from splattingocc.config import Config
from splattingocc.files import write_atomically

CHECKPOINT_PATTERN = re.compile(r"step_(\d+)\.ckpt")
"""Names of the checkpoints that a training can go on from."""
CONFIG_KEY = "splattingocc_network"
"""Where a checkpoint keeps the network's configuration."""


def checkpoint_path(work_dir: Path, step: int) -> Path:
    """Return where the checkpoint after a number of optimizer steps lies."""
    return work_dir / "checkpoints" / f"step_{step:08d}.ckpt"


def newest_checkpoint(work_dir: Path) -> Path | None:
    """Return the newest whole checkpoint that training in this folder can go on from, if there is one; damaged ones are warned of."""
    steps = {path: match for path in (work_dir / "checkpoints").glob("*.ckpt") if (match := CHECKPOINT_PATTERN.fullmatch(path.name))}
    for path in sorted(steps, key=lambda path: int(steps[path][1]), reverse=True):
        if is_whole(path):
            return path
        logging.getLogger(__name__).warning("%s: damaged, going on from the one before it", path)
    return None


def is_whole(path: Path) -> bool:
    """Say whether a checkpoint holds all that was written: its table of contents is there and every checksum is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there when it is whole: Lightning's own writing leaves half a file when killed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            write_atomically(Path(path), lambda temporary: _save(checkpoint, temporary))
        except RuntimeError as error:
            # torch complains of the half file that a full disk has left, not of the disk
            if isinstance(error.__context__, OSError):
                raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error
            raise


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    # Through a file of Python's own: what the system refuses is an OSError then
    with path.open("wb") as file:
        torch.save(checkpoint, file)


class RememberNetwork(Callback):
    """Keep the network's configuration in every checkpoint and refuse a checkpoint of another network."""

    def __init__(self, config: Config) -> None:
        self.config = config.model_dump(mode="json")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = json.dumps(self.config)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        check_network(self.config, checkpoint.get(CONFIG_KEY), Path(str(trainer.ckpt_path)))


def check_network(expected: dict[str, Any], found_json: str | None, path: Path) -> None:
    """Raise a `ValueError` naming the first option in which a checkpoint's network differs from the one at hand."""
    if found_json is None:
        raise ValueError(f"{path}: not a checkpoint of this project (key {CONFIG_KEY} is missing)")
    # Initial weights do not change what the network is
    difference = _first_difference(expected, json.loads(found_json), "network", ignore={"network.backbone.weights"})
    if difference:
        raise ValueError(f"{path}: checkpoint of another network: {difference}")


def _first_difference(expected: Any, found: Any, name: str, ignore: set[str]) -> str | None:
    if name in ignore:
        return None
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected | found:
            if key not in found or key not in expected:
                return f"{name}.{key} is known to only one of the two"
            if difference := _first_difference(expected[key], found[key], f"{name}.{key}", ignore):
                return difference
        return None
    return None if expected == found else f"{name} is {found!r} there and {expected!r} in this configuration"


def save_network(network: nn.Module, config: Config, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights as safetensors; the configuration and `metadata` travel in its header."""
    header = {CONFIG_KEY: json.dumps(config.model_dump(mode="json"))} | metadata
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))


def read_metadata(path: Path) -> dict[str, str]:
    """Return what travels in the header of a `.safetensors` network; nothing for another kind of file."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def load_network(network: nn.Module, config: Config, path: Path) -> dict[str, str]:
    """Fill the network from a `.safetensors` or Lightning `.ckpt` file and return its metadata; `ValueError` names what does not fit."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            metadata = {CONFIG_KEY: checkpoint[CONFIG_KEY]} if CONFIG_KEY in checkpoint else {}
            prefix = "network."
            state = {key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
    except Exception as error:
        raise ValueError(f"{path}: damaged or not a checkpoint ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    check_network(config.model_dump(mode="json"), metadata.get(CONFIG_KEY), path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: written by another version of the network ({str(error).splitlines()[-1].strip()})") from error
    return metadata
