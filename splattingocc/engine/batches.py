"""How samples become the batches of one process."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from splattingocc.data.loaders import EpochSampler, TrainingSet
from splattingocc.data.samples import TrainingSample
from splattingocc.struct import stack


class TrainingBatches(LightningDataModule):
    """Serve this rank's share of a training set. The order and the random draws depend on seed and epoch only.

    Where in an epoch a run stands is part of its checkpoints: it goes on with the batch after the last one, whatever the number of workers.
    """

    def __init__(self, dataset: TrainingSet, *, batch_size: int, num_workers: int, kept_back: TrainingSet | None = None) -> None:
        super().__init__()
        self.dataset = dataset
        self.kept_back = kept_back
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._resumed: dict[str, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return {"batches": done, "batches_per_epoch": int(self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sampler = EpochSampler(len(self.dataset), seed=self.dataset.seed, rank=rank, world_size=world_size)
        if self._resumed is not None:
            epoch, batches = divmod(self._resumed["batches"], self._resumed["batches_per_epoch"])
            expected = math.ceil(len(sampler) / self.batch_size)
            if batches and expected != self._resumed["batches_per_epoch"]:
                raise ValueError(
                    f"the checkpoint is from the middle of an epoch of {self._resumed['batches_per_epoch']} batches, which has {expected} "
                    "here; resume with as many processes, samples and data.batch_size as before, or from the end of an epoch"
                )
            sampler.go_on(epoch, batches * self.batch_size)
            self._resumed = None
        return _loader(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers, sampler=sampler)

    def val_dataloader(self) -> DataLoader | list:
        """Serve all the key frames that are kept back, to each rank: few, and so every rank has the same numbers."""
        if self.kept_back is None:
            return []
        return _loader(self.kept_back, batch_size=1, num_workers=self.num_workers, sampler=None)

    def transfer_batch_to_device(self, batch: TrainingSample, device: torch.device, dataloader_idx: int) -> TrainingSample:
        return batch.to(device, non_blocking=True)


def prediction_loader(dataset: Dataset, *, num_workers: int) -> DataLoader:
    """Serve key frames one by one, in order."""
    return _loader(dataset, batch_size=1, num_workers=num_workers, sampler=None)


def _loader(dataset: Dataset, *, batch_size: int, num_workers: int, sampler: EpochSampler | None) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=stack,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
    )


def leave_signals_to_the_trainer(worker: int) -> None:
    """Let a loader's worker live on when a signal goes to all processes of a job: the training still needs it for the step in hand."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Not ignored: it is how a loader ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
