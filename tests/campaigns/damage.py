"""Kinds of damage that a file on a disk may have: accidents, something else under its name, and forgeries (`forgery.py`)."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from forgery import FORGERIES, Damage, malicious_pickle

LARGEST_OTHER = 2**22
"""Bytes of a file that is put in the place of another one."""


# What happens to bytes


def _edit(change: Callable[[bytearray, random.Random], bytes | bytearray]) -> Damage:
    def damage(path: Path, rng: random.Random) -> None:
        content = change(bytearray(path.read_bytes()), rng)
        path.unlink()
        path.write_bytes(content)

    return damage


def _flip(count: int) -> Callable[[bytearray, random.Random], bytearray]:
    def flip(content: bytearray, rng: random.Random) -> bytearray:
        for _ in range(count if content else 0):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return content

    return flip


def _flip_in_front(content: bytearray, rng: random.Random) -> bytearray:
    if content:
        content[rng.randrange(min(len(content), 64))] ^= 1 << rng.randrange(8)
    return content


def _flip_at_end(content: bytearray, rng: random.Random) -> bytearray:
    if content:
        content[-1 - rng.randrange(min(len(content), 200))] ^= 1 << rng.randrange(8)
    return content


def _truncate_at_border(content: bytearray, rng: random.Random) -> bytearray:
    size = len(content)
    borders = [0, 1, 2, 4, 8, 10, 16, 32, 64, 128, size // 2, size - 1, size - 2, size - 4, size - 22, size - size % 4096]
    borders += [
        place for mark in (b"PK\x01\x02", b"PK\x05\x06", b"IDAT", b"IEND", b"\xff\xda", b"},", b"\n") if (place := content.rfind(mark)) > 0
    ]
    return content[: max(0, rng.choice(borders))]


def _block(content: bytearray, rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(len(content)) if content else 0
    return first, min(len(content), first + rng.choice((1, 16, 512, 4096)))


def _zero_block(content: bytearray, rng: random.Random) -> bytearray:
    first, end = _block(content, rng)
    content[first:end] = bytes(end - first)
    return content


def _remove_block(content: bytearray, rng: random.Random) -> bytearray:
    first, end = _block(content, rng)
    del content[first:end]
    return content


def _duplicate_block(content: bytearray, rng: random.Random) -> bytearray:
    first, end = _block(content, rng)
    content[end:end] = content[first:end]
    return content


def _not_utf8(content: bytearray, rng: random.Random) -> bytearray:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.choice((b"\xff\xfe", b"\x80", b"\xed\xa0\x80", b"\xc3("))
    return content


BYTES: dict[str, Damage] = {
    "one bit flipped": _edit(_flip(1)),
    "eight bits flipped": _edit(_flip(8)),
    "one bit in 1,000 flipped": _edit(lambda content, rng: _flip(1 + len(content) // 125 if len(content) < 2**22 else 500)(content, rng)),
    "a bit at the start flipped": _edit(_flip_in_front),
    "a bit at the end flipped": _edit(_flip_at_end),
    "truncated": _edit(lambda content, rng: content[: rng.randrange(len(content) + 1)]),
    "truncated at a border": _edit(_truncate_at_border),
    "empty": _edit(lambda content, rng: b""),
    "zeros": _edit(lambda content, rng: bytes(min(len(content), 2**22))),
    "block of zeros": _edit(_zero_block),
    "block removed": _edit(_remove_block),
    "block twice": _edit(_duplicate_block),
    "twice": _edit(lambda content, rng: content + content),
    "random bytes": _edit(lambda content, rng: rng.randbytes(rng.choice((1, 10, 1000, min(len(content), 2**20))))),
    "not UTF-8": _edit(_not_utf8),
    "NUL inside": _edit(lambda content, rng: content[: (place := rng.randrange(len(content) + 1))] + b"\0" + content[place:]),
}
"""Accidents: nobody meant anything by them."""


# What is no such file at all


def _replaced(make: Callable[[Path, random.Random], object]) -> Damage:
    def damage(path: Path, rng: random.Random) -> None:
        path.unlink()
        make(path, rng)

    return damage


def _sparse(size: int) -> Callable[[Path, random.Random], None]:
    def make(path: Path, rng: random.Random) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _another_kind(path: Path, rng: random.Random) -> None:
    """Put another file of the world, which lies beside its copy, under this name."""
    others = [other for other in sorted(Path("../world").rglob("*")) if other.suffix != path.suffix and other.is_file()]
    shutil.copyfile(rng.choice([other for other in others if 0 < other.stat().st_size < LARGEST_OTHER]), path)


NO_FILE: dict[str, Damage] = {
    "another kind of file": _replaced(_another_kind),
    "missing": _replaced(lambda path, rng: None),
    "pipe": _replaced(lambda path, rng: os.mkfifo(path)),
    "folder": _replaced(lambda path, rng: path.mkdir()),
    "link to /dev/zero": _replaced(lambda path, rng: path.symlink_to("/dev/zero")),
    "dangling link": _replaced(lambda path, rng: path.symlink_to("nowhere")),
    "link to itself": _replaced(lambda path, rng: path.symlink_to(path.name)),
    "1 TiB of nothing": _replaced(_sparse(2**40)),
    "a malicious pickle": _replaced(lambda path, rng: path.write_bytes(malicious_pickle(Path("canary").resolve()))),
}


def damages_of(path: Path) -> dict[str, Damage]:
    """Return the kinds of damage that a file may have, by its name; accidents are drawn as often as all others together."""
    return {**BYTES, **NO_FILE, **FORGERIES.get(path.suffix, {})}


def draw_damage(path: Path, rng: random.Random) -> str:
    """Draw a kind of damage for a file: its own kinds, accidents and what is no file a third each."""
    everything = damages_of(path)
    own = [kind for kind in everything if kind not in BYTES and kind not in NO_FILE]
    return rng.choice(rng.choice([group for group in (list(BYTES), list(NO_FILE), own) if group]))


def damage(path: Path, kind: str, rng: random.Random) -> None:
    damages_of(path)[kind](path, rng)
