"""How light becomes a picture in a camera: the kernel behind `camera_effects.py`."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

CELL = wp.constant(8)
"""Pixels along the side of a cell of the grid on which scattered light is computed."""
NUM_TAPS = wp.constant(5)
"""Places along the motion of a pixel whose light is averaged."""
MIDDLE_GREY = wp.constant(0.42)
"""Tone that the contrast of a camera leaves as it is."""


@wp.struct
@no_type_check
class Lens:
    """The numbers of a `CameraState`, as the kernel takes them."""

    gain: wp.vec3
    color_strength: float
    contrast: float
    vignetting: float
    scatter: float
    blur: float
    shot_noise: float
    read_noise: float
    haze: wp.vec3
    longest: float
    height: int
    width: int


@wp.struct
@no_type_check
class Motion:
    """How a camera moves while its shutter is open."""

    cam_from_world: wp.mat33
    """Its rotation."""
    shift: wp.vec3
    """Of the camera in that time, metres, world frame."""
    turn: float
    """Of the vehicle about the upright in that time, radians, to the left."""
    focal: float
    """Pixels."""


@wp.func
@no_type_check
def image_motion(camera: Motion, offset: wp.vec3) -> wp.vec2:
    """Return how far what stands `offset` from the camera (world frame) moves across the image, pixels."""
    place = camera.cam_from_world * offset
    moved = -(camera.cam_from_world * (camera.shift + wp.vec3(-offset[1], offset[0], 0.0) * camera.turn))
    scale = camera.focal / wp.max(place[2], 0.1)
    return wp.vec2(moved[0] - place[0] / place[2] * moved[2], moved[1] - place[1] / place[2] * moved[2]) * scale


@wp.func
@no_type_check
def sampled(values: wp.array(dtype=wp.vec3), x: float, y: float, width: int, height: int) -> wp.vec3:
    """Interpolate between the middles of pixels, or of the cells of a grid."""
    column, row = wp.clamp(x, 0.0, float(width) - 1.001), wp.clamp(y, 0.0, float(height) - 1.001)
    left, top = int(column), int(row)
    right_share, low_share = column - float(left), row - float(top)
    right, low = wp.min(left + 1, width - 1), wp.min(top + 1, height - 1)
    upper = values[top * width + left] * (1.0 - right_share) + values[top * width + right] * right_share
    lower = values[low * width + left] * (1.0 - right_share) + values[low * width + right] * right_share
    return upper * (1.0 - low_share) + lower * low_share


@wp.kernel
@no_type_check
def expose(
    first: int,
    lens: Lens,
    camera: Motion,
    radiances: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    distances: wp.array(dtype=float),
    scattered: wp.array2d(dtype=wp.vec3),
    softness: wp.array(dtype=float),
    dirt: wp.array(dtype=float),
    seed: int,
    image: wp.array2d(dtype=wp.uint8),
):
    i = first + wp.tid()
    x, y = float(i % lens.width), float(i / lens.width)
    motion = image_motion(camera, directions[i] * distances[i])
    length = wp.length(motion)
    if length > lens.longest:
        motion = motion * (lens.longest / length)
    radius = lens.blur + softness[i]
    light = wp.vec3(0.0, 0.0, 0.0)
    for tap in range(NUM_TAPS):
        # Five places on a ring, each at another time of the exposure.
        angle, time = 2.513274 * float(tap), float(tap) / float(NUM_TAPS - 1) - 0.5
        right, down = radius * wp.cos(angle) + motion[0] * time, radius * wp.sin(angle) + motion[1] * time
        light = light + sampled(radiances, x + right, y + down, lens.width, lens.height)
    light = light / float(NUM_TAPS)
    light = light * (1.0 - dirt[i]) + lens.haze * dirt[i]
    halo_x, halo_y = (x + 0.5) / float(CELL) - 0.5, (y + 0.5) / float(CELL) - 0.5
    left, top = int(wp.clamp(halo_x, 0.0, float(scattered.shape[1] - 1))), int(wp.clamp(halo_y, 0.0, float(scattered.shape[0] - 1)))
    right_cell, low_cell = wp.min(left + 1, scattered.shape[1] - 1), wp.min(top + 1, scattered.shape[0] - 1)
    share_x, share_y = wp.clamp(halo_x - float(left), 0.0, 1.0), wp.clamp(halo_y - float(top), 0.0, 1.0)
    upper = scattered[top, left] * (1.0 - share_x) + scattered[top, right_cell] * share_x
    lower = scattered[low_cell, left] * (1.0 - share_x) + scattered[low_cell, right_cell] * share_x
    halo = upper * (1.0 - share_y) + lower * share_y
    light = light * (1.0 - lens.scatter) + halo * lens.scatter
    across, along = x / float(lens.width) - 0.5, y / float(lens.height) - 0.5
    light = wp.cw_mul(light, lens.gain) * (1.0 - 2.0 * lens.vignetting * (across * across + along * along))
    random = wp.rand_init(seed, i)
    common = wp.randn(random)
    grey = 0.0
    colored = 0.7 * wp.randn(random)
    for channel in range(3):
        value = wp.max(light[channel], 0.0)
        deviation = lens.read_noise + lens.shot_noise * wp.sqrt(value)
        # Red and blue err apart.
        value = value + deviation * (0.8 * common + float(channel - 1) * colored)
        light[channel] = wp.clamp(value, 0.0, 1.0)
        grey = grey + wp.where(channel == 0, 0.299, wp.where(channel == 1, 0.587, 0.114)) * light[channel]
    for channel in range(3):
        value = grey + (light[channel] - grey) * lens.color_strength
        toned = wp.where(value < 0.0031308, 12.92 * value, 1.055 * wp.pow(wp.max(value, 0.0031308), 1.0 / 2.4) - 0.055)
        # Steeper in the middle; the dark end stays above black, the bright one clips.
        steep = wp.max(MIDDLE_GREY + (toned - MIDDLE_GREY) * lens.contrast, toned * 0.5)
        image[i, channel] = wp.uint8(wp.clamp(255.0 * steep + 0.5, 0.0, 255.0))
