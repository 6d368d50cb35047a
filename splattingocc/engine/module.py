"""The training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.options import OptimizationConfig, RenderConfig
from splattingocc.engine.schedule import learning_rate_factor, training_steps
from splattingocc.kernels.gaussian_scene import BadGaussians
from splattingocc.losses.inputs import ImageInputs, LossInputs
from splattingocc.losses.objective import Losses, Objective
from splattingocc.models.network import OccupancyNetwork
from splattingocc.splatting.asked import Asked

LEARNING_WEIGHTS = "current_model_state"
"""Under which Lightning keeps, in a checkpoint whose weights are averaged, those that they are the average of."""


class NonFiniteLoss(ValueError):
    """A step has a loss or gradients that are not finite; nothing was learned from it. `reason` says why there was no loss at all."""

    def __init__(self, step: int, tokens: Sequence[str], losses: dict[str, float], reason: str = ""):
        values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        what = f"the loss or its gradient is not finite at step {step}, samples {', '.join(tokens)}: {values}"
        super().__init__(f"{what} ({reason})" if reason else what)
        self.step, self.tokens, self.losses = step, tokens, losses


@dataclass(frozen=True)
class _Batch:
    """What is remembered of a batch of the step in hand."""

    tokens: Sequence[str]
    share: float
    """Of the step's samples."""
    losses: dict[str, Tensor]
    reason: str = ""
    """Why it has no losses, where what the network predicts cannot be rendered."""


def _mean(batches: Sequence[_Batch]) -> dict[str, Tensor]:
    """Return each loss over the samples of some batches of a step."""
    whole = sum(batch.share for batch in batches)
    return {name: torch.stack([batch.losses[name] * (batch.share / whole) for batch in batches]).sum() for name in batches[0].losses}


class OccupancyModule(LightningModule):
    """Train the network by rendering what it predicts along labelled rays."""

    logged: dict[str, float]
    """What the step in hand has logged, once its gradients are there."""
    predict_all_cells: bool = True
    """Whether a step predicts cells that nothing asks for, too: the specification of the step that does not."""

    def __init__(
        self, network: OccupancyNetwork, objective: Objective, render_config: RenderConfig, optimization: OptimizationConfig
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.render_config = render_config
        self.optimization = optimization

    def training_step(self, batches: Sequence[TrainingSample], batch_index: int) -> Tensor:
        """Return the loss of the last batch of an optimizer step; those before it have added their gradients by then.

        Each counts by its share of the samples, so that a step has the gradients of one batch of them all.
        """
        if len(batches) > 1:
            self.zero_grad()
        self._in_hand = []
        num_samples = sum(len(batch.token) for batch in batches)
        for batch in batches[:-1]:
            # Several processes share gradients in the backward pass that Lightning takes, that of the last batch
            self._share_of_loss(batch, num_samples).backward()
        total = self._share_of_loss(batches[-1], num_samples)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            total = total + self._of_every_parameter()
        return total

    def _share_of_loss(self, batch: TrainingSample, num_samples: int) -> Tensor:
        """Return what a batch gives to the loss of a step of so many samples, and remember the batch."""
        share, reason = len(batch.token) / num_samples, ""
        try:
            losses = self.losses_of(batch, step=self.global_step)
        except BadGaussians as error:
            # Not raised here: other processes wait for this one's gradients, and all end when they see that those are not finite
            nothing, reason = self._of_every_parameter() * math.nan, str(error)
            losses = Losses(dict.fromkeys(self.objective.config.in_use, nothing))
        self._in_hand.append(_Batch(batch.token, share, {name: value.detach() for name, value in losses.parts.items()}, reason))
        return losses.total * share

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear gradients, which Lightning asks for after `training_step`: not those of the batches before the last."""
        if len(self._in_hand) == 1:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def losses_of(self, sample: TrainingSample, *, step: int) -> Losses:
        """Return the losses that a training step is taken on."""
        return self._image_losses(sample) if step < self.optimization.image_steps else self._losses(sample)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip, and end with `NonFiniteLoss` before a step would spoil the weights: in all processes at once, which share gradients."""
        if self.global_step < self.optimization.image_steps:
            self._forget_volume()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        losses = _mean(self._in_hand)
        of_step = {"loss": Losses(losses).total} | {f"loss/{name}": value for name, value in losses.items()} | {"gradient_norm": norm}
        # Read at once: the host waits for a GPU here, and for no other number of the step
        self.logged = dict(zip(of_step, torch.stack(list(of_step.values())).tolist()))
        if not math.isfinite(self.logged["gradient_norm"]):
            raise self._non_finite()
        # The first group is of the image branch, the last of the volume, which may learn later
        rates = {"learning_rate/images": optimizer.param_groups[0]["lr"], "learning_rate/volume": optimizer.param_groups[-1]["lr"]}
        self.logged |= rates
        # As tensors of the host: Lightning would put numbers on the GPU, and loggers would wait for them
        num_samples = sum(len(batch.tokens) for batch in self._in_hand)
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in self.logged.items()}, batch_size=num_samples)

    def _forget_volume(self) -> None:
        """Leave the volume's parameters without gradients, as one process does while the image branch learns alone.

        Processes that share gradients have zeros there, and the optimizer would count them into what it knows of the gradients' size.
        """
        of_images = {id(parameter) for parameter in self.network.image_branch.parameters()}
        for parameter in self.network.parameters():
            if id(parameter) not in of_images:
                parameter.grad = None

    def _non_finite(self) -> NonFiniteLoss:
        """Name the batches of the step in hand whose losses are not finite; all of them, where only gradients are not."""
        failed = [batch for batch in self._in_hand if not all(value.isfinite() for value in batch.losses.values())] or self._in_hand
        tokens = [token for batch in failed for token in batch.tokens]
        reasons = "; ".join({batch.reason: None for batch in failed if batch.reason})
        return NonFiniteLoss(self.global_step, tokens, {name: value.item() for name, value in _mean(failed).items()}, reasons)

    def validation_step(self, sample: TrainingSample, batch_index: int) -> None:
        """Log the losses on a key frame that is kept back from training, as `val/loss` and `val/loss/<name>`."""
        losses = self._losses(sample)
        values = {"val/loss": losses.total} | {f"val/loss/{name}": value for name, value in losses.parts.items()}
        self.log_dict(values, batch_size=len(sample.token))

    def _of_every_parameter(self) -> Tensor:
        """Return a zero that depends on every parameter: processes that share gradients expect one for each of them.

        The first steps may train the images alone, and an encoder may have results that nothing reads.
        """
        return torch.stack([parameter.sum() for parameter in self.network.parameters()]).sum() * 0

    def _image_losses(self, sample: TrainingSample) -> Losses:
        reading = self.network.read_images(sample.views)
        return self.objective.on_images(
            ImageInputs(reading=reading, rays=sample.rays, labels=sample.labels, cameras=sample.views.cameras[:, 0])
        )

    def _losses(self, sample: TrainingSample) -> Losses:
        return self.objective(self.render_labels(sample))

    def render_labels(self, sample: TrainingSample) -> LossInputs:
        """Return what the network makes of a batch, rendered along its labelled rays."""
        config = self.render_config
        asked = None
        if not self.predict_all_cells and self.objective.only_asks:
            asked = Asked(sample.rays, config.near, config.far, self.objective.points(sample.rays, sample.labels))
        output = self.network(sample.views, asked)
        rendering = output.field.render(
            sample.rays, near=config.near, far=config.far, label_distances=sample.labels.distances, margin=config.margin
        )
        return LossInputs(
            reading=output.reading,
            field=output.field,
            rendering=rendering,
            near=max(0.0, config.near - config.margin),
            far=config.far + config.margin,
            rays=sample.rays,
            labels=sample.labels,
            cameras=sample.views.cameras[:, 0],
        )

    def configure_optimizers(self) -> dict:
        config = self.optimization
        steps = training_steps(self.trainer)
        epochs_in_steps = [epoch * steps.num_even / max(1, self.trainer.max_epochs or 1) for epoch in config.step_epochs]
        drops = epochs_in_steps if config.schedule == "step" else None
        image_branch = {id(parameter) for parameter in self.network.image_branch.parameters()}
        groups, schedules = [], []
        for of_images in (True, False):
            own = [parameter for parameter in self.network.parameters() if (id(parameter) in image_branch) == of_images]
            first_step = 0 if of_images else config.image_steps
            for is_matrix in (True, False):
                parameters = [parameter for parameter in own if (parameter.ndim > 1) == is_matrix]
                groups.append({"params": parameters, "weight_decay": config.weight_decay if is_matrix else 0.0})
                schedules.append(
                    partial(
                        learning_rate_factor,
                        first_step=first_step,
                        warmup_steps=config.warmup_steps,
                        steps=steps,
                        drops=drops,
                        drop_factor=config.step_factor,
                    )
                )
        self._weight_decays = [group["weight_decay"] for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the weights that learned, where those of the checkpoint are averaged and this training averages none."""
        if not self.optimization.ema_decay and LEARNING_WEIGHTS in checkpoint:
            checkpoint["state_dict"] = checkpoint[LEARNING_WEIGHTS]

    def on_train_start(self) -> None:
        """Learn at the rate and with the decay of the configuration; a checkpoint that is gone on from brings those it was made with."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        schedule.base_lrs = [self.optimization.learning_rate for _ in self._weight_decays]
        schedule._last_lr = [rate * factor(schedule.last_epoch) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas)]
        for group, decay, base, rate in zip(schedule.optimizer.param_groups, self._weight_decays, schedule.base_lrs, schedule._last_lr):
            group |= {"initial_lr": base, "lr": rate, "weight_decay": decay}
