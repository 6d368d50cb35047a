"""Says what is installed, whether the kernels run, which data are there, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from splattingocc.data.label_store import LabelStore
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.data.own_data import OWN_INDEX
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.kernels.voxel_walk import cast_first_hit

PACKAGES = ("torch", "warp-lang", "lightning", "numpy", "pydantic", "safetensors", "msgspec")
OPTIONAL = {"timm": "backbones", "rerun-sdk": "viz", "tensorboard": "tracking", "wandb": "wandb"}
"""Packages of extras, and the extra."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    found: str
    advice: str | None = None
    """What to do about it; None where all is well."""
    is_problem: bool = False
    """Whether something that is needed does not work."""


def examine(dataroot: Path | None = None, version: str = "v1.0-trainval") -> list[Finding]:
    """Look at everything; data only where a data root is given."""
    findings = [*_packages(), *_devices()]
    return findings if dataroot is None else [*findings, *_data(dataroot, version)]


def _packages() -> list[Finding]:
    findings = [Finding("Python", sys.version.split()[0])]
    for name in PACKAGES:
        findings.append(Finding(name, _version(name) or "missing", None if _version(name) else "pip install -e .", not _version(name)))
    for name, extra in OPTIONAL.items():
        if not _version(name):
            findings.append(Finding(name, "not installed", f"only for the extra `{extra}`"))
    return findings


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
        return Finding(name, f"{type(error).__name__}: {str(error).splitlines()[0]}", "report this with the output of `pip list`", True)
    if abs(distance - 49.5 * OCC3D_GRID.cell_size) > 1e-4:
        return Finding(name, f"a ray of 19.8 m came out as {distance:.3f} m", "report this with the output of `pip list`", True)
    return Finding(name, "compiled a kernel, ran it, and the result is right")


def _data(dataroot: Path, version: str) -> list[Finding]:
    if not dataroot.is_dir():
        return [Finding(str(dataroot), "no such folder", "give the folder that holds the tables' folder", True)]
    folder = dataroot / version
    missing = [] if (folder / OWN_INDEX).is_file() else [name for name in TABLES[:6] if not (folder / f"{name}.json").is_file()]
    if missing:
        tables = ", ".join(f"{name}.json" for name in missing)
        return [Finding(f"{folder}", f"without {tables}", "see docs/prepare_datasets.md", True)]
    try:
        index = read_index(dataroot, version)
    except ValueError as error:
        return [Finding(f"{folder}", str(error), "mend that file", True)]
    splits = ", ".join(f"{split} {len(index.of_split(split)):,}" for split in index.splits)
    findings = [Finding(f"{folder}", f"{len(index):,} key frames of {len(index.scenes)} scenes: {splits}")]
    absent = [name for name in index.filenames[:: max(1, len(index.filenames) // 1000)] if not (dataroot / name).is_file()]
    files = f"{len(absent)} of about 1,000 looked for are missing, e.g. {absent[0]}" if absent else "all that were looked for are there"
    findings.append(Finding("images and sweeps", files, "unpack the missing blobs" if absent else None, bool(absent)))
    return [*findings, _labels(dataroot), _truth(dataroot)]


def _labels(dataroot: Path) -> Finding:
    try:
        store = LabelStore.open(dataroot / "labels_2d")
    except ValueError as error:
        return Finding("2D labels", str(error), f"splattingocc prepare --dataroot {dataroot}")
    return Finding("2D labels", f"{len(store.manifest.scenes)} scenes from {store.manifest.source}")


def _truth(dataroot: Path) -> Finding:
    scenes = sum(1 for path in (dataroot / "gts").glob("*") if path.is_dir())
    return Finding("Occ3D truth", f"{scenes} scenes" if scenes else "none", None if scenes else "only `splattingocc test` needs it")
