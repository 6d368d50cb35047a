"""What is shown of a training while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from splattingocc.engine.console import LOGGER
from splattingocc.engine.meter import Reading, StepMeter
from splattingocc.engine.schedule import training_steps

LINE_STEPS = 50
"""Steps after which a plain line is due where no bar can be drawn."""
LINE_SECONDS = 60.0
"""Seconds after which a plain line is due, whatever the steps; also the distance of the lines that a bar leaves in the console log."""


class StepProgress(ProgressBar):
    """One bar over all optimizer steps of the run; plain lines where there is no terminal, as in a file or under Slurm."""

    def __init__(self, meter: StepMeter) -> None:
        super().__init__()
        self._meter = meter
        self._enabled = True
        self._bar: _Bar | None = None
        self._line: _LineTimer | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and trainer.is_global_zero:
            self.begin(trainer.global_step, training_steps(trainer).count)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        reading = self._meter.read()
        if self._line is not None and reading is not None:
            self.show(reading)

    def begin(self, step: int, total_steps: int) -> None:
        """Start at a step that is done, 0 or where an earlier run stopped."""
        self._line = _LineTimer(step)
        console = Console()
        if console.is_interactive:
            self._bar = _Bar(console, total=total_steps, completed=step)
            self._bar.start()

    def show(self, reading: Reading) -> None:
        """Draw the bar; print a line where one is due."""
        assert self._line is not None
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=reading.step, summary=reading.summary(), parts=reading.parts_in_short())
        if self._line.is_due(reading, after_steps=LINE_STEPS if self._bar is None else None):
            line = f"{reading.summary()} · {reading.parts_in_short()}"
            if self._bar is None:
                print(line, flush=True)
            else:
                LOGGER.info(line)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Otherwise the message is drawn over, and the terminal keeps a hidden cursor
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _LineTimer:
    """Says when a plain line is due: after the first step, the last one, and in between by time and by steps."""

    def __init__(self, step: int) -> None:
        self._is_first = True
        self._step = step
        self._time = time.monotonic()

    def is_due(self, reading: Reading, *, after_steps: int | None) -> bool:
        by_steps = after_steps is not None and reading.step - self._step >= after_steps
        by_time = time.monotonic() - self._time >= LINE_SECONDS
        if not (self._is_first or by_steps or by_time or reading.step == reading.total_steps):
            return False
        self._is_first, self._step, self._time = False, reading.step, time.monotonic()
        return True


class _Bar(Progress):
    """A bar with the summary beside it, and below it the parts of the loss. What a narrow terminal has no room for is cut off."""

    def __init__(self, console: Console, *, total: int, completed: int) -> None:
        summary = TextColumn("{task.fields[summary]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
        super().__init__(BarColumn(bar_width=None, table_column=Column(ratio=1)), summary, console=console, expand=True)
        self.add_task("training", total=total, completed=completed, summary=f"step {completed}/{total}", parts="waiting for the first step")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["parts"], style="dim", no_wrap=True, overflow="ellipsis")
