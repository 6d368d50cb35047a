"""Casting rays at triangle meshes, through Warp's bounding-volume hierarchy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.launch import launch
from splattingocc.struct import Struct

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own


@dataclass(frozen=True)
class MeshHits(Struct):
    """Where rays meet a mesh first."""

    triangles: Int32[Tensor, " ray"]
    """Index of the triangle; −1 where the ray meets none."""
    distances: Float[Tensor, " ray"]
    """Metres along the ray; where it meets nothing, the greatest distance that was searched."""
    barycentrics: Float[Tensor, "ray 2"]
    """Weights of the triangle's first and second corner; the third has the rest. Meaningless where nothing was met."""


class MeshIndex:
    """A triangle mesh and the hierarchy that finds its triangles. Its vertices can move; its triangles stay."""

    def __init__(self, vertices: Float[Tensor, "vertex 3"], triangles: Int32[Tensor, "triangle 3"]) -> None:
        self._vertices = vertices.detach().clone().contiguous()
        # Warp keeps the arrays, torch must keep the memory behind them.
        self._triangles = triangles.contiguous().reshape(-1)
        self._mesh = wp.Mesh(wp.from_torch(self._vertices, dtype=wp.vec3), wp.from_torch(self._triangles))

    @property
    def device(self) -> torch.device:
        return self._vertices.device

    @property
    def id(self) -> wp.uint64:
        """What a kernel calls the mesh by."""
        return wp.uint64(self._mesh.id)

    def move(self, vertices: Float[Tensor, "vertex 3"]) -> None:
        """Put the vertices elsewhere; the hierarchy is refitted, not rebuilt, so it suits motions that keep neighbours together."""
        self._vertices.copy_(vertices)
        self._mesh.refit()


@wp.kernel
@no_type_check
def _cast(
    first: int,
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    max_distances: wp.array(dtype=float),
    triangles: wp.array(dtype=int),
    distances: wp.array(dtype=float),
    barycentrics: wp.array(dtype=wp.vec2),
):
    ray = first + wp.tid()
    hit = wp.mesh_query_ray(mesh, origins[ray], directions[ray], max_distances[ray])
    if hit.result:
        triangles[ray] = hit.face
        distances[ray] = hit.t
        barycentrics[ray] = wp.vec2(hit.u, hit.v)
    else:
        triangles[ray] = -1
        distances[ray] = max_distances[ray]
        barycentrics[ray] = wp.vec2(0.0, 0.0)


@wp.kernel
@no_type_check
def _is_blocked(
    first: int,
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    max_distances: wp.array(dtype=float),
    blocked: wp.array(dtype=wp.bool),
):
    ray = first + wp.tid()
    blocked[ray] = False
    if max_distances[ray] > 0.0:
        blocked[ray] = wp.mesh_query_ray_anyhit(mesh, origins[ray], directions[ray], max_distances[ray])


def cast_at_mesh(mesh: MeshIndex, rays: Rays, max_distances: Float[Tensor, " ray"]) -> MeshHits:
    """Find the nearest triangle, seen from either side, that each ray of a (ray, 3) batch meets within its own greatest distance."""
    num_rays, device = len(rays.origins), mesh.device
    hits = MeshHits(
        torch.empty(num_rays, dtype=torch.int32, device=device),
        torch.empty(num_rays, device=device),
        torch.empty(num_rays, 2, device=device),
    )
    outputs = [wp.from_torch(hits.triangles), wp.from_torch(hits.distances), wp.from_torch(hits.barycentrics, dtype=wp.vec2)]
    launch(_cast, num_rays, [*_ray_inputs(mesh, rays, max_distances), *outputs], device=device)
    return hits


def is_blocked(mesh: MeshIndex, rays: Rays, max_distances: Float[Tensor, " ray"]) -> Bool[Tensor, " ray"]:
    """Say of each ray whether it meets the mesh within its greatest distance; a ray whose distance is 0 is skipped and not blocked."""
    blocked = torch.empty(len(rays.origins), dtype=torch.bool, device=mesh.device)
    launch(_is_blocked, len(blocked), [*_ray_inputs(mesh, rays, max_distances), wp.from_torch(blocked)], device=mesh.device)
    return blocked


def _ray_inputs(mesh: MeshIndex, rays: Rays, max_distances: Tensor) -> list:
    for name, tensor in (("rays", rays.origins), ("max_distances", max_distances)):
        if tensor.device != mesh.device:
            raise ValueError(f"{name}: on {tensor.device}, but the mesh is on {mesh.device}")
    return [
        mesh.id,
        wp.from_torch(rays.origins.detach().float().contiguous(), dtype=wp.vec3),
        wp.from_torch(rays.directions.detach().float().contiguous(), dtype=wp.vec3),
        wp.from_torch(max_distances.detach().float().contiguous()),
    ]
