"""Signals that tell a training to end, and what is done with them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that end a training after the step in hand; of several, the last of these counts. Slurm sends SIGUSR1 ahead of a job's end where
it is told to (`--signal`)."""


_received: signal.Signals | None = None
"""What the training in this process was told to stop by."""


def stop_requested() -> signal.Signals | None:
    """Return the signal by which the training in this process was told to stop, if it was."""
    return _received


def forget_requests() -> None:
    """Begin as a training that was not told to stop."""
    global _received
    _received = None


def heed(number: int, frame: FrameType | None) -> None:
    """Remember a signal, as its handler; the second Ctrl-C ends at once."""
    global _received
    if number == _received == signal.SIGINT:
        raise KeyboardInterrupt
    if _received is None or HEEDED.index(signal.Signals(number)) > HEEDED.index(_received):
        _received = signal.Signals(number)


class InterruptedTraining(Exception):
    """Training was told to end early; `signal_number` says by what, `again` what goes on from its checkpoint."""

    def __init__(self, signal_number: int, checkpoint: Path | None, *, again: str = "--auto-resume"):
        kept = f"{again} goes on from {checkpoint}" if checkpoint else "nothing is kept of it yet"
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {kept}")
        self.signal_number = signal_number
        self.checkpoint = checkpoint


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Leave what signals do as it was: after a training Lightning's own handlers stay behind, and swallow SIGTERM for ever."""
    before = {number: signal.getsignal(number) for number in HEEDED}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # one that is not Python's
                    signal.signal(number, handler)


@contextmanager
def early_warnings_ignored() -> Iterator[None]:
    """Let a SIGUSR1 that comes before the training has its own handler do nothing: by default it would kill the process."""
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)


def requeue() -> None:
    """Put this Slurm job back into its queue, where there is one; the job may end at once."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        logging.getLogger(__name__).warning("job %s is not back in the queue (%s); submit it again", job, error)
