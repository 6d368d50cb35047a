"""What the cameras of a key frame saw, what its labels say and what a field renders for them. Nothing here can reach 3D truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore
from splattingocc.data.labelled_rays import LabelledRays, labelled_rays
from splattingocc.data.loaders import LoaderConfig, blacken, read_views, still_windows
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.engine.inference import render_surfaces
from splattingocc.engine.options import RenderConfig
from splattingocc.experiment import ExperimentConfig
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.splatting.field import Field
from splattingocc.struct import stack
from splattingocc.visualization.panels import CameraMaps

IMAGE_WIDTH = 640
"""Pixels of the camera images in the pictures; the network may see smaller ones."""
MAP_WIDTH = 224
"""Pixels, and rays, of a rendered map's row."""


def camera_images(config: ExperimentConfig, key_frame: KeyFrame, width: int = IMAGE_WIDTH) -> tuple[UInt8[Tensor, "view h w 3"], Cameras]:
    """Return the part of each image that the network sees, so many pixels wide, and the cameras of these images."""
    height = round(width * config.data.loader.image_size[0] / config.data.loader.image_size[1])
    loader: LoaderConfig = config.data.loader.model_copy(update={"image_size": (height, width)})
    windows = still_windows(key_frame, loader)
    images, cameras = read_views(key_frame, config.data.dataroot, loader, windows=windows, in_ego_of=key_frame)
    masks = None if config.data.vehicle_masks is None else VehicleMasks(config.data.vehicle_masks)
    blackened = blacken(images, key_frame, masks, windows)
    return (blackened.permute(0, 2, 3, 1) * 255).round().to(torch.uint8), cameras


def camera_maps(config: ExperimentConfig, field: Field, key_frame: KeyFrame, views: Sequence[int] | None = None) -> list[CameraMaps]:
    """Return what the network input shows of each camera, or of some, sharper than the network sees it, with labels and renderings."""
    images, cameras = camera_images(config, key_frame)
    height, width = cameras.image_size
    views = range(len(key_frame.cameras)) if views is None else views
    asked = stack([cameras[view] for view in views]).resize((round(MAP_WIDTH * height / width), MAP_WIDTH))
    rendered = zip(*_render_maps(field, asked, config.render))
    (rays, labels), camera_of_ray = _labels_of(config, key_frame)
    maps = []
    for view, (semantics, distances) in zip(views, rendered):
        own = camera_of_ray == view
        # A ray lies in one pixel; sky, and whatever has a class alone, has no distance
        to_labels = labels[own].distances
        pixels, visible = cameras[view].project(rays[own].at(to_labels.where(to_labels.isfinite(), torch.ones_like(to_labels))))
        shown = labels[own][visible]
        channel = key_frame.cameras[view].channel
        maps.append(CameraMaps(channel, images[view], pixels[visible], shown.semantics, shown.distances, semantics, distances))
    return maps


def front_of(key_frame: KeyFrame) -> int:
    """Return the camera that looks most nearly straight ahead."""
    return max(range(len(key_frame.cameras)), key=lambda view: key_frame.cameras[view].ego_from_sensor[0, 2])


def check_labels(config: ExperimentConfig, index: Index, positions: Sequence[int]) -> None:
    """Raise a `ValueError` where labels of key frames were made from other tables: they would be drawn where they do not belong."""
    folder = config.data.label_folder
    if (folder / MANIFEST_NAME).exists():
        store = LabelStore.open(folder)
        for name in dict.fromkeys(index[position].scene for position in positions):
            store.check_tables(index, name)


def _labels_of(config: ExperimentConfig, key_frame: KeyFrame) -> tuple[LabelledRays, Int64[Tensor, " ray"]]:
    """Return a key frame's labelled rays and the camera of each; none where it has no labels, as on a test split."""
    folder = config.data.label_folder
    store = LabelStore.open(folder) if (folder / MANIFEST_NAME).exists() else None
    if store is None or key_frame.token not in store:
        no_rays = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
        no_labels = RayLabels(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
        return (no_rays, no_labels), torch.zeros(0, dtype=torch.int64)
    cameras = torch.from_numpy(store.read(key_frame.token).camera_indices.astype("int64"))
    return labelled_rays(key_frame, store), cameras


def _render_maps(field: Field, cameras: Cameras, config: RenderConfig) -> tuple[Int64[Tensor, "view h w"], Float[Tensor, "view h w"]]:
    """Render classes and distances through every pixel of the cameras; SKY and nan where a ray hits nothing."""
    surfaces = render_surfaces(field, cameras.pixel_rays(), config).to("cpu")
    shape = (len(cameras.K), *cameras.image_size)
    return surfaces.semantics.reshape(shape), surfaces.distances.reshape(shape)
