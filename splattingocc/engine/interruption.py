"""What happens when a training has to end early: it finishes the step in hand, keeps everything up to there, and says where."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from splattingocc.engine.checkpoint import checkpoint_path
from splattingocc.engine.signals import HEEDED, InterruptedTraining, forget_requests, heed, requeue, stop_requested


class EndEarly(Callback):
    """Write a checkpoint and end with `InterruptedTraining` once any process has got a signal; inside Slurm, SIGUSR1 also requeues the job.

    A sample that cannot be read leaves a checkpoint too, so that the run goes on from there when the file is mended. That is for a single
    process: the others would wait for one that has failed.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self._handlers: dict[int, Any] = {}
        self._end: InterruptedTraining | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        forget_requests()
        # After Lightning has set its own, which talk to other processes from inside a handler
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, heed) for number in HEEDED}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning goes on from the last batch of an epoch only when the epoch has ended too
        if not trainer.is_last_batch:
            self._prepare(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prepare(trainer)

    def _prepare(self, trainer: Trainer) -> None:
        if (received := self._agree(trainer)) is not None:
            path = checkpoint_path(self.work_dir, trainer.global_step)
            trainer.save_checkpoint(path)
            self._end = InterruptedTraining(received, path)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not before: the metrics of the last step are written after its end, and a training that is over may end as one
        if self._end is None:
            return
        # Slurm may end the job as soon as it is asked: nothing that matters comes after
        if trainer.is_global_zero and self._end.signal_number == signal.SIGUSR1:
            requeue()
        raise self._end

    def _agree(self, trainer: Trainer) -> signal.Signals | None:
        """Return the signal that counts of those that any process has got; all of them must stop after the same step."""
        number = 0 if (received := stop_requested()) is None else 1 + HEEDED.index(received)
        if trainer.world_size > 1:
            highest = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max")
            number = int(highest)
        return HEEDED[number - 1] if number else None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if trainer.world_size == 1 and isinstance(exception, ValueError) and progress.ready == progress.completed > 0:
            trainer.save_checkpoint(checkpoint_path(self.work_dir, trainer.global_step))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
