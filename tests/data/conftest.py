"""A tiny data set, shared by the tests that only read it."""

from pathlib import Path

import pytest
import tiny_nuscenes

from splattingocc.data.nuscenes import read_index
from splattingocc.labels.generate import generate_labels


@pytest.fixture(scope="session")
def tiny_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training scenes of three key frames and one for validation."""
    return tiny_nuscenes.write(tmp_path_factory.mktemp("tiny"), scenes={"scene-0002": 3, "scene-0001": 3, "scene-0003": 2})


@pytest.fixture(scope="session")
def real_dataroot() -> Path:
    """The real nuScenes key frame beside the project."""
    path = Path(__file__).parents[2].parent / "shared/data/nuscenes-one"
    if not path.exists():
        pytest.skip("the real nuScenes key frame is not here")
    return path


# The labels room is a floor above this one; its label maker is what fills a store, also for these tests.
@pytest.fixture(scope="session")
def tiny_store(tiny_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 2D labels of the tiny data set."""
    out = tmp_path_factory.mktemp("tiny-labels")
    generate_labels(read_index(tiny_dataroot, tiny_nuscenes.VERSION), tiny_dataroot, out, show_progress=False)
    return out


@pytest.fixture(scope="session")
def real_store(real_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 2D labels of the real key frame."""
    out = tmp_path_factory.mktemp("real-labels")
    generate_labels(read_index(real_dataroot, "v1.0-mini", cache_dir=out / "cache"), real_dataroot, out / "labels", show_progress=False)
    return out / "labels"
