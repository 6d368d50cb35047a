"""A labelled voxel grid seen along rays, so that predictions without Gaussians are measured by the same yardstick."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit
from splattingocc.splatting.field import Rendering
from splattingocc.taxonomy import FREE


def render_grid(
    semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid, rays: Rays, *, label_distances: Float[Tensor, " ray"], margin: float
) -> Rendering:
    """Return what the rays see of the first occupied cell: its class and the middle of their way through it; nothing where they miss."""
    hit = cast_first_hit((semantics != FREE).to(torch.uint8), grid, rays)
    stopped = hit.cells >= 0
    distances = (0.5 * (hit.enter_distances + hit.leave_distances)).float() * stopped
    classes = semantics.flatten()[hit.cells.clamp(min=0)].long()
    features = functional.one_hot(classes, FREE + 1)[:, :FREE].float() * stopped[:, None]
    errors = distances - label_distances
    return Rendering(
        features=features,
        distances=distances,
        alphas=stopped.float(),
        in_front=(stopped & (errors < -margin)).float(),
        at_hit=(stopped & (errors.abs() <= margin)).float(),
    )
