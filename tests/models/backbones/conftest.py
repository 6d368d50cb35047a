"""Libraries of other encoders, which only the extra `backbones` brings."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    return pytest.importorskip("torchvision", reason="the extra `backbones` (torchvision) is not installed")


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    if find_spec("timm") is None:
        pytest.skip("the extra `backbones` (timm) is not installed")
    return import_module("timm")
