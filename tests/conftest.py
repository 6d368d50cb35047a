"""What the tests of several rooms share. Being here, it also puts this folder on the import path: all rooms can use `tiny_nuscenes`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def synthetic_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set, version v1.0-mini: two training scenes and one for validation, two key frames each, images of 90 × 160."""
    from splattingocc.synthetic.writer import SynthConfig, write_dataset

    out = tmp_path_factory.mktemp("synthetic") / "data"
    config = SynthConfig(num_scenes=3, num_val_scenes=1, frames_per_scene=2, image_size=(90, 160))
    write_dataset(config, out, progress=False)
    return out
