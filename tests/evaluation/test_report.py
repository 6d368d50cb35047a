import dataclasses
import io
import json
import math

from rich.console import Console

from splattingocc.evaluation.miou import OccupancyScores
from splattingocc.evaluation.predictions import Provenance
from splattingocc.evaluation.ray_iou import RayIoUScores
from splattingocc.evaluation.report import (
    add_metrics,
    class_table,
    markdown,
    metrics_of,
    ray_table,
    rendering_table,
    summary_table,
    write_metrics,
)
from splattingocc.evaluation.scoring import ScoredOccupancy
from splattingocc.taxonomy import CLASSES

CAMERA = OccupancyScores(12.344, 13.0, 40.0, (*map(float, range(16)), math.nan))
UNMASKED = OccupancyScores(8.5, 9.0, 30.0, (1.0,) * 17)
ROW = ScoredOccupancy("model", CAMERA, UNMASKED)


def _printed(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_summary_shows_both_protocols_and_both_masks():
    text = _printed(summary_table([ROW]))
    line = next(line for line in text.splitlines() if "model" in line)
    assert [float(word) for word in line.split() if word[0].isdigit()] == [12.34, 13.0, 40.0, 8.5, 9.0, 30.0]


def test_every_class_has_a_line_and_an_absent_one_a_dash():
    text = _printed(class_table([ROW]))
    assert all(name in text for name in CLASSES)
    assert "–" in next(line for line in text.splitlines() if "vegetation" in line)


def test_rendered_scores_print_counts_whole():
    text = _printed(rendering_table({"held out": {"abs_rel": 0.0312, "num_rays": 12345}}))
    assert "0.031" in text
    assert "12,345" in text


def test_names_with_square_brackets_are_printed_as_they_are():
    row = dataclasses.replace(ROW, name="a[/b]c|d")
    for table in (summary_table([row]), ray_table([row]), class_table([row]), rendering_table({row.name: {"abs_rel": 0.1}})):
        assert "a[/b]c|d" in _printed(table)
    assert markdown(row, None, "[val]").splitlines()[-1].startswith(r"| a[/b]c\|d | [val] |")


def test_metrics_on_disk_are_json_without_nan(tmp_path):
    write_metrics(tmp_path / "run" / "metrics.json", {"model": metrics_of(ROW), "seconds": {"train": 1.5}})
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)
    assert metrics["model"]["camera_mask"]["miou_17"] == 12.344
    assert metrics["model"]["camera_mask"]["class_ious"]["vegetation"] is None
    assert metrics["model"]["unmasked"]["class_ious"]["car"] == 1.0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]


def test_a_markdown_row_fits_its_header():
    *head, row = lines = markdown(ROW, Provenance("splattingocc-synth", "d" * 64, "e" * 40, 0.25, "val", {}, 3), "val").splitlines()
    assert len(head) == 2
    assert {line.count("|") for line in (*lines, *markdown(ROW, None, "val").splitlines())} == {16}
    assert "| 13.00 |" in row
    assert "splattingocc-synth" in row
    assert "d" * 12 in row
    assert "d" * 13 not in row


def test_a_class_has_its_masked_its_unmasked_and_its_ray_score():
    rays = RayIoUScores({1.0: 2.0}, 3.0, {1.0: 2.0}, 3.0, ((3.0,) * 17, (4.0,) * 17, (8.0,) * 17))
    text = _printed(class_table([dataclasses.replace(ROW, rays=rays)]))
    line = next(line for line in text.splitlines() if "barrier" in line)
    assert [float(word) for word in line.split() if word[0].isdigit()] == [1.0, 1.0, 5.0]
    assert "RayIoU" not in _printed(class_table([ROW]))


def test_scores_of_other_data_or_rays_replace_what_there_was_and_say_so(tmp_path):
    path = tmp_path / "metrics_val.json"
    of = {"checkpoint": "c" * 64, "data": "/data/a v1"}
    assert add_metrics(path, {**of, "model": {"f_score": 1.0}}) == []
    assert add_metrics(path, {**of, "rendering": {"num_rays": 5}, "rendering_part": "all"}) == []
    assert json.loads(path.read_text())["model"] == {"f_score": 1.0}
    assert add_metrics(path, {**of, "rendering": {"num_rays": 3}, "rendering_part": "held_out"}) == [
        f"{path}: replaces what was rendered along all rays"
    ]
    assert add_metrics(path, {**of, "data": "/data/b v1", "model": {"f_score": 2.0}}) == [f"{path}: replaces the scores on /data/a v1"]
    assert json.loads(path.read_text()) == {**of, "data": "/data/b v1", "model": {"f_score": 2.0}}


def test_scores_of_other_images_truth_or_predictions_are_never_taken_for_these(tmp_path):
    path = tmp_path / "metrics_val.json"
    of = {"checkpoint": "c" * 64, "data": "/data/a v1", "images": {"data.loader.image_size": "(32, 64)"}, "truth": "/data/a/gts"}
    add_metrics(path, {**of, "model": {"f_score": 1.0}, "rendering": {"num_rays": 5}, "rendering_part": "all"})
    other_truth = {**of, "truth": "/truth", "model": {"f_score": 2.0}}
    assert add_metrics(path, other_truth) == [f"{path}: replaces the scores against the truth in /data/a/gts"]
    assert json.loads(path.read_text())["truth"] == "/truth"
    other_images = {**of, "images": {"data.loader.image_size": "(64, 160)"}, "model": {"f_score": 3.0}}
    assert add_metrics(path, other_images) == [f"{path}: replaces the scores with data.loader.image_size (32, 64)"]
    assert "rendering" not in json.loads(path.read_text()), "rendered from images of another size"
    path.unlink()
    foreign = {"data": "/data/a v1", "truth": "/data/a/gts", "model": {"f_score": 1.0}}
    add_metrics(path, {**foreign, "predictions": "one"})
    assert add_metrics(path, {**foreign, "predictions": "one"}) == []
    assert add_metrics(path, {**foreign, "predictions": "two"}) == [f"{path}: replaces the scores of one"]
