"""The ledger: what each run was and how it ended, one line each, appended and never rewritten.

`work_dirs/log.txt` is shared by all runs beside each other. A line is a time, a word and JSON. Lines are written in one piece under a lock,
so that several runs can end at once. A full disk or a crash of the machine may leave part of a line: it stays, and whoever reads the
ledger is told of it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from splattingocc.engine.console import in_one_line
from splattingocc.files import naming_the_file, read_bytes

LEDGER_NAME = "log.txt"
Word = Literal["began", "ended", "failed"]


@dataclass
class Run:
    """A run in the ledger."""

    id: str
    began: str | None = None
    """UTC; None where the line that said so cannot be read."""
    what: dict[str, Any] = field(default_factory=dict)
    """Command, name, commit, differences from the base configuration, data, processes, seed; any of them may be missing."""
    ended: str | None = None
    """UTC; None while it runs, or where it was killed."""
    result: dict[str, Any] = field(default_factory=dict)
    """Seconds and metrics, or the error."""


@dataclass(frozen=True)
class Ledger:
    """What can be read of a ledger."""

    runs: list[Run]
    """In the order in which they began."""
    unread: list[int]
    """Numbers, from 1, of the lines that are not the ledger's."""


def differences(value: Any, base: Any, name: str = "") -> dict[str, Any]:
    """Return the fields in which a configuration, as plain values, differs from its base, by dotted name."""
    if isinstance(value, Mapping) and isinstance(base, Mapping):
        found: dict[str, Any] = {}
        for key in [*value, *(key for key in base if key not in value)]:
            found |= differences(value.get(key), base.get(key), f"{name}.{key}" if name else str(key))
        return found
    return {} if value == base else {name: value}


def ledgers_of(run: Path) -> tuple[Path, Path]:
    """Return where the ledger of a run's folder is: beside the folder as it is named, whatever a link makes of that; or inside of it, where
    nothing can be written beside it, as in a container whose only folder it is."""
    folder = Path(os.path.abspath(run))
    return folder.parent / LEDGER_NAME, folder / LEDGER_NAME


def ledger_to_write(run: Path) -> Path:
    """Return the ledger to append a run in a folder to."""
    beside, inside = ledgers_of(run)
    return beside if os.access(beside if beside.exists() else beside.parent, os.W_OK) else inside


@contextmanager
def recorded(path: Path, what: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Append what a run is, let it run, and append how it ended: what it puts into the yielded dictionary, or its error."""
    number, start, result = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}", time.monotonic(), {}
    _append(path, "began", {"id": number, **what})
    try:
        yield result
    except BaseException as error:
        # A disk that is full is often what the run failed of, and its error says more than a second one would
        with suppress(OSError):
            _append(path, "failed", {"id": number, "seconds": round(time.monotonic() - start), "error": in_one_line(error)})
        raise
    _append(path, "ended", {"id": number, "seconds": round(time.monotonic() - start), **result})


def _append(path: Path, word: Word, content: Mapping[str, Any]) -> None:
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {word} {json.dumps(content, default=str)}\n".encode()
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # after part of a line, so that it does not swallow this one
            while line:
                line = line[os.write(handle, line) :]
        finally:
            os.close(handle)


def read_ledger(path: Path) -> Ledger:
    """Return the runs in the order in which they began; lines that are not the ledger's are left out and counted."""
    if not path.exists():
        raise ValueError(f"{path}: no such ledger; runs write it beside their work directories, or inside where they cannot")
    runs: dict[str, Run] = {}
    unread: list[int] = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            when, word, run_id, entry = _parse(line)
        except (ValueError, RecursionError):
            unread.append(number)
            continue
        run = runs.setdefault(run_id, Run(run_id))
        if word == "began":
            run.began, run.what = when, entry
        else:
            run.ended, run.result = when, entry
    return Ledger(list(runs.values()), unread)


def _parse(line: bytes) -> tuple[str, str, str, dict[str, Any]]:
    """Return the time, the word, the run and the rest of a line; `ValueError` where it is none of the ledger's."""
    when, word, content = line.decode().split(" ", 2)
    entry = json.loads(content, parse_float=_finite, parse_constant=lambda _: None)
    run_id = entry.pop("id", None) if isinstance(entry, dict) else None
    if word not in get_args(Word) or not isinstance(run_id, str):
        raise ValueError("not a line of the ledger")
    return when, word, run_id, entry


def _finite(text: str) -> float | None:
    """Return a number that JSON can hold, so that what is read can be written again."""
    return value if math.isfinite(value := float(text)) else None
