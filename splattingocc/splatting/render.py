"""Render Gaussians along rays, differentiably. `splatting/reference.py` says what is computed, `kernels/gaussian_*.py` how."""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_index import UNIT_TOLERANCE
from splattingocc.kernels.gaussian_render import HITS_PER_RAY
from splattingocc.kernels.gaussian_scene import RayBundle, RayHits, SceneIndex, composite, composite_backward, index_gaussians
from splattingocc.splatting.gaussians import Gaussians, Rendering

NUM_RESULTS = 5
"""Results of the rendering operator that are a `Rendering`; what it notes for its backward pass follows."""


def render(
    gaussians: Gaussians,
    rays: Rays,
    *,
    near: float,
    far: float,
    label_distances: Float[Tensor, "*batch ray"] | None = None,
    margin: float = 0.4,
) -> Rendering:
    """Composite the Gaussians along each ray, front to back; gradients flow to every field of the Gaussians, not to the rays.

    Only Gaussians with their centre between `near` and `far` metres along the ray count. `label_distances` (nan where there is none)
    asks for `in_front` and `at_hit`, within `margin` metres. The gradient of the quaternions is that of unit ones, as
    `geometry.transforms.rotation_from_quat` has it, not projected onto the sphere. Works in float32. Raises `ValueError` naming the field
    that is wrong.
    """
    _check(gaussians, rays, near, far, label_distances, margin)
    batch = rays.origins.shape[:-2]
    fields = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features]
    if label_distances is None:
        label_distances = torch.full_like(rays.origins[..., 0], math.nan)
        labelled = False
    else:
        labelled = True
    per_element = [tensor.flatten(0, len(batch) - 1).unbind() if batch else (tensor,) for tensor in fields]
    per_element += [
        tensor.detach().flatten(0, len(batch) - 1).unbind() if batch else (tensor.detach(),)
        for tensor in (rays.origins, rays.directions, label_distances)
    ]
    grid = gaussians.grid
    options = ([*grid.lower], [*grid.upper], grid.cell_size, float(near), float(far), float(margin))
    for_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in fields)
    results = []
    for means, quats, scales, opacities, features, origins, directions, labels in zip(*per_element):
        index = _index_op(means.detach(), quats.detach(), scales.detach(), opacities.detach(), options[0], options[1], options[2])
        tensors = (means, quats, scales, opacities, features, origins, directions, labels)
        results.append(_render_op(*tensors, *index, for_backward, *options)[:NUM_RESULTS])
    stacked = [torch.stack(parts).unflatten(0, batch) if batch else parts[0] for parts in zip(*results)]
    return Rendering(*stacked) if labelled else Rendering(*stacked[:3])


def _check(gaussians: Gaussians, rays: Rays, near: float, far: float, label_distances: Tensor | None, margin: float) -> None:
    """Raise `ValueError` for what the kernels do not check themselves."""
    batch, num_rays = rays.origins.shape[:-2], rays.origins.shape[-2]
    num_gaussians = gaussians.means.shape[-2]
    expected = {
        "gaussians.means": (gaussians.means, (*batch, num_gaussians, 3)),
        "gaussians.quats": (gaussians.quats, (*batch, num_gaussians, 4)),
        "gaussians.scales": (gaussians.scales, (*batch, num_gaussians, 3)),
        "gaussians.opacities": (gaussians.opacities, (*batch, num_gaussians)),
        "gaussians.features": (gaussians.features, (*batch, num_gaussians, gaussians.features.shape[-1])),
        "rays.origins": (rays.origins, (*batch, num_rays, 3)),
        "rays.directions": (rays.directions, (*batch, num_rays, 3)),
    }
    if label_distances is not None:
        expected["label_distances"] = (label_distances, (*batch, num_rays))
    for name, (tensor, shape) in expected.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name}: dtype is {tensor.dtype}, rendering works in torch.float32")
        if tensor.device != gaussians.means.device:
            raise ValueError(f"{name}: is on {tensor.device}, gaussians.means on {gaussians.means.device}; move them together")
        if tensor.shape != shape:
            raise ValueError(f"{name}: shape is {tuple(tensor.shape)}, expected {shape}")
    if gaussians.features.shape[-1] == 0:
        raise ValueError("gaussians.features: needs at least one channel")
    if not (0 <= near < far < math.inf):
        raise ValueError(f"near, far: must be 0 <= near < far, finite metres; got {near} and {far}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin: must be finite and not negative metres; got {margin}")
    _check_values(gaussians.features, rays)


def _check_values(features: Tensor, rays: Rays) -> None:
    # One sum is nan or infinite where any of its terms is, at the price of reading the features once.
    if not features.detach().sum().isfinite() and not features.isfinite().all():
        raise ValueError("gaussians.features: must be finite")
    if not rays.origins.isfinite().all():
        raise ValueError("rays.origins: must be finite")
    norms = rays.directions.square().sum(-1)
    if not ((norms - 1).abs() <= UNIT_TOLERANCE).all():
        raise ValueError("rays.directions: must have unit length")


@torch.library.custom_op("splattingocc::index_gaussians", mutates_args=())
@no_type_check  # torch reads the annotations, which a checking wrapper would hide
def _index_op(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, lower: list[float], upper: list[float], cell_size: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    index = index_gaussians(means, quats, scales, opacities, _grid(lower, upper, cell_size))
    reach = torch.tensor([index.reach], dtype=torch.float64)
    return index.records, index.whitenings, index.opacities, index.ids, index.starts, index.leaps, reach


@_index_op.register_fake
def _(means, quats, scales, opacities, lower, upper, cell_size):
    active = torch.library.get_ctx().new_dynamic_size()
    cells = _grid(lower, upper, cell_size).num_cells
    return (
        means.new_empty(active, 4),
        means.new_empty(active, 3, 3),
        means.new_empty(active),
        means.new_empty(active, dtype=torch.int32),
        means.new_empty(cells + 1, dtype=torch.int32),
        means.new_empty(cells, dtype=torch.uint8),
        torch.empty(1, dtype=torch.float64),
    )


@torch.library.custom_op("splattingocc::render_gaussians", mutates_args=())
@no_type_check  # torch reads the annotations, which a checking wrapper would hide
def _render_op(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    origins: Tensor,
    directions: Tensor,
    label_distances: Tensor,
    records: Tensor,
    whitenings: Tensor,
    packed_opacities: Tensor,
    ids: Tensor,
    starts: Tensor,
    leaps: Tensor,
    reach: Tensor,
    for_backward: bool,
    lower: list[float],
    upper: list[float],
    cell_size: float,
    near: float,
    far: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    index = SceneIndex(records, whitenings, packed_opacities, ids, starts, leaps, float(reach))
    rays = RayBundle(origins, directions, label_distances, near, far, margin)
    results, hits = composite(index, features, rays, _grid(lower, upper, cell_size), for_backward=for_backward)
    return *results, hits.counts, hits.indices


@_render_op.register_fake
def _(means, quats, scales, opacities, features, origins, *unused):
    count, for_backward = origins.shape[0], unused[-7]
    num_noted = count if for_backward else 0
    counts, indices = (features.new_empty(shape, dtype=torch.int32) for shape in ((num_noted,), (num_noted, HITS_PER_RAY)))
    return features.new_empty(count, features.shape[1]), *(features.new_empty(count) for _ in range(4)), counts, indices


@torch.library.custom_op("splattingocc::render_gaussians_backward", mutates_args=())
@no_type_check  # torch reads the annotations, which a checking wrapper would hide
def _backward_op(
    tensors: list[Tensor],
    outputs: list[Tensor],
    hits: list[Tensor],
    output_gradients: list[Tensor],
    lower: list[float],
    upper: list[float],
    cell_size: float,
    near: float,
    far: float,
    margin: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    quats, scales, features, origins, directions, label_distances = tensors[:6]
    records, whitenings, packed_opacities, ids, starts, leaps, reach = tensors[6:]
    index = SceneIndex(records, whitenings, packed_opacities, ids, starts, leaps, float(reach))
    rays = RayBundle(origins, directions, label_distances, near, far, margin)
    grid = _grid(lower, upper, cell_size)
    gradients = composite_backward(index, quats, scales, features, rays, grid, RayHits(*hits), tuple(outputs), tuple(output_gradients))
    return gradients.means, gradients.quats, gradients.scales, gradients.opacities, gradients.features


@_backward_op.register_fake
def _(tensors, outputs, hits, output_gradients, *unused):
    quats, scales, features = tensors[:3]
    return (
        torch.empty_like(scales),
        torch.empty_like(quats),
        torch.empty_like(scales),
        scales.new_empty(len(scales)),
        torch.empty_like(features),
    )


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, quats, scales, _, *others = inputs
    ctx.save_for_backward(quats, scales, *others[:-7], *output)
    ctx.options = others[-6:]


def _backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, features, distances, alphas, in_front, at_hit, counts, indices = ctx.saved_tensors
    outputs = [features, distances, alphas, in_front, at_hit]
    gradients = _backward_op(tensors, outputs, [counts, indices], list(output_gradients[:NUM_RESULTS]), *ctx.options)
    num_other_inputs = len(tensors) - 3 + 1 + len(ctx.options)
    return *gradients, *(None,) * num_other_inputs


_render_op.register_autograd(_backward, setup_context=_save_for_backward)


def _grid(lower: list[float], upper: list[float], cell_size: float) -> VoxelGrid:
    return VoxelGrid((lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2]), cell_size)
