"""Run by torchrun: take one training step and save its gradients, as shared between the processes. BatchNorm counts nothing.

Arguments: data root, folder of labels, samples per batch and process, batches per step, file for the gradients.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lightning import Callback, LightningModule, Trainer, seed_everything
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

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


def main(dataroot: Path, labels: Path, batch_size: int, accumulate_batches: int, out: Path) -> None:
    config = load_config(CONFIG)
    loader = config.data.loader.model_copy(update={"image_size": (32, 64), "num_rays": 500})
    data = {"dataroot": dataroot, "labels": labels, "batch_size": batch_size, "num_workers": 0, "loader": loader}
    started = started_by("pytorch")
    assert started is not None
    optimization = config.optimization.model_copy(update={"image_steps": 0})
    trainer_config = config.trainer.model_copy(
        update={"max_epochs": 1, "devices": started[0], "num_nodes": started[1], "accumulate_batches": accumulate_batches}
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


main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
