"""Pictures, and the geometry behind them."""

import numpy as np
import pytest
import torch

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid, transform_points
from splattingocc.synthetic.camera_images import pixel_rays, render_image
from splattingocc.synthetic.lidar_sweeps import Lidar
from splattingocc.synthetic.rig import Sensor, draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import World, draw_world

IMAGE_SIZE = (90, 160)
EGO, NOISE = 31, 0


@pytest.fixture(scope="module")
def scene() -> tuple[World, tuple[Sensor, ...], SceneMesh]:
    rng = np.random.default_rng(5)
    world = draw_world(rng, 1.0)
    return world, draw_rig(rng, IMAGE_SIZE), SceneMesh(world, torch.device("cpu"))


def test_pixel_rays_are_those_of_the_camera_model(scene: tuple[World, tuple[Sensor, ...], SceneMesh]):
    _, rig, _ = scene
    for sensor in rig[:6]:
        assert sensor.K is not None
        rays = pixel_rays(sensor.K, sensor.ego_from_sensor, IMAGE_SIZE)
        cameras = Cameras(torch.from_numpy(sensor.K), invert_rigid(torch.from_numpy(sensor.ego_from_sensor)), IMAGE_SIZE)
        pixels, visible = cameras.project(rays.at(torch.full((len(rays.origins),), 7.0)).double())
        assert visible.all()
        v, u = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(160) + 0.5, indexing="ij")
        torch.testing.assert_close(pixels, torch.stack([u, v], -1).reshape(-1, 2).double(), atol=2e-4, rtol=0)


def test_lidar_points_and_pixels_agree_about_distance(scene: tuple[World, tuple[Sensor, ...], SceneMesh]):
    world, rig, mesh = scene
    mesh.set_time(0.5)
    world_from_ego = world.ego.world_from_ego(0.5)
    sweep = Lidar(rig[-1].ego_from_sensor, torch.device("cpu")).measure(mesh, world_from_ego, np.random.default_rng(0))
    real = ~np.isin(sweep.categories, (EGO, NOISE))
    points = transform_points(torch.from_numpy(world_from_ego @ rig[-1].ego_from_sensor), torch.from_numpy(sweep.points[real, :3]).double())
    for sensor in rig[:6]:
        assert sensor.K is not None
        world_from_cam = torch.from_numpy(world_from_ego @ sensor.ego_from_sensor)
        pixels, visible = Cameras(torch.from_numpy(sensor.K), invert_rigid(world_from_cam), IMAGE_SIZE).project(points)
        hits = mesh.cast(pixel_rays(sensor.K, world_from_cam.numpy(), IMAGE_SIZE), 160.0)
        seen = hits.distances.reshape(IMAGE_SIZE)[pixels[visible, 1].long(), pixels[visible, 0].long()]
        measured = (points[visible] - world_from_cam[:3, 3]).norm(dim=-1)
        assert visible.sum() > 1000
        error = (seen / measured - 1).abs()
        # The rest lies on edges, or is hidden from the camera but not from the LiDAR above it.
        assert (error < 0.05).float().mean() > 0.75
        assert error.median() < 0.02


def test_a_picture_depends_on_its_noise_seed_and_nothing_else(scene: tuple[World, tuple[Sensor, ...], SceneMesh]):
    world, rig, mesh = scene
    sensor = rig[1]
    assert sensor.K is not None
    pose = world.ego.world_from_ego(0.0) @ sensor.ego_from_sensor
    images = [render_image(mesh, world.light, sensor.K, pose, IMAGE_SIZE, seed) for seed in (1, 1, 2)]
    assert images[0].shape == (*IMAGE_SIZE, 3)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert np.abs(images[0].astype(int) - images[2]).max() < 60


def test_things_move_between_the_times_of_two_sensors(scene: tuple[World, tuple[Sensor, ...], SceneMesh]):
    world, _, mesh = scene
    mesh.set_time(0.0)
    before = mesh.corners.clone()
    mesh.set_time(0.05)
    moved = (mesh.corners - before).norm(dim=-1)
    assert torch.equal(mesh.corners[: mesh.num_static], before[: mesh.num_static])
    assert moved[mesh.num_static :].max() > 0.03
    assert world.moving_things
