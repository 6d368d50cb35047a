import errno
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from splattingocc.cli import main
from splattingocc.engine.ledger import differences, ledger_to_write, read_ledger, recorded

WHAT = {"command": "train", "name": "a", "commit": "c0", "changed": {}, "seed": 0, "processes": 1}


def test_a_run_is_there_from_its_beginning_and_gets_its_result(tmp_path: Path):
    path = tmp_path / "log.txt"
    with recorded(path, WHAT) as result:
        (run,) = read_ledger(path).runs
        assert run.ended is None
        assert run.what == WHAT
        result["miou_17"] = 12.5
    (run,) = read_ledger(path).runs
    assert run.ended is not None
    assert run.result == {"seconds": 0, "miou_17": 12.5}


def test_a_run_that_fails_leaves_its_error_and_what_was_written_stays(tmp_path: Path):
    path = tmp_path / "log.txt"
    with recorded(path, WHAT):
        pass
    before = path.read_text()
    with pytest.raises(ValueError, match="gone"), recorded(path, WHAT):
        raise ValueError("traceback\nthe file is gone")
    assert path.read_text().startswith(before)
    assert read_ledger(path).runs[1].result["error"] == "ValueError: the file is gone"


def test_a_ledger_lies_beside_the_folder_of_a_run_as_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, elsewhere = tmp_path / "work_dirs" / "run", tmp_path / "scratch" / "of_mine"
    elsewhere.mkdir(parents=True)
    run.parent.mkdir()
    run.symlink_to(elsewhere)
    assert ledger_to_write(run) == run.parent / "log.txt"
    monkeypatch.chdir(elsewhere)
    assert ledger_to_write(Path(".")) == tmp_path / "scratch" / "log.txt"
    # In a container, the only folder that is the user's
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "scratch")
    assert ledger_to_write(elsewhere) == elsewhere / "log.txt"


def write_many(path: Path) -> None:
    for number in range(25):
        with recorded(path, {**WHAT, "changed": {"filler": "x" * 3000, "number": number}}):
            pass


def test_many_runs_write_at_once(tmp_path: Path):
    path = tmp_path / "log.txt"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    runs = read_ledger(path).runs
    assert len(runs) == 75
    assert all(run.ended for run in runs)


HALF = b'2026-11-25T16:34:57Z began {"id": "20261125-163457-d2b557", "comm'


@pytest.mark.parametrize("half", [HALF, b"\0" * 40, b"\xff\xfe", HALF + b"\nnotes"])
def test_a_line_after_part_of_one_begins_anew(tmp_path: Path, half: bytes):
    path = tmp_path / "log.txt"
    with recorded(path, WHAT):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    with recorded(path, {**WHAT, "name": "b"}) as result:
        result["loss"] = 0.5
    ledger = read_ledger(path)
    assert path.read_bytes().startswith(whole + half + b"\n")
    assert [(run.what["name"], bool(run.ended)) for run in ledger.runs] == [("a", True), ("b", True)]
    assert ledger.unread == list(range(3, 4 + half.count(b"\n")))


def test_a_full_disk_names_the_ledger_and_does_not_hide_why_a_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "log.txt"
    write = os.write

    def write_ten_bytes(handle: int, content: bytes) -> int:
        if len(content) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:10])

    def fail_on_a_full_disk() -> None:
        monkeypatch.setattr(os, "write", write_ten_bytes)
        raise ValueError("the file is gone, " + "which is a pity " * 10)

    with pytest.raises(ValueError, match="gone"), recorded(path, WHAT):
        fail_on_a_full_disk()
    with pytest.raises(OSError, match=r"No space left on device: '.*log\.txt'"), recorded(path, WHAT):
        pass
    monkeypatch.setattr(os, "write", write)
    with recorded(path, WHAT):
        pass
    ledger = read_ledger(path)
    assert [bool(run.ended) for run in ledger.runs] == [False, True]
    assert ledger.unread == [2, 3]


@pytest.mark.parametrize(
    "line",
    [
        b"notes",
        b"2026 began 7",
        b"2026 began [1, 2]",
        b'2026 began {"command": "train"}',
        b'2026 began {"id": [1]}',
        b'2026 mended {"id": "x"}',
        b'2026 began {"id": "\xe9"}',
        b"2026 began " + b"[" * 100_000,
        b'2026 began {"id": "x", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_line_that_is_not_the_ledgers_is_left_out_and_counted(tmp_path: Path, line: bytes, capsys: pytest.CaptureFixture):
    path = tmp_path / "log.txt"
    for content in (b"", b"\n" + line + b"\n" + line + b"\n"):
        with path.open("ab") as file:
            file.write(content)
        with recorded(path, WHAT):
            pass
    ledger = read_ledger(path)
    assert ([run.what for run in ledger.runs], ledger.unread) == ([WHAT, WHAT], [4, 5])
    main(["log", "--path", str(path)])
    assert capsys.readouterr().err == f"{path}: 2 of its lines cannot be read, the first is line 4\n"


def test_a_ledger_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.txt: no such ledger"):
        read_ledger(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        read_ledger(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a device or a pipe, expected a file"):
        read_ledger(tmp_path / "pipe")


def test_a_run_whose_beginning_cannot_be_read_is_shown_by_its_end(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "log.txt"
    path.write_text('2026-11-25T16:34:57Z ended {"id": "20261125-163457-d2b557", "loss": 1.5, "worst": NaN, "most": 1e999}\n')
    (run,) = read_ledger(path).runs
    assert (run.began, run.what, run.ended, run.result["loss"]) == (None, {}, "2026-11-25T16:34:57Z", 1.5)
    main(["log", "--path", str(path)])
    assert "20261125-163457-d2b557  –" in capsys.readouterr().out
    main(["log", "--path", str(path), "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["result"] == {"loss": 1.5, "worst": None, "most": None}


def test_the_ledger_has_the_permissions_of_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        with recorded(tmp_path / "log.txt", WHAT):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log.txt").stat().st_mode) == 0o600


def test_differences_are_named_by_their_dots():
    base = {"seed": 0, "data": {"size": [1, 2], "root": "a"}, "gone": 1}
    assert differences({"seed": 0, "data": {"size": [1, 3], "root": "a"}, "new": {"x": 1}}, base) == {
        "data.size": [1, 3],
        "new": {"x": 1},
        "gone": None,
    }


def test_the_command_prints_the_runs_and_what_two_differ_in(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "log.txt"
    for seed, score in ((0, 12.0), (1, 13.5)):
        with recorded(path, {**WHAT, "seed": seed, "changed": {"optimization.learning_rate": 0.1 + seed}}) as result:
            result["miou_17"] = score
    main(["log", "--path", str(path)])
    assert "miou_17" in capsys.readouterr().out
    first, second = (run.id for run in read_ledger(path).runs)
    main(["log", "--path", str(path), "--compare", first, second[-6:]])
    printed = capsys.readouterr().out.splitlines()
    assert "seed: 0 → 1" in printed
    assert "miou_17: 12.0 → 13.5" in printed
    assert "changed.optimization.learning_rate: 0.1 → 1.1" in printed
    with pytest.raises(SystemExit, match="--compare xyz: 0 runs"):
        main(["log", "--path", str(path), "--compare", "xyz", second])


HOSTILE = ("a[/b]c", "x[red]y", "[/]", "line\nbreak", "\x1b[2Jgone", "\udcff", "x" * 300, "混" * 100)


@pytest.mark.parametrize("columns", [80, 200])
def test_text_of_runs_is_printed_as_it_is_and_a_run_takes_one_line(
    tmp_path: Path, columns: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    path = tmp_path / "[bold]" / "log.txt"
    for text in HOSTILE:
        with pytest.raises(ValueError, match="lost"), recorded(path, {**WHAT, "name": text, "commit": text, "changed": {text: text}}):
            raise ValueError(f"{text} lost")
    runs = read_ledger(path).runs
    main(["log", "--path", str(path)])
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [run.id for run in runs]
    assert ("commit" in head, "a[/b]c" in lines[0], "x[red]y" in lines[1]) == (columns == 200, True, True)
    assert not any("\x1b" in line for line in lines)
    main(["log", "--path", str(path), "--compare", runs[0].id, runs[4].id])
    assert "name: a[/b]c → \\x1b[2Jgone" in capsys.readouterr().out.splitlines()
    main(["log", "--path", str(path), "--json"])
    assert [json.loads(line)["what"]["name"] for line in capsys.readouterr().out.splitlines()] == list(HOSTILE)
