"""What the tests of several rooms share. Being here, it also puts this folder on the import path: all rooms can use `tiny_nuscenes`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision_operators

# Before anything else is imported: Lightning imports torchvision wherever it is installed
torchvision_operators.make_torchvision_importable()

import tiny_nuscenes  # noqa: E402

from splattingocc.data.nuscenes import read_index  # noqa: E402
from splattingocc.labels.generate import generate_labels  # noqa: E402

LONGEST = (
    "test_going_on.py",
    "test_training.py",
    "test_recipes.py",
    "test_distributed.py",
    "test_comparison.py",
    "test_fields.py",
    "test_wheel.py",
    "test_testing.py",
    "test_onnx_export.py",
    "test_family_commands.py",
    "test_cache.py",
    "test_batches.py",
    "test_examples.py",
)
"""Files of tests by how long they take, those of twenty seconds and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: of several processes that share them, none is to begin one when the others have nothing left."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def heed_ctrl_c() -> None:
    """Hear Ctrl-C as a program in a terminal does, also where the tests run in the background of a shell, which makes all in it deaf."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def give_back_freed_memory() -> Iterator[None]:
    """Return to the system what a file's tests have freed: trainings keep it for their next step, and a process of tests grew to 7 GiB."""
    yield
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session")
def synthetic_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set, version v1.0-mini: two training scenes and one for validation, two key frames each, images of 90 × 160.

    Its labels and poses have no errors: what they become is compared with the exact 3D truth. Its drives are short.
    """
    from splattingocc.synthetic.writer import SynthConfig, write_dataset

    out = tmp_path_factory.mktemp("synthetic") / "data"
    config = SynthConfig(
        num_scenes=3, num_val_scenes=1, frames_per_scene=2, image_size=(90, 160), drive_seconds=4.0, label_errors=False, pose_errors=False
    )
    write_dataset(config, out, progress=False)
    return out


@pytest.fixture(scope="session")
def tiny_dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training scenes of three key frames and one for validation."""
    return tiny_nuscenes.write(tmp_path_factory.mktemp("tiny"), scenes={"scene-0002": 3, "scene-0001": 3, "scene-0003": 2})


@pytest.fixture(scope="session")
def real_dataroot() -> Path:
    """The real nuScenes key frame beside the project."""
    path = Path(__file__).parents[1].parent / "shared/data/nuscenes-one"
    if not path.exists():
        pytest.skip("the real nuScenes key frame is not here")
    return path


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
