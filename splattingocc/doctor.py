"""Says what is installed, whether the kernels run, which data are there, and what to do about what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from splattingocc.data.key_frames import Index, KeyFrame, Scene
from splattingocc.data.label_store import LABEL_FOLDER, LabelStore
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.nuscenes import read_index, versions_of
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.data.occ3d import truth_path
from splattingocc.data.own_data import OWN_INDEX
from splattingocc.files import first_line
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.kernels.voxel_walk import cast_first_hit

PACKAGES = ("torch", "warp-lang", "lightning", "numpy", "pydantic", "safetensors", "msgspec")
OPTIONAL = {"timm": "backbones", "rerun-sdk": "viz", "tensorboard": "tracking", "wandb": "wandb"}
"""Packages of extras, and the extra."""
SHARED_MEMORY = Path("/dev/shm")
"""Where loader workers hand over batches, on Linux."""
BATCHES_PER_WORKER = 2
"""That a loader worker keeps ready; torch's default."""
MANY_WORKERS = 8
"""As many loader workers as a machine may be expected to have room for."""
FILES_LOOKED_FOR = 1000
"""Key frames are looked at evenly spread, because a data set may have hundreds of thousands of files on a slow disk."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    found: str
    advice: str | None = None
    """What to do about it; None where all is well."""
    is_problem: bool = False
    """Whether something that is needed does not work."""


def examine(
    dataroot: Path | None = None, version: str = "v1.0-trainval", *, labels: Path | None = None, gts: Path | None = None
) -> list[Finding]:
    """Look at everything; data only where a data root is given, with labels and truth in their usual folders unless others are given."""
    findings = [*_packages(), *_devices()]
    if dataroot is None:
        return [*findings, *_shared_memory()]
    index, data = _data(dataroot, version)
    frames = [] if index is None else _some_key_frames(index)
    findings += [*_shared_memory(max((len(frame.cameras) for frame in frames), default=6)), *data]
    if index is None:
        return findings
    findings += [*_splits(index, dataroot / version), *_files(frames, dataroot), *_point_classes(frames, dataroot)]
    findings += [Finding("doubts", line, "look at calibration and poses") for line in index.doubts()]
    return [*findings, _labels(index, dataroot, labels), _truth(index, gts or dataroot / "gts")]


def _packages() -> list[Finding]:
    findings = [Finding("Python", sys.version.split()[0])]
    for name in PACKAGES:
        findings.append(Finding(name, _version(name) or "missing", None if _version(name) else "pip install -e .", not _version(name)))
    for name, extra in OPTIONAL.items():
        if not _version(name):
            findings.append(Finding(name, "not installed", f"only for the extra `{extra}`"))
    return [*findings, *_torchvision()]


def _torchvision() -> list[Finding]:
    """Try what Lightning does wherever torchvision is installed, and what ends every command where it was built for another torch."""
    if not (version := _version("torchvision")):
        return []
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        advice = f"install the torchvision that belongs to torch {torch.__version__}, or uninstall it: Lightning imports it if it is there"
        return [Finding("torchvision", f"{version}, which does not fit torch: {first_line(error)}", advice, True)]
    return [Finding("torchvision", version)]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[Finding]:
    findings = [_kernel(torch.device("cpu"))]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            name, memory = torch.cuda.get_device_name(number), torch.cuda.get_device_properties(number).total_memory
            findings.append(Finding(f"cuda:{number}", f"{name}, {memory / 2**30:.0f} GiB"))
        findings.append(_kernel(torch.device("cuda")))
    elif torch.version.cuda is None:
        findings.append(Finding("CUDA", "this torch is a CPU build", "for a GPU, install torch's CUDA build first"))
    else:
        findings.append(
            Finding("CUDA", f"torch is built for CUDA {torch.version.cuda}, no device is usable", "check nvidia-smi and the driver")
        )
    return findings


def _kernel(device: torch.device) -> Finding:
    """Compile and run a small kernel, and look at what it gives."""
    name = f"Warp on {device.type}"
    try:
        occupied = torch.zeros(OCC3D_GRID.shape, dtype=torch.uint8, device=device)
        occupied[150, 100, 5] = 1
        origin = OCC3D_GRID.centers()[100, 100, 5].to(device, torch.float64)
        rays = Rays(origin[None], torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64, device=device))
        distance = cast_first_hit(occupied, OCC3D_GRID, rays).enter_distances.item()
    except Exception as error:
        return Finding(name, f"{type(error).__name__}: {first_line(error)}", "report this with the output of `pip list`", True)
    if abs(distance - 49.5 * OCC3D_GRID.cell_size) > 1e-4:
        return Finding(name, f"a ray of 19.8 m came out as {distance:.3f} m", "report this with the output of `pip list`", True)
    return Finding(name, "compiled a kernel, ran it, and the result is right")


def sample_bytes(num_views: int, config: LoaderConfig) -> int:
    """Return the size of a training sample: its images, RGB in float32, and its rays with their labels."""
    height, width = config.image_size
    numbers_of_a_ray = 3 + 3 + 2 + 1 + 1  # origin, direction, class (8 bytes), distance, weight
    return 4 * (num_views * (1 + config.previous_frames) * 3 * height * width + config.num_rays * numbers_of_a_ray)


def _shared_memory(num_views: int = 6) -> list[Finding]:
    """Compare the room there is with what the batches of loader workers take."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return []  # a system that has none
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    config = LoaderConfig()
    height, width = config.image_size
    sample = sample_bytes(num_views, config)
    workers = free // (BATCHES_PER_WORKER * sample)
    said = (
        f"{_megabytes(size)}, {_megabytes(free)} free: room for {workers:,} loader workers with {BATCHES_PER_WORKER} batches each, "
        f"of one sample with {num_views} views of {height} × {width} pixels ({_megabytes(sample)})"
    )
    remedy = "`docker run --shm-size 8g`, or fewer --data.num-workers (0 needs none); it grows with the pixels and data.batch_size"
    return [Finding(str(SHARED_MEMORY), said, remedy if workers < MANY_WORKERS else None)]


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _data(dataroot: Path, version: str) -> tuple[Index | None, list[Finding]]:
    """Return the index of a data set, where it can be read, and what was found."""
    folder = dataroot / version
    if not dataroot.is_dir():
        return None, [Finding(str(dataroot), "no such folder", "give the folder that holds the tables' folder", True)]
    missing = [] if (folder / OWN_INDEX).is_file() else [name for name in TABLES[:6] if not (folder / f"{name}.json").is_file()]
    if missing:
        there = versions_of(dataroot)
        advice = f"--version {shlex.quote(there[0])}" if there and version not in there else "see docs/prepare_datasets.md"
        found = f"without {', '.join(f'{name}.json' for name in missing)}" if folder.is_dir() else "no such folder"
        return None, [Finding(str(folder), found, advice, True)]
    try:
        index = read_index(dataroot, version)
    except (ValueError, OSError) as error:
        return None, [Finding(str(folder), first_line(error), "see docs/prepare_datasets.md", True)]
    splits = ", ".join(f"{split} {len(index.of_split(split)):,}" for split in index.splits)
    return index, [Finding(str(folder), f"{len(index):,} key frames of {len(index.scenes)} scenes: {splits}")]


def _splits(index: Index, folder: Path) -> list[Finding]:
    """Name what cannot be done because a split has no key frames."""
    advice = {
        "train": "nothing to train on: `splattingocc test --split` of the others only",
        "val": "`splattingocc test` has nothing to score unless --split names another",
    }
    where = "`write_index(splits=…)`" if (folder / OWN_INDEX).is_file() else f"{folder / 'splits.json'}"
    empty = [split for split in advice if not index.splits.get(split)]
    return [Finding(f"split {split}", "empty", f"{advice[split]}; {where} says which scenes it has") for split in empty]


def _some_key_frames(index: Index) -> list[KeyFrame]:
    if not len(index):
        return []
    step = max(1, len(index) * len(index[0].sensors) // FILES_LOOKED_FOR)
    return [index[position] for position in range(0, len(index), step)]


def _files(frames: Sequence[KeyFrame], dataroot: Path) -> list[Finding]:
    names = [sensor.filename for frame in frames for sensor in frame.sensors]
    return [_found_files("images and sweeps", names, dataroot)]


def _point_classes(frames: Sequence[KeyFrame], dataroot: Path) -> list[Finding]:
    """Say whether the LiDAR's points have classes."""
    frames = [frame for frame in frames if frame.lidar is not None]
    names = [frame.point_classes for frame in frames if frame.point_classes is not None]
    if not frames:
        return [Finding("LiDAR", "none", "labels come from dense maps: splattingocc prepare --dense.semantics")]
    if len(names) < len(frames):
        found = "none" if not names else f"of {len(names):,} of {len(frames):,} key frames looked at"
        advice = "labels from LiDAR have no classes without them (nuScenes-lidarseg, its lidarseg.json and files), or come from dense maps"
        return [Finding("classes of LiDAR points", found, advice), *([_found_files("their files", names, dataroot)] if names else [])]
    return [_found_files("classes of LiDAR points", names, dataroot)]


def _found_files(what: str, names: Sequence[str], dataroot: Path) -> Finding:
    absent = [name for name in names if not (dataroot / name).is_file()]
    if not absent:
        return Finding(what, f"all {len(names):,} files that were looked for are there")
    found = f"{len(absent):,} of {len(names):,} files that were looked for are missing, e.g. {absent[0]}"
    if len(absent) == len(names):
        return Finding(what, found, f"unpack them into {dataroot}", True)
    return Finding(what, found, "unpack the missing blobs, or `splattingocc prepare --skip-missing`")


def _labels(index: Index, dataroot: Path, folder: Path | None) -> Finding:
    prepare = f"splattingocc prepare --dataroot {shlex.quote(str(dataroot))} --version {shlex.quote(index.version)}"
    try:
        store = LabelStore.open(folder or dataroot / LABEL_FOLDER)
    except (ValueError, OSError) as error:
        return Finding("2D labels", first_line(error), prepare if folder is None else f"{prepare} --out {shlex.quote(str(folder))}")
    known = {scene.name for scene in index.scenes}
    try:
        for name in known:
            store.check_tables(index, name)
    except ValueError as error:
        return Finding("2D labels", first_line(error), prepare if folder is None else f"{prepare} --out {shlex.quote(str(folder))}", True)
    labelled = len(known & set(store.manifest.scenes))
    found = f"of {labelled} of {len(known)} scenes, from {store.manifest.source}"
    return Finding("2D labels", found, f"{prepare} makes the others" if labelled < len(known) else None)


def _truth(index: Index, folder: Path) -> Finding:
    there = sum(1 for scene in index.scenes if scene.count and _has_truth(folder, index, scene))
    if not there:
        elsewhere = "" if not folder.is_dir() else f"; in {folder} there is none of these scenes, laid out as <scene>/<token>/labels.npz"
        return Finding("Occ3D truth", "none", f"only `splattingocc test` needs it{elsewhere}")
    return Finding("Occ3D truth", f"of {there} of {len(index.scenes)} scenes")


def _has_truth(folder: Path, index: Index, scene: Scene) -> bool:
    """Say whether there is truth of the first key frame of a scene."""
    return truth_path(folder, scene.name, index.tokens[scene.first]).is_file()
