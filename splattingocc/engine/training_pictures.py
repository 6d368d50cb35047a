"""Pictures of what a network in training makes of a key frame that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.schedule import training_steps
from splattingocc.models.network import OccupancyNetwork
from splattingocc.visualization.sheet import Sheet

DrawStep: TypeAlias = Callable[[OccupancyNetwork, int], Sheet]
"""Draws what a network sees after a number of steps; it may put the network into evaluation."""
TAG = "kept-back key frame"
"""Under which TensorBoard shows the pictures."""


class DrawPictures(Callback):
    """Draw every so many steps of the whole network, and after the last: a PNG in a folder, and an image where TensorBoard logs.

    The first process draws while the others wait. The training is the same as without: the network's parts are in training or not as they
    were before, and nothing random is drawn.
    """

    def __init__(self, every: int, folder: Path, draw: DrawStep) -> None:
        self._every = every
        self._folder = folder
        self._draw = draw

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, OccupancyModule)
        step = trainer.global_step
        is_due = step % self._every == 0 or step == training_steps(trainer).count
        # The volume has not begun to learn before
        if not trainer.is_global_zero or not is_due or step <= pl_module.optimization.image_steps:
            return
        in_training = [(part, part.training) for part in pl_module.network.modules()]
        try:
            sheet = self._draw(pl_module.network, step)
        finally:
            for part, was_in_training in in_training:
                part.training = was_in_training
        sheet.save(self._folder / f"step_{step:08d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(TAG, sheet.as_picture().numpy(), step, dataformats="HWC")
