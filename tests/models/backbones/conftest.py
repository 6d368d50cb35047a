"""Libraries of other encoders, which only the extra `backbones` brings."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

LIBRARIES: list[torch.library.Library] = []
"""Kept alive: an operator that was registered by hand goes with its library."""


def import_torchvision() -> ModuleType:
    """Import torchvision also where it was built for another torch: nothing here needs its own operators, which importing it expects."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("the extra `backbones` (torchvision) is not installed")
    try:
        torch.ops.load_library(str(next(Path(spec.origin).parent.glob("_C*.so"))))
    except OSError:
        if not LIBRARIES:
            LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
            for name in ("nms", "qnms"):
                LIBRARIES[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("torchvision")


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    return import_torchvision()


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    if find_spec("timm") is None:
        pytest.skip("the extra `backbones` (timm) is not installed")
    import_torchvision()
    return import_module("timm")
