"""Random changes to a training sample that keep images, cameras and rays consistent.

Image changes (window, rotation, mirror, colours) act on an image and its camera together and never move a ray: rays live in the ego frame
and come from the cameras as they were. Changes of the ego frame (mirror, rotation) act on cameras and rays together and never change an
image or a distance along a ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from splattingocc.config import Config, Probability, Share
from splattingocc.geometry.cameras import Cameras


class AugmentConfig(Config):
    """How far training samples are changed at random. The defaults change nothing."""

    max_zoom: Annotated[float, Field(ge=1, le=10)] = 1.0
    """Largest enlargement of an image; each gets one between 1 and this, and shows a window that lies wholly inside the original."""
    flip_probability: Probability = 0.0
    """Share of images mirrored left to right, each on its own; the camera then has a negative focal length."""
    max_image_rotation: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Degrees; each image is turned about its centre by an angle in ± this, its empty corners black."""
    brightness: Share = 0.0
    """Colours of a sample are multiplied by a factor in 1 ± this."""
    contrast: Share = 0.0
    """Distances from the mean grey of an image are multiplied by a factor in 1 ± this."""
    saturation: Share = 0.0
    """Distances of a pixel from its own grey are multiplied by a factor in 1 ± this."""
    mirror_x_probability: Probability = 0.0
    """Share of samples whose ego frame is mirrored front to back (x)."""
    mirror_y_probability: Probability = 0.0
    """Share of samples whose ego frame is mirrored left to right (y)."""
    max_rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees; the ego frame is turned about z by an angle in ± this."""


@dataclass(frozen=True)
class ImageWindow:
    """The part of an image, in its own pixels, that a network input shows."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    """Whether the window is mirrored left to right."""
    rotation: float = 0.0
    """Degrees by which it is turned counter-clockwise about its centre, before it is mirrored."""

    def camera(self, camera: Cameras, image_size: tuple[int, int]) -> Cameras:
        """Return the camera of this window resized to `image_size`."""
        seen = camera.crop(self.top, self.left, (self.height, self.width)).resize(image_size)
        seen = seen.rotate(self.rotation) if self.rotation else seen
        return seen.flip() if self.flip else seen


def choose_window(
    source_size: tuple[int, int],
    image_size: tuple[int, int],
    *,
    vertical_position: float,
    sideways_position: float = 0.5,
    zoom: float = 1.0,
    flip: bool = False,
    rotation: float = 0.0,
) -> ImageWindow:
    """Return the window of the aspect of `image_size` that is `zoom` times smaller than the largest one in an image of `source_size`.

    Sizes are (height, width). A position of 0 puts the window at the top or left, 1 at the bottom or right.
    """
    source_height, source_width = source_size
    scale = zoom * max(image_size[0] / source_height, image_size[1] / source_width)
    height = min(source_height, max(1, round(image_size[0] / scale)))
    width = min(source_width, max(1, round(image_size[1] / scale)))
    top, left = round((source_height - height) * vertical_position), round((source_width - width) * sideways_position)
    return ImageWindow(top, left, height, width, flip, rotation)


def choose_random_window(
    source_size: tuple[int, int], image_size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator, *, vertical_position: float
) -> ImageWindow:
    """Return a window of random zoom, moved sideways as far as the zoom allows, turned a little, mirrored by chance."""
    zoom, shift, chance = rng.uniform(1.0, config.max_zoom), rng.uniform(), rng.uniform()
    rotation = float(rng.uniform(-1, 1)) * config.max_image_rotation if config.max_image_rotation else 0.0
    return choose_window(
        source_size,
        image_size,
        vertical_position=vertical_position,
        sideways_position=shift if config.max_zoom > 1 else 0.5,
        zoom=zoom,
        flip=bool(chance < config.flip_probability),
        rotation=rotation,
    )


def jitter_colors(images: Float[Tensor, "*batch 3 h w"], config: AugmentConfig, rng: np.random.Generator) -> Float[Tensor, "*batch 3 h w"]:
    """Return images with one random brightness, contrast and saturation for all of them, clamped to [0, 1]."""
    brightness, contrast, saturation = (
        float(rng.uniform(1 - spread, 1 + spread)) for spread in (config.brightness, config.contrast, config.saturation)
    )
    if config.brightness == config.contrast == config.saturation == 0:
        return images
    luma = images.new_tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = torch.einsum("...chw,c->...hw", images, luma)[..., None, :, :]
    images = grey + saturation * (images - grey)
    mean = grey.mean(dim=(-2, -1), keepdim=True)
    return (brightness * (mean + contrast * (images - mean))).clamp(0, 1)


def choose_ego_change(config: AugmentConfig, rng: np.random.Generator) -> Float[Tensor, "4 4"]:
    """Return a random `new_ego_from_ego`: a rotation about z, then mirrors; a reflection where an odd number of mirrors was drawn."""
    angle = np.deg2rad(rng.uniform(-config.max_rotation, config.max_rotation))
    sign_x = -1.0 if rng.uniform() < config.mirror_x_probability else 1.0
    sign_y = -1.0 if rng.uniform() < config.mirror_y_probability else 1.0
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return torch.tensor(
        [
            [sign_x * cos, -sign_x * sin, 0.0, 0.0],
            [sign_y * sin, sign_y * cos, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
