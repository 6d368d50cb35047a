"""Which code and which machine made a result."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import splattingocc

DRIVER_FILE = Path("/proc/driver/nvidia/version")


def commit() -> str:
    """Return the commit of the checkout this package runs from, with `-dirty` for uncommitted changes; `unknown` outside of one."""
    folder = Path(splattingocc.__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return f"{head}-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def source_hash() -> str:
    """Return a digest of the package's own code, which says more exactly than a commit whether two runs ran the same."""
    folder = Path(splattingocc.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def environment(device: torch.device | None = None) -> dict[str, str]:
    """Return the versions and hardware that numbers depend on; the device is the one that would be used by default."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "splattingocc": splattingocc.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": version("lightning"),
        "warp": version("warp-lang"),
        "device": f"{device.type} ({name})",
    }


def circumstances() -> dict[str, str]:
    """Return how a run was started and on what; no name of the machine, because it decides no number and folders of runs are shared."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "srun" if "SLURM_PROCID" in os.environ else "none"
    found = {
        "command": shlex.join(sys.argv),
        "launcher": launcher,
        "processes": os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")),
        "gpus": ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or "none",
        "cuda": torch.version.cuda or "none",
        "driver": driver() or "none",
        "platform": platform.platform(),
    }
    return found | ({"slurm_job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {})


def driver() -> str | None:
    """Return the version of the NVIDIA driver, as Linux knows it."""
    if not DRIVER_FILE.is_file():
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", DRIVER_FILE.read_text())
    return found[0] if found else None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout.strip()
