"""Cameras that look around, for tests of the models."""

import math

import torch

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid, rigid


def surround_cameras(num_views: int, image_size: tuple[int, int], focal: float) -> Cameras:
    """Cameras at 1.5 m height, evenly spaced in yaw, the first looking along x."""
    transforms = []
    for view in range(num_views):
        yaw = 2 * math.pi * view / num_views
        right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
        down = torch.tensor([0.0, 0.0, -1.0])
        forward = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
        ego_from_cam = rigid(torch.stack([right, down, forward], dim=-1), torch.tensor([0.0, 0.0, 1.5]))
        transforms.append(invert_rigid(ego_from_cam))
    height, width = image_size
    K = torch.tensor([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
    return Cameras(K.expand(num_views, 3, 3), torch.stack(transforms), image_size)
