"""How much memory of a CPU something takes at its peak, by a process of its own that Linux counts for."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from splattingocc.worker_pool import end_with_parent

MIB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""What Linux takes as: the peak of this process is what it has now (proc_pid_clear_refs(5))."""


def peak_beyond(prepare: Callable[..., Callable[[], int]], *arguments: Any) -> int | None:
    """Return by how many MiB the resident memory of a fresh process rises over what `prepare(*arguments)` left, gradients not counted.

    `prepare` makes the inputs, warms up, and returns what is to be measured, which returns the bytes of its gradients. Threads are as many
    as here. None where the system does not tell, as outside of Linux.
    """
    if not CLEAR.exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        return pool.submit(_peak_beyond, torch.get_num_threads(), prepare, arguments).result()


def _peak_beyond(num_threads: int, prepare: Callable[..., Callable[[], int]], arguments: tuple) -> int:
    torch.set_num_threads(num_threads)
    measured = prepare(*arguments)
    give_back()
    before = _resident_bytes("VmRSS")
    CLEAR.write_text(FORGET_PEAK)
    gradients = measured()
    return round((_resident_bytes("VmHWM") - before - gradients) / MIB)


def give_back() -> None:
    """Return to the system what was freed: memory kept for later would hide what is taken again."""
    gc.collect()
    if "drjit" in sys.modules:
        sys.modules["drjit"].flush_malloc_cache()
    ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
