"""Which code and which machine made a result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import torch

import splattingocc

DRIVER_FILE = Path("/proc/driver/nvidia/version")


def commit() -> str:
    """Return the commit of the checkout this package runs from, with `-dirty` for uncommitted changes, or of the URL that pip installed it
    from; `unknown` where neither is known. A repository that merely surrounds an installed package says nothing of it."""
    folder = Path(splattingocc.__file__).resolve().parent
    try:
        _git(folder, "ls-files", "--error-unmatch", "--", Path(splattingocc.__file__).name)
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return f"{head}-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit(folder) or "unknown"


def _installed_commit(folder: Path) -> str | None:
    """Return the commit that pip noted for the package in a folder, where it installed it from a version-controlled URL."""
    try:
        installed = distribution("splattingocc")
        # Another copy may be installed than the one that runs
        if Path(str(installed.locate_file("splattingocc"))).resolve() != folder:
            return None
        found = json.loads(installed.read_text("direct_url.json") or "null")["vcs_info"]["commit_id"]
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return None
    return found[:12] if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{40,64}", found) else None


@cache
def source_hash() -> str:
    """Return a digest of the package's own code, which says more exactly than a commit whether two runs ran the same.

    Its configurations are not in it: a result states the one that made it, and must not go stale because another one was edited.
    """
    folder = Path(splattingocc.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(set(folder.rglob("*.py")) - set((folder / "configs").rglob("*.py"))):
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


def processor() -> str:
    """Return the name of the CPU as Linux knows it, and how many of its cores this machine has."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", path.read_text(), flags=re.MULTILINE) if path.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def circumstances(num_processes: int) -> dict[str, str]:
    """Return how a run of so many processes was started and on what; without the machine's name, as folders of runs are shared."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    # A shell inside of an allocation of Slurm's has its variables, and may be alone
    by_srun = "SLURM_PROCID" in os.environ and num_processes > 1
    launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "srun" if by_srun else "none"
    found = {
        "command": shlex.join(sys.argv),
        "launcher": launcher,
        "processes": str(num_processes),
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
    # Inside a hook git's own variables name the repository of the hook
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, env=environment).stdout.strip()
