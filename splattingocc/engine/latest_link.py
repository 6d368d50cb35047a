"""`latest.pth` in a work directory: the name under which people of this field know the newest checkpoint."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

LATEST_LINK = "latest.pth"


def link_latest(work_dir: Path, checkpoint: Path | None) -> None:
    """Let `latest.pth` lead to a checkpoint in this folder, in one step, or to nothing: then there is no such link.

    Only one training writes into a folder at a time, so what another one began was killed, and is replaced. A training goes on where the
    file system has no links: nothing of it depends on this one.
    """
    link = work_dir / LATEST_LINK
    temporary = link.with_name(f".{LATEST_LINK}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        if checkpoint is not None:
            temporary.symlink_to(checkpoint.relative_to(work_dir))
            os.replace(temporary, link)
        elif link.is_symlink():
            link.unlink()
    except OSError as error:
        _warn(link, error.strerror or type(error).__name__)


@cache
def _warn(link: Path, reason: str) -> None:
    """Say it once: a training writes many checkpoints."""
    logging.getLogger(__name__).warning("%s: no link to the newest checkpoint can be made here (%s); training goes on", link, reason)
