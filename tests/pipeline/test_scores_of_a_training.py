"""What a training of few steps gives to those who score it: a threshold, predictions, rendered rays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_trainings import small_experiment, with_trainer

from splattingocc.engine.checkpoint import read_metadata
from splattingocc.evaluation.predictions import read_predictions
from splattingocc.evaluation.scoring import score_split
from splattingocc.experiment import ExperimentConfig, build_index
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.pipeline.calibration import calibrate, spread
from splattingocc.pipeline.prediction import open_network, predict
from splattingocc.pipeline.scoring import prior_predictions, score_rendering
from splattingocc.pipeline.training import train
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.taxonomy import FREE, GROUND_CLASSES

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(scope="module")
def on_occ3ds_grid(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentConfig, Path]:
    """An experiment of one epoch on the grid that has truth, and its run."""
    config = with_trainer(small_experiment(dataroot), max_epochs=1).model_copy(update={"grid": GridConfig()})
    work_dir = tmp_path_factory.mktemp("on_occ3ds_grid")
    train(config, work_dir, show_progress=False)
    return config, work_dir


def test_labels_of_neighbouring_key_frames_tell_of_more_cells_when_the_threshold_is_chosen(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    index = build_index(config.data, tmp_path)
    network, _ = open_network(config, trained / "network.safetensors")
    alone, together = (
        calibrate(config.model_copy(update={"calibration": config.calibration.model_copy(update={"label_frames": n})}), network, index)
        for n in (1, 3)
    )
    # What moves has no second label, and what both hit counts once.
    assert 1.2 * alone.num_occupied < together.num_occupied < 2 * alone.num_occupied
    assert alone.num_free < together.num_free


def test_predictions_are_cached_scored_and_kept(on_occ3ds_grid: tuple[ExperimentConfig, Path], synthetic_dataroot: Path, tmp_path: Path):
    config, trained = on_occ3ds_grid
    index = build_index(config.data, tmp_path)
    cache = predict(config, trained / "network.safetensors", tmp_path / "output", split="val", index=index)
    assert len(cache) == 2
    provenance = cache.manifest.provenance
    assert provenance.seed == config.seed
    metadata, metrics = read_metadata(trained / "network.safetensors"), json.loads((trained / "metrics.json").read_text())
    chosen = (float(metadata["ground_threshold"]), float(metadata["threshold"]))
    assert chosen == (metrics["ground_threshold"], metrics["threshold"]) == (metrics["threshold"] / 2, metrics["threshold"])
    assert provenance.occupancy_threshold == OccupancyThreshold(*chosen)
    assert [provenance.decided_by[name] for name in ("ground_threshold", "threshold")] == [*map(repr, chosen)]
    predicted = [cache.read(frame) for frame in cache.frames]
    ground = torch.cat([found.semantics[torch.isin(found.semantics, torch.tensor(GROUND_CLASSES))] for found in predicted])
    assert len(ground)
    for found in predicted:
        assert found.probabilities is not None
        is_ground = torch.isin(found.semantics, torch.tensor(GROUND_CLASSES))
        # As float16
        assert (found.probabilities[is_ground] > chosen[0] - 1e-3).all()
        assert (found.probabilities[~is_ground & (found.semantics != FREE)] > chosen[1] - 1e-3).all()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*.npz")}
    predict(config, trained / "network.safetensors", tmp_path / "output", split="val", index=index)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*.npz")} == written
    with_truth = config.model_copy(update={"data": config.data.model_copy(update={"gts": synthetic_dataroot / "gts"})})
    baselines = prior_predictions(with_truth, index)
    rows = score_split(read_predictions(tmp_path / "output"), synthetic_dataroot / "gts", baselines=baselines)
    assert [row.name for row in rows] == ["model", "all free", "training prior", "training prior, observed"]
    assert rows[1].camera.geometric_iou == 0
    assert rows[2].camera.miou_17 > 0


def test_held_out_rays_are_rendered_and_scored(trained: Path, dataroot: Path, tmp_path: Path):
    config = small_experiment(dataroot)
    index = build_index(config.data, tmp_path)
    scores = score_rendering(config, trained / "network.safetensors", split="train", part="held_out", index=index)
    assert scores["num_rays"] > 100
    assert 0 < scores["median_relative_error"] < 1


def test_a_damaged_truth_is_named(on_occ3ds_grid: tuple[ExperimentConfig, Path], synthetic_dataroot: Path, tmp_path: Path):
    gts = tmp_path / "gts"
    shutil.copytree(synthetic_dataroot / "gts", gts)
    for path in gts.rglob("labels.npz"):
        path.write_bytes(path.read_bytes()[:200])
    config, trained = on_occ3ds_grid
    cache = predict(config, trained / "network.safetensors", tmp_path / "out", split="val", index=build_index(config.data, tmp_path))
    with pytest.raises(ValueError, match=r"labels\.npz"):
        score_split(cache, gts)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 40, 80])
def test_the_key_frames_that_choose_the_threshold_are_spread_over_all_there_are(count: int):
    chosen = spread(range(100, 100 + count), 16)
    assert len(chosen) == len(set(chosen)) == min(16, count)
    assert chosen[0] == 100
    gaps = {later - earlier for earlier, later in zip(chosen, [*chosen[1:], 100 + count])}
    assert max(gaps) - min(gaps) <= 1
