"""Whatever a network predicts, and on whatever grid: trained, read out, calibrated, scored and drawn by the same functions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from toy_parts import ToyExperimentConfig, register

from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import NETWORK_FILE, newest_checkpoint
from splattingocc.evaluation.predictions import open_predictions
from splattingocc.experiment import ExperimentConfig, build_index
from splattingocc.labels.generate import generate_labels
from splattingocc.pictures import PictureOptions, draw_cached_grids, draw_key_frame
from splattingocc.pipeline import camera_maps
from splattingocc.pipeline.prediction import frames_of, open_network, predict
from splattingocc.pipeline.scoring import check_truth, score, score_rendering
from splattingocc.pipeline.training import train
from splattingocc.visualization.raycast import PictureConfig

FIXED = {"kind": "gaussians", "learn_offsets": False, "learn_scales": False, "learn_rotations": False, "initial_scale": 0.1}
HEADS = {"fixed Gaussians": FIXED, "density": {"kind": "density", "sample_step": 0.8}, "one of one's own": {"kind": "opaque"}}
SMALL = PictureOptions(picture=PictureConfig(image_size=(60, 100), pixels_per_cell=1, supersampling=1))


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fields") / "data"
    shutil.copytree(synthetic_dataroot, out)
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


@pytest.fixture(scope="module", autouse=True)
def toy_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


def experiment(dataroot: Path, head: dict[str, object], **options: object) -> ExperimentConfig:
    return ToyExperimentConfig.model_validate(
        {
            "name": "small",
            "data": {
                "dataroot": dataroot, "version": "v1.0-mini", "loader": {"image_size": (32, 64), "num_rays": 300}, "num_workers": 0,
            },
            "network": {
                "backbone": {"kind": "narrow_resnet"},
                "lift": {"channels": 8, "coarsening": 4},
                "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)},
                "head": head,
            },
            "calibration": {"criterion": "cells"},
            "optimization": {"learning_rate": 1e-3, "warmup_steps": 1},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            **options,
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_every_kind_of_field_goes_the_whole_way(name: str, dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A row of rays of usual width is most of what a plain renderer costs
    monkeypatch.setattr(camera_maps, "MAP_WIDTH", 32)
    config = experiment(dataroot, HEADS[name])
    metrics = train(config, tmp_path / "run", show_progress=False)
    assert 0 < metrics["threshold"] < 1
    index, network = build_index(config.data, tmp_path), tmp_path / "run" / NETWORK_FILE
    cache = predict(config, network, tmp_path / "output", split="val", index=index)
    (row,) = score(config, cache, index, rays=True)
    assert row.num_frames == 2
    assert row.rays is not None
    scores = score_rendering(config, network, split="val", part="all", index=index)
    assert scores["num_rays"] > 100
    assert 0 < scores["mass_in_front"] + scores["mass_at_hit"] <= 1
    for path in draw_key_frame(config, network, cache, index, index.of_split("val")[0], tmp_path / "pictures", options=SMALL):
        Image.open(path).load()


def test_an_own_grid_decides_what_is_predicted_and_is_not_scored_as_occ3ds(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    grid = {"lower": (-16.0, -24.0, -2.0), "upper": (32.0, 24.0, 2.0), "cell_size": 0.5}
    config = experiment(dataroot, {}, grid=grid)
    train(config, tmp_path / "run", show_progress=False)
    index, network = build_index(config.data, tmp_path), tmp_path / "run" / NETWORK_FILE
    assert not check_truth(config, list(frames_of(config, index, "val").values()))
    cache = predict(config, network, tmp_path / "output", split="val", index=index)
    prediction = cache.read(cache.frames[0])
    assert prediction.semantics.shape == (96, 96, 8)
    with pytest.raises(ValueError, match="predicted on another grid than Occ3D's truth has"):
        open_predictions(tmp_path / "output", cache.frames)
    assert score_rendering(config, network, split="val", part="all", index=index)["num_rays"] > 100
    pictures = draw_cached_grids(tmp_path / "output" / cache.frames[0].scene, options=SMALL)
    Image.open(pictures[0]).load()
    elsewhere = experiment(dataroot, {}, grid=grid | {"lower": (-24.0, -24.0, -2.0), "upper": (24.0, 24.0, 2.0)})
    with pytest.raises(ValueError, match=r"trained on another grid: grid\.lower is \(-16\.0, -24\.0, -2\.0\) there and \(-24\.0, "):
        open_network(elsewhere, network)
    flatter = experiment(dataroot, {}, grid=grid | {"upper": (32.0, 24.0, 0.0)})
    with pytest.raises(ValueError, match=r"trained on another grid: grid\.upper"):
        open_network(flatter, network)
    with pytest.raises(ValueError, match="trained on another grid"):
        train(elsewhere, tmp_path / "run", resume_from=newest_checkpoint(tmp_path / "run"), show_progress=False)


def test_a_grid_where_no_label_is_is_refused_before_the_first_step(dataroot: Path, tmp_path: Path):
    grid = {"lower": (500.0, 500.0, 0.0), "upper": (550.0, 550.0, 4.0), "cell_size": 0.5}
    with pytest.raises(ValueError, match=r"grid: from \(500\.0, .* none of the labels of the 4 key frames on which"):
        train(experiment(dataroot, {}, grid=grid), tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--grid.cell-size", "0.3"), "is not a whole number of 0.3 m cells"),
        (("--grid.lower", "50", "-40", "-1"), "grid.upper is (40.0, 40.0, 5.4), expected more than grid.lower, (50.0, -40.0, -1.0)"),
        (("--grid.cell-size", "0.01"), "expected at most 67,108,864 in all"),
        (("--grid.cell-size", "0.1", "--grid.upper", "0", "0", "0"), "expected at most 0.1202 m with a grid.cell_size of 0.1 m"),
        (("--objective.distortion.weight", "0.1"), "network.head.kind gaussians renders no distortion; expected kind density, or weight 0"),
    ],
)
def test_parts_that_do_not_fit_the_grid_or_the_renderer_are_refused_in_one_line(
    options: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "splattingocc-synth", "--work-dir", str(tmp_path), *options])
    said = capsys.readouterr().err + str(stopped.value.code)
    assert reason in said
    assert said.count("\n") <= 1
