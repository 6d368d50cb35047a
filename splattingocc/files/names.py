"""Names from files become paths here and nowhere else: a name in somebody's table must not decide where we write."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST_NAME = 180
"""Bytes; file systems allow 255, of which temporary names and suffixes take some."""
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]|^\.|^\s|\s$|^$")
_LEADS_ELSEWHERE = re.compile(r"^[/\\]|(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f]|^$")


def check_name(name: str, what: str) -> str:
    """Return a name that can be the name of a file or folder; `ValueError` says of `what` it is the name otherwise."""
    if not isinstance(name, str):
        raise ValueError(f"{what} is {name!r}, expected text")
    if _FORBIDDEN.search(name) or len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
        raise ValueError(
            f"{what} {name[:LONGEST_NAME]!r} cannot name a file: expected up to {LONGEST_NAME} bytes without slashes, control characters, "
            "a leading dot, or spaces at the ends"
        )
    return name


def child(folder: Path, name: str) -> Path:
    """Return the path of an entry of a folder by its name, which may come from a file."""
    return folder / check_name(name, f"{folder}: the name")


def check_relative(name: str, what: str) -> str:
    """Return a file's name that stays inside of the folder that it is relative to; `ValueError` otherwise."""
    if not isinstance(name, str):
        raise ValueError(f"{what} is {name!r}, expected text")
    if _LEADS_ELSEWHERE.search(name):
        raise ValueError(f"{what} {name!r}: expected a path inside of the data root, without `..`")
    return name
