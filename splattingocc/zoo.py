"""Trained networks of the repository, by name: `zoo/<name>/network.safetensors` beside a model card; a wheel has none of them."""

from __future__ import annotations

import difflib
from pathlib import Path

ZOO = Path(__file__).parents[1] / "zoo"
"""The folder of the checkout that this package is part of."""
NETWORK_NAME = "network.safetensors"


def known_networks() -> dict[str, Path]:
    """Return the files of the repository's networks by their names."""
    return {path.parent.name: path for path in sorted(ZOO.glob(f"*/{NETWORK_NAME}"))}


def is_zoo_name(path: Path) -> bool:
    """Say whether a path is the name of a network of the zoo, as `zoo/<name>`."""
    return len(path.parts) == 2 and path.parts[0] == ZOO.name and not path.suffix


def find_in_zoo(path: Path) -> Path:
    """Return the file that `zoo/<name>` means, here or in the repository, from whatever folder; any other path is returned as it is.

    A folder of the repository's zoo, by whatever path, means the network in it.
    A name that there is not is a `ValueError` that says which there are.
    """
    if path.is_dir() and path.resolve().parent == ZOO.resolve() and (path / NETWORK_NAME).exists():
        return path / NETWORK_NAME
    if not is_zoo_name(path) or path.is_file():
        return path
    here = path / NETWORK_NAME
    if here.exists():
        return here
    known = known_networks()
    if path.name in known:
        return known[path.name]
    if not ZOO.is_dir():
        raise ValueError(
            f"{path}: this installation has no zoo, whose networks are in the repository and not in the wheel; expected the path of a "
            f"{NETWORK_NAME}, such as that of zoo/{path.name} in a checkout"
        )
    near = difflib.get_close_matches(path.name, known, n=1)
    meant = f"did you mean zoo/{near[0]}? " if near else ""
    raise ValueError(f"{path}: no network of this name; {meant}{ZOO} has {', '.join(known) or 'none'}")


def name_in_zoo(network: Path) -> str | None:
    """Return the name of a network's file in the repository's zoo; None of a file that is elsewhere."""
    folder = network.resolve().parent
    return folder.name if folder.parent == ZOO.resolve() else None
