"""How the process deals with memory."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names of what `mallopt` sets (malloc.h)."""
NEVER = -1
LARGEST_KEPT = 64 << 20
"""Bytes. Larger blocks still go back to the system as soon as they are freed."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks of up to 64 MiB for the next allocation; False where the C library has no such setting.

    By default a block of more than 32 MiB is mapped anew each time, and the system clears it page by page at its first use: volumes of
    640,000 Gaussians in and out of each step spend an eighth of a CPU's training step there. The price is a larger resident set: larger
    blocks, the activations of large images, leave gaps among those that are kept, and save no time worth it (docs/experiments.md).
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER))
