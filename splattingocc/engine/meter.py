"""What is measured of a training while it runs: losses, speed, memory, time left."""

from __future__ import annotations

import resource
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from splattingocc.data.samples import TrainingSample

WINDOW_STEPS = 50
"""Steps over which losses and speed are averaged."""


@dataclass(frozen=True)
class Step:
    """A step that is done."""

    ended: float
    """Seconds of a monotonic clock."""
    samples: int
    """Of all processes together."""
    loss: float
    parts: dict[str, float]


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
    """If the steps to come cost what the last ones did."""
    peak_memory_gib: float
    """Of the first process: what its tensors took on a GPU, or all that it took on a CPU."""

    def summary(self) -> str:
        """Say everything but the parts of the loss in about 65 columns."""
        speed, left = "– samples/s", "–"
        if self.samples_per_second is not None and self.seconds_left is not None:
            speed = f"{self.samples_per_second:.{2 if self.samples_per_second < 10 else 1}f} samples/s"
            left = str(timedelta(seconds=round(self.seconds_left)))
        return f"step {self.step}/{self.total_steps} · loss {self.loss:.3f} · {speed} · {self.peak_memory_gib:.1f} GiB · {left} left"

    def parts_in_short(self) -> str:
        """Say the parts of the loss by the first words of their names."""
        return "  ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in self.parts.items())


class StepMeter(Callback):
    """Average losses and speed over a moving window of steps. Steps that learn from other losses begin a new window."""

    def __init__(self) -> None:
        self._window: deque[Step] = deque(maxlen=WINDOW_STEPS + 1)
        self._samples = 0
        self._first_ended: float | None = None
        self._began = time.monotonic()
        self._seconds_before = self._stepping_seconds_before = 0.0
        self.first_step = self.step = self.total_steps = 0
        self.device = torch.device("cpu")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()
        self.step = trainer.global_step
        self.total_steps = int(trainer.estimated_stepping_batches)
        self.device = pl_module.device

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainingSample, batch_idx: int) -> None:
        metrics = trainer.callback_metrics
        parts = {name.removeprefix("loss/"): value.item() for name, value in metrics.items() if name.startswith("loss/")}
        self.add(Step(time.monotonic(), len(batch.token) * trainer.world_size, metrics["loss"].item(), parts), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to end with the figures of a whole one: times as durations, losses as they are."""
        now = time.monotonic()
        window = [{"age": now - step.ended, "samples": step.samples, "loss": step.loss, "parts": step.parts} for step in self._window]
        times = {"seconds": self._seconds(now), "stepping_seconds": self._stepping_seconds()}
        return {"window": window, "samples": self._samples, "step": self.step, "total_steps": self.total_steps, **times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what another run measured."""
        now = time.monotonic()
        self._window.clear()
        self._window.extend(Step(now - step["age"], step["samples"], step["loss"], step["parts"]) for step in state_dict["window"])
        self._samples, self.step, self.total_steps = (state_dict[name] for name in ("samples", "step", "total_steps"))
        self._seconds_before, self._stepping_seconds_before = state_dict["seconds"], state_dict["stepping_seconds"]
        self._began, self._first_ended = now, None

    def _seconds(self, now: float) -> float:
        """Return the seconds of all runs that this training took."""
        return self._seconds_before + now - self._began

    def _stepping_seconds(self) -> float:
        """Return the seconds between the ends of steps, of all runs; the first step of each, which compiles kernels, is left out."""
        return self._stepping_seconds_before + (self._window[-1].ended - self._first_ended if self._first_ended is not None else 0.0)

    def add(self, step: Step, number: int) -> None:
        """Take in a step, the `number`th of the training."""
        if self._window and self._window[-1].parts.keys() != step.parts.keys():
            self._window.clear()
        self._window.append(step)
        self.step = number
        if self._first_ended is None:
            self._first_ended = step.ended
        else:
            self._samples += step.samples

    def read(self) -> Reading | None:
        """Return what there is to show; None before the first step."""
        if not self._window:
            return None
        timed = list(self._window)[1:]
        shown = timed or list(self._window)
        seconds = self._window[-1].ended - self._window[0].ended
        return Reading(
            step=self.step,
            total_steps=self.total_steps,
            loss=_mean([step.loss for step in shown]),
            parts={name: _mean([step.parts[name] for step in shown]) for name in shown[-1].parts},
            samples_per_second=sum(step.samples for step in timed) / seconds if seconds else None,
            seconds_left=(self.total_steps - self.step) * seconds / len(timed) if seconds else None,
            peak_memory_gib=peak_memory_bytes(self.device) / 2**30,
        )

    def results(self) -> dict[str, Any]:
        """Return what a finished training leaves of it. Speed is that of all steps but the first of each run, which compiles kernels."""
        seconds = round(self._seconds(time.monotonic()), 1)
        found: dict[str, Any] = {"first_step": self.first_step, "last_step": self.step, "seconds": seconds}
        if (reading := self.read()) is None:
            return found
        stepping = self._stepping_seconds()
        return found | {
            "loss": round(reading.loss, 4),
            "losses": {name: round(value, 4) for name, value in reading.parts.items()},
            "samples_per_second": round(self._samples / stepping, 3) if stepping else None,
            "peak_memory_gib": round(reading.peak_memory_gib, 2),
        }


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that tensors took on a GPU, or on a CPU the most that the process took, all the system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
