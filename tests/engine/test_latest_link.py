"""The link to the newest checkpoint: it leads to a whole one after each write, after a kill at any point, and nothing depends on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from splattingocc.engine.checkpoint import checkpoint_path, is_whole
from splattingocc.engine.checkpoint_writing import AtomicCheckpointIO
from splattingocc.engine.latest_link import LATEST_LINK, link_latest


def write(work_dir: Path, *steps: int) -> None:
    for step in steps:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(3)}}, checkpoint_path(work_dir, step))


def test_every_checkpoint_that_is_written_becomes_the_latest_but_the_best_does_not(tmp_path: Path):
    write(tmp_path / "run", 5, 10)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert os.readlink(tmp_path / "run" / LATEST_LINK) == "checkpoints/step_00000010.ckpt"
    assert not (tmp_path / "run" / "checkpoints" / LATEST_LINK).exists()


def test_a_folder_that_is_moved_takes_its_link_along(tmp_path: Path):
    write(tmp_path / "run", 5)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert is_whole(tmp_path / "elsewhere" / LATEST_LINK)


class Killed(BaseException):
    """Ends what it is raised in, as a kill does, without cleaning up."""


def kill_at(call: str, number: int, *, is_done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a later write at a call of the system's, before it or when it is done."""
    original, left = getattr(os, call), [None] * number

    def die(*arguments: object, **options: object) -> object:
        if left:
            left.pop()
            return original(*arguments, **options)
        raise Killed(original(*arguments, **options) if is_done else None)

    monkeypatch.setattr(os, call, die)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(("call", "number"), [("fsync", 0), ("replace", 0), ("symlink", 0), ("replace", 1)])
def test_a_kill_at_any_point_leaves_a_link_to_a_whole_checkpoint(
    call: str, number: int, is_done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, 5)
    with monkeypatch.context() as context:
        kill_at(call, number, is_done=is_done, monkeypatch=context)
        with pytest.raises(Killed):
            write(tmp_path, 10)
    assert is_whole(tmp_path / LATEST_LINK)
    write(tmp_path, 15)
    assert os.readlink(tmp_path / LATEST_LINK) == "checkpoints/step_00000015.ckpt"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", LATEST_LINK}


def test_where_there_can_be_no_links_that_is_said_once_and_checkpoints_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    write(tmp_path, 5, 10, 15)
    assert is_whole(checkpoint_path(tmp_path, 15))
    (record,) = caplog.records
    expected = f"{tmp_path}/latest.pth: no link to the newest checkpoint can be made here (Operation not permitted); training goes on"
    assert record.getMessage() == expected


def test_a_copy_that_a_tool_made_of_the_link_is_replaced(tmp_path: Path):
    write(tmp_path / "run", 5)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert not (tmp_path / "copy" / LATEST_LINK).is_symlink()
    write(tmp_path / "copy", 10)
    assert os.readlink(tmp_path / "copy" / LATEST_LINK) == "checkpoints/step_00000010.ckpt"


def test_without_a_checkpoint_there_is_no_link(tmp_path: Path):
    write(tmp_path, 5)
    link_latest(tmp_path, None)
    assert not (tmp_path / LATEST_LINK).is_symlink()
    link_latest(tmp_path, None)
