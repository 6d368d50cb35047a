"""Weights averaged over the steps of a training."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """Keep an exponential moving average of the weights, and give it to the network when the training ends and while it is validated.

    What does not change stays as it is, to the last bit. Lightning's own average rounds what is averaged with itself: constants of the
    network, which are in no checkpoint, would become others than those of the same network read from a file.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            # A count of batches is no average
            return averaged.lerp(current, 1 - decay) if averaged.is_floating_point() else current

        super().__init__(avg_fn=average)
        self._are_swapped = False

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._are_swapped = not self._are_swapped

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put both sets of weights back where they were before a validation that is not finished, for the checkpoint that is left."""
        if self._are_swapped:
            self._swap_models(pl_module)

    @property
    def state_key(self) -> str:
        """What its state is called in a checkpoint: as when Lightning's own class averaged."""
        return "EMAWeightAveraging"
