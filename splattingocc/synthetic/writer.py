"""Writing a synthetic data set in the layout of nuScenes with Occ3D's truth."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import AfterValidator, Field, model_validator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from splattingocc.config import Config, ImageSize, Seed
from splattingocc.files import BadFile, check_name, child, read_json, sole_writer, write_json
from splattingocc.files.lock import LOCK_NAME
from splattingocc.synthetic.dense_maps import DENSE_FOLDER, DenseQuality
from splattingocc.synthetic.scene_writer import SceneWriter, scene_name
from splattingocc.synthetic.tables import common_tables, token

GENERATOR_VERSION = 2
"""Raised whenever the same configuration gives other bytes than before."""
MANIFEST = "synthetic.json"
CONTENTS = ("samples", "lidarseg", "gts", "maps", DENSE_FOLDER)
"""The folders that a data set consists of, besides the one of its tables."""


class SynthConfig(Config):
    """A synthetic data set. The same configuration gives the same bytes."""

    num_scenes: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Scenes in all, validation included. Each has a street of its own."""
    num_val_scenes: Annotated[int, Field(ge=0, le=10_000)] = 2
    """How many of them, the last ones, are for validation."""
    frames_per_scene: Annotated[int, Field(ge=1, le=80)] = 10
    """Key frames of each scene, half a second apart."""
    image_size: ImageSize = (450, 800)
    """Height and width of the images, pixels."""
    seed: Seed = 0
    """Everything is drawn from it."""
    version: Annotated[str, Field(pattern=r"^[\w.\-]+$"), AfterValidator(partial(check_name, what="the version"))] = "v1.0-mini"
    """The folder of the tables."""
    label_errors: bool = True
    """Give the LiDAR points' classes in lidarseg the errors that people make; the 3D truth and the boxes have none."""
    dense: DenseQuality = "none"
    """Write maps of class and metric depth beside the images, perfect or with the errors of foundation models."""

    @model_validator(mode="after")
    def _check(self) -> SynthConfig:
        if self.num_val_scenes > self.num_scenes:
            raise ValueError(f"num_val_scenes: {self.num_val_scenes}, but there are only {self.num_scenes} scenes in all")
        if min(self.image_size) < 16:
            raise ValueError(f"image_size: {self.image_size} is too small; give height and width of at least 16 pixels")
        return self

    def splits(self) -> dict[str, list[str]]:
        """Return the names of the training and of the validation scenes."""
        names = [scene_name(number) for number in range(self.num_scenes)]
        num_train = self.num_scenes - self.num_val_scenes
        return {"train": names[:num_train], "val": names[num_train:]}


def is_complete(out: Path, config: SynthConfig) -> bool:
    """Say whether `out` holds the finished data set of this configuration, written by this version of the generator."""
    return _manifest(out) == _manifest_of(config, finished=True)


def write_dataset(config: SynthConfig, out: Path, *, progress: bool = True, fresh: bool = False, device: str = "cpu") -> None:
    """Write the data set of a configuration to `out`; one that is there already and finished is left as it is.

    A folder that holds another synthetic data set is refused, unless `fresh` says to replace it; one that holds anything else always is.
    The bytes are the same for any number of threads; another kind of device or processor may round differently.
    """
    if is_complete(out, config) and not fresh:
        return
    with sole_writer(out):
        _write_dataset(config, out, progress=progress, fresh=fresh, device=device)


def _write_dataset(config: SynthConfig, out: Path, *, progress: bool, fresh: bool, device: str) -> None:
    _clear(config, out, fresh=fresh)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, _manifest_of(config, finished=False))
    tables = common_tables()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("synthetic key frames", total=config.num_scenes * config.frames_per_scene)
        for number in range(config.num_scenes):
            scene = SceneWriter(
                tables, out, version=config.version, seed=config.seed, number=number, num_frames=config.frames_per_scene,
                image_size=config.image_size, device=torch.device(device), label_errors=config.label_errors, dense=config.dense,
            )  # fmt: skip
            for frame in range(config.frames_per_scene):
                scene.write_frame(frame)
                bar.advance(task)
            scene.finish()
    logs = [row["token"] for row in tables.rows["log"]]
    tables.add(
        "map", {"token": token(config.seed, "map"), "log_tokens": logs, "category": "semantic_prior", "filename": "maps/synthetic.png"}
    )
    (out / "maps").mkdir(exist_ok=True)
    # nuScenes' tools ask for a map; an empty one says nothing about where streets are.
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(out / "maps/synthetic.png")
    tables.write(out / config.version)
    write_json(out / config.version / "splits.json", config.splits())
    write_json(out / MANIFEST, _manifest_of(config, finished=True))


def _manifest_of(config: SynthConfig, *, finished: bool) -> dict:
    return {"generator_version": GENERATOR_VERSION, "config": config.model_dump(mode="json"), "finished": finished}


def _manifest(out: Path) -> dict | None:
    path = out / MANIFEST
    if not path.exists():
        return None
    try:
        return read_json(path, dict, what="the description of a synthetic data set")
    except BadFile as error:
        raise ValueError(f"{error}; delete the folder to write the data set anew") from error


def _clear(config: SynthConfig, out: Path, *, fresh: bool) -> None:
    """Remove what an unfinished run of the same data set left, or any synthetic one if `fresh`."""
    manifest = _manifest(out)
    if manifest is None:
        if out.exists() and any(path.name != LOCK_NAME for path in out.iterdir()):
            raise ValueError(f"{out}: holds files but no synthetic data set ({MANIFEST} is missing); give an empty or new folder")
        return
    if not fresh and {**manifest, "finished": False} != _manifest_of(config, finished=False):
        raise ValueError(f"{out}: holds another synthetic data set ({_differences(config, manifest)}); choose another folder, or --fresh")
    # The version is a name in a file that anybody may have written
    described = manifest.get("config")
    version = described.get("version", config.version) if isinstance(described, dict) else config.version
    folders = [child(out, name) for name in (*CONTENTS, check_name(str(version), f"{out / MANIFEST}: version"))]
    (out / MANIFEST).unlink()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _differences(config: SynthConfig, manifest: dict) -> str:
    """Say in which options a data set differs from what is asked for."""
    there, asked = manifest.get("config"), config.model_dump(mode="json")
    if not isinstance(there, dict):
        return f"{MANIFEST} does not say of which options"
    named = [f"{name} {there.get(name)} instead of {value}" for name, value in asked.items() if there.get(name) != value]
    return ", ".join(named) or "made by another version of the generator"
