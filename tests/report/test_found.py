"""What a folder holds of a run, and what is said where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from small_runs import CHECKPOINT, grid_of, write_cache, write_scores, write_truth

from splattingocc.engine.ledger import recorded
from splattingocc.experiment import DataConfig, ExperimentConfig
from splattingocc.report.found import find


def test_a_run_folder_is_found_with_all_that_it_has(tmp_path: Path) -> None:
    run = tmp_path / "work_dirs" / "mine"
    write_cache(run / "output", {"scene-0001": 2})
    write_scores(run)
    (run / "calibration.json").write_text('{"threshold": 0.25, "f1": 0.5}')
    (run / "pictures").mkdir()
    for name in ("curves.png", "pictures/scene-0001_000_overview.png"):
        Image.new("RGB", (8, 8)).save(run / name)
    (run / "output" / "scene-0001" / "film.mp4").write_bytes(b"film")
    for name in ("mine", "other"):
        with recorded(tmp_path / "work_dirs" / "log.txt", {"command": "train", "work_dir": f"work_dirs/{name}"}):
            pass
    found = find(run, split="val", most_frames=20)
    assert [frame.token for frame in found.frames] == ["scene-0001-0", "scene-0001-1"]
    assert found.methods["model"]["camera_mask"]["miou_17"] == 12.5
    assert found.calibration["threshold"] == 0.25
    assert [run.what["work_dir"] for run in found.runs] == ["work_dirs/mine"]
    assert found.curves == run / "curves.png"
    assert [path.name for path in found.pictures] == ["scene-0001_000_overview.png"]
    assert [path.name for path in found.films] == ["film.mp4"]


def test_the_folder_of_a_cache_is_enough_and_the_run_around_it_is_found(tmp_path: Path) -> None:
    write_cache(tmp_path / "run" / "output", {"scene-0001": 1})
    write_scores(tmp_path / "run")
    found = find(tmp_path / "run" / "output", split="val", most_frames=20)
    assert found.cache is not None
    assert found.folder == tmp_path / "run"
    assert "model" in found.methods


def test_another_split_is_taken_from_its_own_folder(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    write_cache(tmp_path / "output_train", {"scene-0002": 3}, split="train")
    with pytest.raises(ValueError, match=r"^--split val2: .*output_train holds predictions of split train$"):
        find(tmp_path / "output_train", split="val2", most_frames=20)
    found = find(tmp_path, split="train", most_frames=20)
    assert (found.split, len(found.frames)) == ("train", 3)
    with pytest.raises(
        ValueError, match=f"^--split foo: neither predictions nor scores of it in {tmp_path}, which has those of train, val$"
    ):
        find(tmp_path, split="foo", most_frames=20)
    (tmp_path / "metrics_foo.json").write_text('{"model": {"camera_mask": {}}}')
    assert find(tmp_path, split="foo", most_frames=20).methods == {"model": {"camera_mask": {}}}


def test_scores_of_the_demo_are_those_of_its_val_split_alone(tmp_path: Path) -> None:
    write_cache(tmp_path / "output_train", {"scene-0002": 3}, split="train")
    (tmp_path / "scores.json").write_text('{"model": {"camera_mask": {}}}')
    assert find(tmp_path, split="val", most_frames=20).methods == {"model": {"camera_mask": {}}}
    assert not find(tmp_path, split="train", most_frames=20).methods


def test_frames_are_spread_over_all_scenes_and_scenes_can_be_named(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 4, "scene-0002": 4})
    assert [frame.token for frame in find(tmp_path, split="val", most_frames=4).frames] == [
        "scene-0001-0", "scene-0001-2", "scene-0002-0", "scene-0002-2",
    ]  # fmt: skip
    only = find(tmp_path, split="val", scenes=("scene-0002",), most_frames=20)
    assert {frame.scene for frame in only.frames} == {"scene-0002"}
    with pytest.raises(ValueError, match=r"--scenes scene-9: no such scene .* has scene-0001, scene-0002"):
        find(tmp_path, split="val", scenes=("scene-9",), most_frames=20)


def test_each_thing_that_is_missing_has_a_line(tmp_path: Path) -> None:
    write_scores(tmp_path)
    missing = find(tmp_path, split="val", most_frames=20).missing
    for what in (
        "predictions: no output",
        "calibration.json: no such file",
        "ledger:",
        "curves: no curves.png",
        "film: none",
        "pictures: none",
    ):
        assert sum(what in line for line in missing) == 1, (what, missing)
    assert all("\n" not in line for line in missing)


def test_an_incomplete_cache_is_said_to_be_one(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    (tmp_path / "output" / "manifest.json").unlink()
    write_scores(tmp_path)
    found = find(tmp_path, split="val", most_frames=20)
    assert found.cache is None
    assert any("the cache is incomplete" in line for line in found.missing)


def test_scores_of_another_network_are_not_shown_beside_predictions(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    write_scores(tmp_path, checkpoint="cd" * 32)
    found = find(tmp_path, split="val", most_frames=20)
    assert not found.methods
    assert any("of another checkpoint than the predictions" in line for line in found.missing)


def test_truth_that_is_asked_for_and_is_not_there_is_refused_or_missing(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    with pytest.raises(ValueError, match=r"--gts .*nowhere: no such folder"):
        find(tmp_path, split="val", most_frames=20, gts=tmp_path / "nowhere")
    found = find(tmp_path, split="val", most_frames=20, gts=tmp_path)
    assert found.gts is None
    assert any("has none of these key frames" in line for line in found.missing)


def test_truth_is_that_of_the_data_the_predictions_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key frames of other data may have the same tokens."""
    of_training, tested = tmp_path / "of_training", tmp_path / "tested"
    for dataroot in (of_training, tested):
        write_truth(dataroot / "gts", "scene-0001", "scene-0001-0", grid_of())
    run = tmp_path / "run"
    write_cache(run / "output", {"scene-0001": 1}, decided_by={"data.dataroot": str(tested), "data.version": "v1"})
    (run / "network.safetensors").touch()
    experiment = ExperimentConfig(name="x", data=DataConfig(dataroot=of_training, version="v1"))
    monkeypatch.setattr("splattingocc.report.found.experiment_of", lambda network: (experiment, []))
    assert find(run, split="val", most_frames=20).gts == tested / "gts"


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_without_anything_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no run and no prediction cache|no such folder") as refused:
        find(tmp_path / name, split="val", most_frames=20)
    assert "\n" not in str(refused.value)


def test_scores_of_another_network_or_of_other_data_are_known_without_a_row_too(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1}, decided_by={"data.dataroot": "/data/a", "data.version": "v1"})
    for scores, reason in (
        ({"checkpoint": "cd" * 32, "data": "/data/a v1"}, "of another checkpoint than the predictions"),
        ({"checkpoint": CHECKPOINT, "images": {"data.loader.image_size": "(64, 160)"}}, "of other images than the predictions; left out"),
        ({"checkpoint": CHECKPOINT, "data": "/data/b v1"}, "of /data/b v1, the predictions are of /data/a v1; left out"),
    ):
        (tmp_path / "metrics_val.json").write_text(json.dumps({**scores, "rendering": {"num_rays": 5}}))
        found = find(tmp_path, split="val", most_frames=20)
        assert not found.rendering
        assert any(reason in line for line in found.missing)
    own = {"checkpoint": CHECKPOINT, "data": "/data/a v1", "rendering": {"num_rays": 5}, "rendering_part": "held_out"}
    (tmp_path / "metrics_val.json").write_text(json.dumps(own))
    assert find(tmp_path, split="val", most_frames=20).rendering == {"rendered, held_out rays": {"num_rays": 5}}


def test_scores_against_another_truth_than_is_shown_are_left_out(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    for name in ("a", "b"):
        write_truth(tmp_path / name, "scene-0001", "scene-0001-0", grid_of())
    scores = {"checkpoint": CHECKPOINT, "truth": str(tmp_path / "a"), "model": {"camera_mask": {"miou_17": 1.0}}}
    (tmp_path / "metrics_val.json").write_text(json.dumps(scores))
    assert find(tmp_path, split="val", most_frames=20, gts=tmp_path / "a").methods
    assert find(tmp_path, split="val", most_frames=20).methods
    found = find(tmp_path, split="val", most_frames=20, gts=tmp_path / "b")
    assert not found.methods
    assert any(f"against the truth in {tmp_path / 'a'}, shown is that in {tmp_path / 'b'}; left out" in line for line in found.missing)


def test_a_webp_is_a_film_where_it_moves(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "drive.webp", save_all=True, append_images=frames[1:])
    for name, options in (("still.webp", {}), ("lossless.webp", {"lossless": True})):
        frames[0].save(tmp_path / name, **options)
    (tmp_path / "damaged.webp").touch()
    found = find(tmp_path, split="val", most_frames=20)
    assert [path.name for path in found.films] == ["drive.webp"]
    assert [path.name for path in found.pictures] == ["damaged.webp", "lossless.webp", "still.webp"]


def test_runs_of_both_ledgers_are_found(tmp_path: Path) -> None:
    run = tmp_path / "output_of_mine"
    run.mkdir()
    Image.new("RGB", (8, 8)).save(run / "x.png")
    for ledger in (tmp_path / "log.txt", run / "log.txt"):
        with recorded(ledger, {"command": "train", "work_dir": str(run)}):
            pass
    assert len(find(run, split="val", most_frames=20).runs) == 2


def test_a_cache_that_was_put_beside_runs_takes_nothing_of_theirs(tmp_path: Path) -> None:
    write_cache(tmp_path / "output", {"scene-0001": 1})
    (tmp_path / "run_b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "run_b" / "picture.png")
    found = find(tmp_path / "output", split="val", most_frames=20)
    assert found.folder == tmp_path / "output"
    assert not found.pictures
