"""The file of a trained network that somebody names: where it is, of which run, and the experiment that it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from splattingocc.config import describe_validation
from splattingocc.engine.checkpoint import CONFIG_KEY, EXPERIMENT_KEY, NETWORK_FILE, is_network, is_safetensors, read_metadata, read_network
from splattingocc.experiment import LARGEST_CONFIG, ExperimentConfig, load_config
from splattingocc.files import BadFile, child, decoding
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.zoo import find_in_zoo, name_in_zoo

FOR_TRAINING_ALONE = ("objective", "optimization", "trainer")
"""Parts of an experiment that predicting, scoring and drawing never look at."""
SEEN_AT_TEST_TIME = ("image_size", "vertical_position", "previous_frames", "held_out_fraction", "calibration_scenes")
"""Options of the loader that they do look at."""


def find_network(path: Path, name: str) -> Path:
    """Return the network's file that is meant: this one, one of the zoo, or one of a bare name in the folder where a run of this name is.

    What is not there, and a link that leads nowhere, is a `ValueError`.
    """
    path = find_in_zoo(path)
    default = child(Path("work_dirs"), name) / path
    is_elsewhere = path.parent == Path() and not _is_there(path) and _is_there(default)
    return check_is_there(default if is_elsewhere else path)


def check_is_there(network: Path) -> Path:
    """Return a network's file; a `ValueError` where there is none, or a link that leads nowhere."""
    if network.exists():
        return network
    if network.is_symlink():
        raise BadFile(network, f"a link to {os.readlink(network)}, which is not there any more")
    by_name = "; after a configuration, a bare name may also be that of a file in work_dirs/<its name>" if network.parent == Path() else ""
    raise BadFile(network, f"no such checkpoint{by_name}")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def run_folder(network: Path) -> Path:
    """Return the folder of the run that a network or a checkpoint is from; a link to a checkpoint is from that checkpoint's.

    Checkpoints have a folder of their own in that of their run. A network that is alone in a folder of that name was put there by somebody.

    Of a network of the zoo, in which nothing is written: `work_dirs/<its name>`.
    """
    if (name := name_in_zoo(network)) is not None:
        return Path("work_dirs") / name
    for path in (network, network.resolve()):
        above = path.parent.parent
        if path.parent.name.startswith("checkpoints") and (path.suffix != ".safetensors" or (above / NETWORK_FILE).is_file()):
            return above
    return network.parent


def network_to_test(network: Path) -> Path:
    """Return the file itself that a link leads to: a training may let it lead elsewhere at any moment.

    The last checkpoint of a finished training holds the weights of the run's network, but not its threshold: then it is that network.
    """
    finished = run_folder(network) / NETWORK_FILE
    if network.is_symlink():
        network = network.resolve()
    return network if is_safetensors(network) or not hold_the_same(finished, network) else finished


def hold_the_same(finished: Path, checkpoint: Path) -> bool:
    """Say whether a network's file holds the network of a checkpoint, weight for weight."""
    try:
        weights, metadata = read_network(finished)
    except BadFile:
        return False  # the training is not finished, or its network damaged
    found, of_checkpoint = read_network(checkpoint)
    if metadata.get(CONFIG_KEY) != of_checkpoint.get(CONFIG_KEY) or weights.keys() != found.keys():
        return False
    return all(torch.equal(weight, found[name]) for name, weight in weights.items())


def load_experiment(path: Path) -> ExperimentConfig:
    """Return the experiment that a configuration or a network's file, or `zoo/<name>`, holds."""
    path = find_in_zoo(path)
    return experiment_of(path)[0] if is_network(path) else load_config(path)


def experiment_of(network: Path) -> tuple[ExperimentConfig, list[str]]:
    """Return the experiment that trained a network, which its file holds, and what there is to say of it.

    What only a training needs (a loss of one's own, options of another version) may be unknown here: then the defaults stand in its
    place. Anything else that this version does not know is a `ValueError` that names it: the network would compute something else.
    """
    check_is_there(network)
    text = read_metadata(network).get(EXPERIMENT_KEY)
    if text is None:
        raise BadFile(network, f"holds no experiment (key {EXPERIMENT_KEY} is missing); give a configuration before it")
    with decoding(network, "a network with its experiment"):
        if len(text) > LARGEST_CONFIG:
            raise ValueError(f"an experiment of {len(text):,} characters, expected at most {LARGEST_CONFIG:,}")
        found: Any = json.loads(text)
    try:
        return ExperimentConfig.model_validate(found), []
    except ValidationError as error:
        about_all = describe_validation(error)
    try:
        experiment = ExperimentConfig.model_validate(_needed_to_test(found))
    except ValidationError as error:
        raise BadFile(network, f"trained by another version or with parts of its own: {describe_validation(error)}") from error
    return experiment, [f"{network}: trained with what is unknown here and not needed for testing ({about_all})"]


def _needed_to_test(found: Any) -> Any:
    """Return an experiment's options without those that only a training looks at, and without frames that its network never looked at."""
    if not isinstance(found, dict):
        return found
    needed = {key: value for key, value in found.items() if key not in FOR_TRAINING_ALONE}
    data = needed.get("data")
    if isinstance(data, dict) and isinstance(data.get("loader"), dict):
        loader = {key: value for key, value in data["loader"].items() if key in SEEN_AT_TEST_TIME}
        loader["previous_frames"] = NetworkConfig.model_validate(needed.get("network", {})).previous_frames
        needed["data"] = data | {"loader": loader}
    return needed


def threshold_in(metadata: Mapping[str, str]) -> OccupancyThreshold | None:
    """Return what the metadata of a network's file say of its threshold; None of an unfinished training."""
    if "threshold" not in metadata:
        return None
    # Until the ground had one of its own, files held one threshold
    of_each = {name: float(metadata.get(name, metadata["threshold"])) for name in ("threshold", "ground_threshold")}
    for name, threshold in of_each.items():
        if not 0 <= threshold <= 1:
            raise ValueError(f"{name} {threshold}, expected 0 to 1")
    return OccupancyThreshold(ground=of_each["ground_threshold"], others=of_each["threshold"])


def with_folders_here(config: ExperimentConfig, network: Path) -> tuple[ExperimentConfig, list[str]]:
    """Return an experiment that began as a network's own with folders that are here, and what there is to say of them.

    A folder that is needed and not here is a `ValueError` that names the option. On another data set than the network was trained on
    (`data.dataroot`, `data.version`), the labels and the truth of that one do not count.
    """
    trained, remarks = experiment_of(network)
    data, then = config.data, trained.data
    if (data.dataroot, data.version) != (then.dataroot, then.version):
        left = {name: None for name in ("labels", "gts") if (value := getattr(data, name)) is not None and value == getattr(then, name)}
        data = data.model_copy(update=left)
        for name in left:
            remarks.append(f"{network}: its data.{name} {getattr(then, name)} is of other data; --data.{name} says where it is here")
    for name in ("dataroot", "gts", "vehicle_masks"):
        folder, option = getattr(data, name), f"--data.{name.replace('_', '-')}"
        if folder is not None and not folder.is_dir():
            if folder != getattr(then, name):
                raise ValueError(f"{option} {folder}: no such folder")
            raise ValueError(f"{folder}: no such folder; {network} was trained with it: say where it is here with {option}")
    if data.labels is not None and not data.labels.is_dir():
        if data.labels != then.labels:
            raise ValueError(f"--data.labels {data.labels}: no such folder")
        remarks.append(f"{network}: its data.labels {data.labels} is not here; --data.labels says where, should it be needed")
    return config.model_copy(update={"data": data}), remarks


def check_grid(config: ExperimentConfig, experiment_json: str | None, path: Path) -> None:
    """Refuse weights that were trained on another grid: they would load, and mean other places and sizes."""
    if experiment_json is None:
        return
    with decoding(path, "a checkpoint of this project"):
        found = GridConfig.model_validate(json.loads(experiment_json).get("grid", {}))
    for name, there in found:
        if there != (here := getattr(config.grid, name)):
            raise BadFile(path, f"trained on another grid: grid.{name} is {there} there and {here} in this configuration")
