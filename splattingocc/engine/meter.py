"""What is measured of a training while it runs: losses, speed, memory, time left."""

from __future__ import annotations

import math
import resource
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import torch
from lightning import Callback, LightningModule, Trainer

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.schedule import training_steps

WINDOW_STEPS = 50
"""Steps over which losses and speed are averaged."""


@dataclass(frozen=True)
class Step:
    """A step that is done."""

    seconds: float | None
    """Since the step before it ended; None for the first one of a process, which also compiles kernels and starts workers."""
    samples: int
    """Of all processes together."""
    loss: float
    parts: dict[str, float]


class MeterState(msgspec.Struct):
    """What a checkpoint keeps of the meter, so that an interrupted training ends with the same numbers as one that was not."""

    first_step: int
    step: int
    seconds: float
    """Since the training began, of all of its processes that went on from one another."""
    timed_samples: int
    timed_seconds: float
    losses: list[tuple[float, dict[str, float]]]
    """Loss and parts of the steps in the window."""


@dataclass(frozen=True)
class Reading:
    """What the meter shows after a step."""

    step: int
    total_steps: int
    loss: float
    parts: dict[str, float]
    """What the loss is the sum of."""
    samples_per_second: float | None
    """Of all processes together; None after the first step of its kind, which also compiles kernels and starts workers."""
    seconds_left: float | None
    """If the steps to come, up to `phase_end` where there is one, cost what the last ones did."""
    peak_memory_gib: float
    """Of the first process: what its tensors took on a GPU, or all that it took on a CPU."""
    phase_end: int | None = None
    """The last of the steps that cost less than those after them; None where all steps to come are of one kind."""

    def summary(self) -> str:
        """Say everything but the parts of the loss in about 65 columns, 85 before steps that cost more."""
        speed, left = "– samples/s", "–"
        if self.samples_per_second is not None and self.seconds_left is not None:
            speed = f"{self.samples_per_second:.{2 if self.samples_per_second < 10 else 1}f} samples/s"
            left = str(timedelta(seconds=round(self.seconds_left)))
        left += " left" if self.phase_end is None else f" to step {self.phase_end}, then slower"
        return f"step {self.step}/{self.total_steps} · loss {self.loss:.3f} · {speed} · {self.peak_memory_gib:.1f} GiB · {left}"

    def parts_in_short(self) -> str:
        """Say the parts of the loss by the first words of their names."""
        return "  ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in self.parts.items())


class StepMeter(Callback):
    """Average losses and speed over a moving window of steps. Steps that learn from other losses begin a new window.

    Its state is part of a checkpoint. Speed and time left are those of the process at hand, losses go on where they were.
    """

    def __init__(self) -> None:
        self._window: deque[Step] = deque(maxlen=WINDOW_STEPS + 1)
        self._timed_samples, self._timed_seconds = 0, 0.0
        self._seconds_before = 0.0
        self._began: float | None = None
        self._last_ended: float | None = None
        self._is_resumed = False
        self.first_step = self.step = self.total_steps = 0
        self.image_steps = 0
        """The first steps of the training, which train the image branch alone and cost less."""
        self.device = torch.device("cpu")

    @property
    def has_begun(self) -> bool:
        """Say whether the first step of this process is due or done."""
        return self._began is not None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not at the start of training, which a training that is done already does not reach
        self.device = pl_module.device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()
        if not self._is_resumed:
            self.first_step = trainer.global_step
        self.step = trainer.global_step
        self.total_steps = training_steps(trainer).count
        self.image_steps = pl_module.optimization.image_steps if isinstance(pl_module, OccupancyModule) else 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Sequence[TrainingSample], batch_idx: int
    ) -> None:
        metrics, now = trainer.callback_metrics, time.monotonic()
        parts = {name.removeprefix("loss/"): value.item() for name, value in metrics.items() if name.startswith("loss/")}
        seconds = None if self._last_ended is None else now - self._last_ended
        self._last_ended = now
        num_samples = sum(len(part.token) for part in batch) * trainer.world_size
        self.add(Step(seconds, num_samples, metrics["loss"].item(), parts), trainer.global_step)
        if seconds:
            # As a tensor of the host: Lightning would put a number on the GPU
            pl_module.log("samples_per_second", torch.tensor(num_samples / seconds), on_step=True, on_epoch=False)

    def add(self, step: Step, number: int) -> None:
        """Take in a step, the `number`th of the training."""
        if self._window and self._window[-1].parts.keys() != step.parts.keys():
            self._window.clear()
        self._window.append(step)
        self.step = number
        if step.seconds is not None:
            self._timed_samples += step.samples
            self._timed_seconds += step.seconds

    def read(self) -> Reading | None:
        """Return what there is to show; None before the first step."""
        if not self._window:
            return None
        # The first step of its kind compiles kernels, too
        shown = list(self._window)[1:] or list(self._window)
        timed = [step for step in list(self._window)[1:] if step.seconds is not None]
        seconds = math.fsum(step.seconds for step in timed if step.seconds is not None)
        phase_end = self.image_steps if self.step < self.image_steps < self.total_steps else None
        return Reading(
            step=self.step,
            total_steps=self.total_steps,
            loss=_mean([step.loss for step in shown]),
            parts={name: _mean([step.parts[name] for step in shown]) for name in shown[-1].parts},
            samples_per_second=sum(step.samples for step in timed) / seconds if seconds else None,
            seconds_left=((phase_end or self.total_steps) - self.step) * seconds / len(timed) if seconds else None,
            peak_memory_gib=peak_memory_bytes(self.device) / 2**30,
            phase_end=phase_end,
        )

    def results(self) -> dict[str, Any]:
        """Return what a finished training leaves of it, all of its parts together where it was interrupted.

        Speed is that of all steps but the first of each part, which compiles kernels; memory is that of the last part.
        """
        found: dict[str, Any] = {"first_step": self.first_step, "last_step": self.step, "seconds": round(self._seconds(), 1)}
        if (reading := self.read()) is None:
            return found
        return found | {
            "loss": round(reading.loss, 4),
            "losses": {name: round(value, 4) for name, value in reading.parts.items()},
            "samples_per_second": round(self._timed_samples / self._timed_seconds, 3) if self._timed_seconds else None,
            "peak_memory_gib": round(reading.peak_memory_gib, 2),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return msgspec.to_builtins(
            MeterState(
                first_step=self.first_step,
                step=self.step,
                seconds=self._seconds(),
                timed_samples=self._timed_samples,
                timed_seconds=self._timed_seconds,
                losses=[(step.loss, step.parts) for step in self._window],
            )
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned in another process; `ValueError` where it did not return this."""
        state = msgspec.convert(state_dict, MeterState)
        self.first_step, self.step, self._seconds_before = state.first_step, state.step, state.seconds
        self._timed_samples, self._timed_seconds = state.timed_samples, state.timed_seconds
        # How fast another process was says nothing of this one
        self._window.clear()
        self._window.extend(Step(None, 0, loss, parts) for loss, parts in state.losses)
        self._is_resumed = True

    def _seconds(self) -> float:
        return self._seconds_before + (0.0 if self._began is None else time.monotonic() - self._began)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that tensors took on a GPU, or on a CPU the most that the process took, all the system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
