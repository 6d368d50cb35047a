"""numpy's files, read so that what they declare is checked before it is allocated, and never unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from splattingocc.files.reading import BadFile, decoding, open_regular

LARGEST_ARRAY = 2 * 2**30
"""Bytes of one array."""
LARGEST_HEADER = 10_000
"""Bytes of the text that declares type and shape; numpy's own limit."""
PLAIN_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1
"""Bit of a zip entry's flags."""


def read_array(path: Path, *, limit: int = LARGEST_ARRAY) -> np.ndarray:
    """Return the array of a `.npy` file; anything else, and an array of more than `limit` bytes, is a `BadFile`."""
    with open_regular(path) as file, decoding(path, "a .npy array"):
        return _read(file, limit)


def read_arrays(path: Path, keys: Sequence[str], *, limit: int = LARGEST_ARRAY) -> dict[str, np.ndarray]:
    """Return those of the named arrays that an `.npz` archive holds, in the order of the names."""
    with open_regular(path) as file, decoding(path, "an .npz archive"), zipfile.ZipFile(file) as archive:
        there = set(archive.namelist())
        return {key: _read_member(archive, f"{key}.npy", limit) for key in keys if f"{key}.npy" in there}


def read_only_array(path: Path, *, limit: int = LARGEST_ARRAY) -> np.ndarray:
    """Return the array of a `.npy` file, or the one array of an `.npz` archive."""
    if path.suffix != ".npz":
        return read_array(path, limit=limit)
    with open_regular(path) as file, decoding(path, "an .npz archive"), zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if len(names) != 1:
            held = ", ".join(name.removesuffix(".npy") for name in names[:8])
            raise BadFile(path, f"holds {len(names)} arrays ({held}), expected one")
        return _read_member(archive, names[0], limit)


def names_of_arrays(path: Path) -> list[str]:
    """Return the names of the arrays in an `.npz` archive."""
    with open_regular(path) as file, decoding(path, "an .npz archive"), zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    entry = archive.getinfo(name)
    if entry.flag_bits & ENCRYPTED or entry.compress_type not in PLAIN_COMPRESSIONS:
        raise ValueError(f"{name} is encrypted or compressed in another way than numpy does")
    with archive.open(entry) as member:
        assert isinstance(member, BufferedIOBase)
        return _read(member, limit)


def _read(file: BufferedIOBase, limit: int) -> np.ndarray:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of numpy's format, expected 1.0 or 2.0")
    shape, is_fortran, dtype = readers[version](file, max_header_size=LARGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never loaded")
    size = math.prod(shape) * dtype.itemsize
    if size > limit or any(length < 0 for length in shape):
        raise ValueError(f"declares {dtype} {shape}, {size:,} bytes; expected at most {limit:,}")
    # One byte more than declared: it must not be there, and asking for it makes an archive compare its checksum
    content = bytearray(file.read(size))
    if len(content) != size or file.read(1):
        raise ValueError(f"declares {dtype} {shape} and holds {len(content):,} bytes{'' if len(content) < size else ' or more'}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
