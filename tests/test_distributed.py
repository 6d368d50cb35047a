"""Predicting and scoring with one, two and three processes that torchrun starts (gloo, CPU): the same files and the same numbers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradients_of_a_step
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from splattingocc.cli import main, parse
from splattingocc.engine.checkpoint import newest_checkpoint, save_network
from splattingocc.engine.distributed import started_by
from splattingocc.engine.ledger import read_ledger
from splattingocc.experiment import build_network

CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"
TOOLS = Path(__file__).parents[1] / "tools"
SMALL = (
    "--network.volume-encoder.channels 8 16 --network.volume-encoder.blocks 1 1 --network.lift.coarsening 8 --network.lift.channels 8 "
    "--network.backbone.kind mobilenet_v2 --data.loader.image-size 32 64 --data.num-workers 0"
)
"""A network that costs little beside the imports of the processes that use it."""


def test_what_torchrun_started_is_several_also_where_nobody_says_so(monkeypatch: pytest.MonkeyPatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert started_by("none") is None
    with pytest.raises(ValueError, match="torchrun has not started this process"):
        started_by("pytorch")
    monkeypatch.setenv("WORLD_SIZE", "6")  # of somebody else's
    assert started_by("none") is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert started_by("none") == started_by("pytorch") == (2, 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights."""
    config = parse(["train", str(CONFIG), *SMALL.split()]).experiment
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_network(build_network(config), config.network, path, {"threshold": "0.05"})
    return path


def arguments(dataroot: Path, *more: object) -> list[str]:
    # Four key frames: three processes get two, one and one of them
    options = ["--data.dataroot", dataroot, "--split", "train", "--eval", "segm", "ray", *SMALL.split(), *more]
    return [str(word) for word in ("test", CONFIG, *options)]


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics_train.json").read_text())


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as torchrun lets each of its processes: more threads round the last digit otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(checkpoint: Path, synthetic_dataroot: Path) -> Path:
    """What one process predicts."""
    with one_thread():
        main(arguments(synthetic_dataroot, checkpoint))
    assert metrics_of(checkpoint.parent)["model"]["num_frames"] == 4
    assert metrics_of(checkpoint.parent)["model"]["ray_iou"]["mean"] is not None
    return checkpoint.parent / "output_train"


def test_several_processes_predict_and_score_the_same(checkpoint: Path, alone: Path, synthetic_dataroot: Path, tmp_path: Path):
    copy = tmp_path / checkpoint.name
    copy.write_bytes(checkpoint.read_bytes())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "splattingocc.cli"]
    finished = subprocess.run([*command, *arguments(synthetic_dataroot, copy)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("RayIoU and F-score") == 1
    for path in alone.rglob("*.npz"):
        assert np.array_equal(np.load(path)["semantics"], np.load(tmp_path / "output_train" / path.relative_to(alone))["semantics"])
    assert metrics_of(tmp_path) == metrics_of(checkpoint.parent)


@pytest.fixture(scope="module")
def labels(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "labels"
    main(["prepare", "--dataroot", str(synthetic_dataroot), "--version", "v1.0-mini", "--out", str(out), "--workers", "0"])
    return out


@pytest.fixture(scope="module")
def by_srun(checkpoint: Path, alone: Path, synthetic_dataroot: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that srun started score, and the gradients of a step that they take, each with two samples."""
    out = tmp_path_factory.mktemp("by_srun")
    copy = out / checkpoint.name
    copy.write_bytes(checkpoint.read_bytes())
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "4242",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "OMP_NUM_THREADS": "1",
    }
    words = [out / "gradients", synthetic_dataroot, labels, *arguments(synthetic_dataroot, copy, "--launcher", "slurm")]
    command = [sys.executable, gradients_of_a_step.__file__, *map(str, words)]
    started = [
        subprocess.Popen(command, env={**os.environ, **slurm, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)})
        for number in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return out


def test_processes_that_srun_started_find_each_other(by_srun: Path, checkpoint: Path):
    assert metrics_of(by_srun) == metrics_of(checkpoint.parent)


def start_training(dataroot: Path, labels: Path, work_dir: Path, *more: object, processes: int, **environment: str) -> subprocess.Popen:
    """Call tools/dist_train.sh as a person does."""
    options = ["--launcher", "pytorch", "--work_dir", work_dir, "--data.dataroot", dataroot, *SMALL.split(), "--data.labels", labels]
    options += ["--data.loader.num-rays", 200, "--data.loader.label-frames", 1]
    options += ["--calibration.criterion", "cells", "--calibration.label-frames", 1, *more]
    words = ["bash", TOOLS / "dist_train.sh", CONFIG, processes, *options]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], env=environment, start_new_session=True, **pipes)


def losses_of(work_dir: Path) -> list[float]:
    with (work_dir / "logs" / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


SHORT = ("--cfg-options", "trainer.max_epochs=2", "optimization.image_steps=2")


@pytest.fixture(scope="module")
def trained_by_two(synthetic_dataroot: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs of four key frames, two at a time, by two processes of one agent."""
    work_dir = tmp_path_factory.mktemp("by_two") / "run"
    started = start_training(synthetic_dataroot, labels, work_dir, "--validate", *SHORT, processes=2, PORT="29611")
    _, errors = started.communicate()
    assert started.returncode == 0, errors[-3000:]
    return work_dir


def test_two_processes_train_one_network_and_write_one_ledger(trained_by_two: Path):
    assert len(losses_of(trained_by_two)) == 4
    scores = json.loads((trained_by_two / "metrics_val.json").read_text())
    assert scores["model"]["num_frames"] == 2
    run, test = read_ledger(trained_by_two.parent / "log.txt").runs[:2]
    assert test.what["command"] == "test"
    assert run.ended is not None
    assert run.what["processes"] == 2
    assert run.result["samples_per_second"] > 0
    log = (trained_by_two / "console.log").read_text()
    assert log.count("\nstep 1/4 ") == log.count("trained network: ") == 1
    assert json.loads((trained_by_two / "environment.json").read_text())["launcher"] == "torchrun"
    assert run.what["changed"]["trainer.max_epochs"] == 2


def test_a_training_that_is_finished_is_validated_when_its_job_is_begun_again(trained_by_two: Path, synthetic_dataroot: Path, labels: Path):
    """Nothing is trained any more, so that nobody but `--validate` lets the processes meet."""
    scores = trained_by_two / "metrics_val.json"
    scores.unlink()
    started = start_training(synthetic_dataroot, labels, trained_by_two, "--validate", "--auto-resume", *SHORT, processes=2, PORT="29614")
    try:
        _, errors = started.communicate(timeout=200)
    finally:
        subprocess.run(["pkill", "-KILL", "-f", str(trained_by_two)], check=False)
    assert started.returncode == 0, errors[-3000:]
    assert json.loads(scores.read_text())["model"]["num_frames"] == 2


def test_what_does_not_learn_yet_has_taken_no_step_in_several_processes_either(trained_by_two: Path):
    """Of four steps two are of the image branch alone; one process would have no state of the volume after them."""
    newest = newest_checkpoint(trained_by_two)
    assert newest is not None
    (optimizer,) = torch.load(newest, weights_only=True)["optimizer_states"]
    images, volume = (optimizer["param_groups"][group]["params"] for group in (0, 2))
    steps = {number: state["step"].item() for number, state in optimizer["state"].items()}
    assert {steps[number] for number in images} == {4}
    assert {steps[number] for number in volume} == {2}


def test_two_agents_as_on_two_nodes_train_the_same(trained_by_two: Path, synthetic_dataroot: Path, labels: Path, tmp_path: Path):
    nodes = [
        start_training(synthetic_dataroot, labels, tmp_path / "run", *SHORT, processes=1, PORT="29612", NNODES="2", NODE_RANK=str(rank))
        for rank in range(2)
    ]
    for node in nodes:
        _, errors = node.communicate()
        assert node.returncode == 0, errors[-3000:]
    assert losses_of(tmp_path / "run") == losses_of(trained_by_two)


def test_the_death_of_one_process_ends_the_others_with_a_message(synthetic_dataroot: Path, labels: Path, tmp_path: Path):
    long = ("--cfg-options", "trainer.max_epochs=500", "optimization.image_steps=2000")
    started = start_training(synthetic_dataroot, labels, tmp_path / "run", *long, processes=2, PORT="29613")
    try:
        checkpoints = tmp_path / "run" / "checkpoints"
        deadline = time.monotonic() + 200
        while not (checkpoints.is_dir() and any(checkpoints.glob("step_*.ckpt"))):
            assert started.poll() is None, started.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "no checkpoint after 200 s"
            time.sleep(0.5)
        ours = subprocess.run(["pgrep", "-f", str(tmp_path / "run")], capture_output=True, text=True, check=True).stdout.split()
        said = {int(number): Path(f"/proc/{number}/cmdline").read_bytes() for number in ours}
        ranks = [number for number, words in said.items() if b"dist_train.sh" not in words and b"torch.distributed.run" not in words]
        os.kill(ranks[-1], signal.SIGKILL)
        began = time.monotonic()
        _, errors = started.communicate(timeout=60)
        assert time.monotonic() - began < 60
        assert started.returncode != 0
        assert "SIGKILL" in errors
    finally:
        subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / "run")], check=False)
    assert newest_checkpoint(tmp_path / "run") is not None


def test_one_process_with_four_samples_has_the_gradients_of_two_with_two_each(
    by_srun: Path, synthetic_dataroot: Path, labels: Path, tmp_path: Path
):
    """The two take theirs one by one, accumulated."""
    with one_thread():
        gradients_of_a_step.save_gradients(tmp_path / "gradients", synthetic_dataroot, labels, batch_size=4)
    by_one, by_two = (load_file(folder / "gradients") for folder in (tmp_path, by_srun))
    assert by_one.keys() == by_two.keys()
    assert len(by_one) > 100
    # Of other sums, rounding differs, and with it on which side of a threshold of the renderer a few of the 640,000 Gaussians fall
    for name, gradient in by_one.items():
        error = (by_two[name] - gradient).norm() / gradient.norm().clamp(min=1e-9)
        assert error < 5e-3, f"{name}: {error:.1e}"
    ours, expected = (torch.cat([gradients[name].flatten() for name in by_one]) for gradients in (by_two, by_one))
    assert (ours - expected).norm() < 5e-4 * expected.norm()


def test_predictions_of_another_program_score_the_same(alone: Path, checkpoint: Path, synthetic_dataroot: Path, tmp_path: Path):
    for path in alone.rglob("*.npz"):
        np.savez_compressed(tmp_path / f"{path.stem.split('_')[1]}.npz", pred=np.load(path)["semantics"].astype(np.int64))
    main(arguments(synthetic_dataroot, "--from-cache", tmp_path, "--work-dir", tmp_path))
    found, expected = metrics_of(tmp_path), metrics_of(checkpoint.parent)
    assert found["model"] == expected["model"]
    assert found["markdown"].count("|") == expected["markdown"].count("|")
    next(iter(tmp_path.glob("*.npz"))).unlink()
    with pytest.raises(SystemExit, match=r"no prediction for 1 of 4 key frames, the first is [0-9a-f]{32} of scene-9"):
        main(arguments(synthetic_dataroot, "--from-cache", tmp_path))


def test_a_cache_of_another_split_and_wrong_options_are_refused(alone: Path, checkpoint: Path, synthetic_dataroot: Path):
    words = arguments(synthetic_dataroot, "--from-cache", alone)
    words[words.index("train")] = "val"
    with pytest.raises(
        SystemExit, match=r"holds 4 key frames of split train, 4 of them not asked for; asked for are 2, of which 2 are missing"
    ):
        main(words)
    with pytest.raises(SystemExit, match="give either a checkpoint, or --from-cache with predictions"):
        main(arguments(synthetic_dataroot))
    with pytest.raises(SystemExit, match="needs the network itself"):
        main([word if word != "ray" else "render" for word in arguments(synthetic_dataroot, "--from-cache", alone)])
