import numpy as np
import pytest
import torch
from pydantic import ValidationError

from splattingocc.data.augment import AugmentConfig, choose_ego_change, choose_random_window, choose_window, jitter_colors
from splattingocc.geometry.cameras import Cameras


def test_the_window_has_the_aspect_of_the_input_and_keeps_the_bottom():
    window = choose_window((900, 1600), (256, 704), vertical_position=1.0)
    assert (window.left, window.width, window.flip) == (0, 1600, False)
    assert (window.top, window.height) == (318, 582)
    assert choose_window((900, 1600), (256, 704), vertical_position=0.0).top == 0
    tall = choose_window((900, 1600), (256, 256), vertical_position=1.0)
    assert (tall.top, tall.left, tall.height, tall.width) == (0, 350, 900, 900)


def test_random_windows_lie_inside_the_image_and_differ():
    config = AugmentConfig(max_zoom=1.3, flip_probability=0.5)
    rng = np.random.default_rng(0)
    windows = [choose_random_window((180, 320), (64, 176), config, rng, vertical_position=1.0) for _ in range(200)]
    for window in windows:
        assert window.top >= 0
        assert window.left >= 0
        assert window.top + window.height <= 180
        assert window.left + window.width <= 320
        assert abs(window.width / window.height - 176 / 64) < 0.05
    assert len({(window.left, window.width) for window in windows}) > 100
    assert 60 < sum(window.flip for window in windows) < 140


def test_the_default_options_change_nothing():
    config, rng = AugmentConfig(), np.random.default_rng(0)
    assert choose_random_window((180, 320), (64, 176), config, rng, vertical_position=0.7) == choose_window(
        (180, 320), (64, 176), vertical_position=0.7
    )
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(jitter_colors(images, config, rng), images)
    assert torch.equal(choose_ego_change(config, rng), torch.eye(4))


def test_the_camera_of_a_window_maps_corners_to_corners():
    camera = Cameras(torch.tensor([[190.0, 0.0, 163.0], [0.0, 190.0, 88.0], [0.0, 0.0, 1.0]]), torch.eye(4), (180, 320))
    config, rng = AugmentConfig(max_zoom=1.5, flip_probability=0.5), np.random.default_rng(1)
    for _ in range(20):
        window = choose_random_window((180, 320), (64, 176), config, rng, vertical_position=0.3)
        corners = torch.tensor([[window.left, window.top], [window.left + window.width, window.top + window.height]]).float()
        points = torch.cat([corners, torch.ones(2, 1)], dim=1) @ torch.linalg.inv(camera.K).mT * 7
        seen = window.camera(camera, (64, 176))
        assert seen.image_size == (64, 176)
        left, right = (176.0, 0.0) if window.flip else (0.0, 176.0)
        torch.testing.assert_close(seen.project(points)[0], torch.tensor([[left, 0.0], [right, 64.0]]), atol=1e-3, rtol=0)


def test_ego_changes_are_rotations_and_reflections_about_the_vertical():
    config, rng = AugmentConfig(mirror_x_probability=0.5, mirror_y_probability=0.5, max_rotation=30.0), np.random.default_rng(2)
    changes = torch.stack([choose_ego_change(config, rng) for _ in range(100)])
    linear = changes[:, :3, :3]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(3).expand(100, 3, 3), atol=1e-6, rtol=0)
    determinants = torch.linalg.det(linear).round()
    assert set(determinants.tolist()) == {-1.0, 1.0}
    assert torch.equal(linear[:, 2], torch.tensor([0.0, 0.0, 1.0]).expand(100, 3))
    angles = torch.rad2deg(torch.atan2(linear[:, 1, 0].abs(), linear[:, 0, 0].abs()))
    assert angles.max() <= 30
    assert angles.max() > 25


def test_a_certain_mirror_turns_left_into_right():
    change = choose_ego_change(AugmentConfig(mirror_y_probability=1.0), np.random.default_rng(0))
    assert torch.equal(change, torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])))
    change = choose_ego_change(AugmentConfig(mirror_x_probability=1.0), np.random.default_rng(0))
    assert torch.equal(change, torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))


def test_colour_changes_stay_in_range_and_keep_grey_grey():
    config, rng = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.9), np.random.default_rng(3)
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    images[1] = images[1, :1]
    changed = jitter_colors(images, config, rng)
    assert not torch.allclose(changed, images, atol=1e-2)
    assert changed.min() >= 0
    assert changed.max() <= 1
    torch.testing.assert_close(changed[1, 0], changed[1, 1])
    torch.testing.assert_close(changed[1, 0], changed[1, 2])


@pytest.mark.parametrize("options", [{"max_zoom": 0.9}, {"flip_probability": 1.5}, {"brightness": 1.0}, {"max_rotation": -1}, {"zoom": 2}])
def test_impossible_options_are_refused(options: dict):
    with pytest.raises(ValidationError):
        AugmentConfig(**options)


def test_images_are_turned_by_up_to_the_angle_that_is_allowed():
    config, rng = AugmentConfig(max_image_rotation=5.0), np.random.default_rng(3)
    angles = [choose_random_window((180, 320), (64, 176), config, rng, vertical_position=0.5).rotation for _ in range(200)]
    assert min(angles) < -4
    assert max(angles) > 4
    assert max(map(abs, angles)) <= 5


def test_rotation_leaves_the_other_random_draws_as_they_were():
    plain, turned = (
        AugmentConfig(max_zoom=1.5, flip_probability=0.5),
        AugmentConfig(max_zoom=1.5, flip_probability=0.5, max_image_rotation=5),
    )
    one, other = (
        choose_random_window((180, 320), (64, 176), config, np.random.default_rng(4), vertical_position=0.5) for config in (plain, turned)
    )
    assert (one.top, one.left, one.flip) == (other.top, other.left, other.flip)
