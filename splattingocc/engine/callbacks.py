"""What is shown of a training while it runs."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SMOOTHING_STEPS = 20
"""Steps over which the shown loss is averaged."""


class StepProgress(ProgressBar):
    """One bar over all optimizer steps of the run, with the smoothed loss, steps per second and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._loss: float | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps · loss {task.fields[loss]}"))
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=not self._enabled or not trainer.is_global_zero
        )
        self._progress.start()
        total = trainer.estimated_stepping_batches
        self._task = self._progress.add_task("training", total=total, completed=trainer.global_step, loss="–")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._progress is not None
        loss = trainer.callback_metrics["loss"].item()
        self._loss = loss if self._loss is None else self._loss + (loss - self._loss) / SMOOTHING_STEPS
        self._progress.update(self._task, completed=trainer.global_step, loss=f"{self._loss:.3f}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Also after an error, so that the message is not drawn over
        if self._progress is not None:
            self._progress.stop()
