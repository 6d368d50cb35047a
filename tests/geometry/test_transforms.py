import math

import pytest
import torch

from splattingocc.geometry.transforms import invert_rigid, rigid, rotation_from_quat, transform_directions, transform_points

MIRROR_Y = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))


def random_rigid(*batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    quats = torch.nn.functional.normalize(torch.randn(*batch, 4, generator=generator, dtype=torch.float64), dim=-1)
    return rigid(rotation_from_quat(quats), 100 * torch.randn(*batch, 3, generator=generator, dtype=torch.float64))


def test_a_quaternion_about_z_turns_x_towards_y():
    half = math.radians(90) / 2
    rotation = rotation_from_quat(torch.tensor([math.cos(half), 0.0, 0.0, math.sin(half)]))
    torch.testing.assert_close(rotation @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_rotations_are_orthogonal_with_determinant_one():
    rotations = random_rigid(50)[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50, dtype=torch.float64))


def test_a_quaternion_and_its_negative_are_the_same_rotation():
    quats = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    torch.testing.assert_close(rotation_from_quat(quats), rotation_from_quat(-quats))


def test_rotation_from_quat_has_the_right_gradient():
    quats = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: rotation_from_quat(torch.nn.functional.normalize(q, dim=-1)), (quats,))


@pytest.mark.parametrize("linear", [torch.eye(3, dtype=torch.float64), MIRROR_Y], ids=["rotation", "reflection"])
def test_a_transform_times_its_inverse_is_the_identity(linear: torch.Tensor):
    dst_from_src = random_rigid(5, 7)
    dst_from_src[..., :3, :3] = dst_from_src[..., :3, :3] @ linear
    identity = torch.eye(4, dtype=torch.float64).expand(5, 7, 4, 4)
    torch.testing.assert_close(dst_from_src @ invert_rigid(dst_from_src), identity)
    torch.testing.assert_close(invert_rigid(dst_from_src), torch.linalg.inv(dst_from_src))


def test_transforming_twice_is_transforming_by_the_product():
    b_from_a, c_from_b = random_rigid(4, seed=1), random_rigid(4, seed=2)
    points_a = torch.randn(4, 11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        transform_points(c_from_b, transform_points(b_from_a, points_a)),
        transform_points(c_from_b @ b_from_a, points_a),
    )


def test_directions_are_differences_of_points():
    dst_from_src = random_rigid()
    start, end = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        transform_directions(dst_from_src, end - start),
        transform_points(dst_from_src, end) - transform_points(dst_from_src, start),
    )


def test_no_points_stay_no_points():
    assert transform_points(random_rigid(), torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 3)
