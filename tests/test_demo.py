import re
import signal
from pathlib import Path

import pytest
from rich.console import Console

from splattingocc import demo as demo_module
from splattingocc.config import Config
from splattingocc.demo import PUBLISHED, WORLD, Demo, Stages, Step
from splattingocc.engine.signals import InterruptedTraining
from splattingocc.evaluation.report import write_metrics
from splattingocc.experiment import DataConfig, ExperimentConfig
from splattingocc.files import read_json, write_sealed_json
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.pipeline.networks import load_experiment
from splattingocc.zoo import known_networks


class Nothing(Config):
    """A stage without options."""


class Interrupted(Exception):
    pass


def test_an_interrupted_stage_goes_on_only_with_the_same_code_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made, found = tmp_path / "train", []

    def work(code: str) -> None:
        def leave_something_and_stop() -> None:
            found.append((made / "left").exists())
            made.mkdir(exist_ok=True)
            (made / "left").write_text("by an interrupted run")
            raise Interrupted

        monkeypatch.setattr(demo_module, "source_hash", lambda: code)
        with pytest.raises(Interrupted):
            Stages(tmp_path, Console()).run([Step("train", "Train", Nothing(), leave_something_and_stop, (made,))])

    for code in ("one", "one", "another"):
        work(code)
    assert found == [False, True, False]


def test_a_finished_stage_is_skipped_until_a_stage_before_it_changes(tmp_path: Path):
    ran = []

    class Seed(Config):
        seed: int

    def run(seed: int) -> dict[str, float]:
        stages = Stages(tmp_path, Console())
        world = Step("world", "World", Seed(seed=seed), lambda: ran.append(f"world {seed}"))
        stages.run([world, Step("labels", "Labels", Nothing(), lambda: ran.append(f"labels of {seed}"))])
        return stages.seconds

    for seed in (0, 0, 1):
        assert set(run(seed)) == {"world", "labels"}
    assert ran == ["world 0", "labels of 0", "world 1", "labels of 1"]


def test_what_later_stages_made_of_an_earlier_network_goes_before_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A demo of another seed that is stopped while it predicts: no scores or pictures of the one before stand beside its voxels."""
    cache, scores = tmp_path / "output", tmp_path / "scores.json"

    def steps(*, stopped: bool) -> list[Step]:
        def stop() -> None:
            assert not scores.exists()
            raise Interrupted

        predict = Step("predict", "Predict", Nothing(), stop if stopped else cache.mkdir, (cache,))
        return [predict, Step("score", "Score", Nothing(), lambda: scores.write_text("{}"), (scores,))]

    Stages(tmp_path, Console()).run(steps(stopped=False))
    assert scores.exists()
    monkeypatch.setattr(demo_module, "source_hash", lambda: "another")
    with pytest.raises(Interrupted):
        Stages(tmp_path, Console()).run(steps(stopped=True))
    assert not scores.exists()
    assert not cache.exists()
    monkeypatch.undo()
    Stages(tmp_path, Console()).run(steps(stopped=False))
    assert scores.exists(), "taken for finished, though it was removed"


def test_fresh_removes_what_the_demo_made_and_nothing_else(tmp_path: Path):
    """Its network may have been trained on in its folder, and tested, which writes a ledger that is never rewritten."""
    made, mine = tmp_path / "output", tmp_path / "longer" / "network.safetensors"
    ran = []

    def make() -> None:
        assert not made.exists()
        made.mkdir()
        ran.append("predict")

    def run(*, fresh: bool) -> None:
        Stages(tmp_path, Console()).run([Step("predict", "Predict", Nothing(), make, (made,))], fresh=fresh)

    run(fresh=False)
    mine.parent.mkdir()
    for path in (mine, tmp_path / "log.txt", tmp_path / "report.html"):
        path.write_text("mine")
    run(fresh=False)
    assert ran == ["predict"]
    run(fresh=True)
    assert ran == ["predict"] * 2
    assert {path.read_text() for path in (mine, tmp_path / "log.txt", tmp_path / "report.html")} == {"mine"}


def test_a_training_that_is_told_to_stop_says_that_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(config: ExperimentConfig, work_dir: Path, *, resume_from: Path | None) -> None:
        raise InterruptedTraining(signal.SIGINT, work_dir / "checkpoints/step_00000003.ckpt")

    monkeypatch.setattr(demo_module, "train", stop)
    with pytest.raises(InterruptedTraining, match=r"^stopped by SIGINT; the same command goes on from .*step_00000003\.ckpt$"):
        Demo(tmp_path, WORLD, ExperimentConfig(name="demo"))._train()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path, fresh: bool):
    mine = tmp_path / "data" / "nuscenes" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("of years")
    with pytest.raises(ValueError, match=r"holds files, and none of the demo's \(stages\.json is missing\); choose another --out"):
        demo_module.run_demo(tmp_path, seed=0, fresh=fresh)
    assert mine.read_text() == "of years"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("known", [{"world": 3}, {"world": {"seconds": 1.0}}, {"world": {"fingerprint": "x", "seconds": "long"}}])
def test_a_list_of_stages_that_is_none_means_that_all_are_done_again(tmp_path: Path, known: dict):
    write_sealed_json(tmp_path / "stages.json", known)
    ran = []
    stages = Stages(tmp_path, Console())
    stages.run([Step("world", "World", Nothing(), lambda: ran.append("world"))])
    assert ran == ["world"]
    assert set(stages.seconds) == {"world"}


def test_its_encoder_begins_with_imagenets_weights_where_they_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun: list[ExperimentConfig] = []
    monkeypatch.setattr(Demo, "run", lambda demo, *, fresh: begun.append(demo.experiment))
    for weights in (None, tmp_path / "weights.pth"):
        monkeypatch.setattr(demo_module, "imagenet_weights", lambda weights=weights: weights)
        demo_module.run_demo(tmp_path, seed=3, fresh=False)
    assert [experiment.network.backbone for experiment in begun] == [
        MobileNetV2Config(),
        MobileNetV2Config(weights=tmp_path / "weights.pth"),
    ]
    assert {experiment.seed for experiment in begun} == {3}


@pytest.mark.parametrize("scores", ['{"model": {}}', '{"model": 3}', "3", '{"model": {"camera_mask": {"miou_17": "x"}, "rendering": 1}}'])
def test_scores_that_are_none_are_one_line(tmp_path: Path, scores: str):
    (tmp_path / "scores.json").write_text(scores)
    demo = Demo(tmp_path, WORLD, ExperimentConfig(name="demo"))
    with pytest.raises(ValueError, match=r"scores\.json: not the scores of the demo: "):
        demo._conclude(Stages(tmp_path, Console()), Console())


def test_the_network_of_the_zoo_is_scored_and_drawn_on_the_same_scenes_and_has_a_row(
    synthetic_dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo_module, "NUM_PICTURES", 1)
    root = tmp_path / "demo"
    data = DataConfig(dataroot=synthetic_dataroot, labels=tmp_path / "labels", version="v1.0-mini")
    demo = Demo(root, WORLD, ExperimentConfig(name="demo", data=data))
    demo._labels()
    network = known_networks()[PUBLISHED]
    demo._published(network)
    zoo = f"zoo/{PUBLISHED}"
    scores = read_json(demo.published / "scores.json", dict, what="scores")
    assert scores.keys() == {zoo}
    assert scores[zoo]["ray_iou"]["mean"] > 2  # percent
    assert scores[zoo]["rendering"]["median_relative_error"] < 0.3
    assert len(list((demo.published / "pictures").iterdir())) > 1
    write_metrics(root / "scores.json", {"model": scores[zoo], "all free": scores[zoo]})
    demo._conclude(Stages(root, Console()), Console())
    assert list(read_json(root / "metrics.json", dict, what="metrics")["methods"]) == ["model", zoo, "all free"]
    assert str(demo.published / "pictures") in capsys.readouterr().out.replace("\n", "")


def test_the_streets_are_not_those_that_the_networks_of_the_zoo_have_learned_from():
    trained = load_experiment(known_networks()[PUBLISHED])
    card = (known_networks()[PUBLISHED].parent / "README.md").read_text()
    assert trained.name == PUBLISHED
    learned_from = re.findall(r"seed (\d+), scenes 9001 to \d+", card)
    assert learned_from, "the card does not say of which seeds its streets were"
    assert str(WORLD.seed) not in learned_from
