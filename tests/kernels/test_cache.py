import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import no_type_check

import pytest
import torch
import warp as wp

from splattingocc.kernels import cache
from splattingocc.kernels.launch import launch


@wp.kernel
@no_type_check
def add_one(first: wp.int32, values: wp.array(dtype=wp.float32)):
    index = first + wp.tid()
    values[index] = values[index] + 1.0


def add_one_from_disk() -> None:
    """Load the kernel as a process of its own would, and use it."""
    add_one.module.unload()
    cache.load_module(add_one.module, wp.get_device("cpu"), block_dim=1)
    values = torch.zeros(3)
    launch(add_one, 3, [wp.from_torch(values)], device=torch.device("cpu"))
    assert values.tolist() == [1.0, 1.0, 1.0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the compiled kernel."""
    monkeypatch.setattr(wp.config, "kernel_cache_dir", str(tmp_path))
    add_one_from_disk()
    return tmp_path / add_one.module.get_module_identifier(1)


def content(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_whole_is_not_built_again(folder: Path):
    before = content(folder)
    assert {Path(name).suffix for name in before} == {".o", ".meta", ".cpp", ".json"}
    add_one_from_disk()
    assert content(folder) == before


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-5],
    lambda content: bytes(len(content)),
    lambda content: content[:40] + bytes([content[40] ^ 4]) + content[41:],
    lambda content: b"\xff" * len(content),
]


@pytest.mark.parametrize("suffix", [".o", ".meta", ".json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_built_again(folder: Path, suffix: str, damage: Callable[[bytes], bytes]):
    (path,) = folder.glob(f"*{suffix}")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    add_one_from_disk()
    assert path.read_bytes() != damaged
    before = content(folder)
    add_one_from_disk()
    assert content(folder) == before


@pytest.mark.parametrize("damage", DAMAGES[:3])
@pytest.mark.parametrize("suffix", [".o", ".meta"])
def test_without_locks_what_cannot_be_loaded_is_built_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: Callable[[bytes], bytes]
):
    monkeypatch.setattr(cache, "_lock", lambda handle: False)
    (path,) = folder.glob(f"*{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    add_one_from_disk()


def test_a_file_in_the_place_of_the_folder_or_of_the_lock_is_no_obstacle(folder: Path):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b"")
    add_one_from_disk()
    assert folder.is_dir()
    lock = folder.with_name(f".{folder.name}.lock")
    lock.unlink()
    lock.mkdir()
    add_one_from_disk()


def test_what_a_killed_process_left_of_building_goes_with_the_next_build(folder: Path):
    abandoned = folder.with_name(f"{folder.name}_p123_t456")
    abandoned.mkdir()
    (abandoned / "half.o").write_bytes(b"half")
    add_one_from_disk()
    assert abandoned.exists()
    (folder / cache.DIGESTS_NAME).unlink()
    add_one_from_disk()
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_what_cannot_be_built_is_tried_once_more_and_says_where(folder: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def fail(device, block_dim):
        tried.append(folder.exists())
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(add_one.module, "load", fail)
    with pytest.raises(ValueError, match=rf"{folder}: the kernels of .* cannot be built or loaded: no compiler; WARP_CACHE_PATH"):
        cache.load_module(add_one.module, wp.get_device("cpu"), block_dim=1)
    assert tried == [True, False]


PROGRAM = """
import torch
import warp as wp
from splattingocc.kernels.launch import launch

@wp.kernel
def add_one(first: wp.int32, values: wp.array(dtype=wp.float32)):
    index = first + wp.tid()
    values[index] = values[index] + 1.0

values = torch.zeros(3)
launch(add_one, 3, [wp.from_torch(values)], device=torch.device("cpu"))
print(values.sum().item())
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of its own, in a file for Warp to read its kernel there."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, **environment: str) -> subprocess.Popen:
    inherited = {name: value for name, value in os.environ.items() if name not in ("WARP_CACHE_PATH", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, program], env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_meet_a_damaged_cache_at_once_all_run(program: Path, tmp_path: Path):
    first = start(program, WARP_CACHE_PATH=str(tmp_path))
    assert first.communicate() == ("3.0\n", "")
    (path,) = tmp_path.rglob("wp_*/*.o")
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    together = [start(program, WARP_CACHE_PATH=str(tmp_path)) for _ in range(2)]
    assert [process.communicate() for process in together] == [("3.0\n", "")] * 2
    assert path.read_bytes() != damaged


@pytest.mark.parametrize("variable", ["HOME", "WARP_CACHE_PATH"])
def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(program: Path, tmp_path: Path, variable: str):
    (tmp_path / "file").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    out, error = start(program, **{variable: str(tmp_path / "file" / "x"), "TMPDIR": str(temporary)}).communicate()
    assert out == "3.0\n"
    (line,) = error.splitlines()
    assert line.startswith(f"splattingocc: {tmp_path / 'file' / 'x'}")
    assert ": Not a directory; compiled kernels go to" in line
    assert "WARP_CACHE_PATH" in line
    (folder,) = temporary.iterdir()
    assert str(folder) in line
    assert list(folder.rglob("*.o"))


@pytest.mark.parametrize("obstacle", ["file", "link", "open folder"])
def test_a_temporary_folder_that_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str):
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    taken = tmp_path / f"splattingocc-warp-{os.geteuid()}"
    if obstacle == "file":
        taken.touch()
    elif obstacle == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        taken.symlink_to(tmp_path / "elsewhere")
    else:
        taken.mkdir()
        taken.chmod(0o777)
    folder = cache._temporary_folder()
    assert folder != taken
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_temporary_folder_is_the_same_one_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    assert cache._temporary_folder() == cache._temporary_folder() == tmp_path / f"splattingocc-warp-{os.geteuid()}"
