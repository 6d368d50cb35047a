import dataclasses
import math

import pytest
import torch

from splattingocc.geometry.cameras import Cameras, invert_intrinsics
from splattingocc.geometry.transforms import invert_rigid, rigid, rotation_from_quat, transform_points
from splattingocc.struct import stack

FORWARD_QUAT = torch.tensor([0.5, -0.5, 0.5, -0.5])
"""Ego from a camera that looks along x."""


def rig(num_views: int = 3) -> Cameras:
    generator = torch.Generator().manual_seed(0)
    quats = torch.nn.functional.normalize(FORWARD_QUAT + 0.3 * torch.randn(num_views, 4, generator=generator), dim=-1)
    ego_from_cam = rigid(rotation_from_quat(quats), torch.randn(num_views, 3, generator=generator))
    K = torch.tensor([[200.0, 0.0, 161.3], [0.0, 210.0, 88.1], [0.0, 0.0, 1.0]]).repeat(num_views, 1, 1)
    K[:, 0, 2] += 5 * torch.arange(num_views)
    return Cameras(K, invert_rigid(ego_from_cam), (180, 320))


def visible_points(cameras: Cameras, count: int = 50) -> torch.Tensor:
    """Points of each view (view, count, 3) that it sees."""
    generator = torch.Generator().manual_seed(1)
    height, width = cameras.image_size
    pixels = torch.rand(len(cameras.K), count, 2, generator=generator) * torch.tensor([width, height])
    depths = 1 + 40 * torch.rand(len(cameras.K), count, 1, generator=generator)
    homogeneous = torch.cat([pixels, torch.ones_like(depths)], dim=-1)
    points_cam = depths * (homogeneous @ torch.linalg.inv(cameras.K).mT)
    return transform_points(invert_rigid(cameras.cam_from_ego), points_cam)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [-70.0, -5.0, 0.0, 30.0])
def test_a_turned_image_shows_what_was_in_it_before(degrees: float, flip: bool):
    before = rig(2)
    before.K[1, 0, 1] = 15.0
    after = before.rotate(degrees) if degrees else before
    after = after.flip() if flip else after
    pixels = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(3)) * torch.tensor([320.0, 180.0])
    pixels[:, :2] = torch.tensor([[0.0, 0.0], [320.0, 180.0]])
    homogeneous = torch.cat([pixels, torch.ones(2, 500, 1)], dim=-1)
    u, v = (homogeneous @ (before.K @ torch.linalg.inv(after.K)).mT)[..., :2].unbind(-1)
    inside = (u >= -1e-3) & (u <= 320 + 1e-3) & (v >= -1e-3) & (v <= 180 + 1e-3)
    assert torch.equal(after.shows(pixels), inside)
    assert bool(inside.all()) == (degrees == 0)


def test_a_point_straight_ahead_falls_on_the_principal_point():
    camera = Cameras(rig(1).K, invert_rigid(rigid(rotation_from_quat(FORWARD_QUAT), torch.tensor([1.0, 0.0, 1.5])))[None], (180, 320))
    pixels, visible = camera.project(torch.tensor([[[11.0, 0.0, 1.5], [11.0, 1.0, 1.5], [11.0, 0.0, 2.5]]]))
    assert visible.all()
    # Left of the vehicle is left in the image, up is up.
    expected = torch.tensor([[161.3, 88.1], [161.3 - 20, 88.1], [161.3, 88.1 - 21]])
    torch.testing.assert_close(pixels[0], expected, atol=1e-4, rtol=1e-5)


def test_rays_through_projected_pixels_meet_the_points():
    cameras = rig()
    points = visible_points(cameras)
    pixels, visible = cameras.project(points)
    assert visible.all()
    for view in range(3):
        rays = cameras.rays_through(torch.full((50,), view), pixels[view])
        distances = (points[view] - rays.origins).norm(dim=-1)
        torch.testing.assert_close(rays.at(distances), points[view], atol=2e-4, rtol=1e-5)


def test_rays_of_all_pixels_go_through_their_centres_view_by_view_and_row_by_row():
    cameras = rig().resize((6, 8))
    rays = cameras.pixel_rays()
    pixels, visible = cameras.project(rays.at(torch.full((3 * 6 * 8,), 20.0)).unflatten(0, (3, 48)))
    assert visible.all()
    expected = torch.tensor([[u + 0.5, v + 0.5] for v in range(6) for u in range(8)])
    torch.testing.assert_close(pixels, expected.expand(3, 48, 2), atol=1e-3, rtol=0)


def test_rays_take_their_own_camera():
    cameras = rig()
    chosen = torch.tensor([2, 0, 1, 2])
    pixels = torch.tensor([[3.0, 4.0], [300.0, 20.0], [50.0, 170.0], [160.0, 90.0]])
    rays = cameras.rays_through(chosen, pixels)
    for i, view in enumerate(chosen.tolist()):
        alone = cameras[view : view + 1].rays_through(torch.zeros(1, dtype=torch.int64), pixels[i : i + 1])
        torch.testing.assert_close(rays[i : i + 1].directions, alone.directions)
        torch.testing.assert_close(rays[i : i + 1].origins, alone.origins)


def test_resizing_scales_pixels_with_the_image():
    cameras = rig()
    points = visible_points(cameras)
    resized, visible = cameras.resize((90, 240)).project(points)
    torch.testing.assert_close(resized, cameras.project(points)[0] * torch.tensor([240 / 320, 90 / 180]), atol=1e-3, rtol=1e-5)
    assert visible.all()


def test_cropping_shifts_pixels_and_hides_what_is_cut_off():
    cameras = rig()
    points = visible_points(cameras)
    pixels, _ = cameras.project(points)
    cropped, visible = cameras.crop(30, 100, (120, 150)).project(points)
    torch.testing.assert_close(cropped, pixels - torch.tensor([100.0, 30.0]), atol=1e-3, rtol=1e-5)
    u, v = pixels.unbind(-1)
    away_from_border = ((u - 100).abs() > 0.01) & ((u - 250).abs() > 0.01) & ((v - 30).abs() > 0.01) & ((v - 150).abs() > 0.01)
    expected = (u > 100) & (u < 250) & (v > 30) & (v < 150)
    assert torch.equal(visible[away_from_border], expected[away_from_border])


def test_a_negative_corner_pads():
    points = visible_points(rig())
    padded, visible = rig().crop(-10, -20, (200, 360)).project(points)
    torch.testing.assert_close(padded, rig().project(points)[0] + torch.tensor([20.0, 10.0]), atol=1e-3, rtol=1e-5)
    assert visible.all()


def test_flipping_mirrors_pixels_about_the_middle_of_the_image():
    cameras = rig()
    points = visible_points(cameras)
    pixels, _ = cameras.project(points)
    flipped, visible = cameras.flip().project(points)
    torch.testing.assert_close(flipped[..., 0], 320 - pixels[..., 0], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(flipped[..., 1], pixels[..., 1], atol=1e-3, rtol=1e-5)
    assert visible.all()
    torch.testing.assert_close(cameras.flip().flip().K, cameras.K)


def test_rays_of_a_flipped_camera_go_through_the_same_world():
    cameras = rig()
    pixels = torch.tensor([[10.0, 20.0]])
    mirrored = torch.tensor([[310.0, 20.0]])
    view = torch.tensor([1])
    torch.testing.assert_close(cameras.flip().rays_through(view, mirrored).directions, cameras.rays_through(view, pixels).directions)


@pytest.mark.parametrize("mirror", [1.0, -1.0], ids=["rotation", "reflection"])
def test_moving_the_ego_frame_and_the_points_changes_no_pixel(mirror: float):
    cameras = rig()
    points = visible_points(cameras)
    half = math.radians(40) / 2
    rotation = rotation_from_quat(torch.tensor([math.cos(half), 0.0, 0.0, math.sin(half)])) @ torch.diag(torch.tensor([1.0, mirror, 1.0]))
    new_ego_from_ego = rigid(rotation, torch.tensor([2.0, -1.0, 0.3]))
    moved, visible = cameras.transform_ego(new_ego_from_ego).project(transform_points(new_ego_from_ego.expand(3, 4, 4), points))
    torch.testing.assert_close(moved, cameras.project(points)[0], atol=5e-3, rtol=1e-4)
    assert visible.all()
    view, pixels = torch.tensor([0, 2]), torch.tensor([[5.0, 6.0], [100.0, 120.0]])
    rays = cameras.transform_ego(new_ego_from_ego).rays_through(view, pixels)
    expected = cameras.rays_through(view, pixels).transform(new_ego_from_ego)
    torch.testing.assert_close(rays.directions, expected.directions, atol=1e-5, rtol=0)
    torch.testing.assert_close(rays.origins, expected.origins, atol=1e-5, rtol=0)


def test_points_behind_or_at_the_camera_are_not_visible_and_have_finite_gradients():
    cameras = rig(1)
    ego_from_cam = invert_rigid(cameras.cam_from_ego)
    points_cam = torch.tensor([[[0.0, 0.0, -5.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.05], [0.0, 0.0, 5.0]]])
    points = transform_points(ego_from_cam, points_cam).requires_grad_()
    pixels, visible = cameras.project(points)
    assert visible.tolist() == [[False, False, False, True]]
    pixels.sum().backward()
    assert torch.isfinite(pixels).all()
    assert torch.isfinite(points.grad).all()  # type: ignore[arg-type]


def test_projection_has_the_right_gradient():
    cameras = rig(1).map(torch.Tensor.double)
    points = visible_points(rig(1), 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: cameras.project(p)[0], (points,))


def test_changing_a_camera_leaves_the_original_alone():
    cameras = rig()
    before = dataclasses.replace(cameras, K=cameras.K.clone())
    cameras.crop(5, 5, (50, 50)), cameras.flip(), cameras.resize((90, 160))
    assert torch.equal(cameras.K, before.K)
    assert cameras.image_size == (180, 320)


def test_a_camera_that_is_none_sees_nothing_from_any_ego_frame():
    cameras = stack([Cameras.nowhere((180, 320)), *(rig()[view] for view in range(3))])
    points = torch.cat([40 * torch.randn(500, 3, generator=torch.Generator().manual_seed(2)), cameras.optical_centers[1:]])
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    turn = rigid(rotation_from_quat(torch.tensor([0.8, 0.0, 0.0, 0.6])), torch.zeros(3))
    for new_ego_from_ego in (torch.eye(4), mirror, turn, mirror @ turn):
        moved = cameras.transform_ego(new_ego_from_ego)
        assert moved.are_somewhere.tolist() == [False, True, True, True]
        pixels, visible = moved.project(points.expand(4, -1, 3))
        assert not visible[0].any()
        assert visible[1:].any()
        assert pixels.isfinite().all()
        assert torch.linalg.inv(moved.K).isfinite().all()


def test_intrinsics_have_the_inverse_that_any_matrix_has_flipped_turned_and_skewed_ones_too():
    cameras = rig()
    K = torch.cat([cameras.K, cameras.flip().K, cameras.rotate(17.0).K, cameras.flip().rotate(-80.0).K]).double()
    K[:, 0, 1] += torch.linspace(0, 5, len(K))
    torch.testing.assert_close(invert_intrinsics(K), torch.linalg.inv(K), rtol=1e-10, atol=1e-10)
