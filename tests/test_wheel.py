"""The package as others get it: a wheel, in a folder of its own, with no checkout in reach."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import splattingocc
from splattingocc.files import sha256_of

pytest.importorskip("pip", reason="pip, which builds and installs the wheel, is not installed")
PACKAGE = Path(splattingocc.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = {"pillow": "PIL", "rerun-sdk": "rerun", "warp-lang": "warp"}
"""What is imported of the packages whose names are others."""
SMALL = (
    "--data.dataroot demo/data --data.labels labels --data.loader.image-size 32 64 --data.loader.num-rays 200 --data.num-workers 0 "
    "--data.loader.label-frames 1 --network.backbone.kind mobilenet_v2 --network.lift.coarsening 8 --network.lift.channels 8 "
    "--network.volume-encoder.channels 8 16 --network.volume-encoder.blocks 1 1 --calibration.criterion cells"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source, built in a copy, where no earlier build can leave anything in it."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "splattingocc", source / "splattingocc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip(["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(source / "wheels"), str(source)])
    (found,) = (source / "wheels").iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip(["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)])
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def pip(words: list[str]) -> None:
    call = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    finished = subprocess.run(call, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the wheel and what it depends on; without `site`, nothing leads from there to a checkout that is installed too."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return subprocess.run([sys.executable, "-S", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_every_file_of_the_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {"splattingocc/configs/splattingocc/splattingocc-synth.py", "splattingocc/py.typed"} <= found


def imported() -> set[str]:
    """Return the modules of others that the package imports."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"splattingocc", "pydantic_core"}  # the last comes with pydantic


def test_the_wheel_asks_for_what_the_package_imports_and_for_nothing_else(installed: Path):
    (metadata,) = installed.glob("splattingocc-*.dist-info")
    asked: dict[bool, set[str]] = {True: set(), False: set()}
    for line in PathDistribution(metadata).requires or []:
        name = re.split(r"[^\w-]", line)[0]
        asked["extra ==" in line].add(MODULES.get(name, name))
    assert asked[False] <= imported()
    assert imported() <= asked[False] | asked[True]


def test_what_runs_is_the_wheel(installed: Path, folder: Path):
    found = run(installed, folder, "-c", "import splattingocc, sys; print(splattingocc.__file__, *sys.path)").stdout.split()
    assert Path(found[0]).is_relative_to(installed)
    assert str(ROOT) not in found


def test_a_wheel_says_its_version(installed: Path, folder: Path):
    assert run(installed, folder, "-m", "splattingocc.cli", "--version").stdout == f"splattingocc {splattingocc.__version__}\n"


COMMANDS = f"""
from splattingocc import demo
from splattingocc.cli import main

whole = demo.load_config
smaller = {{"data": {{"version": "v1.0-mini", "loader": {{"image_size": (32, 64), "num_rays": 200}}, "num_workers": 0}},
           "network": {{"backbone": {{"kind": "mobilenet_v2"}}, "lift": {{"coarsening": 8, "channels": 8}},
                       "volume_encoder": {{"channels": (8, 16), "blocks": (1, 1)}}}}, "calibration": {{"criterion": "cells"}},
           "optimization": {{"image_steps": 1, "warmup_steps": 1}}, "trainer": {{"max_epochs": 1, "accelerator": "cpu"}}}}
demo.load_config = lambda path: whole(path).model_copy(update=smaller)
demo.WORLD = demo.WORLD.model_copy(update={{"num_scenes": 2, "num_val_scenes": 1, "frames_per_scene": 2, "image_size": (90, 160)}})
demo.NUM_PICTURES = 1
main(["demo", "--out", "demo"])
for line in (
    "prepare --dataroot demo/data --out labels --workers 0",
    "train splattingocc-synth {SMALL} --trainer.max-epochs 1 --trainer.accelerator cpu --optimization.image-steps 0 --work-dir run",
    "test splattingocc-synth run/network.safetensors {SMALL} --eval segm",
):
    print("COMMAND")
    main(line.split())
"""
"""The demo with everything that takes time made small, and what others do with its streets: one process, whose imports take longest."""


@pytest.fixture(scope="module")
def said(installed: Path, folder: Path) -> list[str]:
    """What small commands of the wheel say one after the other; of the demo in `folder`/demo, of a training in `folder`/run."""
    finished = run(installed, folder, "-c", COMMANDS)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout.split("COMMAND\n")


@pytest.mark.slow
def test_the_demo_of_a_wheel_makes_a_trained_scored_and_pictured_model(said: list[str], folder: Path):
    assert "mIoU m17" in said[0]
    assert "7/7  left out: this installation has no zoo" in said[0]
    assert (folder / "demo" / "metrics.json").is_file()
    scores = json.loads((folder / "demo" / "train" / "metrics_val.json").read_text())
    assert scores["checkpoint"] == sha256_of(folder / "demo" / "train" / "network.safetensors")
    assert f"| demo | 0 | {scores['checkpoint'][:12]} |" in scores["markdown"]
    assert len(list((folder / "demo" / "pictures").glob("*.png"))) == 4


@pytest.mark.slow
def test_a_wheel_knows_its_configurations_and_makes_labels_a_network_and_scores_of_streets(said: list[str], folder: Path):
    _, prepared, _, scored = said
    assert "labelled rays in 4 key frames" in prepared
    assert "mIoU" in scored
    assert (folder / "run" / "metrics_val.json").is_file()
