"""Writing files so that nobody ever sees half of one, and so that a full disk names its file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from splattingocc.files.reading import SEAL, BadFile, seal_of

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of the files that become others when they are whole."""
_swept: set[Path] = set()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step: nobody ever sees half a file.

    The file has the permissions that the process's umask gives. Temporary files of writers that were killed are removed from the folder.
    """
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary, handle = _begin(path)
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _begin(path: Path) -> tuple[Path, int]:
    """Return a new temporary file, and a handle that locks it for as long as its writer lives."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if temporary.stat().st_ino == os.fstat(handle).st_ino:
                return temporary, handle
        except (FileNotFoundError, BlockingIOError):
            pass  # another writer took it for litter between its birth and its lock
        except OSError:
            return temporary, handle  # a file system without locks
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove the temporary files whose writer is gone, once for each folder and process."""
    if folder in _swept:
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        litter = [Path(entry.path) for entry in entries if TEMPORARY.fullmatch(entry.name)]
    for path in litter:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            pass  # its writer lives
        finally:
            os.close(handle)


@contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Let what the system refuses inside (a full disk, a read-only folder) be an `OSError` that names this file.

    Libraries raise errors of their own in its place, or name a temporary file. What is read meanwhile is named by its own errors.
    """
    try:
        yield
    except BadFile:
        raise
    except Exception as error:
        refusal = error if isinstance(error, OSError) else error.__context__
        if isinstance(refusal, OSError) and refusal.filename is not None and not _is_written_for(refusal.filename, path):
            raise
        number = _system_error(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_written_for(name: str | bytes | int, path: Path) -> bool:
    """Say whether it is this file that the system names, a temporary one for it, or one of the folders that it lies in."""
    if isinstance(name, int):
        return True
    found = Path(os.path.abspath(os.fsdecode(name)))
    there = Path(os.path.abspath(path))
    return found in (there, *there.parents) or (found.parent == there.parent and TEMPORARY.fullmatch(found.name) is not None)


def _system_error(error: BaseException) -> int | None:
    """Return the system's number of an error that is, or hides, one of the system's."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError) and "requested and" in str(error):  # numpy's complaint of a short write
        return errno.ENOSPC
    if isinstance(error.__context__, OSError) and error.__context__.errno:
        return error.__context__.errno
    told = re.search(r"\(os error (\d+)\)", str(error))  # as Rust's libraries say it
    return int(told[1]) if told else None


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def write_sealed_json(path: Path, content: Any) -> None:
    """Write an object as JSON with a digest of itself, so that `read_sealed_json` notices any change."""
    plain = msgspec.to_builtins(content, str_keys=True)
    text = msgspec.json.format(msgspec.json.encode({**plain, SEAL: seal_of(plain)}), indent=1)
    write_atomically(path, lambda temporary: temporary.write_bytes(text + b"\n"))
