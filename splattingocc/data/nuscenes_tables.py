"""The nuScenes tables, row by row: only the columns that the key-frame index needs, typed."""

from __future__ import annotations

import gc
import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from splattingocc.data.nuscenes_taxonomy import LIDARSEG_CATEGORIES
from splattingocc.files import BadFile, decoding, json_of, open_regular

Quat = tuple[float, float, float, float]
"""w, x, y, z."""
Vector = tuple[float, float, float]
"""Metres."""
Microseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class Row(msgspec.Struct, gc=False, frozen=True):
    """A row that other rows refer to by its token."""

    token: str


class SceneRow(Row, gc=False, frozen=True):
    name: str


class SampleRow(Row, gc=False, frozen=True):
    scene_token: str
    timestamp: Microseconds


class SampleDataRow(Row, gc=False, frozen=True):
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: Microseconds
    is_key_frame: bool
    filename: str
    height: int | None = None
    width: int | None = None


class EgoPoseRow(Row, gc=False, frozen=True):
    rotation: Quat
    translation: Vector
    timestamp: Microseconds | None = None


class CalibratedSensorRow(Row, gc=False, frozen=True):
    sensor_token: str
    rotation: Quat
    translation: Vector
    camera_intrinsic: list[Vector]


class SensorRow(Row, gc=False, frozen=True):
    channel: str


class LidarsegRow(Row, gc=False, frozen=True):
    sample_data_token: str
    filename: str


class CategoryRow(Row, gc=False, frozen=True):
    name: str
    index: int | None = None


R = TypeVar("R", bound=Row)

TABLES = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "lidarseg", "category")
"""What the index is made from; the last two exist only with the lidarseg release."""
LENS_COLUMNS = ("camera_model", "lens_model", "projection_model")
PINHOLE_NAMES = ("none", "pinhole", "perspective", "undistorted", "plumb_bob")
"""Words for a camera without distortion, or (the last) for a model whose coefficients stand in another column."""


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Keep the collector from walking millions of fresh rows again and again while a table is decoded."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_table(path: Path, row_type: type[R]) -> list[R]:
    """Decode one table. Any fault is a `ValueError` of one line that names the file, the row's token and the field."""
    with open_table(path) as content:
        try:
            return json_of(content, list[row_type])
        except msgspec.ValidationError as error:
            raise BadFile(path, f"{_row_of(content, str(error))}{error}") from None


@contextmanager
def open_table(path: Path) -> Iterator[mmap.mmap]:
    """Map a table into memory; what goes wrong inside is a `BadFile`."""
    with open_regular(path) as file, decoding(path, "a whole JSON table"):
        if not path.stat().st_size:
            raise BadFile(path, "empty file; a nuScenes table is expected there")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _row_of(content: mmap.mmap, message: str) -> str:
    """Turn the `$[3]` of a decoder's message into the row's token, for people who search the table by it."""
    position = re.search(r"\$\[(\d+)\]", message)
    if position is None:
        return ""
    row: Any = msgspec.json.decode(content)[int(position.group(1))]
    token = row.get("token") if isinstance(row, dict) else None
    return f"row {token}: " if token is not None else ""


def by_token(rows: Iterable[R], path: Path) -> dict[str, R]:
    """Key rows by token; a repeated token is a `ValueError`."""
    keyed: dict[str, R] = {}
    for row in rows:
        if row.token in keyed:
            raise BadFile(path, f"row {row.token}: the token occurs twice")
        keyed[row.token] = row
    return keyed


def distorted(path: Path, tokens: set[str]) -> tuple[str, str, Any] | None:
    """Return (token, column, value) of the first of these rows of calibrated_sensor that says its lens distorts; None where none does.

    nuScenes' images are undistorted and have no such column; data sets made after its pattern have one, by various names.
    """
    with open_table(path) as content:
        rows: list[dict[str, Any]] = json_of(content, list[dict[str, Any]])
    for row in rows:
        if row.get("token") not in tokens:
            continue
        for column, value in row.items():
            about_lens = "distort" in column.lower() or column.lower() in LENS_COLUMNS
            if about_lens and not _is_undistorted(value):
                return str(row["token"]), column, value
    return None


def _is_undistorted(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_undistorted, value.values()))
    if isinstance(value, list):
        return all(map(_is_undistorted, value))
    return not value or (isinstance(value, str) and value.lower() in PINHOLE_NAMES)


def check_categories(path: Path) -> None:
    """Refuse a category table whose indices do not mean what the lidarseg release means by them."""
    for row in read_table(path, CategoryRow):
        if row.index is None:
            raise BadFile(path, f"row {row.token}: field index is missing; take category.json from the lidarseg release")
        if not 0 <= row.index < len(LIDARSEG_CATEGORIES) or LIDARSEG_CATEGORIES[row.index][0] != row.name:
            expected = LIDARSEG_CATEGORIES[row.index][0] if 0 <= row.index < len(LIDARSEG_CATEGORIES) else "at most 31"
            raise BadFile(path, f"row {row.token}: index {row.index} is {row.name!r}, expected {expected!r}")
