"""What a user chooses of rendering, of optimization and of where metrics go."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from splattingocc.config import Config, Distance, Epochs, Metres, Share, Steps

Tracker: TypeAlias = Literal["tensorboard", "wandb"]


class RenderConfig(Config):
    """How training rays are rendered."""

    near: Distance = 0.5
    """Metres from the ray's origin before which nothing is rendered."""
    far: Metres = 70.0
    """Metres from the ray's origin behind which nothing is rendered; Occ3D's grid ends before. On the way to a label behind it `empty` asks
    for nothing up to here, and `query` and the losses of the image branch learn from the label."""
    margin: Metres = 0.4
    """Half thickness of what counts as being at the labelled surface, metres."""

    @model_validator(mode="after")
    def _check(self) -> RenderConfig:
        if self.near >= self.far:
            raise ValueError(f"render.near is {self.near} m, expected less than render.far, {self.far} m")
        return self


def _check_order(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError(f"{epochs}, expected each epoch once and in order")
    return epochs


class OptimizationConfig(Config):
    """AdamW, warmed up linearly, then cooled down, each part over the steps in which it learns."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-4
    """Peak learning rate, for one process; it is not scaled by the number of processes."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 1e-2
    """Decay of matrices and convolution kernels; biases and normalisations have none."""
    image_steps: Steps = 0
    """First steps that train the image branch alone, by the losses that need no volume: they cost a fraction of the others.
    For encoders without published weights."""
    warmup_steps: Steps = 50
    """Optimizer steps until the peak."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the learning rate falls after that: along half a cosine to zero at the last step, or by `step_factor` at `step_epochs`."""
    step_epochs: Annotated[tuple[Epochs, ...], AfterValidator(_check_order)] = (8, 11)
    """Epochs after which it falls, for `step`."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What remains of it each time, for `step`."""
    gradient_clip: Annotated[float, Field(ge=0, le=1e9)] = 5.0
    """Largest gradient norm; 0 clips nothing."""
    ema_decay: Share = 0.0
    """Share of the averaged weights that a step leaves as they are, e.g. 0.999; the averaged weights are what is saved, calibrated and
    scored. 0 averages nothing."""
