"""Where cells lie in images, and what maps of images hold there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import beside, transform_points
from splattingocc.models.depth import DepthBins


@torch.no_grad()
def place(centers: Float[Tensor, "cell 3"], camera: Cameras, bins: DepthBins) -> tuple[Int64[Tensor, " seen"], Float[Tensor, "seen 3"]]:
    """Return the cells that one camera sees, and where: u, v and depth bin, each from -1 to 1 over the image and over the bins."""
    ((seen,),) = place_all(centers, camera.map(lambda tensor: tensor[None, None]), bins)
    return seen


@torch.no_grad()
def place_all(
    centers: Float[Tensor, "cell 3"], cameras: Cameras, bins: DepthBins
) -> list[list[tuple[Int64[Tensor, " seen"], Float[Tensor, "seen 3"]]]]:
    """Return the same for each camera of a batch (batch, view), the cells in ascending order.

    How many cells all of them see is asked at once: the host waits for a GPU to know.
    """
    num_samples, num_views = cameras.K.shape[:2]
    flat = cameras.map(lambda tensor: tensor.flatten(0, 1))
    projected = [flat[number].project(centers) for number in range(num_samples * num_views)]
    visible = torch.stack([of_camera for _, of_camera in projected])
    cells_of = visible.nonzero()[:, 1].split(visible.sum(dim=1).tolist())
    size = beside([cameras.image_size[1], cameras.image_size[0]], centers)
    placed = []
    for number, ((pixels, _), cells) in enumerate(zip(projected, cells_of)):
        depths = transform_points(flat[number].cam_from_ego, centers[cells])[:, 2]
        position = torch.cat([pixels[cells] / size, bins.position(depths)[:, None] / bins.count], dim=-1)
        placed.append((cells, position * 2 - 1))
    return [placed[first : first + num_views] for first in range(0, len(placed), num_views)]


def sample_map(values: Float[Tensor, "channel *space"], positions: Float[Tensor, "point axis"]) -> Float[Tensor, "point channel"]:
    """Interpolate a map (2D or 3D) at positions in [-1, 1], ordered from the last axis to the first; the border extends outwards."""
    ones = (1,) * (values.ndim - 2)
    grid = positions.view(1, *ones, *positions.shape)
    sampled = functional.grid_sample(values[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.flatten(1)[0].view(values.shape[0], -1).T
