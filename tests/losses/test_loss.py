"""What a loss is, and that a new one needs nothing but itself and a field."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from labelled_scene import BINS, loss_inputs

from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index
from splattingocc.experiment import load_config
from splattingocc.labels.generate import generate_labels
from splattingocc.losses.loss import weighted_mean
from splattingocc.losses.objective import Objective, ObjectiveConfig, about_missing_labels

CONFIG = Path(__file__).parent / "config_with_its_own_loss.py"
SMALL = (
    "--data.version", "v1.0-mini", "--data.num-workers", "0", "--data.loader.num-rays", "200", "--data.loader.image-size", "32", "64",
    "--network.backbone.kind", "mobilenet_v2", "--network.lift.coarsening", "8", "--network.lift.channels", "8",
    "--network.volume-encoder.channels", "8", "16", "--network.volume-encoder.blocks", "1", "1", "--calibration.criterion", "cells",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels."""
    out = tmp_path_factory.mktemp("own-loss") / "data"
    shutil.copytree(synthetic_dataroot, out)
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


def test_a_new_loss_trains_and_its_network_predicts(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    of_data = ("--data.dataroot", str(dataroot), *SMALL)
    one_epoch = ("--trainer.max-epochs", "1", "--optimization.warmup-steps", "1")
    option = ("--objective.metric-distance.largest", "2.5")
    main(["train", str(CONFIG), "--work-dir", str(tmp_path / "run"), *one_epoch, *option, *of_data])
    losses = json.loads((tmp_path / "run" / "metrics.json").read_text())["losses"]
    assert 0 < losses["metric_distance"] <= 0.1 * 2.5
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        assert all(float(row["loss/metric_distance"]) > 0 for row in csv.DictReader(file))
    options = json.loads((tmp_path / "run" / "config.json").read_text())["objective"]["metric_distance"]
    assert options == {"weight": 0.1, "largest": 2.5}
    main(["test", str(CONFIG), str(tmp_path / "run" / "network.safetensors"), *of_data])
    scores = (tmp_path / "run" / "metrics_val.json").read_text()
    assert "mIoU" in scores
    main(["test", str(tmp_path / "run" / "network.safetensors")])  # which needs no loss
    assert (tmp_path / "run" / "metrics_val.json").read_text() == scores
    assert "metric_distance is not an option of ObjectiveConfig" in capsys.readouterr().err


def test_a_new_loss_is_computed_beside_the_others_and_moves_the_rendered_distances():
    config = load_config(CONFIG).objective
    alone = config.model_copy(update={name: {"weight": 0.0} for name in config.in_use if name != "metric_distance"})
    inputs = loss_inputs()
    errors = (inputs.rendering.distances - inputs.labels.distances).abs().clamp(max=5.0).nan_to_num()
    expected = 0.1 * weighted_mean(errors, inputs.stopped_at_distance).mean()
    losses = Objective(alone, BINS)(inputs)
    assert set(losses.parts) == {"metric_distance"}
    assert losses.total.item() == pytest.approx(expected.item())
    losses.total.backward()
    assert inputs.rendering.distances.grad is not None
    assert inputs.rendering.distances.grad.any()


def test_a_new_loss_of_weight_zero_is_left_out_like_any_other():
    config = load_config(CONFIG).objective.model_copy(update={"metric_distance": {"weight": 0.0}})
    assert set(Objective(config, BINS)(loss_inputs()).parts) == set(ObjectiveConfig().in_use)


def test_a_new_loss_says_itself_what_it_cannot_learn_from():
    (said,) = about_missing_labels(load_config(CONFIG).objective, {"distance"})
    assert "metric_distance cannot learn and show 0" in said


def test_a_run_that_named_a_loss_of_its_own_is_no_configuration_of_the_package_alone(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(load_config(CONFIG).model_dump(mode="json")))
    with pytest.raises(ValueError, match=r"config\.json: ExperimentConfig\.objective: metric_distance is not an option of ObjectiveConfig"):
        load_config(path)


def test_the_recipe_in_the_documentation_is_the_loss_that_is_tested_here():
    section = (Path(__file__).parents[2] / "docs" / "extending.md").read_text().split("## A loss")[1]
    code = section.split("```python\n")[1].split("```")[0]
    assert "class MetricDistanceLoss" in code
    assert code in CONFIG.read_text()


def test_the_weighted_mean_of_nothing_is_zero():
    values = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    assert weighted_mean(values, torch.tensor([[3.0, 1.0], [0.0, 0.0]])).tolist() == [1.5, 0.0]
