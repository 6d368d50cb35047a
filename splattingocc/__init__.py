"""Vision-centric 3D semantic occupancy from 2D labels only: Gaussians rendered along rays.

The names in `__all__` are for other programs (`docs/api.md`); each is imported when it is first asked for, because torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splattingocc.engine.inference import Surfaces
    from splattingocc.geometry.cameras import Cameras
    from splattingocc.geometry.rays import Rays
    from splattingocc.geometry.voxel_grid import VoxelGrid
    from splattingocc.predictor import OccupiedCells, PredictedOccupancy, Predictor
    from splattingocc.splatting.field import Occupancy, OccupancyThreshold
    from splattingocc.taxonomy import CLASSES, FREE, SKY

__version__ = "0.1.0"
__all__ = [
    "CLASSES",
    "FREE",
    "SKY",
    "Cameras",
    "Occupancy",
    "OccupancyThreshold",
    "OccupiedCells",
    "PredictedOccupancy",
    "Predictor",
    "Rays",
    "Surfaces",
    "VoxelGrid",
    "__version__",
]
_HOMES = {
    "CLASSES": "taxonomy",
    "FREE": "taxonomy",
    "SKY": "taxonomy",
    "Cameras": "geometry.cameras",
    "Occupancy": "splatting.field",
    "OccupancyThreshold": "splatting.field",
    "OccupiedCells": "predictor",
    "PredictedOccupancy": "predictor",
    "Predictor": "predictor",
    "Rays": "geometry.rays",
    "Surfaces": "engine.inference",
    "VoxelGrid": "geometry.voxel_grid",
}
"""The modules of the names above."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
