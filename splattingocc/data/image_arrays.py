"""Images and calibration that somebody holds in memory: checked, and turned into what the network sees of them at test time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from splattingocc.data.augment import ImageWindow, choose_window
from splattingocc.data.calibration import FARTHEST_MOUNT, check_image_size, check_intrinsics, check_pose, principal_points_doubtful
from splattingocc.data.camera_images import pixels_through_window
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.vehicle_masks import blacken_hidden, mask_through_window
from splattingocc.geometry.cameras import Cameras
from splattingocc.struct import stack

Array: TypeAlias = np.ndarray | Tensor
"""Of numpy or torch, on any device."""
Arrays: TypeAlias = Array | Sequence[Array | None]
"""One for each view, stacked or one by one: images of one rig may be of several sizes. None stands for what a view has not."""


def views_of_arrays(
    images: Arrays,
    K: Array | Sequence[Array],
    cam_from_ego: Array | Sequence[Array],
    config: LoaderConfig,
    vehicle_masks: Arrays | None = None,
) -> tuple[Float[Tensor, "view 3 h w"], Cameras]:
    """Return images of any size as the network sees them at test time, RGB in [0, 1], and the cameras (view,) of what they show.

    Images are RGB, uint8 or floats in [0, 1], with the channels last or first; floats are rounded to 8 bits, because files have no more.
    A view without an image is black, and its camera `Cameras.nowhere`. `vehicle_masks` are True where a view shows the own vehicle, which
    the network then sees black. What is wrong is a `ValueError` that begins with the argument's name; a `K` that is probably one of
    images of another size gets a warning.
    """
    pictures = [None if image is None else _pixels(image, f"images[{view}]") for view, image in enumerate(_one_by_one(images, "images", 4))]
    if all(picture is None for picture in pictures):
        raise ValueError("images has no image, expected one of each camera that took one")
    masks = [None] * len(pictures) if vehicle_masks is None else _one_by_one(vehicle_masks, "vehicle_masks", 3)
    if len(masks) != len(pictures):
        raise ValueError(
            f"vehicle_masks has {len(masks)} masks, expected {len(pictures)}, one for each of images; None where there is none"
        )
    intrinsics, poses = _matrices(K, "K", 3, len(pictures)), _matrices(cam_from_ego, "cam_from_ego", 4, len(pictures))
    seen, cameras, hidden = [], [], []
    for view, (picture, mask) in enumerate(zip(pictures, masks)):
        if picture is None:
            seen.append(torch.zeros(3, *config.image_size, dtype=torch.uint8))
            cameras.append(Cameras.nowhere(config.image_size))
            hidden.append(None)
            continue
        size = (picture.shape[0], picture.shape[1])
        check_intrinsics(intrinsics[view], size, f"K[{view}]")
        if principal_points_doubtful(intrinsics[view], np.array(size)):
            (u, v), where = intrinsics[view, :2, 2], f"the middle of images[{view}], of {size[0]}×{size[1]} pixels"
            warnings.warn(f"K[{view}]: its principal point, u {u:g} v {v:g}, lies far from {where}: is it of another size?", stacklevel=3)
        check_pose(poses[view], f"cam_from_ego[{view}]", farthest=FARTHEST_MOUNT)
        window = choose_window(size, config.image_size, vertical_position=config.vertical_position)
        camera = Cameras(torch.from_numpy(intrinsics[view]).float(), torch.from_numpy(poses[view]).float(), size)
        seen.append(pixels_through_window(Image.fromarray(picture), window, config.image_size))
        cameras.append(window.camera(camera, config.image_size))
        hidden.append(None if mask is None else _hidden(mask, size, window, config.image_size, f"vehicle_masks[{view}]"))
    found = torch.stack(seen).float().div_(255)
    return (found if vehicle_masks is None else blacken_hidden(found, hidden)), stack(cameras)


def as_numpy(values: Any) -> np.ndarray:
    """Return a tensor of any device and number format, an array, or a sequence of either, as an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray([as_numpy(value) for value in values] if isinstance(values, list | tuple) else values)


def array_of(values: Any, name: str, expected: str) -> np.ndarray:
    """Return what a caller gave as an array of numbers; anything else, a ragged list too, is a `ValueError` that begins with its name."""
    try:
        found = as_numpy(values)
    except (TypeError, ValueError, RuntimeError):
        found = np.empty(0, dtype=object)
    if found.dtype == object:
        raise ValueError(f"{name} is no array of numbers, expected {expected}")
    return found


def _one_by_one(arrays: Arrays, name: str, axes: int) -> list[Array | None]:
    if isinstance(arrays, np.ndarray | Tensor):
        if arrays.ndim != axes:
            raise ValueError(f"{name} has the shape {tuple(arrays.shape)}, expected {axes} axes, the first of them the views")
        return list(arrays)
    if not isinstance(arrays, Sequence) or isinstance(arrays, str | bytes):
        raise ValueError(f"{name} is a {type(arrays).__name__}, expected an array, or a list with one for each view")
    return list(arrays)


def _pixels(image: Array, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(image, str | bytes | os.PathLike):
        raise ValueError(f"{name} is a {type(image).__name__}, expected the pixels themselves, such as np.array(Image.open(path))")
    pixels = array_of(image, name, "RGB: (height, width, 3) or (3, height, width)")
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[-1]):
        raise ValueError(f"{name} has the shape {pixels.shape}, expected RGB: (height, width, 3) or (3, height, width)")
    pixels = pixels if pixels.shape[-1] == 3 else pixels.transpose(1, 2, 0)
    check_image_size(pixels.shape[:2], f"{name}: its size")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{name} is of {pixels.dtype}, expected uint8, or floats from 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, expected 0 to 1; images from 0 to 255 are uint8, none are normalized"
        )
    return np.rint(255 * pixels.astype(np.float32)).astype(np.uint8)


def _matrices(values: Any, name: str, size: int, count: int) -> Float64[np.ndarray, "view size size"]:
    expected = f"floats of the shape ({count}, {size}, {size})"
    try:
        matrices = array_of(values, name, expected).astype(np.float64, casting="same_kind")
    except TypeError:
        raise ValueError(f"{name} is no array of numbers, expected {expected}") from None
    if matrices.shape != (count, size, size):
        raise ValueError(f"{name} has the shape {matrices.shape}, expected ({count}, {size}, {size}): a matrix for each of images")
    return matrices


def _hidden(mask: Array, size: tuple[int, int], window: ImageWindow, image_size: tuple[int, int], name: str) -> Float[Tensor, "h w"]:
    covered = array_of(mask, name, f"bool and the shape {size}, as its image")
    if covered.dtype != np.bool_ or covered.shape != size:
        raise ValueError(f"{name} is of {covered.dtype} and the shape {covered.shape}, expected bool and {size}, as its image")
    return mask_through_window(Image.fromarray(np.where(covered, 255, 0).astype(np.uint8)), window, image_size)
