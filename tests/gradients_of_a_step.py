"""Take one training step and save its gradients, as shared between processes. BatchNorm counts nothing.

What srun starts with it scores a network, too. Arguments: file for the gradients, data root, folder of labels, and words of a command.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from lightning import Callback, LightningModule, Trainer, seed_everything
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from splattingocc.cli import main
from splattingocc.engine.distributed import started_by
from splattingocc.experiment import build_index, load_config
from splattingocc.pipeline.trainer import build_module, build_trainer, build_training_batches
from splattingocc.pipeline.training import quiet_lightning

CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"


class SaveGradients(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for part in pl_module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.is_global_zero:
            gradients = {name: value.grad.clone() for name, value in pl_module.named_parameters() if value.grad is not None}
            save_file(gradients, self.path)


def save_gradients(
    out: Path, dataroot: Path, labels: Path, *, batch_size: int, accumulate_batches: int = 1, devices: int = 1, num_nodes: int = 1
) -> None:
    config = load_config(CONFIG)
    loader = config.data.loader.model_copy(update={"image_size": (32, 64), "num_rays": 500})
    data = {"dataroot": dataroot, "labels": labels, "batch_size": batch_size, "num_workers": 0, "loader": loader}
    optimization = config.optimization.model_copy(update={"image_steps": 0})
    trainer_config = config.trainer.model_copy(
        update={"max_epochs": 1, "devices": devices, "num_nodes": num_nodes, "accumulate_batches": accumulate_batches}
    )
    lift = config.network.lift.model_copy(update={"coarsening": 4})
    network = config.network.model_copy(update={"lift": lift})
    parts = {"data": config.data.model_copy(update=data), "network": network, "optimization": optimization, "trainer": trainer_config}
    config = config.model_copy(update=parts)
    quiet_lightning()
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as work_dir:
        index = build_index(config.data, Path(work_dir))
        trainer = build_trainer(config, Path(work_dir), show_progress=False)
        trainer.callbacks.append(SaveGradients(out))  # type: ignore[attr-defined]
        trainer.fit(build_module(config), datamodule=build_training_batches(config, index))
        trainer.strategy.barrier()


if __name__ == "__main__":
    main(sys.argv[4:])
    # Not where they met before: one of them may come there before the other has left
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    started = started_by("slurm")
    assert started is not None
    out, dataroot, labels = map(Path, sys.argv[1:4])
    save_gradients(out, dataroot, labels, batch_size=1, accumulate_batches=2, devices=started[0], num_nodes=started[1])
