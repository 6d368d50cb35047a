"""Reading files that somebody else may have written, damaged, or replaced by something that is no file."""

from __future__ import annotations

import codecs
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
LARGEST_FILE = 16 * 2**30
"""Bytes; no file that is read whole is larger."""
LARGEST_JSON = 2**30
"""Bytes of a JSON file other than the tables of a data set."""
TYPE_OF_ERROR = re.compile(r"^(\w+\.)*\w*(Error|BadFile|LoaderFailed): ")
PLACE_IN_JSON = re.compile(r"\(byte (\d+)\)$")
"""At the end of what the decoder says of malformed text."""
SHOWN_OF_JSON = 12
"""Bytes before and after that place which are repeated."""
NO_JSON_NUMBER = re.compile(rb"\b(NaN|nan|Infinity|inf)\b")
SEAL = "sha256"
"""The key of a sealed JSON object under which the digest of all others stands."""


class BadFile(ValueError):
    """A file that cannot be used; the message begins with its path.

    Made of the whole message alone where it comes from another process.
    """

    def __init__(self, path: Path | str, reason: str | None = None):
        super().__init__(str(path) if reason is None else f"{path}: {reason}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def without_type(line: str) -> str:
    """Return the last line of a traceback without the type of the error, which comes first there."""
    return TYPE_OF_ERROR.sub("", line)


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn whatever is raised inside into `BadFile`: `what` says what the file should have been, e.g. "a label store's manifest".

    Decoders raise errors of dozens of types on damaged bytes, none of which names the file.
    """
    try:
        yield
    except BadFile:
        raise
    except OSError as error:
        raise BadFile(path, f"cannot be read as {what}: {error.strerror or first_line(error)}") from error
    except MemoryError as error:
        raise BadFile(path, f"cannot be read as {what}: takes more memory than there is") from error
    except RecursionError as error:
        raise BadFile(path, f"not {what}: nested too deeply") from error
    except Exception as error:
        raise BadFile(path, f"not {what}: {first_line(error)}") from error


def open_regular(path: Path, *, limit: int = LARGEST_FILE) -> BufferedReader:
    """Open a file for reading. What is not a regular file, or larger than `limit` bytes, is a `BadFile`: a pipe or a device never ends."""
    with decoding(path, "a file"):
        try:
            # Without O_NONBLOCK, opening a pipe waits for somebody who writes
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BadFile(path, "no such file") from None
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            os.close(handle)
            if stat.S_ISREG(found.st_mode):
                raise BadFile(path, f"is {found.st_size:,} bytes large, expected at most {limit:,}")
            raise BadFile(path, "is a folder, expected a file" if stat.S_ISDIR(found.st_mode) else "is a device or a pipe, expected a file")
        return os.fdopen(handle, "rb")


def read_bytes(path: Path, *, limit: int = LARGEST_FILE) -> bytes:
    """Return the content of a regular file of at most `limit` bytes."""
    with open_regular(path, limit=limit) as file, decoding(path, "a file"):
        # As many bytes as there are: reading up to a limit would reserve memory for all of it
        return file.read(os.fstat(file.fileno()).st_size)


def read_json(path: Path, content_type: type[T] | Any = Any, *, what: str = "a JSON file") -> T:
    """Return a JSON file's content, checked against a type of msgspec's."""
    content = read_bytes(path, limit=LARGEST_JSON).removeprefix(codecs.BOM_UTF8)
    with decoding(path, what):
        return json_of(content, content_type)


def json_of(content: bytes | mmap.mmap, content_type: type[T] | Any = Any) -> T:
    """Return what JSON text says, checked against a type; a `ValueError` of malformed text repeats what stands around the place."""
    try:
        return msgspec.json.decode(content, type=content_type)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        if (place := PLACE_IN_JSON.search(str(error))) is None:
            raise
        position = int(place.group(1))
        there = content[max(position - SHOWN_OF_JSON, 0) : position + SHOWN_OF_JSON]
        numbers = "; NaN and infinities, which Python's json writes, are no JSON" if NO_JSON_NUMBER.search(there) else ""
        raise ValueError(f"{error}, near {there.decode(errors='replace')!r}{numbers}") from None


def read_sealed_json(path: Path, *, what: str) -> dict[str, Any]:
    """Return what `write_sealed_json` wrote; a changed byte is a `BadFile`."""
    content = read_json(path, dict[str, Any], what=what)
    seal = content.pop(SEAL, None)
    if seal is None:
        raise BadFile(path, f"not {what}: key {SEAL} is missing")
    if seal != seal_of(content):
        raise BadFile(path, f"damaged: its content does not give the {SEAL} that it states")
    return content


def seal_of(content: dict[str, Any]) -> str:
    """Return the digest of plain values, whatever the order of their keys."""
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the digest of a file's content."""
    with open_regular(path) as file, decoding(path, "a file"):
        return hashlib.file_digest(file, "sha256").hexdigest()
