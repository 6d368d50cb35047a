"""The contracts of the import graph hold because they are checked: who breaks one fails `make check`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts, to break."""
    out = tmp_path_factory.mktemp("contracts")
    shutil.copytree(ROOT / "splattingocc", out / "splattingocc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", out)
    return out


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def lint_with(copy: Path, module: str, more: str) -> subprocess.CompletedProcess[str]:
    """Check the contracts while a module of the copy has more in it."""
    path = copy / "splattingocc" / module
    before = path.read_text()
    path.write_text(f"{before}\n\n{more}")
    try:
        return lint(copy)
    finally:
        path.write_text(before)


def test_the_contracts_hold(copy: Path):
    finished = lint(copy)
    assert finished.returncode == 0, finished.stdout
    assert "0 broken" in finished.stdout


@pytest.mark.parametrize(
    "module",
    [
        "pipeline/training.py", "experiment.py", "engine/module.py", "losses/objective.py", "models/network.py", "labels/generate.py",
        "data/loaders.py", "files/reading.py",
    ],
)  # fmt: skip
def test_whoever_lets_training_reach_the_truth_breaks_a_contract(copy: Path, module: str):
    finished = lint_with(copy, module, "def peek():\n    from splattingocc.data.occ3d import read_truth\n\n    return read_truth\n")
    assert finished.returncode != 0
    assert "training cannot reach the 3D truth BROKEN" in finished.stdout


def test_whoever_needs_lightning_to_predict_breaks_a_contract(copy: Path):
    finished = lint_with(copy, "engine/inference.py", "def train():\n    from lightning import Trainer\n\n    return Trainer()\n")
    assert finished.returncode != 0
    assert "splattingocc.predictor is not allowed to import lightning" in finished.stdout
