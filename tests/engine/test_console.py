import io
import logging
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, track

from splattingocc.engine.console import LOGGER, console_log, in_one_line


def lines_of(path: Path) -> list[str]:
    """The log without the lines that say when a run began."""
    return [line for line in path.read_text().splitlines() if not line.startswith("── 2")]


def test_prints_warnings_and_logs_are_kept_and_a_second_run_adds_to_them(tmp_path: Path, capsys: pytest.CaptureFixture):
    with console_log(tmp_path):
        print("a", "b")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: print(f"UserWarning: {message}", file=sys.stderr)
            warnings.warn("take care", stacklevel=1)
        logging.getLogger("lightning.pytorch").error("it broke")
        LOGGER.info("for the log only")
    before = (tmp_path / "console.log").read_text()
    with console_log(tmp_path):
        print("again", end="")
    assert (tmp_path / "console.log").read_text().startswith(before)
    assert lines_of(tmp_path / "console.log") == ["a b", "UserWarning: take care", "it broke", "for the log only", "again"]
    assert capsys.readouterr().out == "a b\nagain"


def test_an_error_of_the_user_ends_the_log_in_one_line_and_another_with_its_traceback(tmp_path: Path):
    with pytest.raises(ValueError, match="no such file"), console_log(tmp_path):
        raise ValueError("Traceback (most recent call last):\n  ...\nValueError: a.jpg: no such file")
    assert lines_of(tmp_path / "console.log") == ["ValueError: a.jpg: no such file"]
    with pytest.raises(ZeroDivisionError), console_log(tmp_path):
        print(1 / 0)
    assert lines_of(tmp_path / "console.log")[1] == "Traceback (most recent call last):"
    assert lines_of(tmp_path / "console.log")[-1] == "ZeroDivisionError: division by zero"


def test_the_streams_are_given_back(tmp_path: Path):
    before = sys.stdout, sys.stderr
    with console_log(tmp_path):
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
    with pytest.raises(ValueError, match="x"), console_log(tmp_path):
        raise ValueError("x")
    assert (sys.stdout, sys.stderr) == before


def test_a_further_process_has_a_file_of_its_own_only_if_it_says_something(tmp_path: Path):
    with console_log(tmp_path, number=3):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="x"), console_log(tmp_path, number=3):
        raise ValueError("x")
    assert (tmp_path / "console_rank3.log").read_text() == "ValueError: x\n"


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let the standard output be a terminal, and return what is drawn in it."""
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    return stream


def test_a_bar_leaves_its_last_state_and_what_was_printed_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    screen = terminal(monkeypatch)
    with console_log(tmp_path):
        console = Console()
        with Progress(console=console, refresh_per_second=1000) as progress:
            task = progress.add_task("first", total=50)
            other = progress.add_task("second", total=50)
            for step in range(50):
                progress.update(task, advance=1)
                progress.update(other, advance=1)
                progress.refresh()
                if step == 25:
                    print("printed above")
                    console.print("[red]and in colour")
        for _ in track(range(3), "short", console=console):
            pass
    text = "\n".join(lines_of(tmp_path / "console.log"))
    assert screen.getvalue().count("\x1b[2K") > 50
    assert "\x1b" not in text
    assert "printed above\nand in colour" in text
    assert text.count("first") <= 2  # as it began, and as it ended
    assert text.count("100%") == 3


def test_a_line_that_overwrote_itself_is_kept_as_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    terminal(monkeypatch)
    with console_log(tmp_path):
        for percent in range(0, 101, 10):
            print(f"\r{percent} %", end="")
        print()
    assert lines_of(tmp_path / "console.log") == ["100 %"]


def test_an_error_without_words_is_its_type():
    assert in_one_line(KeyboardInterrupt()) == "KeyboardInterrupt: "
