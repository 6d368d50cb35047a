"""A tiny data set, shared by the tests that only read it."""

from pathlib import Path

import pytest
import tiny_nuscenes


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
