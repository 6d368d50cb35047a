"""Masks of a rig's own vehicle: bonnet, mirrors and roof racks, which its cameras see in every image and nobody wants to learn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from splattingocc.data.augment import ImageWindow
from splattingocc.data.camera_images import check_8_bits, check_size, check_upright, in_colours, through_window
from splattingocc.data.key_frames import Index, SensorFrame
from splattingocc.data.label_store import RayTable
from splattingocc.files import BadFile, child, open_image, sha256_of


class VehicleMasks:
    """A folder with one image per camera, `<channel>.png`, of the size of the camera's own: what is not black is the vehicle.

    A camera without a file has no mask. Files are read on first use.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._masks: dict[str, Image.Image | None] = {}

    @classmethod
    def open(cls, folder: Path, index: Index) -> VehicleMasks:
        """Open the masks of a data set; `ValueError` where the folder has none for any of its cameras, or one of another size."""
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder, expected masks of the own vehicle in it")
        masks = cls(folder)
        names = [f"{channel}.png" for channel in _camera_channels(index)]
        if not masks.channels(index):
            raise ValueError(f"{folder}: has no mask of any camera; expected some of {', '.join(names)}")
        if unknown := [path.name for path in masks.files if path.name not in names]:
            raise ValueError(f"{folder / unknown[0]}: is the mask of no camera of these data; expected some of {', '.join(names)}")
        for number, channel in enumerate(_camera_channels(index)):
            rows = (
                np.arange(len(index)) if index.sensor_present is None else np.flatnonzero(index.sensor_present[:, number + index.has_lidar])
            )
            _, firsts = np.unique(index.image_sizes[rows, number], axis=0, return_index=True)
            for position in rows[firsts]:
                (camera,) = (camera for camera in index[int(position)].cameras if camera.channel == channel)
                masks.of(camera)
        return masks

    def channels(self, index: Index) -> list[str]:
        """Return the cameras of a data set that have a mask."""
        return [channel for channel in _camera_channels(index) if self.path_of(channel).exists()]

    @property
    def files(self) -> list[Path]:
        """All masks that are there."""
        return sorted(self.folder.glob("*.png"))

    def path_of(self, channel: str) -> Path:
        """Return the file of a camera's mask, whether it is there or not."""
        return child(self.folder, f"{channel}.png")

    def describe(self, index: Index) -> str:
        """Return the words that a label store's manifest keeps; they change with the content of the masks."""
        channels = self.channels(index)
        digest = hashlib.sha256("".join(sha256_of(self.path_of(channel)) for channel in channels).encode()).hexdigest()
        return f"without the own vehicle (masks of {', '.join(channels)}, sha256 {digest[:12]})"

    def of(self, sensor: SensorFrame) -> Bool[np.ndarray, "h w"] | None:
        """Return which pixels of a camera's images show the own vehicle; None where it has no mask."""
        mask = self._image_of(sensor)
        return None if mask is None else np.asarray(mask) > 0

    def through_window(self, sensor: SensorFrame, window: ImageWindow, image_size: tuple[int, int]) -> Float[Tensor, "h w"] | None:
        """Return `mask_through_window` of a camera's mask; None where it has none."""
        mask = self._image_of(sensor)
        if mask is None:
            return None
        return mask_through_window(mask, window, image_size)

    def visible(self, table: RayTable, cameras: tuple[SensorFrame, ...]) -> RayTable:
        """Return the labels of a key frame that do not lie on the own vehicle."""
        is_hidden = np.zeros(len(table), dtype=bool)
        for view, camera in enumerate(cameras):
            mask = self.of(camera)
            if mask is not None:
                own = np.flatnonzero(table.camera_indices == view)
                columns, rows = table.pixels[own].astype(np.int64).T
                is_hidden[own] = mask[rows, columns]
        return table[~is_hidden]

    def _image_of(self, sensor: SensorFrame) -> Image.Image | None:
        """Return a camera's mask as grey, 255 where it covers; checked against the size of the camera's images."""
        path = self.path_of(sensor.channel)
        if sensor.channel not in self._masks:
            self._masks[sensor.channel] = _read_mask(path) if path.exists() else None
        mask = self._masks[sensor.channel]
        if mask is not None:
            check_size(path, mask, sensor)
        return mask


def mask_through_window(mask: Image.Image, window: ImageWindow, image_size: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Return 1 for the pixels of the network input that show mostly own vehicle (255 in the mask), 0 for the others.

    A mask goes through the window as the image does.
    """
    return torch.from_numpy(np.array(through_window(mask, window, image_size))).ge(128).float()


def blacken_hidden(
    images: Float[Tensor, "*frame view 3 h w"], hidden: Sequence[Float[Tensor, "h w"] | None]
) -> Float[Tensor, "*frame view 3 h w"]:
    """Return the images black where `hidden` is 1; views without, and those after the last one, are as they were."""
    shown = torch.ones(images.shape[-4], 1, *images.shape[-2:])
    for view, covered in enumerate(hidden):
        if covered is not None:
            shown[view] -= covered
    return images * shown


def _camera_channels(index: Index) -> list[str]:
    return index.channels[index.has_lidar :]


def _read_mask(path: Path) -> Image.Image:
    with open_image(path) as image:
        if image.format != "PNG":
            raise BadFile(path, f"is a {image.format} file, which blurs the edges of a mask; expected a PNG")
        check_8_bits(path, image)
        check_upright(path, image)
        covered = (np.asarray(in_colours(path, image)) > 0).any(axis=-1)
        return Image.fromarray(np.where(covered, 255, 0).astype(np.uint8))
