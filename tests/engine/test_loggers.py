import csv
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from splattingocc.engine import loggers
from splattingocc.engine.loggers import MetricsTable, build_tracker


def log(work_dir: Path, steps: range, **more: float) -> None:
    """Log some steps as a process of its own would."""
    table = MetricsTable(work_dir)
    for step in steps:
        table.log_metrics({"loss": float(step), **more}, step)
    table.finalize("success")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps_in(path: Path) -> list[int]:
    return [int(row["step"]) for row in rows_of(path)]


def test_a_resumed_run_goes_on_in_the_table(tmp_path: Path):
    log(tmp_path, range(50))
    log(tmp_path, range(45, 60))
    assert steps_in(tmp_path / "logs" / "metrics.csv") == [*range(50), *range(45, 60)]


def test_new_losses_widen_the_table_and_lose_nothing(tmp_path: Path):
    log(tmp_path, range(30))
    log(tmp_path, range(30, 60), query=2.0)
    rows = rows_of(tmp_path / "logs" / "metrics.csv")
    assert [float(row["loss"]) for row in rows] == list(range(60))
    assert [row["query"] for row in rows] == [""] * 30 + ["2.0"] * 30


def test_the_torn_last_line_of_a_killed_process_is_left_out(tmp_path: Path):
    log(tmp_path, range(5))
    path = tmp_path / "logs" / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-4])
    log(tmp_path, range(5, 7))
    assert steps_in(path) == [0, 1, 2, 3, 5, 6]


def damage(path: Path, line: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda line: b"\xff" + line[1:],
        lambda line: b"\0" * (len(line) - 1) + b"\n",
        lambda line: line[:-1] + b"\0\n",
        lambda line: line.replace(b".", b"x"),
        lambda line: line.replace(b",", b";"),
        lambda line: line[:-1] + b",7\n",
        lambda line: b'"' + line,
        lambda line: b"\n",
        lambda line: b"1.0,\n",
        lambda line: b"1.0,-3\n",
    ],
)
def test_a_damaged_line_is_left_out_and_the_file_as_it_was_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes]
):
    log(tmp_path, range(5))
    path = tmp_path / "logs" / "metrics.csv"
    damage(path, 4, change)
    damaged = path.read_bytes()
    log(tmp_path, range(5, 7), query=1.0)
    assert steps_in(path) == [0, 1, 3, 4, 5, 6]
    assert (path.parent / "metrics_damaged_1.csv").read_bytes() == damaged
    expected = "1 of its lines cannot be read, the first is line 4; going on without them, the file as it was is metrics_damaged_1.csv"
    assert caplog.messages == [f"{path}: {expected}"]


@pytest.mark.parametrize("head", [b"a,b\n", b"\xff\xfe\n", b"loss,loss,step\n", b"\0\0\n", b"loss,,step\n", b"\n"])
def test_a_table_of_other_columns_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, head: bytes):
    log(tmp_path, range(5))
    path = tmp_path / "logs" / "metrics.csv"
    damage(path, 1, lambda _: head)
    damaged = path.read_bytes()
    log(tmp_path, range(5, 7))
    assert steps_in(path) == [5, 6]
    assert (path.parent / "metrics_damaged_1.csv").read_bytes() == damaged
    assert "6 of its lines cannot be read, the first is line 1" in caplog.text


@pytest.mark.parametrize("content", [b"", b"loss,st"])
def test_a_table_that_was_hardly_begun_is_begun_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes):
    path = tmp_path / "logs" / "metrics.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    log(tmp_path, range(5, 7))
    assert steps_in(path) == [5, 6]
    assert [path.name for path in path.parent.iterdir()] == ["metrics.csv"]
    assert not caplog.messages


def test_columns_in_another_order_keep_their_values(tmp_path: Path):
    log(tmp_path, range(2))
    path = tmp_path / "logs" / "metrics.csv"
    path.write_text("step,loss\n0,0.5\n1,1.5\n")
    log(tmp_path, range(2, 4))
    assert [(row["step"], row["loss"]) for row in rows_of(path)] == [("0", "0.5"), ("1", "1.5"), ("2", "2.0"), ("3", "3.0")]


def test_a_pipe_in_the_place_of_the_table_is_named(tmp_path: Path):
    log(tmp_path, range(2))
    path = tmp_path / "logs" / "metrics.csv"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"metrics\.csv: is a device or a pipe, expected a file"):
        log(tmp_path, range(2, 4))


def test_another_training_in_the_same_folder_sets_the_table_aside(tmp_path: Path):
    for last in (3, 4, 5):
        log(tmp_path, range(last))
    folder = tmp_path / "logs"
    assert [len(steps_in(folder / f"{name}.csv")) for name in ("metrics_before_1", "metrics_before_2", "metrics")] == [3, 4, 5]


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tracking"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"--trainer\.loggers {name}: not installed; pip install .* -e '\.\[{extra}\]'"):
        build_tracker(name, tmp_path, {})


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra `tracking` (tensorboard) is not installed")
def test_tensorboard_reads_what_was_logged(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = build_tracker("tensorboard", tmp_path, {})
    for step in range(3):
        tracker.log_metrics({"loss": float(step)}, step)
    tracker.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 2.0)]


@pytest.mark.skipif(find_spec("wandb") is None, reason="the extra `wandb` is not installed")
def test_wandb_keeps_a_run_offline_in_the_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = build_tracker("wandb", tmp_path, {"seed": 3})
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.experiment.finish()  # type: ignore[attr-defined]
    assert list((tmp_path / "wandb").glob("offline-run-*"))
