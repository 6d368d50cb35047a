"""Every example runs on the synthetic data set, as a newcomer would run it."""

import importlib.util
import re
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from splattingocc.cli import main, parse
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import labelled_rays
from splattingocc.data.nuscenes import read_index
from splattingocc.pipeline.remarks import about_idle_options
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import draw_world

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"


def run(name: str, *arguments: str) -> None:
    """Run an example in this process, which has imported what takes another one seconds."""
    heeds_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *arguments])
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        # A program that ends lets Ctrl-C end what is left of it at once, and would leave that to the tests after this one
        signal.signal(signal.SIGINT, heeds_ctrl_c)


def test_fitting_one_frame_lowers_the_loss_and_scores_held_out_rays(synthetic_dataroot: Path, capsys: pytest.CaptureFixture):
    run("01_fit_one_frame.py", "--dataroot", str(synthetic_dataroot), "--frame", "1", "--steps", "3")
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", said)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    scores = dict(re.findall(r"^  (\w+) +(\d+\.\d+)$", said, flags=re.MULTILINE))
    assert set(scores) == {"median_relative_error", "class_accuracy", "mass_in_front", "mass_at_hit"}
    assert all(0 <= float(score) <= 1 for score in scores.values())


def test_a_frame_that_is_not_there_is_named(synthetic_dataroot: Path):
    with pytest.raises(SystemExit, match=r"^--frame 99: v1\.0-mini has key frames 0 to 5$"):
        run("01_fit_one_frame.py", "--dataroot", str(synthetic_dataroot), "--frame", "99")


@pytest.fixture(scope="module")
def own_rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root that the second example fills."""
    out = tmp_path_factory.mktemp("own_rig")
    run("02_your_own_rig.py", "--out", str(out), "--drives", "2", "--frames", "2")
    return out


def test_labels_of_an_own_rig_lie_on_what_its_cameras_see(own_rig: Path):
    specification = importlib.util.spec_from_file_location("own_rig_example", EXAMPLES / "02_your_own_rig.py")
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    sys.modules["own_rig_example"] = example
    specification.loader.exec_module(example)
    main(["prepare", "--dataroot", str(own_rig), "--version", "drives", "--vehicle-masks", str(own_rig / "masks")])
    store, index = LabelStore.open(own_rig / "labels_2d"), read_index(own_rig, "drives")
    world = draw_world(np.random.default_rng((0, 0)), 2 * example.INTERVAL)
    scene = SceneMesh(world, torch.device("cpu"))
    key_frame = index[1]
    rays, labels = labelled_rays(key_frame, store)
    views = torch.from_numpy(store.read(key_frame.token).camera_indices.astype("int64"))
    ego_in_world = torch.from_numpy(key_frame.world_from_ego).float()
    shares = []
    for view, camera in enumerate(example.RIG.values()):
        scene.set_time(example.INTERVAL + camera.delay)
        own = rays[views == view].transform(ego_in_world)
        errors = (scene.cast(own, 100.0).distances - labels[views == view].distances).abs()
        assert len(errors) > 500
        shares.append((errors < 0.05).float().mean().item())
    # The rest is hidden from the camera, or moved between the sweep and the image
    assert min(shares) > 0.9
    table = store.read(key_frame.token)
    columns, rows = table.pixels[table.camera_indices == 0].astype(int).T
    bonnet = example.bonnet()
    # The store's steps of a pixel can round a label at an image's right border onto it
    assert not bonnet[rows.clip(max=bonnet.shape[0] - 1), columns.clip(max=bonnet.shape[1] - 1)].any()
    assert rows.max() > 0.85 * 240
    assert [camera.channel for camera in index[3].cameras] == ["front", "rear", "right"]


def test_an_own_rig_is_trained_and_drawn_by_the_usual_commands(own_rig: Path, tmp_path: Path):
    options = ["--data.dataroot", str(own_rig), "--data.version", "drives", "--data.vehicle-masks", str(own_rig / "masks")]
    options += ["--data.loader.image-size", "32", "64", "--data.loader.num-rays", "200", "--optimization.image-steps", "1"]
    options += ["--network.backbone.kind", "mobilenet_v2", "--network.lift.coarsening", "8", "--network.lift.channels", "8"]
    options += ["--network.volume-encoder.channels", "8", "16", "--network.volume-encoder.blocks", "1", "1"]
    options += ["--calibration.criterion", "cells"]
    main(["train", str(CONFIG), *options, "--trainer.max-epochs", "1", "--data.num-workers", "0", "--work-dir", str(tmp_path)])
    network, pictures = str(tmp_path / "network.safetensors"), tmp_path / "pictures"
    main(["visualize", str(CONFIG), network, *options, "--frames", "0", "1", "--out", str(pictures)])
    assert [len(list(pictures.glob(f"drive-1_00{frame}_*.png"))) for frame in (0, 1)] == [4, 4]


@pytest.mark.parametrize("path", [EXAMPLES / "02_your_own_rig.py", EXAMPLES.parent / "docs" / "prepare_datasets.md"])
def test_the_training_of_an_own_rig_has_steps_for_the_volume(path: Path):
    """The example records three drives of three key frames, two of them to train on: six steps an epoch."""
    text = re.sub(r" \\+\n", " ", path.read_text())
    (words,) = re.findall(r"^ *splattingocc train (splattingocc-synth .*data/shuttle.*)$", text, flags=re.MULTILINE)
    experiment = parse(["train", *words.split()]).experiment
    assert experiment.data.vehicle_masks is not None
    assert not [line for line in about_idle_options(experiment, 6, 1, 0) if "no volume does" in line]
