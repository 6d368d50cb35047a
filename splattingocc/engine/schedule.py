"""How many steps a training has, and what of the peak learning rate each of them learns at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning import Trainer

from splattingocc.engine.batches import TrainingBatches


@dataclass(frozen=True)
class TrainingSteps:
    """The optimizer steps of a training whose epochs need not have equally many: one that was gone on from may have had others.

    A step's *even* number is what it would have been, had all epochs had as many steps as they have now: half of the even numbers lie
    behind a training that has done half of its epochs.
    """

    num_even: int
    """Epochs times the steps that each has now."""
    begun: int = 0
    """Steps done before this process, in epochs of any length."""
    begun_even: int = 0
    """Their even number."""

    @property
    def count(self) -> int:
        """All steps of the training, those done before included."""
        return self.begun + self.num_even - self.begun_even

    def even(self, step: int) -> float:
        """Return the even number of a step."""
        if step >= self.begun:
            return float(step - self.begun + self.begun_even)
        return step * (self.begun_even / self.begun)


def training_steps(trainer: Trainer) -> TrainingSteps:
    """Return the steps of the training that a trainer does."""
    num_even, batches = int(trainer.estimated_stepping_batches), getattr(trainer, "datamodule", None)
    if not isinstance(batches, TrainingBatches):
        return TrainingSteps(num_even)
    return TrainingSteps(num_even, *batches.begun(num_even // max(1, trainer.max_epochs or 1)))


def learning_rate_factor(
    step: int,
    *,
    first_step: int,
    warmup_steps: int,
    steps: TrainingSteps,
    drops: Sequence[float] | None = None,
    drop_factor: float = 1.0,
) -> float:
    """Return the share of the peak learning rate at a step: nothing before the first, linear warm-up, then half a cosine down to zero.

    With `drops` it is multiplied by `drop_factor` at each of these even steps instead, those of the warm-up too.
    """
    since = step - first_step
    warmed = max(0, since + 1) / max(1, warmup_steps) if since < warmup_steps else 1.0
    if drops is not None:
        return warmed * drop_factor ** sum(steps.even(step) >= drop for drop in drops)
    if since < warmup_steps:
        return warmed
    start = steps.even(first_step + warmup_steps)
    progress = (steps.even(step) - start) / max(1, steps.num_even - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
