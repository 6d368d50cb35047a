"""The command lines of this family of projects, as people type them; only sizes, the data root and what torchrun runs on are of a test."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splattingocc import pictures
from splattingocc.cli import main
from splattingocc.data.key_frames import Index
from splattingocc.data.nuscenes import read_index
from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.labels.generate import generate_labels

NAME = "splattingocc-Nframe"
"""The configuration. Its encoder is one of ours here: commands have no torchvision that fits."""
ROOT = Path(__file__).parents[1]
CONFIG = f"{ROOT}/configs/splattingocc/{NAME}.py"
SIZES = (
    "--data.num-workers 0 --data.loader.image-size 32 64 --data.loader.num-rays 200 --data.batch-size 1 --network.lift.coarsening 8 "
    "--network.lift.channels 8 --network.volume-encoder.channels 8 16 --network.volume-encoder.blocks 1 1 "
    "--network.backbone.kind mobilenet_v2 --calibration.criterion cells --data.version v1.0-mini"
)
SHORT = "--cfg-options trainer.max_epochs=1 optimization.image_steps=1 optimization.warmup_steps=1"


@pytest.fixture(scope="module")
def folder(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: a checkout's tools, and data with labels."""
    here = tmp_path_factory.mktemp("family")
    (here / "tools").symlink_to(ROOT / "tools")
    shutil.copytree(synthetic_dataroot, here / "data")
    generate_labels(read_index(here / "data", "v1.0-mini"), here / "data", here / "data" / "labels_2d", show_progress=False)
    return here


def typed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Let a shell run a line in a folder, with the sizes of a test."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PORT": "29617"}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, check=False)


def done(folder: Path, line: str) -> str:
    finished = typed(folder, line)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout + finished.stderr


def tool(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a tool of the checkout in this process, which has imported what takes each other one five seconds."""
    monkeypatch.setattr(sys, "argv", [name, *words.split()])
    heeds_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    finally:
        # A tool is the last that its own process does, and lets Ctrl-C end that without a word
        signal.signal(signal.SIGINT, heeds_ctrl_c)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a training, where it is by default."""
    work_dir = folder / "work_dirs" / load_config(Path(CONFIG)).name
    torchrun = "torchrun --standalone --nproc_per_node=1"
    options = f"--launcher pytorch --work_dir {work_dir.relative_to(folder)} --data.dataroot data {SIZES} {SHORT}"
    done(folder, f"{torchrun} tools/train.py {CONFIG} {options}")
    return work_dir


def test_training_leaves_a_link_to_its_last_checkpoint(run: Path):
    assert os.readlink(run / "latest.pth") == "checkpoints/step_00000004.ckpt"
    assert (run / "latest.pth").is_file()


@pytest.fixture(scope="module")
def output(folder: Path, run: Path) -> Path:
    """The cache of predictions of the checkpoint whose bare name is typed."""
    said = done(folder, f"bash tools/dist_test.sh {CONFIG} latest.pth 1 --dump_dir=work_dirs/output --data.dataroot data {SIZES}")
    assert f"latest.pth: not in this folder; taking work_dirs/{run.name}/latest.pth\n" in said
    # Its weights are those of the network of the finished training, which has the threshold, too
    assert f"work_dirs/{run.name}/latest.pth is {run}/network.safetensors\n" in said
    assert json.loads((run / "metrics_val.json").read_text())["model"]["num_frames"] == 2
    assert not (run / "output").exists()
    return folder / "work_dirs" / "output"


def test_a_scene_of_the_cache_is_drawn(folder: Path, output: Path):
    (scene,) = output.glob("scene-*")
    drawn = done(folder, f"python tools/visualization/visual.py work_dirs/output/{scene.name}")
    assert drawn.count(".png") == 2
    assert f"{scene.name}.mp4" in drawn or f"{scene.name}.webp" in drawn
    pictures = sorted(scene.glob("*.png"))
    assert [path.stem for path in pictures] == sorted(path.stem for path in scene.glob("*.npz"))
    assert all(str(path.relative_to(folder)) in drawn.replace("\n", "") for path in pictures)


def test_a_folder_without_predictions_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match=r"no predictions \(\*\.npz\) in this folder"):
        tool("visualization/visual.py", str(tmp_path / "none"), monkeypatch)


def test_a_process_of_torchrun_scores_what_was_predicted(
    folder: Path, run: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(folder)
    for name, value in {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    options = f"--launcher pytorch --eval segm --gpu-collect --dump_dir={output} --data.dataroot data {SIZES}"
    tool("test.py", f"{CONFIG} work_dirs/{run.name}/latest.pth {options}", monkeypatch)
    assert "mIoU m17" in capsys.readouterr().out


def test_the_help_of_the_drawing_tool_is_its_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        tool("visualization/visual.py", "--help", monkeypatch)
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "Draw the predicted grids of one scene" in said
    assert all(option in said for option in ("--gts", "--config", "--view"))
    with pytest.raises(SystemExit) as ended:
        tool("visualization/visual.py", "", monkeypatch)
    assert (ended.value.code, capsys.readouterr().out) == (2, "")


@pytest.mark.parametrize("name", ["network.safetensors", "latest.pth"])
def test_a_network_alone_is_enough_to_test(
    name: str, folder: Path, run: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # its relative data root leads nowhere from here
    network = str(run / name)
    for command in ("test", "visualize"):
        with pytest.raises(SystemExit, match=rf"data: no such folder; .*{name} was trained with it: .* with --data\.dataroot$"):
            main([command, network])
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    # The cache would refuse another experiment
    main(["test", network, "--data.dataroot", str(folder / "data"), "--dump-dir", str(output), "--work-dir", str(tmp_path / "scores")])
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")} == before
    began = json.loads((tmp_path / "log.txt").read_text().splitlines()[0].split(" ", 2)[2])
    assert began["changed"] == {"data.dataroot": str(folder / "data")}
    scores = (json.loads((of / "metrics_val.json").read_text())["model"] for of in (tmp_path / "scores", run))
    assert next(scores) == next(scores)


def test_a_network_alone_is_enough_to_draw(folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[tuple[ExperimentConfig, Path, Index, int, Path]] = []
    monkeypatch.setattr(pictures, "draw_key_frame_without_cache", lambda *given, options: drawn.append(given) or [])
    main(["visualize", str(run / "latest.pth"), "--data.dataroot", str(folder / "data"), "--frames", "1"])
    ((experiment, network, index, position, out),) = drawn
    assert (experiment.name, experiment.data.loader.image_size) == (run.name, (32, 64))
    assert (network, out) == (run / "network.safetensors", run / "pictures")
    assert index[position].index_in_scene == 1
