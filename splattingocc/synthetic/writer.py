"""Writing a synthetic data set in the layout of nuScenes with Occ3D's truth."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from splattingocc.data.label_store import FORMAT_NAME, LABEL_FOLDER, MANIFEST_NAME
from splattingocc.files import BadFile, check_name, child, read_json, sole_writer, write_json
from splattingocc.files.lock import LOCK_NAME
from splattingocc.synthetic.config import SynthConfig, scene_name
from splattingocc.synthetic.dense_maps import DENSE_FOLDER
from splattingocc.synthetic.scene_writer import COMPLETE_TRUTH_FOLDER, SceneJob, write_scene
from splattingocc.synthetic.tables import Row, common_tables, token
from splattingocc.worker_pool import run_jobs

GENERATOR_VERSION = 5
"""Raised whenever the same configuration gives other bytes than before."""
IF_KILLED = "a process that wrote scenes was killed, most likely for want of memory; use fewer workers"
MANIFEST = "synthetic.json"
CONTENTS = ("samples", "lidarseg", "gts", COMPLETE_TRUTH_FOLDER, "maps", DENSE_FOLDER)
"""The folders that a data set consists of, besides the one of its tables."""


def is_complete(out: Path, config: SynthConfig) -> bool:
    """Say whether `out` holds the finished data set of this configuration, written by this version of the generator.

    Folders that are gone since are seen, single files are not.
    """
    if _manifest(out) != _manifest_of(config, finished=True):
        return False
    parts = [config.version, f"lidarseg/{config.version}", "samples", "maps", *([DENSE_FOLDER] if config.dense != "none" else [])]
    truth = ["gts", *([COMPLETE_TRUTH_FOLDER] if config.truth == "both" else [])]
    scenes = [f"{folder}/{scene_name(number)}" for folder in truth for number in range(config.num_scenes)]
    return all((out / part).is_dir() for part in (*parts, *scenes))


def write_dataset(
    config: SynthConfig, out: Path, *, progress: bool = True, fresh: bool = False, num_workers: int = 0, device: str = "cpu"
) -> None:
    """Write the data set of a configuration to `out`; one that is there already and finished is left as it is.

    A folder that holds another synthetic data set is refused, unless `fresh` says to replace it, and with it the label stores that
    lie directly in it; one that holds anything else always is.
    With `num_workers` scenes are written in so many processes of their own, which are spawned, so a script must guard its entry point;
    with 0 in this one. The bytes are the same for any number of processes and threads; another kind of device or processor may round
    differently.
    """
    if config.version in (*CONTENTS, MANIFEST, LABEL_FOLDER):
        raise ValueError(f"version: {config.version} is the name of another part of a data set, expected one such as v1.0-mini")
    if is_complete(out, config) and not fresh:
        return
    with sole_writer(out):
        _write_dataset(config, out, progress=progress, fresh=fresh, num_workers=num_workers, device=device)


def _write_dataset(config: SynthConfig, out: Path, *, progress: bool, fresh: bool, num_workers: int, device: str) -> None:
    _clear(config, out, fresh=fresh)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, _manifest_of(config, finished=False))
    tables = common_tables()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Processes beside each other share the cores.
    num_processes = min(num_workers, config.num_scenes)
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_processes) if num_processes > 1 else None
    jobs = {scene_name(number): SceneJob(config, out, number, device, num_threads) for number in range(config.num_scenes)}
    rows_of: dict[str, dict[str, list[Row]]] = {}
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("synthetic scenes", total=config.num_scenes)
        for name, rows in run_jobs(write_scene, jobs, num_workers=num_workers, if_killed=IF_KILLED):
            rows_of[name] = rows
            bar.advance(task)
    for name in jobs:
        for table, rows in rows_of[name].items():
            tables.rows[table] += rows
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
    # An end in between leaves a folder that is known for an unfinished one.
    write_json(out / MANIFEST, {**manifest, "finished": False})
    # Tokens are those of the scene, whatever else differs: old labels would pass for new ones
    folders += [manifest.parent for manifest in out.glob(f"*/{MANIFEST_NAME}") if _is_of_labels(manifest)]
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)


def _is_of_labels(manifest: Path) -> bool:
    """Say whether a manifest is a label store's, of any format version; other folders have files of that name, too."""
    try:
        return read_json(manifest, dict).get("format") == FORMAT_NAME
    except BadFile:
        return False


def _differences(config: SynthConfig, manifest: dict) -> str:
    """Say in which options a data set differs from what is asked for."""
    there, asked = manifest.get("config"), config.model_dump(mode="json")
    if not isinstance(there, dict):
        return f"{MANIFEST} does not say of which options"
    named = [f"{name} {there.get(name)} instead of {value}" for name, value in asked.items() if there.get(name) != value]
    return ", ".join(named) or "made by another version of the generator"
