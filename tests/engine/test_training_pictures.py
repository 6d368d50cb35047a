from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from PIL import Image

from splattingocc.engine.loggers import build_tracker
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import OptimizationConfig, RenderConfig
from splattingocc.engine.training_pictures import TAG, DrawPictures
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.visualization.sheet import Sheet


def module(image_steps: int = 0) -> OccupancyModule:
    config = NetworkConfig(lift=SamplingLiftConfig(channels=8, coarsening=4), volume_encoder=UNet3dConfig(channels=(8,), blocks=(1,)))
    network = OccupancyNetwork(config, OCC3D_GRID)
    network.backbone.eval()  # as the frozen parts of an encoder are
    objective = Objective(ObjectiveConfig(), config.image_reader.depth_bins)
    return OccupancyModule(network, objective, RenderConfig(), OptimizationConfig(image_steps=image_steps))


def run(callback: DrawPictures, of: OccupancyModule, steps: int, loggers: list | None = None) -> None:
    for step in range(1, steps + 1):
        trainer = Mock(spec=Trainer, global_step=step, is_global_zero=True, estimated_stepping_batches=steps, loggers=loggers or [])
        callback.on_train_batch_end(trainer, of, None, None, 0)


def draw(network: OccupancyNetwork, step: int) -> Sheet:
    network.eval()
    return Sheet(40 + step, 30)


def test_pictures_come_every_so_many_steps_of_the_whole_network_and_after_the_last(tmp_path: Path):
    run(DrawPictures(4, tmp_path, draw), module(), 10)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step_{step:08d}.png" for step in (4, 8, 10)]
    assert Image.open(tmp_path / "step_00000008.png").width == 48
    run(DrawPictures(4, tmp_path / "later", draw), module(image_steps=4), 10)
    assert [path.name for path in sorted((tmp_path / "later").iterdir())] == [f"step_{step:08d}.png" for step in (8, 10)]


def test_each_part_is_in_training_or_not_as_it_was_before(tmp_path: Path):
    of = module()
    before = [part.training for part in of.network.modules()]
    assert len({*before}) == 2

    def fail(network: OccupancyNetwork, step: int) -> Sheet:
        network.eval()
        raise OSError("no room")

    run(DrawPictures(1, tmp_path, draw), of, 2)
    assert [part.training for part in of.network.modules()] == before
    with pytest.raises(OSError, match="no room"):
        run(DrawPictures(1, tmp_path, fail), of, 1)
    assert [part.training for part in of.network.modules()] == before


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra `tracking` (tensorboard) is not installed")
def test_tensorboard_shows_the_pictures(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = build_tracker("tensorboard", tmp_path, {})
    run(DrawPictures(2, tmp_path / "pictures", draw), module(), 4, [tracker])
    tracker.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.width) for event in events.Images(TAG)] == [(2, 42), (4, 44)]


def test_the_sheet_is_what_tensorboard_gets():
    assert torch.equal(Sheet(5, 3).as_picture(), torch.full((3, 5, 3), 255, dtype=torch.uint8))
