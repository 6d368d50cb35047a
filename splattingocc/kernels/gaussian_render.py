# Warp needs float(0.0) and int(0) where a loop changes the value: a bare literal is a constant to it.
# ruff: noqa: UP018, RUF046
# Annotations of structs and kernels are Warp's, which a type checker cannot read.
# type: ignore

"""Composite Gaussians along rays, forward and backward, one thread a ray. The mathematics is written out in `splatting/reference.py`."""

# Annotations are evaluated here: they name the vector type of the channel count, which is a local variable.
from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import warp as wp

from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_walk import (
    PENDING,
    Cursor,
    Path,
    Response,
    Scene,
    begin_walk,
    center_distance,
    meet_next,
    plan,
    respond,
)

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

MAX_ALPHA = 0.99
"""No single Gaussian stops a ray entirely, so that those behind it keep a gradient."""
MIN_TRANSMITTANCE = 1e-3
"""A Gaussian is composited while at least this share of the ray is left before it."""

_MIN_ALPHA = wp.constant(MIN_ALPHA)
_MAX_ALPHA = wp.constant(MAX_ALPHA)
_MIN_TRANSMITTANCE = wp.constant(MIN_TRANSMITTANCE)
_PENDING = wp.constant(PENDING)
_TINY = wp.constant(1.0e-12)
HITS_PER_RAY = 256
"""Gaussians of a ray that the forward pass can write down for the backward pass; where there are more, it walks on from the last."""
_HITS_PER_RAY = wp.constant(HITS_PER_RAY)


@wp.struct
@no_type_check
class RayInputs:
    order: wp.array(dtype=int)
    """In which the rays are worked on."""
    origins: wp.array(dtype=wp.vec3)
    directions: wp.array(dtype=wp.vec3)
    label_distances: wp.array(dtype=float)
    """nan where there is none."""
    margin: float


@wp.struct
@no_type_check
class RayOutputs:
    """Results of the forward kernel beside the features; the backward kernel reads them again."""

    distances: wp.array(dtype=float)
    alphas: wp.array(dtype=float)
    in_front: wp.array(dtype=float)
    at_hit: wp.array(dtype=float)


@wp.struct
@no_type_check
class Hits:
    """The Gaussians that the forward pass composited, so that the backward pass need not look for them again."""

    counts: wp.array(dtype=int)
    """Of each ray; nothing is written down for arrays without length."""
    indices: wp.array(dtype=int)
    """HITS_PER_RAY for each ray, in cell order's numbers, in the order in which they were met."""


@wp.struct
@no_type_check
class GeometryGradients:
    """Where the backward kernel adds, in cell order. Gradients to quats and scales are made from those to W afterwards."""

    means: wp.array(dtype=wp.vec3)
    whitenings: wp.array(dtype=wp.mat33)
    opacities: wp.array(dtype=float)


@wp.func
@no_type_check
def scatter_geometry(
    gradients: GeometryGradients,
    scene: Scene,
    path: Path,
    response: Response,
    index: int,
    alpha_gradient: float,
    distance_gradient: float,
):
    """Add the gradients of one Gaussian on one ray, given those of its alpha and of its t*."""
    b = response.whitened_direction
    shift = (distance_gradient / wp.dot(b, b)) * response.whitened_offset
    pull = (-distance_gradient / wp.dot(b, b)) * b
    # A clamped alpha is constant.
    if response.alpha < _MAX_ALPHA:
        pull -= (alpha_gradient * response.alpha) * response.whitened_offset
        wp.atomic_add(gradients.opacities, index, alpha_gradient * response.alpha / scene.opacities[index])
    wp.atomic_add(gradients.means, index, -(wp.transpose(scene.whitenings[index]) * pull))
    wp.atomic_add(gradients.whitenings, index, wp.outer(pull, response.offset) - wp.outer(shift, path.direction))


@wp.func
@no_type_check
def replay(
    scene: Scene,
    path: Path,
    hits: Hits,
    ray: int,
    number: int,
    cursor: Cursor,
    keys: wp.array(dtype=float),
    indices: wp.array(dtype=int),
) -> Cursor:
    """Advance to a ray's hit of the given number, as `meet_next` would; behind those that were written down, walk on from the last."""
    if number >= _HITS_PER_RAY:
        cursor = meet_next(scene, path, cursor, keys, indices)
    elif number < hits.counts[ray]:
        cursor.index = hits.indices[ray * _HITS_PER_RAY + number]
        cursor.key = center_distance(scene, path, cursor.index)
    else:
        cursor.ended = True
    return cursor


@dataclass(frozen=True)
class RenderKernels:
    """The kernels of one channel count."""

    forward: wp.Kernel
    backward: wp.Kernel
    collect_features: wp.Kernel


@cache
@no_type_check
def render_kernels(channels: int) -> RenderKernels:
    """Return the kernels for a number of channels; each number is a Warp module of its own, compiled at first use."""
    module: Any = wp.get_module(f"{__name__}_{channels}_channels")
    wp.set_module_options({"enable_backward": False}, module)
    vector = wp.types.vector(length=channels, dtype=wp.float32)

    @wp.kernel(module=module)
    def forward(
        first: int,
        scene: Scene,
        rays: RayInputs,
        features: wp.array(dtype=vector),
        outputs: RayOutputs,
        output_features: wp.array(dtype=vector),
        hits: Hits,
        are_known: bool,
    ):
        ray = rays.order[first + wp.tid()]
        is_written_down = hits.counts.shape[0] > 0 and not are_known
        num_hits = int(0)
        path = plan(scene, rays.origins[ray], rays.directions[ray])
        label = rays.label_distances[ray]
        keys = wp.zeros(shape=_PENDING, dtype=float)
        indices = wp.zeros(shape=_PENDING, dtype=int)
        transmittance = float(1.0)
        mass = float(0.0)
        moment = float(0.0)
        in_front = float(0.0)
        at_hit = float(0.0)
        composited = vector()
        # What has no written number is looked for
        number = int(_HITS_PER_RAY)
        if are_known:
            number = 0
        cursor = replay(scene, path, hits, ray, number, begin_walk(), keys, indices)
        while not cursor.ended and transmittance >= _MIN_TRANSMITTANCE:
            response = respond(scene, path, cursor.index, cursor.key)
            if response.alpha >= _MIN_ALPHA:
                alpha = wp.min(response.alpha, _MAX_ALPHA)
                weight = transmittance * alpha
                transmittance *= 1.0 - alpha
                mass += weight
                moment += weight * response.distance
                if response.distance < label - rays.margin:
                    in_front += weight
                if wp.abs(response.distance - label) <= rays.margin:
                    at_hit += weight
                composited += weight * features[scene.ids[cursor.index]]
                if is_written_down and num_hits < _HITS_PER_RAY:
                    hits.indices[ray * _HITS_PER_RAY + num_hits] = cursor.index
                    num_hits += 1
            number += 1
            cursor = replay(scene, path, hits, ray, number, cursor, keys, indices)
        output_features[ray] = composited
        outputs.alphas[ray] = mass
        outputs.distances[ray] = moment / wp.max(mass, _TINY)
        outputs.in_front[ray] = in_front
        outputs.at_hit[ray] = at_hit
        if is_written_down:
            hits.counts[ray] = num_hits

    @wp.kernel(module=module)
    def backward(
        first: int,
        scene: Scene,
        rays: RayInputs,
        features: wp.array(dtype=vector),
        hits: Hits,
        outputs: RayOutputs,
        output_features: wp.array(dtype=vector),
        output_gradients: RayOutputs,
        output_feature_gradients: wp.array(dtype=vector),
        geometry_gradients: GeometryGradients,
        feature_gradients: wp.array(dtype=vector),
    ):
        ray = rays.order[first + wp.tid()]
        path = plan(scene, rays.origins[ray], rays.directions[ray])
        label = rays.label_distances[ray]
        expected = outputs.distances[ray]
        mass_gradient = output_gradients.alphas[ray]
        in_front_gradient = output_gradients.in_front[ray]
        at_hit_gradient = output_gradients.at_hit[ray]
        composited_gradient = output_feature_gradients[ray]
        # The loss is linear in the weights, Σ w v; what the Gaussians not yet met add to it. Distances are normalised and add nothing.
        distance_gradient = output_gradients.distances[ray] / wp.max(outputs.alphas[ray], _TINY)
        behind = wp.dot(composited_gradient, output_features[ray]) + mass_gradient * outputs.alphas[ray]
        behind += in_front_gradient * outputs.in_front[ray] + at_hit_gradient * outputs.at_hit[ray]
        keys = wp.zeros(shape=_PENDING, dtype=float)
        indices = wp.zeros(shape=_PENDING, dtype=int)
        transmittance = float(1.0)
        replayed = int(0)
        cursor = replay(scene, path, hits, ray, replayed, begin_walk(), keys, indices)
        while not cursor.ended and transmittance >= _MIN_TRANSMITTANCE:
            response = respond(scene, path, cursor.index, cursor.key)
            if response.alpha >= _MIN_ALPHA:
                alpha = wp.min(response.alpha, _MAX_ALPHA)
                weight = transmittance * alpha
                value = wp.dot(composited_gradient, features[scene.ids[cursor.index]]) + mass_gradient
                value += distance_gradient * (response.distance - expected)
                if response.distance < label - rays.margin:
                    value += in_front_gradient
                if wp.abs(response.distance - label) <= rays.margin:
                    value += at_hit_gradient
                behind -= weight * value
                alpha_gradient = transmittance * value - behind / (1.0 - alpha)
                transmittance *= 1.0 - alpha
                wp.atomic_add(feature_gradients, cursor.index, weight * composited_gradient)
                scatter_geometry(geometry_gradients, scene, path, response, cursor.index, alpha_gradient, weight * distance_gradient)
            replayed += 1
            cursor = replay(scene, path, hits, ray, replayed, cursor, keys, indices)

    @wp.kernel(module=module)
    def collect_features(
        first: int,
        scene: Scene,
        buffers: wp.array2d(dtype=vector),
        feature_gradients: wp.array(dtype=vector),
    ):
        index = first + wp.tid()
        total = vector()
        for buffer in range(buffers.shape[0]):
            total += buffers[buffer, index]
        feature_gradients[scene.ids[index]] = total

    return RenderKernels(forward, backward, collect_features)


@wp.kernel
@no_type_check
def collect_geometry(
    first: int,
    scene: Scene,
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    mean_buffers: wp.array2d(dtype=wp.vec3),
    whitening_buffers: wp.array2d(dtype=wp.mat33),
    opacity_buffers: wp.array2d(dtype=float),
    mean_gradients: wp.array(dtype=wp.vec3),
    quat_gradients: wp.array(dtype=wp.vec4),
    scale_gradients: wp.array(dtype=wp.vec3),
    opacity_gradients: wp.array(dtype=float),
):
    """Sum the buffers of one Gaussian, turn the gradient to W = diag(1/s)·Rᵀ into those to s and q; write in the caller's order."""
    index = first + wp.tid()
    target = scene.ids[index]
    mean_gradient = wp.vec3()
    gradient = wp.mat33()
    opacity_gradient = float(0.0)
    for buffer in range(mean_buffers.shape[0]):
        mean_gradient += mean_buffers[buffer, index]
        gradient += whitening_buffers[buffer, index]
        opacity_gradient += opacity_buffers[buffer, index]
    mean_gradients[target] = mean_gradient
    opacity_gradients[target] = opacity_gradient
    whitening = scene.whitenings[index]
    scale = scales[target]
    scale_gradient = wp.vec3()
    for k in range(3):
        scale_gradient[k] = -wp.dot(gradient[k], whitening[k]) / scale[k]
        # From here on `gradient` is the one to Rᵀ.
        gradient[k] = gradient[k] / scale[k]
    scale_gradients[target] = scale_gradient
    q = quats[target]
    w = 2.0 * q[0]
    x = 2.0 * q[1]
    y = 2.0 * q[2]
    z = 2.0 * q[3]
    # Derivatives of `rotation_of`, term by term; g[row of Rᵀ, column of Rᵀ] = ∂L/∂R[column, row].
    g = gradient
    quat_gradients[target] = wp.vec4(
        x * (g[1, 2] - g[2, 1]) + y * (g[2, 0] - g[0, 2]) + z * (g[0, 1] - g[1, 0]),
        y * (g[1, 0] + g[0, 1]) + z * (g[2, 0] + g[0, 2]) - 2.0 * x * (g[1, 1] + g[2, 2]) + w * (g[1, 2] - g[2, 1]),
        x * (g[1, 0] + g[0, 1]) + z * (g[2, 1] + g[1, 2]) - 2.0 * y * (g[0, 0] + g[2, 2]) + w * (g[2, 0] - g[0, 2]),
        x * (g[2, 0] + g[0, 2]) + y * (g[2, 1] + g[1, 2]) - 2.0 * z * (g[0, 0] + g[1, 1]) + w * (g[0, 1] - g[1, 0]),
    )
