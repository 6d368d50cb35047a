"""How samples become the batches of one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from splattingocc.data.loaders import EpochSampler, TrainingSet
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.loading import Collate, parts_to_hand_over, stack_to_hand_over, watchful_loader


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

    def begun(self, steps_per_epoch: int) -> tuple[int, int]:
        """Return how many steps were done before this process, and how many those epochs had been with so many steps in each."""
        done = self._begun
        return done["total"], done["epochs"] * steps_per_epoch + done["batches"]

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
        return watchful_loader(dataset, batch_size=batch_size, sampler=sampler, collate=collate, **workers)

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
