"""Where cells lie in images, and what maps of images hold there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import transform_points
from splattingocc.models.depth import DepthBins


@torch.no_grad()
def place(centers: Float[Tensor, "cell 3"], camera: Cameras, bins: DepthBins) -> tuple[Int64[Tensor, " seen"], Float[Tensor, "seen 3"]]:
    """Return the cells that one camera sees, and where: u, v and depth bin, each from -1 to 1 over the image and over the bins."""
    pixels, visible = camera.project(centers)
    cells = visible.nonzero().squeeze(1)
    depths = transform_points(camera.cam_from_ego, centers[cells])[:, 2]
    size = pixels.new_tensor([camera.image_size[1], camera.image_size[0]])
    position = torch.cat([pixels[cells] / size, bins.position(depths)[:, None] / bins.count], dim=-1)
    return cells, position * 2 - 1


def sample_map(values: Float[Tensor, "channel *space"], positions: Float[Tensor, "point axis"]) -> Float[Tensor, "point channel"]:
    """Interpolate a map (2D or 3D) at positions in [-1, 1], ordered from the last axis to the first; the border extends outwards."""
    ones = (1,) * (values.ndim - 2)
    grid = positions.view(1, *ones, *positions.shape)
    sampled = functional.grid_sample(values[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.flatten(1)[0].view(values.shape[0], -1).T
