"""Casting rays at triangles against intersecting every one of them."""

import torch

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.mesh_cast import MeshIndex, cast_at_mesh, is_blocked


def random_triangles(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = (torch.rand(count, 1, 3, generator=generator) - 0.5) * 10
    return centers + torch.randn(count, 3, 3, generator=generator) * 0.5


def random_rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(count, 3, generator=generator)
    return Rays((torch.rand(count, 3, generator=generator) - 0.5) * 12, directions / directions.norm(dim=-1, keepdim=True))


def index_of(corners: torch.Tensor) -> MeshIndex:
    return MeshIndex(corners.reshape(-1, 3), torch.arange(3 * len(corners), dtype=torch.int32).reshape(-1, 3))


def nearest_by_hand(corners: torch.Tensor, rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
    """Möller and Trumbore's test of every ray with every triangle, in double precision."""
    a, b, c = corners.double().unbind(1)
    origins, directions = rays.origins.double()[:, None], rays.directions.double()[:, None]
    normal = torch.linalg.cross(directions, (c - a)[None])
    determinant = (normal * (b - a)).sum(-1)
    shift = origins - a
    u = (shift * normal).sum(-1) / determinant
    other = torch.linalg.cross(shift, (b - a)[None].expand_as(shift))
    v = (directions * other).sum(-1) / determinant
    distances = ((c - a) * other).sum(-1) / determinant
    distances = torch.where((u >= 0) & (v >= 0) & (u + v <= 1) & (distances > 0), distances, torch.inf)
    return distances.min(-1)


def test_the_nearest_triangle_is_found():
    corners, rays = random_triangles(200), random_rays(2000)
    hits = cast_at_mesh(index_of(corners), rays, torch.full((2000,), 100.0))
    distances, triangles = nearest_by_hand(corners, rays)
    hit = distances.isfinite()
    assert hit.sum() > 200
    # Rays that pass within rounding of an edge may differ.
    assert (hits.triangles[hit] == triangles[hit]).float().mean() > 0.998
    same = hit & (hits.triangles == triangles)
    torch.testing.assert_close(hits.distances[same].double(), distances[same], atol=1e-4, rtol=1e-4)
    assert (hits.triangles[~hit] == -1).float().mean() > 0.998


def test_barycentrics_rebuild_the_point_that_was_hit():
    corners, rays = random_triangles(100), random_rays(1000)
    hits = cast_at_mesh(index_of(corners), rays, torch.full((1000,), 100.0))
    hit = hits.triangles >= 0
    weights = torch.cat([hits.barycentrics, 1 - hits.barycentrics.sum(-1, keepdim=True)], dim=-1)[hit]
    points = (weights[..., None] * corners[hits.triangles[hit].long()]).sum(1)
    torch.testing.assert_close(points, rays.at(hits.distances)[hit], atol=1e-4, rtol=1e-4)


def test_a_blocked_ray_is_one_that_hits_within_its_own_limit():
    corners, rays = random_triangles(200), random_rays(1000)
    index = index_of(corners)
    limits = torch.linspace(0.0, 8.0, 1000)
    hits = cast_at_mesh(index, rays, limits)
    assert torch.equal(is_blocked(index, rays, limits), hits.triangles >= 0)
    assert (hits.distances <= limits).all()
    assert not is_blocked(index, rays, torch.zeros(1000)).any()


def test_moved_vertices_are_hit_where_they_are_now():
    corners, rays = random_triangles(50), random_rays(500)
    limits = torch.full((500,), 100.0)
    shift = torch.tensor([0.3, -2.0, 1.0])
    index = index_of(corners)
    index.move((corners + shift).reshape(-1, 3))
    moved = cast_at_mesh(index, rays, limits)
    fresh = cast_at_mesh(index_of(corners), Rays(rays.origins - shift, rays.directions), limits)
    assert (moved.triangles == fresh.triangles).float().mean() > 0.995
    assert (moved.triangles >= 0).any()
