"""What lets a torchvision that was built for another torch be imported, as PyPI's beside a CPU build."""

from importlib.util import find_spec
from pathlib import Path

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
