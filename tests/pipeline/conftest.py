"""A data set and a training of it, which the files of this room share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_trainings import small_experiment
from toy_parts import register

from splattingocc.data.nuscenes import read_index
from splattingocc.labels.generate import generate_labels
from splattingocc.pipeline.training import train


@pytest.fixture(scope="session")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels and without its 3D truth."""
    out = tmp_path_factory.mktemp("without_truth") / "data"
    shutil.copytree(synthetic_dataroot, out, ignore=shutil.ignore_patterns("gts"))
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """Let configurations have the parts that `small_experiment` is made of."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


@pytest.fixture(scope="session")
def trained(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of four key frames, made without any 3D truth on disk."""
    work_dir = tmp_path_factory.mktemp("trained")
    assert not (dataroot / "gts").exists()
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        train(small_experiment(dataroot), work_dir, show_progress=False)
    return work_dir
