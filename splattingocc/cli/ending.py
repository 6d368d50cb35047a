"""How every command ends: with a result, in one line, quietly when nobody reads any more, or with 130 after Ctrl-C.

Nothing but the standard library is imported here, so that this is in place before anything that takes seconds.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

LONGEST_MESSAGE = 2000
"""Characters of an error that are printed."""
INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
IMPORT_MACHINERY = "<frozen importlib._bootstrap>"
"""The file of the frames in which modules are imported."""
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""Errors of a disk that takes no more."""
LOST_FOR = 0.05
"""Seconds after which a KeyboardInterrupt that was lost comes again."""
TRACEBACK = "Traceback (most recent call last)"


@contextmanager
def ending_well(program: str = "splattingocc", *, is_last: bool = False) -> Iterator[None]:
    """Run a command inside; a `ValueError` and what the system refuses (a full disk) are the user's to mend and end in one line.

    Anything else that is not expected is a fault of this program, and keeps its traceback. `is_last` says that the process ends with it.
    """
    _open_closed_outputs()
    with _interrupts(is_last):
        try:
            yield
            _flush()
        except KeyboardInterrupt:
            _end(f"{program}: interrupted", INTERRUPTED)
        except SystemExit as error:
            # rich ends the process itself when its output is closed
            if isinstance(error.__context__, BrokenPipeError):
                _end(None, NOBODY_READS)
            _flush_at_exit(program)
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                _end(None, NOBODY_READS)
            message = one_line(error)
            if message is None:
                raise
            # An error may know of a signal that it stands for
            number = getattr(error, "signal_number", None)
            _end(f"{program}: {message}", 1 if number is None else 128 + number)


def one_line(error: Exception) -> str | None:
    """Return what the user is told of an error: nothing of one that is a fault of this program."""
    if isinstance(error, ValueError) and hasattr(error, "title"):
        from splattingocc.config import describe_validation

        return _bounded(describe_validation(error))  # type: ignore[arg-type]  # only pydantic's have a title
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"takes more memory than there is{_detail(error)}"
    if isinstance(error, OSError) and error.strerror:
        names = " → ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in _names(error))
        # Files are named where they are written; streams do not say what they are
        return _bounded(
            f"{names or 'standard output, or a log of it'}: {error.strerror}" if names or error.errno in UNWRITTEN else error.strerror
        )
    if isinstance(error, ValueError | OSError) or hasattr(error, "signal_number"):
        return _bounded(_meaningful_line(str(error)) or type(error).__name__)
    return None


def _names(error: OSError) -> list[object]:
    return [name for name in (error.filename, error.filename2) if name is not None]


def _meaningful_line(message: str) -> str:
    """Return the first line that says something; of an error that comes wrapped in its traceback, as a loader's worker's do, the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if TRACEBACK in message:
        from splattingocc.files import without_type

        return without_type(lines[-1])
    return lines[0] if lines else ""


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise torch's ways to say so, without torch."""
    return isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))


def _detail(error: Exception) -> str:
    said = _meaningful_line(str(error))
    return f": {_bounded(said)}" if said else ""


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


@contextmanager
def _interrupts(is_last: bool) -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt, but end a process at once that is importing or has done its work.

    Modules of C and callbacks that run while a module is imported swallow a KeyboardInterrupt or turn it into something else, and so does
    Python's own end; there is nothing to clean up at these times. One that is lost because it came inside of a `__del__` or another
    callback that must not raise comes again.
    """
    before = signal.getsignal(signal.SIGINT)
    # Who started this process may have said that Ctrl-C is not for it, as shells do of what runs in the background
    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield
        return
    handler, report = partial(_interrupt, is_last=is_last), sys.unraisablehook

    def come_again(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
            # From another thread, and later: raised in here it would be lost as well
            timer = threading.Timer(LOST_FOR, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            report(lost)

    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = come_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGINT, _leave if is_last else before)


def _interrupt(number: int, frame: FrameType | None, *, is_last: bool) -> None:
    caller = frame
    while caller is not None:
        if caller.f_code.co_filename == IMPORT_MACHINERY:
            with suppress(OSError):
                os.write(2, b"splattingocc: interrupted\n")
            _leave(number, frame)
        caller = caller.f_back
    if is_last:
        # A second one ends at once what still cleans up
        signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _open_closed_outputs() -> None:
    """Let what is written into an output that was closed before the start go nowhere: the next file to be opened would take its place."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is the one that is looked at
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _flush() -> None:
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        try:
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from error


def _flush_at_exit(program: str) -> None:
    """Write out what is left to write before a command ends as it wants to; a closed or full output decides otherwise."""
    try:
        _flush()
    except BrokenPipeError:
        _end(None, NOBODY_READS)
    except OSError as error:
        _end(f"{program}: {one_line(error)}", 1)


def _nobody_reads() -> bool:
    """Say whether standard output or error is a pipe whose reader is gone; other pipes may break too."""
    return bool(_closed_outputs())


def _closed_outputs() -> list[int]:
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return [number for number, event in poll.poll(0) if event & (select.POLLERR | select.POLLNVAL)]


def _end(message: str | None, status: int) -> NoReturn:
    """End with a status after a last line; where an output cannot be written, nothing complains of it any more."""
    closed = _closed_outputs()
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None and number not in closed:
                stream.flush()
        except (OSError, ValueError):
            closed.append(number)
    for number in closed:
        # Python flushes once more at its end
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if status == 1:
        sys.exit(message)
    if message is not None:
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)
