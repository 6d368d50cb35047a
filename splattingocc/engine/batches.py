"""How samples become the batches of one process."""

from __future__ import annotations

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from splattingocc.data.loaders import EpochSampler, TrainingSet
from splattingocc.data.samples import TrainingSample
from splattingocc.struct import stack


class TrainingBatches(LightningDataModule):
    """Serve this rank's share of a training set. The order and the random draws depend on seed and epoch only."""

    def __init__(self, dataset: TrainingSet, *, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sampler = EpochSampler(len(self.dataset), seed=self.dataset.seed, rank=rank, world_size=world_size)
        return _loader(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers, sampler=sampler)

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
    )
