"""Pinhole cameras on a vehicle, and the images they took."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import invert_rigid, transform_points
from splattingocc.struct import Struct

NEAR_PLANE = 0.1
"""Metres in front of the camera below which nothing is projected."""
NOWHERE = 1e6
"""Metres above the ego frame at which a camera stands that is none."""


def invert_intrinsics(K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the inverses of matrices whose last row is 0 0 1, as those of pinhole cameras are, in closed form: a handful of products.

    Unlike a general inverse it can leave with a network for other runtimes.
    """
    a, b, c, d = K[..., 0, 0], K[..., 0, 1], K[..., 1, 0], K[..., 1, 1]
    linear = torch.stack([torch.stack([d, -b], dim=-1), torch.stack([-c, a], dim=-1)], dim=-2) / (a * d - b * c)[..., None, None]
    shift = -linear @ K[..., :2, 2:]
    return torch.cat(
        [torch.cat([linear, shift], dim=-1), torch.cat([torch.zeros_like(shift.mT), torch.ones_like(shift[..., :1, :])], dim=-1)], dim=-2
    )


@dataclass(frozen=True)
class Cameras(Struct):
    """Pinhole cameras. The camera frame is x right, y down, z forward; the centre of the top-left pixel is at (0.5, 0.5)."""

    K: Float[Tensor, "*batch 3 3"]
    """Intrinsics in pixels."""
    cam_from_ego: Float[Tensor, "*batch 4 4"]
    """From the ego frame of the key frame, metres. Orthogonal: a mirrored ego frame makes it a reflection."""
    image_size: tuple[int, int]
    """Height and width in pixels, the same for all."""

    @classmethod
    def nowhere(cls, image_size: tuple[int, int]) -> Cameras:
        """Return a camera (no batch axis) that takes the place of one that is missing: far above, it looks up and sees nothing."""
        height, width = image_size
        K = torch.tensor([[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]])
        cam_from_ego = torch.eye(4)
        cam_from_ego[2, 3] = -NOWHERE
        return cls(K, cam_from_ego, image_size)

    @property
    def are_somewhere(self) -> Bool[Tensor, "*batch"]:
        """Which of these are cameras and not `nowhere`, seen from whatever ego frame."""
        return self.optical_centers.norm(dim=-1) < NOWHERE / 2

    @property
    def optical_centers(self) -> Float[Tensor, "*batch 3"]:
        """Where the cameras stand in the ego frame, metres."""
        return invert_rigid(self.cam_from_ego)[..., :3, 3]

    def resize(self, image_size: tuple[int, int]) -> Cameras:
        """Return the cameras of the images resized to (height, width)."""
        scale = self.K.new_tensor([image_size[1] / self.image_size[1], image_size[0] / self.image_size[0], 1.0])
        return dataclasses.replace(self, K=scale[:, None] * self.K, image_size=image_size)

    def crop(self, top: int, left: int, image_size: tuple[int, int]) -> Cameras:
        """Return the cameras of the images cut to (height, width) from the given corner; negative corners pad."""
        K = self.K.clone()
        K[..., 0, 2] -= left
        K[..., 1, 2] -= top
        return dataclasses.replace(self, K=K, image_size=image_size)

    def flip(self) -> Cameras:
        """Return the cameras of the images mirrored left to right: a negative focal length, so that any 3D point still finds its pixel."""
        K = self.K.clone()
        K[..., 0, :] = -K[..., 0, :]
        K[..., 0, 2] += self.image_size[1]
        return dataclasses.replace(self, K=K)

    def rotate(self, degrees: float) -> Cameras:
        """Return the cameras of the images turned counter-clockwise about their centres, as one looks at them; corners are cut off."""
        height, width = self.image_size
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = width / 2, height / 2
        turned_from_pixel = [[cos, sin, u - cos * u - sin * v], [-sin, cos, v + sin * u - cos * v], [0.0, 0.0, 1.0]]
        return dataclasses.replace(self, K=self.K.new_tensor(turned_from_pixel) @ self.K)

    def shows(self, pixels: Float[Tensor, "*batch point 2"]) -> Bool[Tensor, "*batch point"]:
        """Say which pixels of an image that was turned were inside of it before; the corners beside them are black."""
        # Intrinsics that are not turned have nothing below the first focal length
        across = self.K[..., None, :2, 0] / self.K[..., None, :2, 0].norm(dim=-1, keepdim=True)
        height, width = self.image_size
        u, v = pixels[..., 0] - width / 2, pixels[..., 1] - height / 2
        cos, sin = across.unbind(-1)
        return ((cos * u + sin * v).abs() <= width / 2) & ((cos * v - sin * u).abs() <= height / 2)

    def transform_ego(self, new_ego_from_ego: Float[Tensor, "*batch 4 4"]) -> Cameras:
        """Return the same cameras seen from another ego frame; reflections are allowed."""
        return dataclasses.replace(self, cam_from_ego=self.cam_from_ego @ invert_rigid(new_ego_from_ego))

    def project(self, points_ego: Float[Tensor, "*batch point 3"]) -> tuple[Float[Tensor, "*batch point 2"], Bool[Tensor, "*batch point"]]:
        """Project ego-frame points to pixels.

        The second result is True for points at least NEAR_PLANE in front of the camera and inside its image; pixels of the others
        are finite but meaningless, so that gradients stay finite.
        """
        points_cam = transform_points(self.cam_from_ego, points_ego)
        in_front = points_cam[..., 2] > NEAR_PLANE
        z = torch.where(in_front, points_cam[..., 2], torch.ones_like(points_cam[..., 2]))
        pixels = ((points_cam / z[..., None]) @ self.K.mT)[..., :2]
        height, width = self.image_size
        u, v = pixels.unbind(-1)
        return pixels, in_front & (u >= 0) & (u < width) & (v >= 0) & (v < height)

    def rays_through(self, camera_indices: Int[Tensor, " ray"], pixels: Float[Tensor, "ray 2"]) -> Rays:
        """Return the rays from the optical centres through pixels; `camera_indices` pick one of this (view,) batch for each ray."""
        ego_from_cam = invert_rigid(self.cam_from_ego)
        pixels_homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1)
        # One small matrix per camera, not per ray: ego direction = R · K⁻¹ · pixel
        ego_from_pixel = ego_from_cam[:, :3, :3] @ torch.linalg.inv(self.K)
        directions = torch.einsum("rij,rj->ri", ego_from_pixel[camera_indices], pixels_homogeneous)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return Rays(ego_from_cam[camera_indices, :3, 3], directions)

    def pixel_rays(self) -> Rays:
        """Return the rays through the centres of all pixels of this (view,) batch: view by view, row by row."""
        height, width = self.image_size
        view, v, u = torch.meshgrid(*(torch.arange(count, device=self.K.device) for count in (len(self.K), height, width)), indexing="ij")
        return self.rays_through(view.reshape(-1), torch.stack([u, v], dim=-1).reshape(-1, 2).to(self.K) + 0.5)


@dataclass(frozen=True)
class Views(Struct):
    """Surround images of one or more frames, newest first, and the cameras that took them."""

    images: Float[Tensor, "*batch frame view 3 height width"]
    """RGB in [0, 1]."""
    cameras: Cameras
    """Batch axes (*batch, frame, view). Where a key frame has fewer cameras than others, black images of `Cameras.nowhere` follow."""
