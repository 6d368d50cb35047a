import math

import torch

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import rigid, rotation_from_quat


def random_rays(num_rays: int, seed: int = 0) -> Rays:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(num_rays, 3, generator=generator), dim=-1)
    return Rays(torch.randn(num_rays, 3, generator=generator), directions)


def test_the_point_at_a_distance_is_that_far_from_the_origin():
    rays = random_rays(40)
    distances = torch.linspace(0, 60, 40)
    torch.testing.assert_close((rays.at(distances) - rays.origins).norm(dim=-1), distances)


def test_points_along_rays_move_with_the_frame_at_unchanged_distances():
    rays, distances = random_rays(40), torch.linspace(0, 60, 40)
    half = math.radians(33) / 2
    rotation = rotation_from_quat(torch.tensor([math.cos(half), 0.0, 0.0, math.sin(half)]))
    for linear in (rotation, rotation @ torch.diag(torch.tensor([1.0, -1.0, 1.0]))):
        dst_from_ego = rigid(linear, torch.tensor([3.0, -4.0, 0.5]))
        moved = rays.transform(dst_from_ego)
        expected = rays.at(distances) @ linear.mT + dst_from_ego[:3, 3]
        torch.testing.assert_close(moved.at(distances), expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(moved.directions.norm(dim=-1), torch.ones(40))
