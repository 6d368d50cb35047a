import math

import torch

from splattingocc.geometry.rays import RayLabels, Rays, free_distances
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


def test_the_way_to_a_label_is_free_up_to_a_margin_and_to_ground_up_to_a_height_above_it():
    down_a_tenth = torch.tensor([math.sqrt(0.99), 0.0, -0.1])
    straight_down, level, up = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([math.sqrt(0.99), 0.0, 0.1])
    ways = {  # direction, class, label distance: free up to
        "wall": (down_a_tenth, 15, 20.0, 19.4),
        "road far away": (down_a_tenth, 11, 20.0, 16.0),
        "road below": (straight_down, 11, 2.0, 1.4),
        "nearer than that": (down_a_tenth, 13, 3.0, 0.0),
        "level with the ground": (level, 14, 20.0, 0.0),
        "road uphill": (up, 12, 20.0, 0.0),
        "class unknown": (down_a_tenth, 255, 20.0, 19.4),
        "class unknown, where the ground may be": (down_a_tenth, 255, 8.0, 4.0),
        "before the margin": (level, 15, 0.3, 0.0),
        "no distance": (level, 254, math.nan, math.nan),
    }
    directions, classes, distances, expected = zip(*ways.values())
    rays = Rays(torch.zeros(len(ways), 3), torch.stack(directions))
    labels = RayLabels(torch.tensor(classes), torch.tensor(distances), torch.ones(len(ways)))
    found = free_distances(rays, labels, margin=0.6, ground_clearance=0.4)
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)
    no_clearance = free_distances(rays, labels, margin=0.6, ground_clearance=0.0)
    torch.testing.assert_close(no_clearance, (labels.distances - 0.6).clamp(min=0), equal_nan=True)
