"""How often the host waits for a GPU in a training step, and where."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from test_module import GRID, one_camera_sample, small_module
from torch import Tensor
from torch.utils.data import DataLoader
from waits import Waits

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.averaging import AveragedWeights
from splattingocc.engine.batches import TrainingBatches
from splattingocc.engine.loggers import MetricsTable, RememberRow
from splattingocc.engine.meter import StepMeter
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import OptimizationConfig, RenderConfig
from splattingocc.geometry.cameras import Views
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.image_reader import ImageReaderConfig
from splattingocc.models.lift.lss import LSSLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.temporal import TemporalConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

HOST = "asked of tensors of the host"


class Served(LightningDataModule):
    """Batches that go to the GPU as those of a training do."""

    def __init__(self, batches: list[list[TrainingSample]]) -> None:
        super().__init__()
        self._batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._batches, batch_size=None, collate_fn=lambda parts: parts)  # type: ignore[arg-type]

    transfer_batch_to_device = TrainingBatches.transfer_batch_to_device


class OneStep(Callback):
    """Count what a step waits for, from its beginning until the next one's."""

    def __init__(self, waits: Waits, number: int) -> None:
        self._waits, self._number = waits, number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waits.is_counting = batch_idx == self._number


WAITS: dict[tuple[str, str], tuple[int, str]] = {
    ("models/network.py:_encode", "local_scalar_dense"): (
        1,
        "images of no camera must not count in batch statistics",
    ),
    ("models/projection.py:place_all", "nonzero"): (1, "cells that a camera does not see are not sampled: most of them, for each camera"),
    ("models/projection.py:place_all", "tolist"): (1, "which of them are whose, right after"),
    ("models/gaussian_head.py:choose", "nonzero"): (2, "a step predicts the cells alone that rays can meet"),
    ("models/cell_head.py:_layers_of", "unique_consecutive"): (3, "the volume's cells that hold them"),
    ("kernels/gaussian_scene.py:_cells_of_valid", "tolist"): (
        2,
        "bad Gaussians are refused by name, the largest radius bounds the walk",
    ),
    ("kernels/gaussian_scene.py:index_gaussians", "nonzero"): (2, "only what can be seen is indexed"),
    ("kernels/gaussian_scene.py:index_gaussians", "local_scalar_dense"): (2, "asked on a CPU alone: is it sorted?"),
    ("splatting/walk.py:through", "nonzero"): (2, "which Gaussians the rays meet"),
    ("models/gaussian_head.py:choose", "local_scalar_dense"): (1, "the cells of the sample that has most"),
    ("models/gaussian_head.py:_first_of", "nonzero"): (3, "and which they are: twice where there are fewer than that"),
    ("models/gaussian_head.py:choose", "equal"): (1, "our own invariant; a wrong cell would train silently"),
    ("splatting/render.py:_check_values", "local_scalar_dense"): (1, "what cannot be rendered is refused by name"),
    ("losses/query.py:_known", "nonzero"): (4, "labels with a distance, for what is asked and for the loss"),
    ("splatting/query.py:query", "equal"): (2, "points that nobody asked for would have no answer"),
    ("losses/pixels.py:label_pixels", "nonzero"): (2, "rays of each camera, and those in its image"),
    ("losses/pixels.py:label_pixels", "tolist"): (2, "how many each has, right after"),
    ("engine/module.py:configure_gradient_clipping", "tolist"): (1, "a step that is not finite must not be taken; all numbers of the step"),
    ("lightning weight_averaging.py:on_train_batch_end", "local_scalar_dense"): (2, "torch's average asks whether it is the first, twice"),
    ("splatting/render.py:_index_of", "item"): (4, HOST),
    ("engine/meter.py:<dictcomp>", "local_scalar_dense"): (8, HOST),
    ("engine/meter.py:on_train_batch_end", "local_scalar_dense"): (1, HOST),
    ("lightning apply_func.py:to_item", "local_scalar_dense"): (13, HOST),
}
"""How often a step of two samples waits, and why it must. Nothing here depends on the number of cameras."""
ONLY_WITH_VOLUME = ("models/projection", "models/gaussian_head", "models/cell_head", "kernels", "splatting", "losses/query")


AS_RECIPES = NetworkConfig(
    image_reader=ImageReaderConfig(camera_aware=True, stereo=CostVolumeConfig()),
    lift=LSSLiftConfig(channels=8),
    volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)),
    temporal=TemporalConfig(frames=1),
)
"""The parts of the recipes for large data sets."""


def module_as_recipes() -> OccupancyModule:
    objective = Objective(ObjectiveConfig(), AS_RECIPES.image_reader.depth_bins)
    return OccupancyModule(OccupancyNetwork(AS_RECIPES, GRID), objective, RenderConfig(), OptimizationConfig())


def two_frame_sample() -> TrainingSample:
    """A camera and where it was half a metre before."""
    sample = one_camera_sample()[0]
    before = torch.eye(4)
    before[0, 3] = -0.5
    cameras = stack([sample.views.cameras[0], sample.views.cameras[0].transform_ego(before)])
    return dataclasses.replace(sample, views=Views(sample.views.images.repeat(2, 1, 1, 1, 1), cameras))


def waits_of_a_step(folder: Path, module: OccupancyModule, samples: Sequence[TrainingSample]) -> Counter[tuple[str, str]]:
    """Return what the second of three steps waits for."""
    waits = Waits()
    waits.is_counting = False
    batches = [[stack([dataclasses.replace(sample, token=str(number)) for number, sample in enumerate(samples)])] for _ in range(3)]
    callbacks = [AveragedWeights(0.999), StepMeter(), RememberRow(folder), OneStep(waits, 1)]
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=MetricsTable(folder),
        log_every_n_steps=1,
        gradient_clip_val=5.0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=callbacks,
    )
    with waits:
        trainer.fit(module, datamodule=Served(batches))
    return waits.found


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:.*treespec", "ignore:The .*does not have many workers")
@pytest.mark.parametrize("image_steps", [0, 3], ids=["whole network", "image branch"])
def test_a_step_waits_for_a_gpu_where_it_must_and_nowhere_else(tmp_path: Path, image_steps: int):
    torch.manual_seed(0)
    module = small_module()
    module.predict_all_cells = False
    module.optimization = module.optimization.model_copy(update={"image_steps": image_steps})
    expected = {key: times for key, (times, _) in WAITS.items()}
    if image_steps:
        expected = {key: times for key, times in expected.items() if not key[0].startswith(ONLY_WITH_VOLUME)}
        # Fewer losses
        expected["engine/meter.py:<dictcomp>", "local_scalar_dense"] = 2
        expected["lightning apply_func.py:to_item", "local_scalar_dense"] = 7
    assert dict(waits_of_a_step(tmp_path, module, [one_camera_sample()[0], one_camera_sample()[0]])) == expected


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:.*treespec", "ignore:The .*does not have many workers")
def test_earlier_frames_stereo_and_the_lift_by_splatting_add_nothing_to_wait_for(tmp_path: Path):
    torch.manual_seed(0)
    module = module_as_recipes()
    module.predict_all_cells = False
    expected = {key: times for key, (times, _) in WAITS.items() if not key[0].startswith("models/projection")}
    expected["models/network.py:_encode", "local_scalar_dense"] = 3
    assert dict(waits_of_a_step(tmp_path, module, [two_frame_sample(), two_frame_sample()])) == expected


@pytest.mark.parametrize(
    ("waiting", "what"),
    [
        (lambda values: values[0].item(), "local_scalar_dense"),
        (lambda values: bool(values.isfinite().all()), "local_scalar_dense"),
        (lambda values: values.tolist(), "tolist"),
        (lambda values: values.cpu(), "cpu"),
        (lambda values: values[values > 1], "index by a mask"),
        (lambda values: values.index_put((values > 1,), values[:2]), "index_put by a mask"),
        (lambda values: values.long().bincount(), "bincount"),
        (lambda values: values.unique(), "unique2"),
        (lambda values: torch.equal(values, values + 0), "equal"),
        (lambda values: values.repeat_interleave(values.long()), "repeat_interleave"),
        (lambda values: values.new_tensor([1.0]), "upload of numbers"),
        (lambda values: torch.tensor([1.0], device=values.device), "upload of numbers"),
        (lambda values: values[[0, 2]], "upload of indices"),
        (lambda values: torch.linalg.inv(values.diag()), "linalg_check_errors"),
    ],
)
def test_what_makes_the_host_wait_is_seen(waiting: Callable[[Tensor], Any], what: str):
    values = torch.tensor([1.0, 2.0, 3.0])
    with Waits() as waits:
        waiting(values)
    assert what in {kind for _, kind in waits.found}


def test_what_does_not_make_the_host_wait_is_not_seen():
    values = torch.tensor([1.0, 2.0, 3.0])
    with Waits() as waits:
        torch.where(values > 1, values, 0.0).index_select(0, torch.arange(2)).sum()
        values.masked_fill(values > 1, 0.0)
        torch.equal(values, values[:])
        torch.stack([values[0], values[:2].sum(), values[None].sum()])
        values[values > 1] = 0.0
    assert not waits.found
