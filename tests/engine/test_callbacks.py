import dataclasses
import io
import logging

import pytest
from rich.console import Console

from splattingocc.engine import callbacks
from splattingocc.engine.callbacks import LINE_SECONDS, LINE_STEPS, StepProgress
from splattingocc.engine.console import LOGGER
from splattingocc.engine.meter import Reading, StepMeter

PARTS = ("semantic", "distance", "line_of_sight", "empty", "query", "depth_bins", "pixel_classes", "opacity_prior")


def reading(step: int, total: int = 1000) -> Reading:
    return Reading(step, total, 3.25, dict.fromkeys(PARTS, 0.5), 8.0, 100.0, 1.5)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Give the progress bar a terminal of so many columns and return what is drawn in it."""

    def make(columns: int) -> io.StringIO:
        drawn = io.StringIO()
        console = Console(file=drawn, force_terminal=True, force_interactive=True, width=columns, color_system=None, legacy_windows=False)
        monkeypatch.setattr(callbacks, "Console", lambda: console)
        return drawn

    return make


def test_without_a_terminal_lines_come_by_steps(capsys: pytest.CaptureFixture):
    progress = StepProgress(StepMeter())
    progress.begin(100, 350)
    for step in range(101, 351):
        progress.show(reading(step, total=350))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 101/350 · loss 3.250 · 8.00 samples/s · 1.5 GiB · 0:01:40 left · semantic 0.500  distance")
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [101, *range(101 + LINE_STEPS, 350, LINE_STEPS), 350]


def test_a_line_before_steps_that_cost_more_says_so(capsys: pytest.CaptureFixture):
    progress = StepProgress(StepMeter())
    progress.begin(0, 440)
    progress.show(dataclasses.replace(reading(1, total=440), phase_end=200))
    assert " · 0:01:40 to step 200, then slower · semantic 0.500" in capsys.readouterr().out


def test_without_a_terminal_slow_steps_say_so_once_a_minute(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    progress = StepProgress(StepMeter())
    progress.begin(0, 1000)
    for step in range(1, 14):
        now += LINE_SECONDS / 4
        progress.show(reading(step))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/1000", "5/1000", "9/1000", "13/1000"]


@pytest.mark.parametrize("columns", [120, 80, 50])
def test_the_bar_takes_two_lines_of_any_terminal(terminal, columns: int):
    drawn = terminal(columns)
    progress = StepProgress(StepMeter())
    progress.begin(0, 1000)
    progress.show(reading(500))
    progress._stop()
    *_, bar, parts, end = drawn.getvalue().split("\x1b[2K")[-1].replace("\x1b[?25h", "").split("\n")
    assert end == ""
    assert max(len(bar), len(parts)) <= columns
    assert "step 500/1000 · loss 3.250" in bar
    assert parts.startswith("semantic 0.500  distance 0.500")
    assert (" left" in bar) == (columns >= 80)
    assert ("opacity 0.500" in parts) == (columns >= 120)


def test_what_a_bar_shows_leaves_a_line_in_the_log(terminal, caplog: pytest.LogCaptureFixture):
    terminal(80)
    LOGGER.addHandler(caplog.handler)
    progress = StepProgress(StepMeter())
    progress.begin(0, 200)
    with caplog.at_level(logging.INFO, LOGGER.name):
        for step in range(1, 201):
            progress.show(reading(step, total=200))
    progress._stop()
    LOGGER.removeHandler(caplog.handler)
    assert [message.split()[1] for message in caplog.messages] == ["1/200", "200/200"]
