"""Which scenes are for training and which for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from splattingocc.files import BadFile, read_json

VAL_SCENES_TRAINVAL: Final = frozenset(
    f"scene-{number:04d}"
    for first, last in (
        (3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524), (552, 565),
        (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778), (780, 784), (794, 800), (802, 802), (904, 917),
        (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073),
    )
    for number in range(first, last + 1)
)  # fmt: skip
"""The 150 validation scenes of v1.0-trainval, as inclusive ranges of scene numbers (source: nuScenes' published split)."""
VAL_SCENES_MINI: Final = frozenset(("scene-0103", "scene-0916"))
"""The validation scenes of v1.0-mini, whose split is not a part of the trainval split."""


def read_splits(folder: Path, version: str, scenes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the scene names of each split.

    `splits.json` beside the tables, {"train": [...], "val": [...]}, decides. Without it the two official versions have their
    published splits, cut to the scenes that the tables hold; any other version is a `ValueError`.
    """
    path = folder / "splits.json"
    if path.exists():
        return _splits_of_file(path, scenes)
    if version == "v1.0-mini":
        val = VAL_SCENES_MINI
    elif version == "v1.0-trainval":
        val = VAL_SCENES_TRAINVAL
    elif version == "v1.0-test":
        return {"test": tuple(scenes)}
    else:
        raise ValueError(f'{path}: no such file; {version} has no published split, so it must give {{"train": [...], "val": [...]}}')
    return {"train": tuple(name for name in scenes if name not in val), "val": tuple(name for name in scenes if name in val)}


def _splits_of_file(path: Path, scenes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    splits = read_json(path, dict[str, tuple[str, ...]], what="a JSON object of scene lists")
    known = set(scenes)
    split_of: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if name not in known:
                raise BadFile(path, f"split {split}: scene {name} is not in scene.json")
            if name in split_of:
                raise BadFile(path, f"scene {name} is listed twice (in {split_of[name]} and {split})")
            split_of[name] = split
    return splits
