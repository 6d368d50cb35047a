"""How samples become the batches of one process."""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from splattingocc.data.loaders import EpochSampler, TrainingSet
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.interruption import stop_requested
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


class TrainingBatches(LightningDataModule):
    """Serve this rank's share of a training set. The order and the random draws depend on seed and epoch only.

    What is served is what an optimizer step learns from, as a list of `accumulate_batches` batches whose gradients add up; the last step
    of an epoch has fewer where they do not come out even. To Lightning it is one batch, so nothing can happen in the middle of a step.
    Where in an epoch a run stands is part of its checkpoints: it goes on with the step after the last one, whatever the number of workers.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        *,
        batch_size: int,
        num_workers: int,
        accumulate_batches: int = 1,
        worker_timeout: float = 300.0,
        kept_back: TrainingSet | None = None,
    ) -> None:
        super().__init__()
        self.worker_timeout = worker_timeout
        self.dataset = dataset
        self.kept_back = kept_back
        self.batch_size = batch_size
        self.samples_per_step = batch_size * accumulate_batches
        self.num_workers = num_workers
        self._resumed: dict[str, int] | None = None
        self._begun = {"epochs": 0, "batches": 0, "total": 0}

    @classmethod
    def epochs_done(cls, checkpoint: Mapping[str, Any]) -> float:
        """Return how many epochs are behind a checkpoint, with the part of the one that it is from the middle of."""
        place = _place(checkpoint[cls.__qualname__])
        return place["epochs"] + place["batches"] / place["batches_per_epoch"]

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        per_epoch = int(self.trainer.num_training_batches)
        # An epoch before the one that was gone on from may have had another length
        epochs, batches = divmod(self._begun["batches"] + total - self._begun["total"], per_epoch)
        return {"epochs": self._begun["epochs"] + epochs, "batches": batches, "batches_per_epoch": per_epoch, "total": total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = self._begun = _place(state_dict)

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sampler = EpochSampler(len(self.dataset), seed=self.dataset.seed, rank=rank, world_size=world_size)
        if self._resumed is not None:
            epoch, batches = self._resumed["epochs"], self._resumed["batches"]
            expected = math.ceil(len(sampler) / self.samples_per_step)
            if batches and expected != self._resumed["batches_per_epoch"]:
                raise ValueError(
                    f"the checkpoint is from the middle of an epoch of {self._resumed['batches_per_epoch']} batches, which has {expected} "
                    "here; resume with as many processes, samples, data.batch_size and trainer.accumulate_batches as before, or from the "
                    "end of an epoch"
                )
            sampler.go_on(epoch, batches * self.samples_per_step)
            self._resumed = None
        collate = partial(parts_to_hand_over, part_size=self.batch_size)
        return self._loader(self.dataset, batch_size=self.samples_per_step, sampler=sampler, collate=collate)

    def val_dataloader(self) -> DataLoader | list:
        """Serve all the key frames that are kept back, to each rank: few, and so every rank has the same numbers."""
        if self.kept_back is None:
            return []
        return self._loader(self.kept_back, batch_size=1, sampler=None, collate=stack_to_hand_over)

    def _loader(self, dataset: Dataset, *, batch_size: int, sampler: EpochSampler | None, collate: Collate) -> DataLoader:
        workers = {"num_workers": self.num_workers, "worker_timeout": self.worker_timeout}
        return _loader(dataset, batch_size=batch_size, sampler=sampler, collate=collate, **workers)

    def transfer_batch_to_device(
        self, batch: TrainingSample | list[TrainingSample], device: torch.device, dataloader_idx: int
    ) -> TrainingSample | list[TrainingSample]:
        if isinstance(batch, list):
            return [part.to(device, non_blocking=True) for part in batch]
        return batch.to(device, non_blocking=True)


def _place(state: dict[str, int]) -> dict[str, int]:
    """Return where a training stood, also from a checkpoint that counts the batches of all epochs together, as they once did."""
    for name, value in state.items():
        if not isinstance(value, int) or value < (name == "batches_per_epoch"):
            raise ValueError(f"{name} is {value}, expected a whole number of epochs or batches")
    if "epochs" in state:
        return state
    epochs, batches = divmod(state["batches"], state["batches_per_epoch"])
    return {**state, "epochs": epochs, "batches": batches, "total": state["batches"]}


def prediction_loader(dataset: Dataset, *, num_workers: int, worker_timeout: float) -> DataLoader:
    """Serve key frames one by one, in order."""
    return _loader(dataset, batch_size=1, num_workers=num_workers, worker_timeout=worker_timeout, sampler=None, collate=stack_to_hand_over)


def _loader(
    dataset: Dataset,
    *,
    batch_size: int,
    num_workers: int,
    worker_timeout: float,
    sampler: EpochSampler | None,
    collate: Collate,
) -> DataLoader:
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
