"""`splattingocc test` as people call it: what it writes where, what it refuses, what it says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import splattingocc.experiment
from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, read_network, save_weights
from splattingocc.evaluation.predictions import CachedFrame, PredictionWriter
from splattingocc.files import sha256_of
from splattingocc.labels.generate import generate_labels
from splattingocc.pipeline.networks import load_experiment
from splattingocc.pipeline.prediction import about_options

CONFIG = Path(__file__).parents[2] / "configs" / "splattingocc" / "splattingocc-synth.py"
SMALL = (
    "--data.num-workers", "0", "--data.loader.num-rays", "200", "--network.backbone.kind", "mobilenet_v2",
    "--network.lift.coarsening", "8", "--network.lift.channels", "8",
    "--network.volume-encoder.channels", "8", "16", "--network.volume-encoder.blocks", "1", "1",
)  # fmt: skip
SEEN = ("--data.loader.image-size", "32", "64")


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels, which lie where `--data.labels` has to say."""
    out = tmp_path_factory.mktemp("testing") / "data"
    shutil.copytree(synthetic_dataroot, out)
    generate_labels(read_index(out, "v1.0-mini"), out, out / "my_labels", show_progress=False)
    return out


@pytest.fixture(scope="module")
def run(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of one epoch."""
    work_dir = tmp_path_factory.mktemp("testing-run") / "runs" / "small"
    options = (
        "--trainer.max-epochs",
        "1",
        "--optimization.image-steps",
        "2",
        "--optimization.warmup-steps",
        "1",
        "--calibration.criterion",
        "cells",
    )
    folders = ("--data.labels", str(dataroot / "my_labels"), "--work-dir", str(work_dir))
    main(["train", str(CONFIG), *of(dataroot), *SMALL, *SEEN, *options, *folders])
    return work_dir


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(run, tmp_path / "runs" / "small")
    return tmp_path / "runs" / "small"


def of(dataroot: Path) -> tuple[str, ...]:
    return ("--data.dataroot", str(dataroot), "--data.version", "v1.0-mini")


def command(dataroot: Path, *words: object, seen: tuple[str, ...] = SEEN) -> None:
    main(["test", str(CONFIG), *map(str, words), *of(dataroot), *SMALL, *seen])


def refused(action: Callable[[], None]) -> str:
    with pytest.raises(SystemExit) as stopped:
        action()
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_predictions_of_other_images_are_never_scored_as_these(dataroot: Path, own_run: Path, capsys: pytest.CaptureFixture):
    network = own_run / "network.safetensors"
    command(dataroot, network)
    assert (own_run / "metrics_val.json").is_file()
    before = files(own_run / "output")
    larger = ("--data.loader.image-size", "64", "128")
    message = refused(lambda: command(dataroot, network, seen=larger))
    assert "holds predictions made with data.loader.image_size (32, 64), asked for is (64, 128)" in message
    assert files(own_run / "output") == before
    capsys.readouterr()
    command(dataroot, network, "--fresh", seen=larger)
    assert "trained with data.loader.image_size [32, 64], here it is [64, 128]" in capsys.readouterr().err
    after = files(own_run / "output")
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before if name.endswith(".npz"))


def test_another_split_has_a_folder_of_its_own(dataroot: Path, own_run: Path):
    command(dataroot, own_run / "network.safetensors")
    before = files(own_run / "output")
    command(dataroot, own_run / "network.safetensors", "--split", "train")
    assert files(own_run / "output") == before
    assert len(list((own_run / "output_train").glob("*/*.npz"))) == 4
    assert (own_run / "metrics_train.json").is_file()


def test_what_cannot_be_scored_is_refused_before_anything_is_predicted(
    dataroot: Path, own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    network, index = own_run / "network.safetensors", read_index(dataroot, "v1.0-mini")
    generate_labels(index, dataroot, tmp_path / "of_train", scenes=index.splits["train"][:1], show_progress=False)
    labels = ("--data.labels", tmp_path / "of_train")
    message = refused(lambda: command(dataroot, network, "--eval", "all", *labels))
    assert "of_train: has labels of none of the 2 key frames of split val" in message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splattingocc.experiment, "build_index", lambda *_: dataclasses.replace(index, has_lidar=False))
        assert "--eval ray: v1.0-mini has no LiDAR" in refused(lambda: command(dataroot, network, "--eval", "segm", "ray"))
    assert not (own_run / "output").exists()
    # Labels of some scenes are taken as those that there are
    command(dataroot, network, "--eval", "render", "--split", "train", *labels)
    assert "2 of them have no labels to render along" in capsys.readouterr().out
    assert json.loads((own_run / "metrics_train.json").read_text())["rendering"]["num_rays"] > 0


def test_a_checkpoint_belongs_to_its_run(dataroot: Path, own_run: Path):
    """Its labels, from which the threshold is chosen, are those it was trained from."""
    (checkpoint,) = (own_run / "checkpoints").glob("*.ckpt")
    (own_run / "network.safetensors").unlink()  # as of a training that is not finished: there is no threshold yet
    before = files(own_run / "checkpoints")
    command(dataroot, checkpoint)
    assert files(own_run / "checkpoints") == before
    assert (own_run / "metrics_val.json").is_file()
    assert "test" in (own_run.parent / "log.txt").read_text()


def test_scoring_a_cache_writes_only_where_it_is_told(dataroot: Path, own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    command(dataroot, own_run / "network.safetensors")
    somebody = tmp_path / "somebody" / "results"
    shutil.copytree(own_run / "output", somebody)
    before = files(somebody.parent)
    command(dataroot, "--from-cache", somebody, "--eval", "segm", "ray")
    assert files(somebody.parent) == before
    assert "mIoU m17" in capsys.readouterr().out
    command(dataroot, "--from-cache", somebody, "--work-dir", tmp_path / "mine" / "scores")
    assert files(somebody.parent) == before
    scores = (json.loads((folder / "metrics_val.json").read_text()) for folder in (tmp_path / "mine" / "scores", own_run))
    assert next(scores) == next(scores)


def test_scores_of_one_network_are_kept_beside_each_other_and_those_of_another_replaced_aloud(
    dataroot: Path, own_run: Path, capsys: pytest.CaptureFixture
):
    network, path = own_run / "network.safetensors", own_run / "metrics_val.json"
    labels = ("--data.labels", dataroot / "my_labels")
    command(dataroot, network, "--eval", "segm", "ray")
    scored = json.loads(path.read_text())
    command(dataroot, network, "--eval", "render", *labels)
    both = json.loads(path.read_text())
    assert both == scored | {"rendering": both["rendering"], "rendering_part": "all"}
    assert "replaces" not in capsys.readouterr().out
    command(dataroot, network, "--eval", "segm")
    assert "RayIoU, which the test before asked for, is no longer in it" in capsys.readouterr().out
    other = own_run / "other.safetensors"
    weights, metadata = read_network(network)
    save_weights(weights, other, {**metadata, "threshold": "0.9"})
    command(dataroot, other, "--eval", "segm", "--fresh")
    assert f"replaces the scores of checkpoint {sha256_of(network)[:12]}" in capsys.readouterr().out
    assert json.loads(path.read_text()).keys() == {"model", "checkpoint", "images", "truth", "markdown", "data"}


def test_a_network_that_is_replaced_while_it_is_tested_is_scored_as_it_was(dataroot: Path, own_run: Path, monkeypatch: pytest.MonkeyPatch):
    network, finish = own_run / "network.safetensors", PredictionWriter.finish
    digest = sha256_of(network)

    def replaced(writer: PredictionWriter, frames: list[CachedFrame]) -> None:
        finish(writer, frames)
        network.write_bytes(b"of another training")

    monkeypatch.setattr(PredictionWriter, "finish", replaced)
    command(dataroot, network, "--eval", "all", "--data.labels", dataroot / "my_labels")
    scores = json.loads((own_run / "metrics_val.json").read_text())
    assert scores["checkpoint"] == digest
    assert f"| {digest[:12]} |" in scores["markdown"]
    assert scores["rendering"]["num_rays"] > 0


def test_what_validation_wants_is_looked_for_before_the_training(dataroot: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(dataroot, data)
    words = ["train", str(CONFIG), *of(data), *SMALL, *SEEN, "--data.labels", str(data / "my_labels"), "--work-dir", str(tmp_path / "run")]
    message = refused(lambda: main([*words, "--validate", "--data.gts", str(tmp_path / "nope")]))
    assert message.endswith("nope: no such folder, and --validate scores against the truth in it")
    (data / "v1.0-mini" / "splits.json").unlink()
    assert "split val of v1.0-mini has no key frames" in refused(lambda: main([*words, "--validate"]))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_options_that_would_do_nothing_are_refused_or_said_to_do_nothing(dataroot: Path, own_run: Path, capsys: pytest.CaptureFixture):
    network = own_run / "network.safetensors"
    assert "--part held_out: does nothing without" in refused(lambda: command(dataroot, network, "--part", "held_out"))
    for option in (["--fresh"], ["--dump-dir", "x"]):
        assert f"{option[0]}: does nothing with --from-cache" in refused(
            lambda words=option: command(dataroot, "--from-cache", "y", *words)
        )
        assert f"{option[0]}: does nothing with --eval render alone" in refused(
            lambda words=option: command(dataroot, network, "--eval", "render", *words)
        )
    command(dataroot, network, "--calibration.margin", "0.8", "--trainer.accelerator", "cuda", "--objective.query.weight", "7")
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "only a training reads it" in line)
    assert "trainer.accelerator cuda" in line
    assert "objective.query.weight 7" in line
    assert "was chosen when it was trained: calibration.criterion" in said
    assert "calibration.margin 0.8 does nothing" in said
    drawing = ["visualize", str(CONFIG), str(network), *of(dataroot), *SMALL]
    # A network of before ground had a threshold of its own
    weights, metadata = read_network(network)
    experiment = json.loads(metadata[EXPERIMENT_KEY])
    assert experiment["calibration"].pop("ground_ratio") == 1
    metadata = {name: value for name, value in metadata.items() if name != "ground_threshold"} | {EXPERIMENT_KEY: json.dumps(experiment)}
    save_weights(weights, own_run / "of_before.safetensors", metadata)
    trained = load_experiment(network)
    with_half = trained.model_copy(update={"calibration": trained.calibration.model_copy(update={"ground_ratio": 0.5})})
    for file in (network, own_run / "of_before.safetensors"):
        assert about_options(trained, file, network) == []
        (line,) = about_options(with_half, file, network)
        assert line.endswith("was chosen when it was trained: calibration.ground_ratio 0.5 does nothing")
    loader = trained.data.loader.model_copy(update={"held_out_fraction": 0.2})
    with_masks = trained.data.model_copy(update={"loader": loader, "vehicle_masks": Path("masks")})
    changed = trained.model_copy(update={"data": with_masks})
    # What its own training had is no news, wherever it was said: `train --validate` tests with the same options
    longer = trained.model_copy(update={"trainer": trained.trainer.model_copy(update={"max_epochs": 9})})
    assert len(about_options(longer, network, network)) == 1
    weights, metadata = read_network(network)
    save_weights(weights, own_run / "longer.safetensors", metadata | {EXPERIMENT_KEY: json.dumps(longer.model_dump(mode="json"))})
    assert about_options(longer, own_run / "longer.safetensors", network) == []
    # What a network that does not say how it was trained had is not known
    silent = {name: value for name, value in metadata.items() if name != EXPERIMENT_KEY}
    save_weights(weights, own_run / "silent.safetensors", silent)
    assert about_options(longer, own_run / "silent.safetensors", network) == [
        "trainer.max_epochs 9: does nothing, only a training reads it"
    ]
    (line,) = about_options(changed, network, network)
    assert ": trained without data.vehicle_masks, here it is with data.vehicle_masks masks: the network sees images unlike" in line
    _, line = about_options(changed, network, network, part="held_out")
    assert line.endswith("held_out_fraction 0.1, here it is 0.2: labels that --part held_out takes are not those held back")
    for words, said in (
        (["--film", "--overview", "x.png"], "--overview: draws no film"),
        (["--film", "--view", "above"], "--view above: films are seen from behind"),
        (["--overview", "x.png", "--view", "above"], "--view: does nothing with --overview"),
        (["--overview", "x.png", "--out", "x"], "--out: does nothing with --overview"),
        (["--fps", "5"], "--fps: is of the film of a scene"),
    ):
        assert said in refused(lambda words=words: main([*drawing, *words]))


def test_another_numbering_of_the_classes_is_noticed(dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    index = read_index(dataroot, "v1.0-mini")
    for position in index.of_split("val"):
        truth = np.load(dataroot / "gts" / index[position].scene / index[position].token / "labels.npz")["semantics"]
        np.savez_compressed(tmp_path / f"{index[position].token}.npz", semantics=np.where(truth == 17, 0, truth).astype(np.uint8))
    command(dataroot, "--from-cache", tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: not one voxel is predicted free (17)" in printed
    assert "are 0: does 0 mean empty there?" in printed


def test_predictions_made_from_other_tables_are_neither_scored_nor_drawn(dataroot: Path, own_run: Path, tmp_path: Path):
    network, data = own_run / "network.safetensors", tmp_path / "data"
    command(dataroot, network, "--eval", "segm")
    command(dataroot, "--from-cache", own_run / "output", "--eval", "segm")
    shutil.copytree(dataroot, data)
    # The folder may lie elsewhere
    command(data, "--from-cache", own_run / "output", "--eval", "segm")
    path = data / "v1.0-mini" / "calibrated_sensor.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["translation"][2] += 0.1
    path.write_text(json.dumps(rows))
    message = refused(lambda: command(data, "--from-cache", own_run / "output", "--eval", "segm"))
    assert message.endswith("output: was predicted from other tables than v1.0-mini has now; predict again")


def without_truth(dataroot: Path, out: Path) -> Path:
    shutil.copytree(dataroot, out, ignore=shutil.ignore_patterns("gts"))
    return out


def test_a_split_without_truth_is_predicted_and_scores_of_it_are_refused_first(
    dataroot: Path, own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    data = without_truth(dataroot, tmp_path / "data")
    network = own_run / "network.safetensors"
    message = refused(lambda: command(data, network, "--eval", "segm"))
    assert "no truth of split val to score against" in message
    assert not (own_run / "output").exists()
    command(data, network)
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing to score" in printed
    assert "mIoU" not in printed
    assert len(list((own_run / "output").glob("*/*.npz"))) == 2
    assert "no truth of split val" in refused(lambda: command(data, "--from-cache", own_run / "output"))


def test_an_empty_split_is_named_with_the_others(dataroot: Path, own_run: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(dataroot, data)
    (data / "v1.0-mini" / "splits.json").unlink()  # no published split knows these scenes: all are for training
    message = refused(lambda: command(data, own_run / "network.safetensors"))
    assert "split val of v1.0-mini has no key frames; there are train 6, val 0" in message
    assert "split 'test' is not known" in refused(lambda: command(data, own_run / "network.safetensors", "--split", "test"))


def test_key_frames_without_their_files_are_left_out_and_counted(
    dataroot: Path, own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    data = tmp_path / "data"
    shutil.copytree(dataroot, data)
    index = read_index(data, "v1.0-mini")
    missing = index[index.of_split("val")[1]]
    (data / missing.cameras[2].filename).unlink()
    network = own_run / "network.safetensors"
    assert missing.cameras[2].filename in refused(lambda: command(data, network))
    main(["prepare", "--dataroot", str(data), "--version", "v1.0-mini", "--workers", "0", "--skip-missing"])
    printed = capsys.readouterr().out
    assert "left out: 1 key frames of 1 scenes" in printed
    assert missing.cameras[2].filename in printed
    command(data, network, "--fresh")
    assert "val: 1 of 2 key frames" in capsys.readouterr().out
    # Nor are those left out of the count whose sensors the tables do not have
    other = index[index.of_split("val")[0]].cameras[1].token
    table = data / "v1.0-mini" / "sample_data.json"
    table.write_text(json.dumps([row for row in json.loads(table.read_text()) if row["token"] != other]))
    (data / missing.cameras[2].filename).write_bytes((data / index[index.of_split("val")[0]].cameras[2].filename).read_bytes())
    main(["prepare", "--dataroot", str(data), "--version", "v1.0-mini", "--workers", "0", "--skip-missing"])
    capsys.readouterr()
    command(data, network, "--fresh")
    assert "val: 1 of 2 key frames" in capsys.readouterr().out


def test_a_scene_whose_name_leads_out_of_the_folders_is_refused_everywhere(dataroot: Path, own_run: Path, tmp_path: Path):
    data, victim = tmp_path / "data", tmp_path / "home" / "model.safetensors"
    shutil.copytree(dataroot, data)
    victim.parent.mkdir()
    victim.write_bytes(b"precious weights")
    for table in ("scene", "splits"):
        path = data / "v1.0-mini" / f"{table}.json"
        path.write_text(path.read_text().replace('"scene-9003"', '"../../home/model"'))
    prepare = ["prepare", "--dataroot", str(data), "--version", "v1.0-mini", "--workers", "0"]
    for action in (lambda: main(prepare), lambda: command(data, own_run / "network.safetensors")):
        assert "scene '../../home/model' cannot name a file" in refused(action)
    assert victim.read_bytes() == b"precious weights"
