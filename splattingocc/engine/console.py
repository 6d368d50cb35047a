"""The console log: what a run printed, as plain text in its folder."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from splattingocc.files import without_type

LOGGER = logging.getLogger("splattingocc.console")
"""What is said here goes into the console log only."""
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False
LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")
"""They write to the error stream that they found when they were imported."""
REDRAW = re.compile(r"(?:\x1b\[\?25[lh])*\r\x1b\[2K((?:\x1b\[1A\x1b\[2K)*)")
"""How rich begins to draw a bar again: erases its last line, and each line above it."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x1b\x07]*(?:\x07|\x1b\\)")
"""Colours, cursor movements and links of a terminal."""


@contextmanager
def console_log(folder: Path, *, number: int = 0) -> Iterator[None]:
    """Append what is printed, warnings and the final error to `console.log` in a folder.

    Of several processes each but the first, by `number`, has a `console_rank<number>.log`, which is there only if the process said
    anything. What libraries print past Python (NCCL, a crash of the interpreter) is not seen.
    """
    file = _LogFile(folder / ("console.log" if number == 0 else f"console_rank{number}.log"))
    if number == 0:
        file.write_line(f"── {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {shlex.join(sys.argv)}")
    streams = sys.stdout, sys.stderr
    tees = _Tee(streams[0], file), _Tee(streams[1], file)
    handler = _LinesHandler(file)
    loggers = [LOGGER, *map(logging.getLogger, LIGHTNING_LOGGERS)]
    for logger in loggers:
        logger.addHandler(handler)
    sys.stdout, sys.stderr = tees  # type: ignore[assignment]
    try:
        yield
    except BaseException as error:
        file.write_line(in_one_line(error) if isinstance(error, ValueError) else "".join(traceback.format_exception(error)).rstrip())
        raise
    finally:
        sys.stdout, sys.stderr = streams
        for logger in loggers:
            logger.removeHandler(handler)
        for tee in tees:
            tee.end_line()
        file.close()


def in_one_line(error: BaseException) -> str:
    """Return an error's type and message. One from a loader's worker is wrapped in its traceback, of which the last line is the error."""
    name = type(error).__name__
    last = without_type((str(error).strip().splitlines() or [""])[-1])
    return f"{name}: {last}"


class _LogFile:
    """A text file that is appended to, and made when there is something to write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write_line(self, line: str) -> None:
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._file.write(line + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _LinesHandler(logging.Handler):
    def __init__(self, file: _LogFile) -> None:
        super().__init__()
        self._log = file

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write_line(self.format(record))


class _Tee:
    """A stream that also writes to the log whatever stays on the screen: no control codes, and of a bar no more than its last state."""

    def __init__(self, stream: Any, file: _LogFile) -> None:
        self._stream = stream
        self._log = file
        self._begun = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        self._write_lasting(text)
        return len(text)

    def _write_lasting(self, text: str) -> None:
        redraw = REDRAW.match(text)
        text = CONTROL.sub("", text)
        if redraw:
            self._begun, text = "", text.lstrip("\r")
            if not text.endswith("\n"):  # otherwise it is the last time that this bar is drawn
                height = 1 + redraw[1].count("A")
                text = "".join(text.splitlines(keepends=True)[:-height])
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._write_line(line)

    def end_line(self) -> None:
        if self._begun:
            self._write_line(self._begun)
            self._begun = ""

    def _write_line(self, line: str) -> None:
        # Of what overwrote itself, the last
        self._log.write_line(line.rstrip().rsplit("\r", 1)[-1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
