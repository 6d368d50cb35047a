"""Files of the right kind that hold something else than they should: what somebody makes who knows the format, and may mean harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Damage = Callable[[Path, random.Random], None]
EXECUTED = "executed.txt"
"""The file in the folder `canary` that code from a damaged file would make."""


class _Malicious:
    """Pickles to a call that leaves a file in the folder `canary`, wherever it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary / EXECUTED}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def malicious_pickle(canary: Path) -> bytes:
    return pickle.dumps(_Malicious(canary), protocol=2)


# JSON

_DEEP = "[" * 100_000 + "]" * 100_000
_RAW = ("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "-0", "1.5", '"\\ud800"', "[" * 500 + "]" * 500, _DEEP, "tru", "01", "1e308")


def _values() -> list[Any]:
    outside = str(Path("canary/kept").resolve())
    numbers = [0, -1, 1, 0.5, -1e-300, 1e38, 1e300, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, True, None]
    names = [
        "",
        " ",
        ".",
        "..",
        "../canary/kept",
        "../../canary/kept",
        outside,
        "a/b",
        "\0",
        "a\0b",
        "a\nb",
        "é" * 90,
        "x" * 100_000,
        "[bold]",
    ]
    return [*numbers, *names, "nan", [], {}, [None], [[]], {"": 1}, [1e300] * 4, [0, 0, 0, 0], [10**400]]


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where something stands in a JSON value; of long lists the first and last few."""
    found = [place]
    if isinstance(value, dict):
        for key in value:
            found += _places(value[key], (*place, key))
    elif isinstance(value, list):
        for i in range(len(value)) if len(value) <= 8 else (0, 1, 2, len(value) - 2, len(value) - 1):
            found += _places(value[i], (*place, i))
    return found


def _parent(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place[:-1]:
        value = value[step]
    return value


def change_value(content: Any, rng: random.Random, values: list[Any] | None = None) -> Any:
    """Put another value somewhere into a JSON value."""
    place = rng.choice(_places(content))
    value = rng.choice(values or _values())
    if not place:
        return value
    _parent(content, place)[place[-1]] = value
    return content


def _change_json(path: Path, rng: random.Random) -> None:
    _write_json(path, change_value(json.loads(path.read_text()), rng))


def _write_json(path: Path, content: Any) -> None:
    path.unlink()
    path.write_text(json.dumps(_sealed_again(content)))


def _sealed_again(content: Any) -> Any:
    """Give an object that was sealed the seal of what it holds now, as somebody would who wants to be believed."""
    from splattingocc.files.reading import SEAL, seal_of

    if isinstance(content, dict) and SEAL in content:
        plain = {key: value for key, value in content.items() if key != SEAL}
        try:
            return {**plain, SEAL: seal_of(plain)}
        except (TypeError, ValueError, OverflowError):
            return content
    return content


def _raw_json(path: Path, rng: random.Random) -> None:
    """Put something between the words of a JSON file that JSON does not know, or only just."""
    content = json.loads(path.read_text())
    marked = change_value(content, rng, values=["@@@"])
    text = json.dumps(marked).replace('"@@@"', rng.choice(_RAW))
    path.unlink()
    path.write_text(text)


def _lose_key(path: Path, rng: random.Random) -> None:
    content = json.loads(path.read_text())
    places = [place for place in _places(content) if place]
    if places:
        place = rng.choice(places)
        del _parent(content, place)[place[-1]]
    _write_json(path, content)


def _repeat_entry(path: Path, rng: random.Random) -> None:
    """Let a row of a list, or an entry of an object under another name, be there twice."""
    content = json.loads(path.read_text())
    places = [place for place in _places(content) if place]
    if places:
        place = rng.choice(places)
        parent = _parent(content, place)
        if isinstance(parent, list):
            parent.append(parent[place[-1]])
        else:
            parent[rng.choice(("extra", "../canary/kept", "", place[-1] + " "))] = parent[place[-1]]
    _write_json(path, content)


JSON: dict[str, Damage] = {
    "another value in JSON": _change_json,
    "no JSON value": _raw_json,
    "key lost": _lose_key,
    "entry twice": _repeat_entry,
}


# numpy


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_that_declares(text: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text.encode() + body


def _other_array(array: np.ndarray, rng: random.Random) -> bytes:
    """Return a `.npy` that is not what it should be, from an array that is."""
    canary = Path("canary").resolve()
    shape = array.shape or (1,)
    huge = "(" + ", ".join(["200000"] * max(2, array.ndim)) + ",)"
    descr = array.dtype.str
    with np.errstate(all="ignore"):
        choices: list[Callable[[], bytes]] = [
            lambda: npy_that_declares(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {huge}}}\n", array.tobytes()),
            lambda: npy_that_declares(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (-1, 4)}}\n", array.tobytes()),
            lambda: npy_that_declares(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({2**63}, 2)}}\n", array.tobytes()),
            lambda: npy_that_declares(f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}}}\n", malicious_pickle(canary)),
            lambda: npy_that_declares(f"{{'descr': [('a', '|O')], 'fortran_order': False, 'shape': {shape}}}\n", malicious_pickle(canary)),
            lambda: npy_that_declares("{'descr': __import__('os').system('touch canary/executed.txt')}\n"),
            lambda: npy_that_declares("(" * 3000 + "\n"),
            lambda: npy_that_declares(" " * 60_000 + "\n"),
            lambda: npy_that_declares("{}", version=(3, 0)),
            lambda: npy_that_declares("{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,)}\n"),
            lambda: npy_that_declares("{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,)}\n"),
            lambda: _npy(np.asfortranarray(array)),
            lambda: _npy(array[:-1] if array.ndim else array),
            lambda: _npy(array[..., None]),
            lambda: _npy(np.zeros((0, *shape[1:]), array.dtype)),
            lambda: _npy(np.float64(3.0)),
            lambda: _npy(array.astype(np.float64)),
            lambda: _npy(array.astype(np.int64) if array.dtype.kind in "fiub" else array),
            lambda: _npy(array.astype(">i4") if array.dtype.kind in "fiub" else array),
            lambda: _npy(array.astype(np.complex64) if array.dtype.kind in "fiub" else array),
            lambda: _npy(array.astype("U8")),
            lambda: _npy(np.full(shape, 255, np.uint8)),
            lambda: _npy(np.full(shape, 200, array.dtype) if array.dtype.kind in "fiub" else array),
            lambda: _npy(np.full(shape, np.nan, np.float32)),
            lambda: _npy(np.full(shape, np.inf, np.float32)),
            lambda: _npy(np.full(shape, 3e38, np.float32)),
            lambda: _npy(np.full(shape, -1e300, np.float64)),
            lambda: _npy(np.full(shape, -1, np.int8)),
            lambda: _npy(np.zeros(shape, [("x", "<f4"), ("y", "<f4")])),
            lambda: _npy(np.zeros(shape, "M8[s]")),
        ]
        return rng.choice(choices)()


def _other_npy(path: Path, rng: random.Random) -> None:
    content = _other_array(np.load(path), rng)
    path.unlink()
    path.write_bytes(content)


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    path.unlink()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _other_member(path: Path, rng: random.Random) -> None:
    """Put another array, whole and with a right checksum, into an archive."""
    members = _members(path)
    name = rng.choice(sorted(members))
    members[name] = _other_array(np.load(io.BytesIO(members[name])), rng)
    _write_zip(path, members)


def _other_archive(path: Path, rng: random.Random) -> None:
    members = _members(path)
    name = rng.choice(sorted(members))
    kind = rng.randrange(9)
    if kind == 0:
        _write_zip(path, members, rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    elif kind == 1:
        _write_zip(path, {other: content for other, content in members.items() if other != name})
    elif kind == 2:
        _write_zip(path, {**members, "semantics.npy": members[name], "pred.npy": members[name]})
    elif kind == 3:
        _write_zip(path, {**members, "../canary/kept.npy": members[name], "/canary.npy": b""})
    elif kind == 4:
        _write_zip(path, {other.removesuffix(".npy"): content for other, content in members.items()})
    elif kind == 5:  # a bomb: what it declares is small, what it holds is not
        _write_zip(path, {**members, name: members[name] + bytes(300 * 2**20)})
    elif kind == 6:
        _write_zip(path, {name: malicious_pickle(Path("canary").resolve())})
    else:
        _write_zip(path, members)
        content = bytearray(path.read_bytes())
        central = content.find(b"PK\x01\x02")
        if kind == 7:  # encrypted, it says
            content[central + 8] |= 1
        else:  # the size that it declares of itself
            content[central + 20 + 4 * rng.randrange(2) :][:4] = b""
            struct.pack_into("<I", content, central + 20 + 4 * rng.randrange(2), rng.choice((0, 2**32 - 2, 2**31)))
        path.write_bytes(content)


NPY: dict[str, Damage] = {"another array": _other_npy}
NPZ: dict[str, Damage] = {"another array inside": _other_member, "another archive": _other_archive}


# Images


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _huge_image(path: Path, rng: random.Random) -> None:
    """Let an image declare a size that it has not."""
    content = bytearray(path.read_bytes())
    width, height = rng.choice(((2**31 - 1, 2**31 - 1), (60_000, 60_000), (0, 0), (1, 2**30), (16_000, 6_000)))
    if content.startswith(b"\x89PNG"):
        header = struct.pack(">II", width, height) + content[24:29]
        content[8:33] = _png_chunk(b"IHDR", header)
    else:
        place = next((place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := content.find(mark)) >= 0), None)
        if place is not None:
            struct.pack_into(">HH", content, place + 5, min(height, 65535), min(width, 65535))
    path.unlink()
    path.write_bytes(content)


def _other_image(path: Path, rng: random.Random) -> None:
    """Put a whole image of another kind, size or colour under this name."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        kind = rng.randrange(10)
        canary = Path("canary").resolve()
        path.unlink()
        if kind == 0:
            image.convert("RGB").save(path, rng.choice(("TIFF", "GIF", "BMP", "PPM", "WEBP", "ICO")))
        elif kind == 1:
            path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n({canary / EXECUTED}) (w) file closefile\nshowpage\n")
        elif kind == 2:
            exif = Image.Exif()
            exif[274] = rng.randrange(0, 12)
            image.convert("RGB").save(path, "JPEG", exif=exif)
        elif kind == 3:
            image.convert("I;16" if rng.random() < 0.5 else "1").save(path, "PNG")
        elif kind == 4:
            image.convert("RGBA").save(path, "PNG")
        elif kind == 5:
            image.convert("CMYK").save(path, "JPEG")
        elif kind == 6:
            image.resize((image.width + 1, image.height)).save(path, "PNG")
        elif kind == 7:
            image.convert("P").save(path, "PNG", transparency=3)
        elif kind == 8:
            image.convert("L").save(path, "PNG", save_all=True, append_images=[image.convert("L").rotate(180)])
        else:
            image.convert("RGB").rotate(180).save(path, "JPEG")


IMAGE: dict[str, Damage] = {"another size declared": _huge_image, "another image": _other_image}


# Networks and tables of columns


def _other_safetensors(path: Path, rng: random.Random) -> None:
    """Change the header of a safetensors file: sizes, types, places, names, or what travels with them."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if rng.random() < 0.15:
        changed = content[:8] + content[8 : 8 + size] + content[8 + size :]
        changed = rng.choice((2**63, 2**64 - 1, len(content), 0, 2**27)).to_bytes(8, "little") + changed[8:]
    else:
        metadata = header.get("__metadata__", {})
        if metadata and rng.random() < 0.6:
            metadata.pop("sha256", None)
            key = rng.choice(sorted(metadata))
            embedded = metadata[key]
            if embedded.startswith("{") and rng.random() < 0.8:
                metadata[key] = json.dumps(change_value(json.loads(embedded), rng))
            elif rng.random() < 0.5:
                del metadata[key]
            else:
                metadata[key] = rng.choice(("nan", "inf", "", "-1", "{}", "[]", "null", "0.5", "x" * 10_000, "[" * 5000))
        else:
            header = change_value(header, rng)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        changed = len(text).to_bytes(8, "little") + text + content[8 + size :]
    path.unlink()
    path.write_bytes(changed)


def _other_columns(path: Path, rng: random.Random) -> None:
    """Change something in an index and give it the digest of what it holds now."""
    import hashlib

    import msgspec

    saved = msgspec.msgpack.decode(path.read_bytes()[32:])
    part = rng.choice(("plain", "arrays", "arrays", "top"))
    if part == "arrays":
        name = rng.choice(sorted(saved["arrays"]))
        dtype, shape, values = saved["arrays"][name]
        array = np.frombuffer(values, dtype).reshape(shape).copy()
        kind = rng.randrange(6)
        if kind == 0 and array.dtype.kind in "fi":
            array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e300, -1.0)) if array.dtype.kind == "f" else -(2**62)
            saved["arrays"][name] = (dtype, shape, array.tobytes())
        elif kind == 1:
            saved["arrays"][name] = (dtype, [length + 1 for length in shape], values)
        elif kind == 2:
            saved["arrays"][name] = (rng.choice(("|O", "<U4", "x", "<f2", "|V8", 3)), shape, values)
        elif kind == 3:
            saved["arrays"][name] = (dtype, shape[1:], array[0].tobytes())
        elif kind == 4:
            saved["arrays"][name] = rng.choice((None, [], 3, ["<f8"], {}))
        else:
            saved["arrays"][name] = (dtype, [-1, *shape[1:]], values)
    elif part == "plain":
        saved["plain"] = change_value(
            saved["plain"], rng, [v for v in _values() if not (isinstance(v, int) and abs(v) >= 2**63) and v != [10**400]]
        )
    else:
        name = rng.choice(("plain", "arrays", "format", "key"))
        saved[name] = rng.choice((None, [], {}, 3, "x"))
    content = msgspec.msgpack.encode(saved)
    path.unlink()
    path.write_bytes(hashlib.sha256(content).digest() + content)


def _other_checkpoint(path: Path, rng: random.Random) -> None:
    """Save a checkpoint with something else inside: whole, loadable, and not what was written."""
    import torch

    checkpoint = torch.load(path, weights_only=True)
    path.unlink()
    kind = rng.randrange(8)
    keys = sorted(checkpoint)
    values = [None, [], {}, 0, -1, 3, "x", float("nan"), torch.zeros(3), [{}], {"state": {}}]
    if kind == 0:
        del checkpoint[rng.choice(keys)]
    elif kind == 1:
        checkpoint[rng.choice(keys)] = rng.choice(values)
    elif kind <= 3:
        part = rng.choice([key for key in keys if isinstance(checkpoint[key], dict) and checkpoint[key]])
        checkpoint[part][rng.choice(sorted(checkpoint[part], key=str))] = rng.choice(values)
    elif kind == 4:
        part = rng.choice(("state_dict", "current_model_state"))
        if part in checkpoint:
            name = rng.choice(sorted(checkpoint[part]))
            checkpoint[part][name] = rng.choice((torch.zeros(1), checkpoint[part][name].double(), checkpoint[part][name] * float("nan")))
    elif kind == 5:
        name = rng.choice([key for key in keys if isinstance(checkpoint[key], str)])
        text = checkpoint[name]
        checkpoint[name] = json.dumps(change_value(json.loads(text), rng)) if text.startswith("{") else "{"
    elif kind == 6:
        part = change_value(checkpoint["loops"], rng, values) if rng.random() < 0.5 else change_value(checkpoint["callbacks"], rng, values)
        checkpoint["loops" if rng.random() < 0.5 else "callbacks"] = part
    else:
        checkpoint = rng.choice(([1], torch.zeros(3), {}, {"state_dict": {}}, checkpoint["state_dict"]))
    torch.save(checkpoint, path)


def _malicious_checkpoint(path: Path, rng: random.Random) -> None:
    """A checkpoint as torch writes one, whose pickle is a call."""
    members = {"archive/data.pkl": malicious_pickle(Path("canary").resolve()), "archive/version": b"3\n", "archive/byteorder": b"little"}
    _write_zip(path, members, zipfile.ZIP_STORED)


SAFETENSORS: dict[str, Damage] = {"another header": _other_safetensors}
COLUMNS: dict[str, Damage] = {"another column": _other_columns}
CHECKPOINT: dict[str, Damage] = {"another content": _other_checkpoint, "malicious archive": _malicious_checkpoint}


# Lines of text


def _other_line(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    place = rng.randrange(len(lines))
    kind = rng.randrange(7)
    if kind == 0:
        lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
    elif kind == 1:
        lines.insert(place, lines[place])
    elif kind == 2:
        del lines[place]
    elif kind == 3:
        lines[place] = lines[place].replace(b'"', b'"[/red]', 3) + b"[bold]"
    elif kind == 4:
        lines[place] = rng.choice((b"nan,inf,,", b",,,,", b"x" * 1_000_000, b"\0\0", b'"', b"[" * 5000, b"1e999," * 30))
    elif kind == 5:
        lines[place] = lines[place].replace(b":", b": NaN, ", 1).replace(b".", b"e999", 1)
    else:
        cells = lines[place].split(b",")
        cells[rng.randrange(len(cells))] = rng.choice((b"nan", b"", b"-1", b"1e999", b'"a', b"x"))
        lines[place] = b",".join(cells)
    path.write_bytes(b"\n".join(lines))


LINES: dict[str, Damage] = {"another line": _other_line}


FORGERIES: dict[str, dict[str, Damage]] = {
    ".json": JSON, ".npy": NPY, ".npz": NPZ, ".png": IMAGE, ".jpg": IMAGE, ".safetensors": SAFETENSORS, ".msgpack": COLUMNS,
    ".ckpt": CHECKPOINT, ".txt": LINES, ".csv": LINES,
}  # fmt: skip
"""By the end of a file's name."""
