"""Libraries of other encoders, which only the extra `backbones` brings."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

LIBRARIES: list[torch.library.Library] = []
"""Kept alive: an operator that was registered by hand goes with its library."""


def make_torchvision_importable() -> None:
    """Register the operators that importing torchvision expects, where it was built for another torch: nothing here calls them."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(str(next(Path(spec.origin).parent.glob("_C*.so"))))
    except OSError:
        LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            LIBRARIES[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# Not in a fixture: Lightning, which tests import, imports torchvision wherever it is installed
make_torchvision_importable()


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    return pytest.importorskip("torchvision", reason="the extra `backbones` (torchvision) is not installed")


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    if find_spec("timm") is None:
        pytest.skip("the extra `backbones` (timm) is not installed")
    return import_module("timm")
