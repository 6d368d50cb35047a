"""When a training writes checkpoints, what they hold, and which of them stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from splattingocc.config import Config
from splattingocc.engine.checkpoint import CHECKPOINT_PATTERN, CONFIG_KEY, EXPERIMENT_KEY, KEPT_BACK_KEY, checkpoints_by_step
from splattingocc.engine.latest_link import link_latest
from splattingocc.files import BadFile, write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there when it is whole: Lightning's own writing leaves half a file when killed.

    Whatever wrote it, `latest.pth` then leads to it; the one before it is removed later, so that the link never leads nowhere.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        write_atomically(path, lambda temporary: _save(checkpoint, temporary))
        if CHECKPOINT_PATTERN.fullmatch(path.name):
            link_latest(path.parent.parent, path)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    # Through a file of Python's own: what the system refuses is an OSError then
    with path.open("wb") as file:
        torch.save(checkpoint, file)


class _Writer(ModelCheckpoint):
    """Lightning's, whose state is called in a checkpoint as when its own class kept it."""

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)


class AtEpochs(_Writer):
    """Write a checkpoint every so many epochs and after the last one, by which a finished training is known."""

    def __init__(self, *, checkpoint_epochs: int, **options: Any) -> None:
        super().__init__(**options, every_n_epochs=1, save_on_train_epoch_end=True)
        self._checkpoint_epochs = checkpoint_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _ends_epoch_to_keep(trainer, self._checkpoint_epochs):
            super().on_train_epoch_end(trainer, pl_module)


def _ends_epoch_to_keep(trainer: Trainer, checkpoint_epochs: int) -> bool:
    done = trainer.current_epoch + 1
    return done % checkpoint_epochs == 0 or done == trainer.max_epochs


class WithinEpochs(ModelCheckpoint):
    """Write checkpoints every so many steps, but for those that the ends of epochs have anyway: two writers would remove each other's."""

    def __init__(self, *arguments: Any, checkpoint_epochs: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._checkpoint_epochs = checkpoint_epochs

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not (trainer.is_last_batch and _ends_epoch_to_keep(trainer, self._checkpoint_epochs)):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class BestCheckpoint(_Writer):
    """Keep the checkpoint that did best, also of a run whose folder was copied or renamed since: Lightning forgets how good it was.

    It is written as soon as the kept-back scenes are measured: the checkpoint at the epoch's end is to know how good the best one was.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, save_on_train_epoch_end=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Some losses have no value before the volume learns
        if str(self.monitor) in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here, best = Path(str(self.dirpath)), Path(state_dict["best_model_path"])
        if state_dict["best_model_path"] and not (here / best.name).is_file():
            return  # it went aside with what came later, or is in another folder: of what comes now the best is kept
        if state_dict["best_model_path"] and best.parent != here:
            moved = str(here / best.name)
            of_best = {"best_model_path": moved, "kth_best_model_path": moved, "last_model_path": ""}
            state_dict = {**state_dict, **of_best, "dirpath": self.dirpath, "best_k_models": {moved: state_dict["best_model_score"]}}
        super().load_state_dict(state_dict)


class RememberExperiment(Callback):
    """Keep in every checkpoint the configurations of its network and of the experiment, as plain values, and the scenes kept back."""

    def __init__(self, network: Config, experiment: Config) -> None:
        self._contents = {CONFIG_KEY: network.model_dump(mode="json"), EXPERIMENT_KEY: experiment.model_dump(mode="json")}
        self.kept_back: tuple[str, ...] = ()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update({key: json.dumps(content) for key, content in {**self._contents, KEPT_BACK_KEY: self.kept_back}.items()})


class GoOnCleanly(Callback):
    """See to it that a training goes on from the whole of a checkpoint, and that checkpoints which nothing keeps do not stay for ever.

    Lightning never removes the one that a training went on from, nor what a training was killed before it removed, nor what a signal left.
    """

    def __init__(self, work_dir: Path, keep: int) -> None:
        self._folder = work_dir / "checkpoints"
        self._keep = keep

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            return
        for optimizer in trainer.optimizers:
            if trainer.global_step and not optimizer.state:
                raise BadFile(Path(trainer.ckpt_path), "cannot be gone on from: it holds no state of the optimizer")
            if not all(_is_state_of(parameter, state) for parameter, state in optimizer.state.items()):
                raise BadFile(Path(trainer.ckpt_path), "its optimizer state is not of this network")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove_forgotten(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove_forgotten(trainer)

    def _remove_forgotten(self, trainer: Trainer) -> None:
        """Remove checkpoints up to the step at hand that no writer keeps, but for the newest, which a training may have to go on from."""
        if not trainer.is_global_zero or trainer.ckpt_path is None:
            return
        known = {Path(path).name for writer in trainer.checkpoint_callbacks for path in getattr(writer, "best_k_models", {})}
        reached = [path for path, step in checkpoints_by_step(self._folder).items() if step <= trainer.global_step]
        for path in reached[self._keep :]:
            if path.name not in known:
                path.unlink(missing_ok=True)


def _is_state_of(parameter: Any, state: Any) -> bool:
    """Return whether an optimizer remembers something of a parameter, in its shape or in single numbers."""
    if not isinstance(parameter, Tensor) or not isinstance(state, dict):
        return False
    return all(isinstance(value, Tensor) and value.shape in (parameter.shape, ()) for value in state.values())
