"""The configurations that come with the package: each trains, predicts and is scored, reduced in size by options only."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from splattingocc.cli import main, parse
from splattingocc.config_files import known_configs
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import newest_checkpoint
from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.labels.generate import generate_labels
from splattingocc.pipeline.description import describe

RECIPES = (
    "renderocc-7frame",
    "splattingocc-1frame",
    "splattingocc-Nframe",
    "splattingocc-r50",
    "splattingocc-synth",
    "splattingocc-synth-long",
    "splattingocc-synth-stereo",
)
RESUMED = "splattingocc-Nframe"
"""The recipe with which a training is also gone on with: one with earlier frames and stereo."""
SMALL = (
    "--data.loader.image-size", "64", "128", "--data.loader.num-rays", "200", "--data.loader.load-interval", "2", "--data.batch-size", "2",
    "--data.num-workers", "0",
    "--network.lift.coarsening", "8", "--network.lift.channels", "8", "--network.volume-encoder.channels", "8", "16",
    "--network.volume-encoder.blocks", "1", "1",
    "--trainer.accelerator", "cpu", "--optimization.warmup-steps", "1", "--optimization.image-steps", "0",
    "--calibration.criterion", "cells",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set, of whose four training key frames the small recipes take two: an epoch is one step."""
    out = tmp_path_factory.mktemp("recipes") / "data"
    shutil.copytree(synthetic_dataroot, out)
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


def words(name: str, dataroot: Path) -> list[str]:
    """Return options that make a recipe small. Its encoder stays where it is one of ours, or where timm is installed."""
    options = [*SMALL, "--data.dataroot", str(dataroot), "--data.version", "v1.0-mini"]
    if load_config(Path(name)).network.backbone.kind == "timm":
        own = ("--network.backbone.kind", "mobilenet_v2")
        options += own if find_spec("timm") is None else ("--network.backbone.name", "swin_tiny_patch4_window7_224")
    return options


def test_these_are_all_there_are():
    assert tuple(sorted(known_configs())) == RECIPES


SCORED_ALONG_RAYS = (RESUMED, "splattingocc-r50", "splattingocc-synth")
"""Those of which RayIoU and renderings are scored, too: half of the time, and the others differ from these by nothing that it sees."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_predicts_and_is_scored(name: str, dataroot: Path, tmp_path: Path):
    run, options = tmp_path / "run", words(name, dataroot)
    for epochs in (1, 2) if name == RESUMED else (1,):
        main(["train", name, *options, "--work-dir", str(run), "--trainer.max-epochs", str(epochs), "--auto-resume"])
        newest = newest_checkpoint(run)
        assert newest is not None
        assert newest.name == f"step_{epochs:08}.ckpt"
    along_rays = name in SCORED_ALONG_RAYS
    main(["test", str(run / "network.safetensors"), "--eval", "all" if along_rays else "segm"])
    scores = json.loads((run / "metrics_val.json").read_text())
    assert scores["model"]["num_frames"] == 2
    assert 0 <= scores["model"]["camera_mask"]["miou_17"] <= 100
    if along_rays:
        assert 0 <= scores["model"]["ray_iou"]["mean"] <= 100
        assert scores["rendering"]["num_rays"] > 0


@pytest.mark.parametrize("name", ["splattingocc-Nframe", "renderocc-7frame"])
def test_the_description_counts_every_part_and_less_with_checkpointing(name: str, dataroot: Path):
    experiment = parse(["describe", name, *words(name, dataroot)]).experiment
    assert isinstance(experiment, ExperimentConfig)
    found = describe(experiment)
    parts = {part.name: part for part in found.parts}
    assert list(parts)[:4] == ["backbone", "neck", "image_reader", "lift"]
    assert list(parts)[-1] == "rendering and losses"
    convolutions = ("backbone", "neck", "image_reader", "volume_encoder")
    assert all(parts[part].flops > 0 and parts[part].activations > 0 for part in convolutions)
    assert parts["backbone"].activations_checkpointed < 0.6 * parts["backbone"].activations
    # Parameters, gradients, two numbers of AdamW's, averaged weights
    assert found.weights == 4 * 5 * sum(part.parameters for part in found.parts)
    assert found.total == found.weights + 2 * (found.highest + found.images + found.labels)
    kept = sum(part.activations_checkpointed for part in found.parts)
    assert kept < found.highest_checkpointed < found.highest
    assert found.highest_checkpointed <= kept + max(found.gradients, *(part.largest_stage for part in found.parts))


def test_the_description_is_a_table_or_json(dataroot: Path, capsys: pytest.CaptureFixture):
    options = words("splattingocc-synth", dataroot)
    main(["describe", "splattingocc-synth", *options])
    assert "volume_encoder" in capsys.readouterr().out
    main(["describe", "splattingocc-synth", *options, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == "splattingocc-synth"
    assert found["total"] > found["weights"] > 0
