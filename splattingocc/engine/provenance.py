"""Which code and which machine made a result."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

import splattingocc


def commit() -> str:
    """Return the commit of the checkout this package runs from, with `-dirty` for uncommitted changes; `unknown` outside of one."""
    folder = Path(splattingocc.__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return f"{head}-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict[str, str]:
    """Return the versions and hardware that numbers depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "splattingocc": splattingocc.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
    }


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout.strip()
