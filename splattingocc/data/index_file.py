"""The columns of a key-frame index as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from splattingocc.files import write_atomically

INDEX_FORMAT = 2
"""Raised when the columns change, so that older files are not read."""


def save_columns(path: Path, key: str, columns: dict[str, Any]) -> None:
    """Write columns (arrays and plain values) under a key that says what they were made from."""
    arrays = {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in columns.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in columns.items() if name not in arrays}
    content = msgspec.msgpack.encode({"format": INDEX_FORMAT, "key": key, "plain": plain, "arrays": arrays})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_columns(path: Path, key: str) -> dict[str, Any] | None:
    """Return the columns that were saved under this key, or None where the file is missing, damaged or of another key or format."""
    try:
        content = msgspec.msgpack.decode(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    if not isinstance(content, dict) or content.get("format") != INDEX_FORMAT or content.get("key") != key:
        return None
    arrays = {name: np.frombuffer(values, dtype).reshape(shape).copy() for name, (dtype, shape, values) in content["arrays"].items()}
    return {**content["plain"], **arrays}
