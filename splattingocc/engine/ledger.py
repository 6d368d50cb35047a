"""The ledger: what each run was and how it ended, one line each, appended and never rewritten.

`work_dirs/log.txt` is shared by all runs beside each other. A line is a time, a word and JSON. Lines are written in one piece under a lock,
so that several runs can end at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splattingocc.engine.console import in_one_line

LEDGER_NAME = "log.txt"


@dataclass
class Run:
    """A run in the ledger."""

    id: str
    began: str
    """UTC."""
    what: dict[str, Any]
    """Command, name, commit, differences from the base configuration, data, processes, seed."""
    ended: str | None = None
    """UTC; None while it runs, or where it was killed."""
    result: dict[str, Any] = field(default_factory=dict)
    """Seconds and metrics, or the error."""


def differences(value: Any, base: Any, name: str = "") -> dict[str, Any]:
    """Return the fields in which a configuration, as plain values, differs from its base, by dotted name."""
    if isinstance(value, Mapping) and isinstance(base, Mapping):
        found: dict[str, Any] = {}
        for key in [*value, *(key for key in base if key not in value)]:
            found |= differences(value.get(key), base.get(key), f"{name}.{key}" if name else str(key))
        return found
    return {} if value == base else {name: value}


@contextmanager
def recorded(path: Path, what: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Append what a run is, let it run, and append how it ended: what it puts into the yielded dictionary, or its error."""
    number, start, result = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}", time.monotonic(), {}
    _append(path, "began", {"id": number, **what})
    try:
        yield result
    except BaseException as error:
        _append(path, "failed", {"id": number, "seconds": round(time.monotonic() - start), "error": in_one_line(error)})
        raise
    _append(path, "ended", {"id": number, "seconds": round(time.monotonic() - start), **result})


def _append(path: Path, word: str, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {word} {json.dumps(content, default=str)}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        while line:
            line = line[os.write(handle, line) :]
    finally:
        os.close(handle)


def read_ledger(path: Path) -> list[Run]:
    """Return the runs in the order in which they began; a line that is not the ledger's is a `ValueError` with its number."""
    if not path.is_file():
        raise ValueError(f"{path}: no such ledger; runs write it beside their work directories")
    runs: dict[str, Run] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            when, word, content = line.split(" ", 2)
            entry = json.loads(content)
            run_id = entry.pop("id")
            if word == "began":
                runs[run_id] = Run(run_id, when, entry)
            else:
                runs[run_id].ended, runs[run_id].result = when, entry
        except (ValueError, KeyError, AttributeError):
            raise ValueError(f"{path}: line {number} is not a line of the ledger: {line[:60]!r}") from None
    return list(runs.values())
