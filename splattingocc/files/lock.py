"""One writer for a folder at a time."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_NAME = ".lock"
_held: set[Path] = set()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder for as long as this lasts; `ValueError` where one already does.

    The lock ends with its process, however that ends; what it leaves behind is taken over. It is not passed on to forked processes.
    """
    path = folder.resolve() / LOCK_NAME
    if path in _held:  # by a caller further up
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Of the process, not of the open file: a loader's worker that outlives its parent must not go on holding it
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 500).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise ValueError(f"{path.parent}: being written by {holder}; wait for it to end, or choose another folder") from None
        except OSError:
            return handle  # a file system without locks
        is_in_place = False
        with suppress(FileNotFoundError):  # its holder has removed it meanwhile
            is_in_place = path.stat().st_ino == os.fstat(handle).st_ino
        if is_in_place:
            os.truncate(handle, 0)
            words = shlex.join(Path(word).name if number == 0 else word for number, word in enumerate(sys.argv))
            os.write(handle, f"process {os.getpid()} since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} ({words[:300]})".encode())
            return handle
        os.close(handle)  # its holder has ended and removed it meanwhile
