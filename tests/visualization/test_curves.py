import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splattingocc.evaluation.calibrate import Calibration
from splattingocc.files import BadFile
from splattingocc.visualization import curves
from splattingocc.visualization.curves import draw_curves


def write_table(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def write_logs(folder: Path, *, falls: float = 0.1) -> None:
    rows = [
        {
            "step": step,
            "loss": 5 - falls * step,
            "loss/query": 4 - falls * step,
            "loss/semantic": 1,
            "gradient_norm": 2,
            "learning_rate/images": 1e-3,
            "learning_rate/volume": 1e-4 * step,
        }
        for step in range(30)
    ]
    write_table(folder / "logs" / "metrics.csv", [*rows, {"step": 29, "val/loss": 3}])
    write_table(folder / "logs" / "speed.csv", [{"step": step, "samples_per_second": 0.5} for step in range(1, 30)])


def write_calibration(folder: Path) -> None:
    bins = torch.arange(1000)
    calibration = Calibration(0.4, 0.6, bins.double() / 1000, 0.6 - (bins / 1000 - 0.4).abs().double() / 2, 1000 - bins, bins)
    (folder / "calibration.json").write_text(json.dumps(calibration.describe()))


def write_scores(folder: Path, split: str = "val") -> None:
    bands = {band: {"miou_17": 10.0, "miou_15": 9.0, "geometric_iou": iou} for band, iou in (("0 to 10 m", 40.0), ("10 to 20 m", None))}
    (folder / f"metrics_{split}.json").write_text(json.dumps({"a network": {"by_distance": bands}, "markdown": "| a |"}))


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the panels that are drawn, each once: `draw_curves` sets their height afterwards."""
    from matplotlib.axes import Axes

    found: list[str] = []
    set_title = Axes.set_title

    def noted(axes: Axes, text: str, **more: Any) -> Any:
        if "y" not in more:
            found.append(text)
        return set_title(axes, text, **more)

    monkeypatch.setattr(Axes, "set_title", noted)
    return found


STEPS = ["loss", "parts of the loss, weighted", "learning rate", "norm of the gradients", "samples per second"]
CALIBRATION = ["reliability, on 2D labels", "F1 of occupied cells, on 2D labels"]
SCORES = ["scores by distance, val, inside mask_camera"]


def test_every_panel_that_there_are_numbers_of_is_drawn(tmp_path: Path, titles: list[str]) -> None:
    write_logs(tmp_path)
    draw_curves(tmp_path)
    assert titles == STEPS
    write_calibration(tmp_path)
    write_scores(tmp_path)
    titles.clear()
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    assert titles == STEPS + CALIBRATION
    titles.clear()
    draw_curves(tmp_path, scores={})
    assert titles == STEPS + CALIBRATION + SCORES
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.width == 4 * 5 * 90


def test_scores_of_several_networks_are_never_in_one_picture(tmp_path: Path, titles: list[str]) -> None:
    """Of a network that was replaced by a new training, or of another checkpoint, the scores of another split may still be there."""
    write_scores(tmp_path)
    content = json.loads((tmp_path / "metrics_val.json").read_text())
    for split, whose in (("val", "a"), ("train", "b"), ("test", "b")):
        (tmp_path / f"metrics_{split}.json").write_text(json.dumps(content | {"checkpoint": whose}))
    draw_curves(tmp_path, scores=content | {"checkpoint": "b"})
    assert titles == [f"scores by distance, {split}, inside mask_camera" for split in ("test", "train")]
    titles.clear()
    draw_curves(tmp_path, scores={"checkpoint": "a", "miou": 1})
    assert titles == SCORES


def test_the_picture_follows_the_numbers_and_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    pictures = []
    for number, falls in enumerate((0.1, 0.1, -0.1)):
        folder = tmp_path / str(number) / "run"
        write_logs(folder, falls=falls)
        pictures.append(draw_curves(folder).read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_a_step_that_was_done_twice_counts_as_it_was_done_last(tmp_path: Path) -> None:
    write_table(
        tmp_path / "metrics.csv", [{"step": step, "loss": loss} for step, loss in ((0, 9.0), (1, 8.0), (2, 7.0), (1, 5.0), (2, 4.0))]
    )
    steps, values = curves._Table(tmp_path / "metrics.csv").column("loss")
    assert steps.tolist() == [0, 1, 2]
    assert values.tolist() == [9.0, 5.0, 4.0]


def test_a_moving_mean_of_what_does_not_change_does_not_change_at_its_ends_either() -> None:
    assert np.allclose(curves._moving_mean(np.full(7, 3.0), 5), 3.0)
    assert np.allclose(curves._moving_mean(np.arange(5.0), 3), [0.5, 1, 2, 3, 3.5])


def test_a_folder_without_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to draw curves of: no logs/metrics\.csv"):
        draw_curves(tmp_path)
    assert not list(tmp_path.iterdir())


RELIABILITY = '"reliability": [{"from": 0, "cells": 1, "hit": 1}]'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("calibration.json", "[]", r"calibration\.json: .*calibration"),
        (
            "calibration.json",
            '{"threshold": 1, "f1": 1, "f1_by_threshold": {"x": 1}, "reliability": [{"from": 0, "cells": 1, "hit": 1}]}',
            "keys",
        ),
        ("calibration.json", '{"threshold": 1, "f1": 1, "f1_by_threshold": {}, "reliability": []}', "holds no curve"),
        ("metrics_val.json", '{"a network": {"by_distance": {"0 to 10 m": 3}}}', r"metrics_val\.json: is not a file of scores"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadFile, match=message):
        draw_curves(tmp_path, scores={})
