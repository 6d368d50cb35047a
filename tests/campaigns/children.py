"""Children that are forked from a process which has imported everything: a thousand commands in minutes."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splattingocc.cli.ending import ending_well

MEMORY = 16 * 2**30
"""Bytes of addresses that a child may have; torch takes several of them."""
POLL = 1.0
"""Seconds between two looks at a child."""
OUTPUT, ERRORS, RESULT = "stdout.txt", "stderr.txt", "result.json"


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int | None
    """Its exit status, minus the signal that killed it, or None where it had to be killed because it did not end."""
    seconds: float
    peak_mib: int
    stderr: str
    result: Any
    """What the function returned; None where it did not return."""


def start(work: Callable[[], Any], folder: Path, logs: Path) -> int:
    """Fork a child that does some work in a folder, as a command does, and return its number."""
    logs.mkdir(parents=True, exist_ok=True)
    (logs / RESULT).unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setpgid(0, 0)
        for number, name in ((1, OUTPUT), (2, ERRORS)):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(folder)
        status = _do(work, logs)
    finally:
        os._exit(status)


def _do(work: Callable[[], Any], logs: Path) -> int:
    try:
        with ending_well():
            result = work()
            (logs / RESULT).write_text(json.dumps({"result": result}))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return 0


def wait(child: int, logs: Path, *, timeout: float, began: float | None = None) -> Ended:
    """Wait for a child; kill it and what it started once it has worked, or waited without any work, for so many seconds."""
    began = time.monotonic() if began is None else began
    handle, worked, rested = os.pidfd_open(child), 0.0, 0
    try:
        while not (is_over := bool(select.select([handle], [], [], POLL)[0])):
            before, worked = worked, seconds_of_work(child)
            rested = rested + 1 if worked == before else 0
            if worked > timeout or rested * POLL > timeout:
                break
    finally:
        os.close(handle)
    if not is_over:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    path = logs / RESULT
    return Ended(
        status=os.waitstatus_to_exitcode(status) if is_over else None,
        seconds=time.monotonic() - began,
        peak_mib=usage.ru_maxrss // 1024,
        stderr=(logs / ERRORS).read_text(errors="replace") if (logs / ERRORS).exists() else "",
        result=json.loads(path.read_text())["result"] if path.exists() and is_over and status == 0 else None,
    )


def seconds_of_work(process: int) -> float:
    """Return a process's own time: a busy machine takes more of the clock's for the same work."""
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def run(work: Callable[[], Any], folder: Path, logs: Path, *, timeout: float) -> Ended:
    began = time.monotonic()
    return wait(start(work, folder, logs), logs, timeout=timeout, began=began)
