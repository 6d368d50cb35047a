"""Where the metrics of each step go."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from splattingocc.files import write_atomically

Tracker: TypeAlias = Literal["tensorboard", "wandb"]
EXTRAS: dict[Tracker, str] = {"tensorboard": "tracking", "wandb": "wandb"}
"""Which extra of this package brings a tracker."""
FLUSH_STEPS = 20
"""Steps after which metrics are written to disk."""


def build_tracker(name: Tracker, work_dir: Path, config: dict[str, Any]) -> Logger:
    """Return a logger of Lightning's; `ValueError` says what to install where its package is missing."""
    if find_spec(name) is None:
        raise ValueError(f"--trainer.loggers {name}: not installed; pip install -c requirements/constraints.txt -e '.[{EXTRAS[name]}]'")
    if name == "tensorboard":
        return TensorBoardLogger(work_dir, name="", version="tensorboard", default_hp_metric=False)
    return WandbLogger(project="splattingocc", name=work_dir.resolve().name, save_dir=work_dir, config=config)


class MetricsTable(CSVLogger):
    """Write `logs/metrics.csv`, a row per step. A resumed run goes on in it, where Lightning's own logger would delete it first."""

    def __init__(self, work_dir: Path) -> None:
        super().__init__(work_dir, name="", version="logs", flush_logs_every_n_steps=FLUSH_STEPS)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Called by the constructor, where Lightning's own deletes the file: go on from what is there instead."""
        self._path = Path(self.metrics_file_path)
        self._has_begun = False

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if not self._has_begun:
            self._has_begun = True
            if self._path.is_file():
                self._set_aside() if step == 0 else self._go_on()
        super().log_metrics(metrics_dict, step)

    def _set_aside(self) -> None:
        """Keep the rows of another training, because this one begins at step 0."""
        number = 1 + sum(1 for _ in self._path.parent.glob("metrics_before_*.csv"))
        self._path.rename(self._path.with_name(f"metrics_before_{number}.csv"))

    def _go_on(self) -> None:
        content = self._path.read_bytes()
        if not content.endswith(b"\n"):  # of a process that was killed as it wrote
            self._path.write_bytes(content[: content.rfind(b"\n") + 1])
        with self._path.open(newline="") as file:
            self.metrics_keys = next(csv.reader(file), [])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self._path, write)
