"""A sample that no data set is needed for: what computing costs does not depend on what is in the images."""

from __future__ import annotations

import math

import torch

from splattingocc.data.samples import TrainingSample
from splattingocc.experiment import ExperimentConfig
from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.rays import RayLabels
from splattingocc.struct import stack
from splattingocc.taxonomy import NUM_CLASSES

NUM_VIEWS = 6
"""Cameras of the rig that is assumed, evenly around the vehicle."""
FOCAL = 0.8
"""Focal length in image widths: that of nuScenes' front camera."""
CAMERA_HEIGHT = 1.5
"""Metres."""


def made_up_sample(config: ExperimentConfig) -> TrainingSample:
    """Return a sample of the sizes of an experiment: images of noise, a rig like nuScenes', rays with labels of every class."""
    generator = torch.Generator().manual_seed(0)
    loader = config.data.loader
    height, width = loader.image_size
    yaws = [2 * math.pi * view / NUM_VIEWS for view in range(NUM_VIEWS)]
    cameras = stack([_camera(yaw, (height, width)) for yaw in yaws])
    images = torch.rand(NUM_VIEWS, 3, height, width, generator=generator)
    pixels = torch.rand(loader.num_rays, 2, generator=generator) * torch.tensor([width, height])
    rays = cameras.rays_through(torch.randint(0, NUM_VIEWS, (loader.num_rays,), generator=generator), pixels)
    distances = 3 + 30 * torch.rand(loader.num_rays, generator=generator)
    semantics = torch.randint(0, NUM_CLASSES, (loader.num_rays,), generator=generator)
    frames = [(images, _driven(cameras, metres=0.5 * frame)) for frame in range(1 + loader.previous_frames)]
    views = Views(torch.stack([of for of, _ in frames]), stack([of for _, of in frames]))
    return stack([TrainingSample("made up", views, rays, RayLabels(semantics, distances, torch.ones(loader.num_rays)))])


def _camera(yaw: float, image_size: tuple[int, int]) -> Cameras:
    """Return an upright camera that looks level towards `yaw`, radians left of ahead."""
    height, width = image_size
    ahead = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
    right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
    cam_from_ego = torch.eye(4)
    cam_from_ego[:3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), ahead])
    cam_from_ego[:3, 3] = -cam_from_ego[:3, :3] @ torch.tensor([0.0, 0.0, CAMERA_HEIGHT])
    K = torch.tensor([[FOCAL * width, 0.0, width / 2], [0.0, FOCAL * width, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(K, cam_from_ego, image_size)


def _driven(cameras: Cameras, *, metres: float) -> Cameras:
    """Return the cameras as they were so many metres before, seen from where they are now."""
    now_from_then = torch.eye(4)
    now_from_then[0, 3] = -metres
    return cameras.transform_ego(now_from_then)
