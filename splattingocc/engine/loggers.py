"""Where the metrics of each step go."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import Tracker
from splattingocc.files import read_bytes, write_atomically
from splattingocc.files.step_tables import read_step_table

EXTRAS: dict[Tracker, str] = {"tensorboard": "tracking", "wandb": "wandb"}
"""Which extra of this package brings a tracker."""
TENSORBOARD_FOLDER = "tensorboard"
FLUSH_STEPS = 20
"""Steps after which metrics are written to disk."""
OF_THE_MOMENT = ("samples_per_second",)
"""Metrics that depend on the machine: they have a table of their own, so that the other is the same whenever a training is repeated."""


def build_tracker(name: Tracker, work_dir: Path, config: dict[str, Any]) -> Logger:
    """Return a logger of Lightning's; `ValueError` says what to install where its package is missing."""
    if find_spec(name) is None:
        raise ValueError(f"--trainer.loggers {name}: not installed; pip install -c requirements/constraints.txt -e '.[{EXTRAS[name]}]'")
    if name == "tensorboard":
        return TensorBoardLogger(work_dir, name="", version=TENSORBOARD_FOLDER, default_hp_metric=False)
    return WandbLogger(project="splattingocc", name=work_dir.resolve().name, save_dir=work_dir, config=config)


class MetricsTable(CSVLogger):
    """Write `logs/metrics.csv`, a row per step, and OF_THE_MOMENT into `logs/speed.csv`.

    A resumed run goes on in both, where Lightning's own logger would delete them first.
    """

    def __init__(self, work_dir: Path) -> None:
        super().__init__(work_dir, name="", version="logs", flush_logs_every_n_steps=FLUSH_STEPS)
        self._speed: _SpeedWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Tensor | float], step: int | None = None) -> None:
        if self._speed is None:
            self._speed = _SpeedWriter(self.log_dir)
        self._speed.begin(step)  # also where it has nothing to write yet: another training's is out of the way then
        if of_the_moment := {name: float(value) for name, value in metrics.items() if name in OF_THE_MOMENT}:
            self._speed.log_metrics(of_the_moment, step)
        super().log_metrics({name: value for name, value in metrics.items() if name not in OF_THE_MOMENT}, step)

    @rank_zero_only
    def save(self) -> None:
        super().save()
        if self._speed is not None:
            self._speed.save()

    def complete(self, row: dict[str, int | float]) -> None:
        """Add the row of a training step, where the table has none of that step."""
        writer = self.experiment
        assert isinstance(writer, _AppendingWriter)
        writer.complete(row)


class RememberRow(Callback):
    """Keep in every checkpoint the row of its step, and see to it that the table has it when a training goes on from there.

    Lightning writes the row after the checkpoints of the step: a process that is killed in between leaves a table without it.
    """

    def __init__(self, work_dir: Path) -> None:
        self._folder = work_dir / "checkpoints"
        self._row: dict[str, int | float] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(pl_module, OccupancyModule):
            self._row = {**pl_module.logged, "epoch": trainer.current_epoch, "step": trainer.global_step - 1}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Another folder's training has another table
        if not self._row or trainer.ckpt_path is None or Path(trainer.ckpt_path).resolve().parent != self._folder.resolve():
            return
        for table in trainer.loggers:
            if isinstance(table, MetricsTable) and trainer.is_global_zero:
                table.complete(self._row)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._row)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._row = msgspec.convert(state_dict, dict[str, int | float])


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Called by the constructor, where Lightning's own deletes the file: go on from what is there instead."""
        self._path = Path(self.metrics_file_path)
        self._has_begun = False

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        self.begin(step)
        super().log_metrics(metrics_dict, step)

    def begin(self, step: int | None) -> None:
        """Decide what becomes of a table that is there, before the first row, which is that of a step."""
        if not self._has_begun:
            self._has_begun = True
            if self._path.exists():
                self._set_aside() if step == 0 else self._go_on()

    def complete(self, row: dict[str, int | float]) -> None:
        step = int(row["step"])
        if self._path.exists():
            self._has_begun = True
            self._go_on()
            # A step may have other rows: validation and the ends of epochs have their own
            steps = {int(each["step"]) for each in read_step_table(read_bytes(self._path)).rows if each.get("loss")}
            if step in steps:
                return
        self._has_begun = True
        super().log_metrics({name: value for name, value in row.items() if name != "step"}, step)
        self.save()

    def _set_aside(self) -> None:
        """Keep the rows of another training, because this one begins at step 0."""
        self._path.rename(free_name(self._path, "before"))

    def _go_on(self) -> None:
        """Go on in the table that is there: in what can be read of it, where something damaged it."""
        content = read_bytes(self._path)
        table = read_step_table(content)
        if table.unread:
            damaged = free_name(self._path, "damaged")
            write_atomically(damaged, lambda path: path.write_bytes(content))
            logging.getLogger(__name__).warning(
                "%s: %d of its lines cannot be read, the first is line %d; going on without them, the file as it was is %s",
                self._path,
                len(table.unread),
                table.unread[0],
                damaged.name,
            )
        self.metrics_keys = sorted(table.columns)  # the order in which rows are added
        if table.unread or table.is_torn or table.columns != self.metrics_keys:
            self._write(table.rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(read_step_table(read_bytes(self._path)).rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        _write_table(self._path, self.metrics_keys, rows) if self.metrics_keys else self._path.unlink()


class _SpeedWriter(_AppendingWriter):
    NAME_METRICS_FILE = "speed.csv"


def set_rows_aside(path: Path, *, from_step: int) -> None:
    """Keep a table of steps as it is under another name, and leave in it what was before a step; one with nothing else is left alone."""
    if not path.exists():
        return
    content = read_bytes(path)
    table = read_step_table(content)
    earlier = [row for row in table.rows if int(row["step"]) < from_step]
    if earlier and len(earlier) == len(table.rows):
        return
    kept = free_name(path, "before")
    if earlier:
        write_atomically(kept, lambda temporary: temporary.write_bytes(content))
        _write_table(path, table.columns, earlier)
    else:
        path.rename(kept)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def free_name(path: Path, why: str) -> Path:
    """Return a name beside a file or folder for one that is kept, e.g. `metrics_before_1.csv`."""
    number = 1
    while (free := path.with_name(f"{path.stem}_{why}_{number}{path.suffix}")).exists():
        number += 1
    return free
