"""The columns of a key-frame index as one file: a digest, then what it is the digest of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from splattingocc.files import BadFile, read_bytes, write_atomically

INDEX_FORMAT = 3
"""Raised when the columns change, so that older files are not read."""
DIGEST_BYTES = hashlib.sha256().digest_size


def save_columns(path: Path, key: str, columns: dict[str, Any]) -> None:
    """Write columns (arrays and plain values) under a key that says what they were made from."""
    arrays = {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in columns.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in columns.items() if name not in arrays}
    content = msgspec.msgpack.encode({"format": INDEX_FORMAT, "key": key, "plain": plain, "arrays": arrays})
    write_atomically(path, lambda temporary: temporary.write_bytes(hashlib.sha256(content).digest() + content))


def load_columns(path: Path, key: str) -> dict[str, Any] | None:
    """Return the columns that were saved under this key, or None where the file is missing, damaged or of another key or format."""
    try:
        found = memoryview(read_bytes(path))
    except BadFile:
        return None
    digest, content = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        saved = msgspec.msgpack.decode(content)
    except msgspec.DecodeError:
        return None
    if not isinstance(saved, dict) or saved.get("format") != INDEX_FORMAT or saved.get("key") != key:
        return None
    arrays = {name: np.frombuffer(values, dtype).reshape(shape).copy() for name, (dtype, shape, values) in saved["arrays"].items()}
    return {**saved["plain"], **arrays}
