import multiprocessing
from pathlib import Path

import pytest

from splattingocc.cli import main
from splattingocc.engine.ledger import differences, read_ledger, recorded

WHAT = {"command": "train", "name": "a", "commit": "c0", "changed": {}, "seed": 0, "processes": 1}


def test_a_run_is_there_from_its_beginning_and_gets_its_result(tmp_path: Path):
    path = tmp_path / "log.txt"
    with recorded(path, WHAT) as result:
        (run,) = read_ledger(path)
        assert run.ended is None
        assert run.what == WHAT
        result["miou_17"] = 12.5
    (run,) = read_ledger(path)
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
    assert read_ledger(path)[1].result["error"] == "ValueError: the file is gone"


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
    runs = read_ledger(path)
    assert len(runs) == 75
    assert all(run.ended for run in runs)


def test_a_line_that_is_not_the_ledgers_is_named(tmp_path: Path):
    path = tmp_path / "log.txt"
    with recorded(path, WHAT):
        pass
    with path.open("a") as file:
        file.write("notes\n")
    with pytest.raises(ValueError, match=r"log\.txt: line 3 is not a line of the ledger: 'notes'"):
        read_ledger(path)
    with pytest.raises(ValueError, match=r"none\.txt: no such ledger"):
        read_ledger(tmp_path / "none.txt")


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
    first, second = (run.id for run in read_ledger(path))
    main(["log", "--path", str(path), "--compare", first, second[-6:]])
    printed = capsys.readouterr().out.splitlines()
    assert "seed: 0 → 1" in printed
    assert "miou_17: 12.0 → 13.5" in printed
    assert "changed.optimization.learning_rate: 0.1 → 1.1" in printed
    with pytest.raises(SystemExit, match="--compare xyz: 0 runs"):
        main(["log", "--path", str(path), "--compare", "xyz", second])
