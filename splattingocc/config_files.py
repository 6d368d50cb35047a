"""The configurations that come with the package, by name: `splattingocc/configs/<family>/<name>.py`; a checkout's `configs` leads there."""

from __future__ import annotations

import difflib
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def known_configs() -> dict[str, Path]:
    """Return the files of the package's configurations by their names, the part before `.py`."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*/*.py"))}


def find_config(path: Path) -> Path:
    """Return the file that is meant: this one where it exists, else the package's of this name.

    A name may have `.py` behind it and the name of its folder before it. What is neither is a `ValueError` that lists the names.
    """
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError:  # opening it says why
        return path
    if is_there and not is_folder:
        return path
    known = known_configs()
    found = known.get(path.name.removesuffix(".py"))
    if found is not None and path.parent in (Path(), Path(found.parent.name)):
        return found
    if is_there:
        return path
    near = difflib.get_close_matches(path.name.removesuffix(".py"), known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{path}: no such file, and no configuration of this name; {meant}{describe_known()}")


def describe_known() -> str:
    """Say which configurations there are."""
    return f"by name there are {', '.join(known_configs())}, and the config.json of any run is one too"
