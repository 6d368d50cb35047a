"""Images of cameras, read only where it is certain which colours they show and which way up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from splattingocc.data.augment import ImageWindow
from splattingocc.data.key_frames import SensorFrame
from splattingocc.files import BadFile, first_line, open_image

COLOUR_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA")
"""Pillow's names of pixels whose colours are certain: 8-bit colours and grey, black and white, and the colours of a palette."""
TURNED = range(2, 9)
"""EXIF orientations of pixels that are not stored as they are seen."""


def read_image(path: Path, sensor: SensorFrame, window: ImageWindow, image_size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Read the window of an image at the size of the network input, RGB.

    A missing, damaged or wrongly sized image is a `ValueError` that names the file and the sensor frame; so is one of which it is not
    certain what it shows (`check_8_bits`, `check_upright`, `in_colours`).
    """
    try:
        with open_image(path) as image:
            check_8_bits(path, image)
            check_upright(path, image)
            check_size(path, image, sensor)
            needed = (math.ceil(image.width * image_size[1] / window.width), math.ceil(image.height * image_size[0] / window.height))
            # The JPEG decoder scales by 1/2, 1/4, 1/8 at a fraction of the time; never below the resolution that is needed.
            drafted = image.draft("RGB", needed)
            scale = 1.0 if drafted is None else drafted[1][2] / sensor_size(sensor)[1]
            return pixels_through_window(in_colours(path, image), window, image_size, scale=scale)
    except BadFile as error:
        raise ValueError(f"{error} (sample_data {sensor.token})") from None


def pixels_through_window(
    image: Image.Image, window: ImageWindow, image_size: tuple[int, int], *, scale: float = 1.0
) -> UInt8[Tensor, "3 h w"]:
    """Return what a window shows of an RGB image that is `scale` times as large as the camera's, at the size of the network input."""
    return torch.from_numpy(np.array(through_window(image, window, image_size, scale=scale))).permute(2, 0, 1)


def through_window(image: Image.Image, window: ImageWindow, image_size: tuple[int, int], *, scale: float = 1.0) -> Image.Image:
    """Return what a window shows of an image that is `scale` times as large as the camera's."""
    left, top = scale * window.left, scale * window.top
    box = (left, top, left + scale * window.width, top + scale * window.height)
    seen = image.resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR, box=box)
    if window.rotation:
        seen = seen.rotate(window.rotation, Image.Resampling.BILINEAR)
    return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if window.flip else seen


def check_8_bits(path: Path, image: Image.Image) -> None:
    """Refuse 16 bits a colour, before an image is decoded: cameras use 10, 12, 14 or all of them, and the file does not say how many."""
    if "16" in stored_as(image):
        raise BadFile(path, "has 16 bits a colour, whose scale is not known; convert it to 8 bits")


def check_upright(path: Path, image: Image.Image) -> None:
    """Refuse images that viewers would turn before they show them, and films.

    Calibration belongs to pixels as they are stored, or as they are seen: nobody can tell which of both its owner meant.
    """
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise BadFile(path, "is an animated PNG, expected one picture")
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise BadFile(path, f"its EXIF data, which may say that it is turned, cannot be read ({first_line(error)}); remove them") from error
    if orientation in TURNED:
        raise BadFile(
            path,
            f"EXIF orientation {orientation} asks viewers to turn it, and the calibration cannot; store the pixels as the calibration "
            "sees them, without that tag (e.g. `mogrify -auto-orient`, or `exiftool -Orientation=` where the stored pixels are right)",
        )


def check_size(path: Path, image: Image.Image, sensor: SensorFrame) -> None:
    """Refuse an image of another size than its camera's."""
    height, width = sensor_size(sensor)
    if image.size != (width, height):
        raise BadFile(path, f"{image.width}×{image.height} pixels, expected {width}×{height}, the size of images of {sensor.channel}")


def in_colours(path: Path, image: Image.Image) -> Image.Image:
    """Return an image in RGB.

    Grey, black and white, and palettes are what they show; an opaque alpha channel is dropped. Inks (CMYK) and transparency are refused:
    what they look like is not in the file.
    """
    if image.mode not in COLOUR_MODES:
        raise BadFile(path, f"its pixels are {image.mode}, expected RGB or 8-bit grey; convert it")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadFile(path, "is partly transparent, expected opaque pixels; remove its alpha channel")
    return image.convert("RGB")


def stored_as(image: Image.Image) -> str:
    """Return Pillow's name of the pixels in the file of an image, such as L;4 for 4 bits of grey; once it is decoded they are forgotten."""
    assert isinstance(image, ImageFile.ImageFile)
    arguments = image.tile[0][3] if image.tile else None
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def sensor_size(sensor: SensorFrame) -> tuple[int, int]:
    """Return height and width of a camera's images, pixels."""
    assert sensor.image_size is not None
    return sensor.image_size
