"""The small world of the campaigns: every kind of file that the program reads, made once by the program itself."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from splattingocc.cli import main
from splattingocc.config import Config
from splattingocc.data.key_frames import KeyFrame, SensorFrame
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.nuscenes import read_index
from splattingocc.data.own_data import write_index
from splattingocc.demo import Stages
from splattingocc.engine.options import OptimizationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.models.backbones.resnet import ResNet, ResNetConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.taxonomy import IGNORE

VERSION = "v1.0-mini"
OWN_VERSION = "mine"
IMAGE_SIZE = (32, 64)
LINKED_FROM = 2**18
"""Bytes from which on a copy of the world shares a file: no such file is written in place."""
CONFIG = """from pathlib import Path

from splattingocc.experiment import ExperimentConfig


def config() -> ExperimentConfig:
    return ExperimentConfig.model_validate_json(Path("config.json").read_text())
"""


class DemoOptions(Config):
    """Stands for the options of a stage of the demo."""

    frames: int = 2


def experiment(dataroot: Path, *, name: str = "small", epochs: int = 1, ema_decay: float = 0.7) -> ExperimentConfig:
    """Return the smallest training that goes through every part of the program."""
    return ExperimentConfig(
        name=name,
        data=DataConfig(
            dataroot=dataroot,
            version=VERSION,
            loader=LoaderConfig(image_size=IMAGE_SIZE, num_rays=200, held_out_fraction=0.1),
            num_workers=0,
        ),
        network=NetworkConfig(
            neck=FPNConfig(channels=8, stride=8),
            lift=SamplingLiftConfig(channels=4, coarsening=4),
            volume_encoder=UNet3dConfig(channels=(8, 8), blocks=(1, 1)),
        ),
        optimization=OptimizationConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=ema_decay),
        trainer=TrainerConfig(max_epochs=epochs, accelerator="cpu"),
    )


def write_config(path: Path, config: ExperimentConfig) -> Path:
    """Write a configuration as JSON, which `train` and `test` take."""
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return path


def build(root: Path) -> None:
    """Fill the folder `root`, and work in it from now on: every path of the world is relative to it."""
    root.mkdir(parents=True)
    os.chdir(root)
    with Path("console.txt").open("w") as console, redirect_stdout(console):
        main(["synth", "--out", "synth", "--scenes", "3", "--val-scenes", "1", "--frames", "2", "--image-size", *map(str, IMAGE_SIZE)])
        main(["prepare", "--dataroot", "synth", "--workers", "0"])
        _write_own(Path("own"))
        _write_maps(Path("maps"))
        write_config(Path("config.json"), experiment(Path("synth"), epochs=2))
        Path("config.py").write_text(CONFIG)
        main(["train", "config.json", "--work-dir", "runs/small"])
        main(["test", "config.json", "runs/small/network.safetensors"])
    _write_foreign(Path("foreign"))
    _write_weights(Path("weights"))
    _write_demo(Path("demo"))
    canary = Path("canary")
    canary.mkdir()
    (canary / "kept.txt").write_text("nobody may write here")
    (canary / "kept.safetensors").write_text("nor here")


def warm_up(root: Path, folder: Path) -> None:
    """Let this process load every kernel, by training and scoring in another folder, so that the children that it forks need not."""
    copy(root, folder, ("synth",))
    config = str(write_config(folder / "config.json", experiment(folder / "synth")))
    with (folder / "console.txt").open("w") as console, redirect_stdout(console):
        main(["train", config, "--work-dir", str(folder / "runs/warm")])
        main(["test", config, str(folder / "runs/warm/network.safetensors"), "--eval", "all"])
    shutil.rmtree(folder)


def copy(root: Path, out: Path, parts: Iterable[str]) -> None:
    """Copy parts of a world into a new folder; large files are shared."""
    for part in parts:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, out / part, symlinks=True, copy_function=_copy_or_link, dirs_exist_ok=True)
        else:
            (out / part).parent.mkdir(parents=True, exist_ok=True)
            _copy_or_link(source, out / part)


def _copy_or_link(source: str | Path, target: str | Path) -> None:
    if os.stat(source).st_size >= LINKED_FROM:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _pose(x: float, yaw: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[0, 3] = x
    return matrix


def _mount(yaw: float) -> np.ndarray:
    matrix = _pose(0.0, yaw)
    matrix[:3, :3] = matrix[:3, :3] @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    matrix[2, 3] = 1.5
    return matrix


def _write_own(root: Path) -> None:
    """Two scenes of a rig with two cameras; sweeps are `.npy` in the first and `.npz` in the second one."""
    rng = np.random.default_rng(0)
    frames = []
    for scene, suffix, count in (("a", "npy", 2), ("b", "npz", 1)):
        for i in range(count):
            stem = f"{scene}{i}"
            points = rng.uniform((-20, -8, -1), (20, 8, 2), (200, 3)).astype(np.float32)
            root.mkdir(exist_ok=True)
            np.save(root / f"{stem}.npy", points) if suffix == "npy" else np.savez(root / f"{stem}.npz", points=points)
            np.save(root / f"{stem}_classes.npy", np.append(rng.integers(0, 17, 199), IGNORE).astype(np.uint8))
            cameras = []
            for name, yaw, (height, width) in (("ahead", 0.0, (60, 100)), ("behind", math.pi, (40, 120))):
                path = root / name / f"{stem}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
                K = np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]])
                mount, pose, size = _mount(yaw), _pose(2.0 * i + 0.1), (height, width)
                cameras.append(SensorFrame(f"{stem}-{name}", name, f"{name}/{stem}.png", i, size, K, mount, pose))
            lidar = SensorFrame(f"{stem}-lidar", "lidar", f"{stem}.{suffix}", i, None, None, _pose(0.5), _pose(2.0 * i))
            frames.append(KeyFrame(stem, scene, i, i, _pose(2.0 * i), tuple(cameras), lidar, f"{stem}_classes.npy"))
    write_index(root, OWN_VERSION, frames, {"train": ["a"], "val": ["b"]})
    (root / "vehicle").mkdir()
    mask = np.zeros((60, 100), dtype=np.uint8)
    mask[50:] = 255
    Image.fromarray(mask).save(root / "vehicle/ahead.png")


def _write_maps(root: Path) -> None:
    """Dense maps of the own rig: classes as PNG, depth as `.npy`, confidence as `.npz`."""
    rng = np.random.default_rng(1)
    index = read_index(Path("own"), OWN_VERSION)
    for key_frame in (index[i] for i in range(len(index))):
        for camera in key_frame.cameras:
            assert camera.image_size is not None
            folders = {kind: root / kind / camera.channel for kind in ("semantics", "depth", "confidence")}
            for folder in folders.values():
                folder.mkdir(parents=True, exist_ok=True)
            stem = Path(camera.filename).stem
            Image.fromarray(rng.integers(0, 4, camera.image_size, dtype=np.uint8)).save(folders["semantics"] / f"{stem}.png")
            np.save(folders["depth"] / f"{stem}.npy", rng.uniform(2, 60, camera.image_size).astype(np.float32))
            np.savez_compressed(folders["confidence"] / f"{stem}.npz", rng.uniform(0, 1, camera.image_size).astype(np.float32))
    (root / "classes.json").write_text(json.dumps({"0": "driveable_surface", "1": "car", "2": "manmade", "3": "sky"}))


def _write_foreign(root: Path) -> None:
    """The predictions of `runs/small` as another program would leave them."""
    for path in sorted(Path("runs/small/output").glob("*/*.npz")):
        folder = root / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"{path.stem.split('_', 1)[1]}.npz", pred=np.load(path)["semantics"])


def _write_weights(root: Path) -> None:
    root.mkdir()
    torch.manual_seed(0)
    state = ResNet(ResNetConfig()).state_dict()
    save_file(state, root / "resnet18.safetensors")
    torch.save(state, root / "resnet18.pth")


def _write_demo(root: Path) -> None:
    from rich.console import Console

    root.mkdir()
    stages = Stages(root, Console(quiet=True))
    for name in ("world", "labels"):
        stages.run(name, name, DemoOptions(), lambda: None)
    method = {
        "camera_mask": {"miou_17": 10.0, "miou_15": 11.0, "geometric_iou": 12.0},
        "ray_iou": {"mean": 3.0},
        "rendering": {"median_relative_error": 0.1, "class_accuracy": 0.5},
    }
    (root / "scores.json").write_text(json.dumps({"model": method, "all free": method}))
