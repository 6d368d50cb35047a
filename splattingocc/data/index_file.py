"""The columns of a key-frame index as one file: a digest, then what it is the digest of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from splattingocc.files import BadFile, decoding, read_bytes, write_atomically

INDEX_FORMAT = 3
"""Raised when the columns change, so that older files are not read."""
DIGEST_BYTES = hashlib.sha256().digest_size


class _Plain(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The columns that are no arrays, as `Index` describes them."""

    scenes: list[tuple[str, int, int]]
    channels: list[str]
    has_lidar: bool
    tokens: list[str]
    sensor_tokens: list[str]
    filenames: list[str]
    point_classes: list[str | None]
    incomplete: dict[str, tuple[str, str]] = {}
    splits: dict[str, list[str]] | None = None
    """Of one's own data; those of nuScenes stand in a file of their own."""
    sensor_present: None = None


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds behind its digest."""

    format: int
    key: str
    plain: _Plain
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]
    """Type, shape and content."""


def save_columns(path: Path, key: str, columns: dict[str, Any]) -> None:
    """Write columns (arrays and plain values) under a key that says what they were made from."""
    arrays = {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in columns.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in columns.items() if name not in arrays}
    content = msgspec.msgpack.encode({"format": INDEX_FORMAT, "key": key, "plain": plain, "arrays": arrays})
    write_atomically(path, lambda temporary: temporary.write_bytes(hashlib.sha256(content).digest() + content))


def load_columns(path: Path, key: str) -> dict[str, Any] | None:
    """Return the columns that were saved under this key, or None where the file is missing, damaged or of another key or format.

    A digest notices accidents; that the columns belong together is checked too, because anybody can compute a digest.
    """
    try:
        found = memoryview(read_bytes(path))
        digest, content = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        with decoding(path, "an index"):
            saved = msgspec.msgpack.decode(content, type=_Saved)
            if saved.format != INDEX_FORMAT or saved.key != key:
                return None
            arrays = {name: np.frombuffer(values, dtype).reshape(shape).copy() for name, (dtype, shape, values) in saved.arrays.items()}
            _check(saved.plain, arrays)
            plain = {name: getattr(saved.plain, name) for name in saved.plain.__struct_fields__ if name not in arrays}
    except BadFile:
        return None
    if saved.plain.splits is None:
        del plain["splits"]
    return {**plain, **arrays}


def _check(plain: _Plain, arrays: dict[str, np.ndarray]) -> None:
    """Refuse columns of different lengths, of other types, and numbers that are not finite."""
    frames, sensors = len(plain.tokens), len(plain.channels)
    cameras = sensors - plain.has_lidar
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "timestamps": ("<i8", (frames,)),
        "world_from_key_ego": ("<f8", (frames, 4, 4)),
        "sensor_timestamps": ("<i8", (frames, sensors)),
        "image_sizes": ("<i8", (frames, cameras, 2)),
        "K": ("<f8", (frames, cameras, 3, 3)),
        "ego_from_sensor": ("<f8", (frames, sensors, 4, 4)),
        "world_from_ego": ("<f8", (frames, sensors, 4, 4)),
        "sensor_present": ("|b1", (frames, sensors)),
    }
    there = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    if there != {name: value for name, value in expected.items() if name in there or name != "sensor_present"}:
        raise ValueError(f"has the arrays {there}")
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("holds numbers that are not finite")
    if cameras < 1 or len(plain.sensor_tokens) != frames * sensors or len(plain.filenames) != frames * sensors:
        raise ValueError("does not name each sensor of each key frame")
    ends = np.cumsum([0, *(count for _, _, count in plain.scenes)]).tolist()
    if len(plain.point_classes) != frames or [first for _, first, _ in plain.scenes] != ends[:-1] or ends[-1] != frames:
        raise ValueError("its scenes do not cover its key frames")
    names = [name for name, _, _ in plain.scenes]
    of_splits = [name for split in (plain.splits or {}).values() for name in split]
    if len({*names}) < len(names) or min((count for _, _, count in plain.scenes), default=0) < 0 or not {*of_splits} <= {*names}:
        raise ValueError("names a scene twice, or one that it has not")
