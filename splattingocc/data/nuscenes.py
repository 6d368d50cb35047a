"""The key-frame index of a data set on disk: of nuScenes tables, decoded once and cached, or of one's own data.

Tables are cut to key frames and to the sensors used here, and cached as columns.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from splattingocc.data.index_file import INDEX_FORMAT, load_columns, save_columns
from splattingocc.data.key_frames import Index, Scene
from splattingocc.data.nuscenes_columns import build_columns
from splattingocc.data.nuscenes_splits import read_splits
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.data.own_data import OWN_INDEX, read_own_index


def read_index(dataroot: Path, version: str, *, cache_dir: Path | None = None) -> Index:
    """Read the key-frame index of `dataroot/version`.

    A folder that `own_data.write_index` filled is read as it is. nuScenes tables are read from the cache where they have not changed
    since; it lives in `cache_dir`, by default `dataroot/.splattingocc`; a default folder that cannot be written is done without.
    """
    folder = dataroot / version
    if not folder.is_dir():
        present = f"there are those of {', '.join(found)}" if (found := versions_of(dataroot)) else "there are none beside it"
        raise ValueError(f"{folder}: no such folder; the tables of {version} are expected there, {present}")
    if (folder / OWN_INDEX).is_file():
        return read_own_index(folder, version)
    cache = (cache_dir or dataroot / ".splattingocc") / f"index-{version}.msgpack"
    key = _tables_key(folder)
    columns = load_columns(cache, key)
    if columns is not None:
        with suppress(ValueError):  # of names that tables would not be allowed either: somebody else wrote this cache
            return _index_of(folder, version, columns)
    columns = build_columns(folder)
    try:
        save_columns(cache, key, columns)
    except OSError as error:
        if cache_dir is not None:
            raise ValueError(f"{cache}: the index cannot be cached there: {error.strerror}") from None
    return _index_of(folder, version, columns)


def _index_of(folder: Path, version: str, columns: dict[str, Any]) -> Index:
    scenes = tuple(Scene(*scene) for scene in columns["scenes"])
    splits = read_splits(folder, version, [scene.name for scene in scenes])
    rest = {name: column for name, column in columns.items() if name != "scenes"}
    try:
        return Index(version=version, scenes=scenes, splits=splits, **rest)
    except ValueError as error:
        raise ValueError(f"{folder}: {str(error).removeprefix(f'{version}: ')}") from None


def _tables_key(folder: Path) -> str:
    """Return a digest that changes whenever a table is added, removed or rewritten."""
    state: list[Any] = [INDEX_FORMAT]
    for name in TABLES:
        path = folder / f"{name}.json"
        if path.exists():
            stat = path.stat()
            state.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return hashlib.sha256(msgspec.json.encode(state)).hexdigest()


def versions_of(dataroot: Path) -> list[str]:
    """Return the names of the folders of tables in a data root, nuScenes' or one's own."""
    return sorted({path.parent.name for name in ("sample.json", OWN_INDEX) for path in dataroot.glob(f"*/{name}")})


def only_version(dataroot: Path) -> str:
    """Return the name of the folder of tables where there is exactly one, and print which one it is."""
    if not dataroot.is_dir():
        raise ValueError(f"{dataroot}: no such folder, expected a data set in the nuScenes layout")
    versions = versions_of(dataroot)
    if not versions:
        raise ValueError(f"{dataroot}: no folder of tables in it, expected one such as v1.0-mini, with sample.json in it")
    if len(versions) > 1:
        raise ValueError(f"{dataroot}: has tables of {', '.join(versions)}; say of which with --version")
    print(f"{dataroot}: tables of {versions[0]}, the only ones there")
    return versions[0]
