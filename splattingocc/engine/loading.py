"""Loaders whose processes may die, hand over nothing, or be told to stop, and the batches that they hand over."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from splattingocc.engine.signals import stop_requested
from splattingocc.files import first_line
from splattingocc.struct import Struct, stack

Collate: TypeAlias = Callable[[Sequence[Any]], Any]
"""What makes a batch of samples."""
POLL_SECONDS = 2.0
"""How often a loader that waits for its workers looks whether it still should."""
PATIENCE_SECONDS = 10.0
"""How long a loader waits for a batch once the training was asked to stop."""
LOST_HANDLES = ("items of ancdata", "Too many open files")
"""What torch says where a file descriptor could not be handed over."""
REMEDIES = (
    "Most often shared memory, file descriptors or memory run out: use fewer --data.num-workers (0 loads in the trainer itself), a larger "
    "/dev/shm (docker run --shm-size 8g), or raise `ulimit -n`; `splattingocc doctor` says what there is"
)


def prediction_loader(dataset: Dataset, *, num_workers: int, worker_timeout: float) -> DataLoader:
    """Serve key frames one by one, in order."""
    return watchful_loader(
        dataset, batch_size=1, num_workers=num_workers, worker_timeout=worker_timeout, sampler=None, collate=stack_to_hand_over
    )


def watchful_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    num_workers: int,
    worker_timeout: float,
    sampler: Sampler | None,
    collate: Collate,
) -> WatchfulLoader:
    """Build a loader of this process, or of `num_workers` others."""
    return WatchfulLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
        timeout=min(POLL_SECONDS, worker_timeout) if num_workers else 0,
        worker_timeout=worker_timeout,
    )


class LoaderFailed(ValueError):
    """The loader's workers have died, or hand over nothing."""


class WatchfulLoader(DataLoader):
    """A loader that notices when its workers hand over nothing, and heeds signals while it waits for them.

    torch's own waits for ever for a batch that was lost between two processes, and tells of a dead worker in an error of no kind.
    """

    def __init__(self, *arguments: Any, worker_timeout: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._worker_timeout = worker_timeout

    def __iter__(self) -> Iterator[Any]:
        return self._watch(super().__iter__())

    def _watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                batch = self._next(batches)
            except StopIteration:
                return
            yield batch

    def _next(self, batches: Iterator[Any]) -> Any:
        began = time.monotonic()
        while True:
            try:
                return next(batches)
            except (ConnectionError, EOFError) as error:
                _forget_children()
                raise LoaderFailed(f"a process that loads samples ended while it handed over a batch. {REMEDIES}") from error
            except (RuntimeError, OSError) as error:
                if any(words in str(error) for words in LOST_HANDLES):
                    raise LoaderFailed(f"a batch was lost between two processes: {first_line(error)}. {REMEDIES}") from error
                if "DataLoader timed out" not in str(error):  # torch has no error of its own for it
                    raise
                self._check(time.monotonic() - began)  # and goes on when it is asked again

    def _check(self, waited: float) -> None:
        if (number := stop_requested()) is not None and waited > PATIENCE_SECONDS:
            raise LoaderFailed(f"no batch came for {waited:.0f} s after {signal.Signals(number).name} or before it. {REMEDIES}")
        if waited > self._worker_timeout:
            raise LoaderFailed(
                f"the loader's {self.num_workers} workers have handed over no batch for {waited:.0f} s (data.worker_timeout). {REMEDIES}"
            )


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Let the death of a loader's worker inside be a `LoaderFailed`: torch raises it anywhere, even in the middle of a step."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # not what a worker itself raises, which torch says otherwise
            raise
        _forget_children()
        by_signal = re.search(r"by signal: ([^.]*)", str(error))
        how = f"by the signal {by_signal[1].strip()}" if by_signal else "unexpectedly"
        raise LoaderFailed(f"a process that loads samples ended {how}. {REMEDIES}") from error


def _forget_children() -> None:
    """Let torch tell of a dead worker once: it would do so again whenever any process that this one started ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def stack_to_hand_over(samples: Sequence[Struct]) -> Struct:
    """Stack samples; in a worker, put them into memory that the trainer sees, where it can still be said that there is none.

    Left to torch, that happens in a thread of the worker which drops the batch.
    """
    batch = stack(samples)
    if get_worker_info() is None:
        return batch
    try:
        return batch.map(Tensor.share_memory_)
    except (RuntimeError, OSError) as error:
        raise LoaderFailed(f"a process that loads samples cannot hand over a batch: {first_line(error)}. {REMEDIES}") from error


def parts_to_hand_over(samples: Sequence[Struct], *, part_size: int) -> list[Struct]:
    """Stack the samples of a step in parts of so many; the last part may be smaller."""
    return [stack_to_hand_over(samples[start : start + part_size]) for start in range(0, len(samples), part_size)]


def leave_signals_to_the_trainer(worker: int) -> None:
    """Let a loader's worker live on when a signal goes to all processes of a job: the training still needs it for the step in hand."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Not ignored: it is how a loader ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
