"""Colours of classes and distances, the same in every picture."""

from __future__ import annotations

from typing import Final

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from matplotlib.colors import Colormap
from torch import Tensor

from splattingocc.taxonomy import IGNORE, NUM_CLASSES, SKY

CLASS_COLORS: Final = (
    (45, 45, 45), (255, 120, 50), (255, 192, 203), (255, 255, 0), (0, 150, 245), (0, 255, 255), (200, 180, 0), (255, 0, 0), (255, 240, 150),
    (135, 60, 0), (160, 32, 240), (255, 0, 255), (139, 137, 137), (75, 0, 75), (150, 240, 80), (230, 230, 250), (0, 175, 0),
)  # fmt: skip
"""RGB of the 17 classes by index: the colours that pictures of Occ3D-nuScenes commonly use, but for others, whose black
would hide all shading. Free space has no colour."""
SKY_COLOR: Final = (190, 220, 245)
"""What is seen where nothing is hit."""
IGNORE_COLOR: Final = (255, 255, 255)
EMPTY_COLOR: Final = (243, 245, 248)
"""Around a drawn grid."""
FLOOR_COLOR: Final = (198, 204, 212)
"""The bottom of a drawn grid: dark enough for manmade, the palest class, to stand out from it."""
UNSEEN_COLOR: Final = (176, 181, 191)
"""The bottom of a column of which nothing near the ground is seen."""
OUTLINE_COLOR: Final = (40, 44, 52)
ARROW_COLOR: Final = (255, 255, 255)
"""On the roof of the drawn vehicle."""
RIGHT_COLOR: Final = (92, 160, 150)
MISSED_COLOR: Final = (40, 80, 200)
FALSE_COLOR: Final = (214, 48, 49)
CONFUSED_COLOR: Final = (245, 176, 30)
"""What a prediction did with a voxel; told apart by people who see red and green alike, too."""
NOT_SCORED_COLOR: Final = (186, 191, 198)
EGO_COLOR: Final = (28, 48, 122)
"""The vehicle that carries the cameras; it is drawn for orientation and is no class."""
NEAREST_METRES: Final = 1.0
FARTHEST_METRES: Final = 50.0
"""Ends of the distance colour scale, which is logarithmic: as far as the corner of the Occ3D grid is away."""


def class_colors(semantics: UInt8[Tensor, "*cell"] | Int64[Tensor, "*cell"]) -> UInt8[Tensor, "*cell 3"]:
    """Colour class indices, SKY and IGNORE; what is no class at all becomes IGNORE's white."""
    table = torch.tensor(IGNORE_COLOR, dtype=torch.uint8).repeat(IGNORE + 1, 1)
    table[:NUM_CLASSES] = torch.tensor(CLASS_COLORS, dtype=torch.uint8)
    table[SKY] = torch.tensor(SKY_COLOR, dtype=torch.uint8)
    return table.to(semantics.device)[semantics.long()]


def distance_colormap() -> Colormap:
    """Return the colour map of distances: near is warm, far is cold."""
    return matplotlib.colormaps["turbo_r"]


def distance_colors(distances: Float[Tensor, "*cell"]) -> UInt8[Tensor, "*cell 3"]:
    """Colour metres on the logarithmic scale; where there is none (nan) it looks like the sky."""
    position = torch.log(distances.clamp(min=NEAREST_METRES) / NEAREST_METRES) / np.log(FARTHEST_METRES / NEAREST_METRES)
    colors = np.asarray(distance_colormap()(position.nan_to_num(0.0).clamp(0, 1).cpu().numpy()))[..., :3]
    colors = torch.from_numpy((colors * 255).round().astype(np.uint8))
    colors[distances.isnan().cpu()] = torch.tensor(SKY_COLOR, dtype=torch.uint8)
    return colors
