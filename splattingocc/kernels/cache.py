"""Warp's cache of compiled kernels on disk, which Warp believes whatever it holds.

A crash of the machine or a full disk leaves files there that cannot be loaded, or are loaded and fail later. So the folder of each module
has a file with the digests of the others, made once they have been loaded; what does not agree with it is built again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import warp as wp

from splattingocc.files import BadFile, first_line, read_sealed_json, sha256_of, write_sealed_json

DIGESTS_NAME = "digests.json"
VARIABLE = "WARP_CACHE_PATH"
"""Of the environment; Warp reads it."""
LONGEST_BUILD = 600.0
"""Seconds to wait for another process that builds the same module."""


def init_warp() -> str | None:
    """Start Warp. Where its cache cannot be written, take a temporary folder and return a line that says so."""
    try:
        wp.init()
        assert wp.config.kernel_cache_dir is not None
        with tempfile.TemporaryFile(dir=wp.config.kernel_cache_dir):
            return None
    except OSError as error:
        reason = error.strerror or first_line(error)
    refused, folder = wp.config.kernel_cache_dir, _temporary_folder()
    wp.config.kernel_cache_dir = str(folder)
    # Processes started by this one use the folder too, and need not say it again
    os.environ[VARIABLE] = str(folder)
    wp.init()
    return f"{refused}: {reason}; compiled kernels go to {folder} instead, {VARIABLE} chooses another place for them"


def _temporary_folder() -> Path:
    """Return a folder of this user's under the system's for temporary files, the same one each time where that is safe."""
    folder = Path(tempfile.gettempdir()) / f"splattingocc-warp-{os.geteuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Whoever else can write into it decides what this process runs
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return folder
    return Path(tempfile.mkdtemp(prefix="splattingocc-warp-"))


def load_module(module: Any, device: Any, *, block_dim: int | None) -> None:
    """Load a Warp module for a device, compiled where the cache does not hold it whole; `ValueError` where that cannot be done."""
    folder = Path(str(wp.config.kernel_cache_dir)) / module.get_module_identifier(block_dim)
    with _sole_builder(folder) as is_sole:
        # Without a lock it may be in the middle of being written by another process
        if is_sole and not _is_whole(folder):
            # With what killed processes left of building it: Warp's name for that is the folder's with a process and a thread
            for path in (folder, *folder.parent.glob(f"{folder.name}_p*_t*")):
                _remove(path)
        while True:
            was_there = os.path.lexists(folder)
            try:
                module.load(device, block_dim=block_dim)
                break
            except Exception as error:
                if not was_there:
                    reason = f"the kernels of {module.name} cannot be built or loaded: {first_line(error)}"
                    raise ValueError(f"{folder}: {reason}; {VARIABLE} chooses another place for them") from error
                _remove(folder)
                module.mark_modified()  # otherwise Warp remembers that it failed
        if is_sole:
            _note_digests(folder)


@contextmanager
def _sole_builder(folder: Path) -> Iterator[bool]:
    """Keep other processes from building the same module meanwhile; says whether they are kept, which not every file system can do."""
    try:
        handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield False
        return
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    deadline = time.monotonic() + LONGEST_BUILD
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            break
    return False


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != DIGESTS_NAME}


def _is_whole(folder: Path) -> bool:
    """Say whether every file of a module is the one that was loaded; one that nobody has loaded yet need not be."""
    try:
        return read_sealed_json(folder / DIGESTS_NAME, what="the digests of compiled kernels").get("files") == _digests(folder)
    except (BadFile, OSError):
        return False


def _note_digests(folder: Path) -> None:
    if not _is_whole(folder):
        # Without them it is built again the next time, which is all that is lost on a full disk
        with suppress(OSError, ValueError):
            write_sealed_json(folder / DIGESTS_NAME, {"files": _digests(folder)})


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else folder.unlink()
