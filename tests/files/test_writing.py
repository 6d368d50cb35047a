import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from splattingocc.files import BadFile, naming_the_file, read_bytes, read_sealed_json, write_atomically, write_json, write_sealed_json


def test_a_file_appears_whole(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"b": [1]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"b": [1]}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_permissions_are_those_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "ours", {})
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def kill_while_writing(path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from splattingocc.files import write_atomically\n"
        "def slow(p):\n    p.write_bytes(bytes(1000)); print('begun', flush=True); time.sleep(60)\n"
        "write_atomically(Path(sys.argv[1]), slow)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def test_the_next_writer_removes_what_killed_ones_left(tmp_path):
    for _ in range(2):
        kill_while_writing(tmp_path / "a.ckpt")
    assert len(list(tmp_path.iterdir())) == 1  # the second one removed the first one's
    write_json(tmp_path / "b.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_the_file_of_a_writer_that_lives_is_not_litter(tmp_path):
    def write_while_others_do(temporary):
        subprocess.run(
            [sys.executable, "-c", "import sys; from pathlib import Path; from splattingocc.files import write_json; "
             "write_json(Path(sys.argv[1]), 1)", tmp_path / "other"], check=True,
        )  # fmt: skip
        assert temporary.exists()
        temporary.write_text("whole")

    write_atomically(tmp_path / "mine", write_while_others_do)
    assert (tmp_path / "mine").read_text() == "whole"


def test_a_refusal_of_the_system_names_the_file(tmp_path):
    def no_space(temporary):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*a.txt'"):
        write_atomically(tmp_path / "a.txt", no_space)
    with pytest.raises(OSError, match=r"No space left.*b"), naming_the_file(tmp_path / "b"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), naming_the_file(tmp_path / "b"):
        raise RuntimeError("something else")


def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def hide_the_refusal(path, message):
    """Fail to read a file as libraries do, with an error of their own."""
    try:
        path.read_bytes()
    except OSError:
        raise RuntimeError(message) from None


def test_what_is_read_while_a_file_is_written_is_named_itself(tmp_path):
    """Pictures of a film are loaded as it is written."""
    path = tmp_path / "film.webp"
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '.*picture.npy'$"):
        write_atomically(path, lambda temporary: (tmp_path / "picture.npy").read_bytes())
    with pytest.raises(BadFile, match=r"truth\.npz: no such file"):
        write_atomically(path, lambda temporary: read_bytes(tmp_path / "truth.npz"))
    with pytest.raises(RuntimeError, match=r"^no picture$"):
        write_atomically(path, lambda temporary: hide_the_refusal(tmp_path / "picture.npy", "no picture"))
    # What it is written through is it itself
    with pytest.raises(PermissionError, match=r" '[^']*/film\.webp'$"):
        write_atomically(path, refuse)
    with pytest.raises(FileNotFoundError, match=r" '[^']*/film\.webp'$"):
        write_atomically(path, lambda temporary: hide_the_refusal(temporary.parent / f".{path.name}.00000000.tmp", "no film"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"'.*file/a\.txt'"):
        write_atomically(tmp_path / "file" / "a.txt", lambda temporary: None)


def test_sealed_json_notices_every_change(tmp_path):
    path = tmp_path / "a.json"
    content = {"name": "x", "numbers": [1, 2.5, 1e-9], "deep": {"b": None, "a": True}}
    write_sealed_json(path, content)
    assert read_sealed_json(path, what="a test") == content
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 2, 5):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            path.write_bytes(bytes(changed))
            with suppress(BadFile):
                assert read_sealed_json(path, what="a test") == content  # a changed space between values
