"""Render Gaussians along rays, differentiably. `splatting/reference.py` says what is computed, `kernels/gaussian_*.py` how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.rays import Rays, are_proper, check_rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_render import HITS_PER_RAY
from splattingocc.kernels.gaussian_scene import BadGaussians, RayBundle, RayHits, SceneIndex, composite, composite_backward, index_gaussians
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.walk import are_along

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
    options = RenderOptions(gaussians.grid, float(near), float(far), float(margin)).numbers()
    for_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in fields)
    results, known = [], []
    for number, (*one, origins, directions, labels) in enumerate(zip(*per_element)):
        if gaussians.walks is None:
            index = _index_op([tensor.detach() for tensor in one[:4]], options)
        else:
            walk = gaussians.walks[number]
            index, known = _tensors_of(walk.index), [walk.hits.counts, walk.hits.indices]
        results.append(_render_op(one, [origins, directions, labels], index, options, for_backward, known)[:NUM_RESULTS])
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
    if gaussians.walks is not None and not are_along(gaussians.walks, rays, near=near, far=far):
        raise ValueError("gaussians: are only those that a step asks for, expected the rays, near and far that were asked for")


def _check_values(features: Tensor, rays: Rays) -> None:
    # One sum is nan or infinite where any of its terms is, at the price of reading the features once
    summed = features.detach().sum().isfinite()
    # A GPU is waited for once, not for each
    if summed & are_proper(rays):
        return
    if not features.isfinite().all():
        raise BadGaussians("gaussians.features: must be finite")
    check_rays(rays)


@dataclass(frozen=True)
class RenderOptions:
    """What is not a tensor; operators of torch take it as a list of numbers."""

    grid: VoxelGrid
    near: float
    far: float
    margin: float

    def numbers(self) -> list[float]:
        return [*self.grid.lower, *self.grid.upper, self.grid.cell_size, self.near, self.far, self.margin]

    @classmethod
    def of(cls, numbers: list[float]) -> RenderOptions:
        low_x, low_y, low_z, high_x, high_y, high_z, cell_size, near, far, margin = numbers
        return cls(VoxelGrid((low_x, low_y, low_z), (high_x, high_y, high_z), cell_size), near, far, margin)


# The operators' lists of tensors: `gaussians` means, quats, scales, opacities, features · `rays` origins, directions, label distances ·
# `index` the fields of a `SceneIndex` · `results` those of a `Rendering` · `hits` and `known` those of `RayHits`.


@torch.library.custom_op("splattingocc::index_gaussians", mutates_args=())
@no_type_check  # torch reads the annotations, which a checking wrapper would hide
def _index_op(geometry: list[Tensor], options: list[float]) -> list[Tensor]:
    return _tensors_of(index_gaussians(*geometry, RenderOptions.of(options).grid))


@_index_op.register_fake
def _(geometry, options):
    means, active, cells = geometry[0], torch.library.get_ctx().new_dynamic_size(), RenderOptions.of(options).grid.num_cells
    return [
        means.new_empty(active, 4),
        means.new_empty(active, 3, 3),
        means.new_empty(active),
        means.new_empty(active, dtype=torch.int32),
        means.new_empty(cells + 1, dtype=torch.int32),
        means.new_empty(cells, dtype=torch.uint8),
        torch.empty(1, dtype=torch.float64),
    ]


@torch.library.custom_op("splattingocc::render_gaussians", mutates_args=())
@no_type_check
def _render_op(
    gaussians: list[Tensor], rays: list[Tensor], index: list[Tensor], options: list[float], for_backward: bool, known: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grid = RenderOptions.of(options).grid
    hits = RayHits(*known) if known else None
    results, noted = composite(_index_of(index), gaussians[4], _bundle_of(rays, options), grid, for_backward=for_backward, known=hits)
    if known:  # An operator must not return what it was given
        noted = RayHits(noted.counts.new_empty(0), noted.indices.new_empty(0, HITS_PER_RAY))
    return *results, noted.counts, noted.indices


@_render_op.register_fake
def _(gaussians, rays, index, options, for_backward, known):
    features, count = gaussians[4], len(rays[0])
    num_noted = count if for_backward and not known else 0
    counts, indices = (features.new_empty(shape, dtype=torch.int32) for shape in ((num_noted,), (num_noted, HITS_PER_RAY)))
    return features.new_empty(count, features.shape[1]), *(features.new_empty(count) for _ in range(4)), counts, indices


@torch.library.custom_op("splattingocc::render_gaussians_backward", mutates_args=())
@no_type_check
def _backward_op(
    quats_scales_features: list[Tensor],
    rays: list[Tensor],
    index: list[Tensor],
    results: list[Tensor],
    hits: list[Tensor],
    result_gradients: list[Tensor],
    options: list[float],
) -> list[Tensor]:
    grid, bundle = RenderOptions.of(options).grid, _bundle_of(rays, options)
    gradients = composite_backward(
        _index_of(index), *quats_scales_features, bundle, grid, RayHits(*hits), tuple(results), tuple(result_gradients)
    )
    return [gradients.means, gradients.quats, gradients.scales, gradients.opacities, gradients.features]


@_backward_op.register_fake
def _(quats_scales_features, rays, index, results, hits, result_gradients, options):
    quats, scales, features = quats_scales_features
    like_means, opacities = torch.empty_like(scales), scales.new_empty(len(scales))
    return [like_means, torch.empty_like(quats), torch.empty_like(scales), opacities, torch.empty_like(features)]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    (_, quats, scales, _, features), rays, index, ctx.options, _, known = inputs
    ctx.num_known = len(known)
    ctx.save_for_backward(quats, scales, features, *rays, *index, *output[:NUM_RESULTS], *(known or output[NUM_RESULTS:]))


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    needed, rays, index, results, hits = saved[:3], saved[3:6], saved[6:13], saved[13 : 13 + NUM_RESULTS], saved[13 + NUM_RESULTS :]
    of_gaussians = _backward_op(needed, rays, index, results, hits, list(gradients[:NUM_RESULTS]), ctx.options)
    return of_gaussians, [None] * len(rays), [None] * len(index), None, None, [None] * ctx.num_known


_render_op.register_autograd(_backward, setup_context=_save_for_backward)


def _tensors_of(index: SceneIndex) -> list[Tensor]:
    reach = torch.tensor([index.reach], dtype=torch.float64)
    return [index.records, index.whitenings, index.opacities, index.ids, index.starts, index.skips, reach]


def _index_of(tensors: list[Tensor]) -> SceneIndex:
    records, whitenings, opacities, ids, starts, skips, reach = tensors
    return SceneIndex(records, whitenings, opacities, ids, starts, skips, float(reach))


def _bundle_of(rays: list[Tensor], options: list[float]) -> RayBundle:
    (origins, directions, label_distances), chosen = rays, RenderOptions.of(options)
    return RayBundle(origins, directions, label_distances, chosen.near, chosen.far, chosen.margin)
