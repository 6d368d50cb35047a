"""What 2D labels can be made from; `docs/extending.md` has the recipe of a new source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from splattingocc.data.key_frames import KeyFrame
from splattingocc.data.label_store import RayTable


class MissingInput(ValueError):
    """Something that a key frame's labels are made from is not there; the message says what."""


@runtime_checkable
class LabelSource(Protocol):
    """Makes the labels of key frames from files. It travels to worker processes, so it can be pickled: a frozen dataclass of options."""

    def describe(self) -> str:
        """Return the one line that the manifest keeps: what labels are made from, and every option that changes them."""
        ...

    def label(self, key_frame: KeyFrame, dataroot: Path, *, others: Mapping[int, KeyFrame]) -> RayTable:
        """Return the labelled pixels of a key frame; a file that cannot be used is a `ValueError` that names it.

        `others` are the other key frames of its scene that have all their files, by their place from this one: -1 is the one before.
        """
        ...

    def input_files(self, key_frame: KeyFrame, dataroot: Path) -> list[Path]:
        """Return the files of this key frame that labels are made from, always in the same order, whether they are there or not.

        What has no name to look for is a `MissingInput`.
        """
        ...
