"""The data sets that training and prediction iterate over. Neither can reach a 3D label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from splattingocc.config import Config, ImageSize, LabelFrames, Probability, Share, Weight
from splattingocc.data.augment import AugmentConfig, ImageWindow, choose_ego_change, choose_random_window, choose_window, jitter_colors
from splattingocc.data.camera_images import read_image, sensor_size
from splattingocc.data.key_frames import Index, KeyFrame, SensorFrame, camera_of
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore
from splattingocc.data.labelled_rays import LabelledRays, Part, auxiliary_rays, draw_rays, join, labelled_rays
from splattingocc.data.samples import PredictionSample, TrainingSample
from splattingocc.data.vehicle_masks import VehicleMasks, blacken_hidden, mask_through_window
from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.struct import stack


class LoaderConfig(Config):
    """What a sample holds."""

    image_size: ImageSize = (256, 704)
    """Height and width of the network input, pixels. Images are scaled to cover it and cut to it, never padded."""
    vertical_position: Probability = 1.0
    """Which part of an image is kept where it is taller than the network input: 0 the top, 1 the bottom (the sky has no labels)."""
    num_rays: Annotated[int, Field(ge=1, le=10_000_000)] = 38_400
    """Labelled rays of a training sample."""
    class_balance: Probability = 0.5
    """Where there are more rays than that, a ray is drawn with odds (rays of its class) to the power of minus this; 0 is uniform."""
    held_out_fraction: Share = 0.05
    """Share of each training key frame's rays that is never trained on, to measure and to calibrate on."""
    calibration_scenes: Annotated[int, Field(ge=0, le=10_000)] = 2
    """Training scenes that are never trained on; the opacity threshold is calibrated on their labels. At most one scene in eight is: a
    split of fewer has none, and its threshold comes from held-out rays of key frames that were trained on, where a network is surer."""
    label_frames: LabelFrames = 1
    """Key frames whose labels a sample has: its own and as many before as after it, so an odd number. Rays of classes that move come from
    its own alone."""
    auxiliary_weight: Weight = 0.3
    """Weight in the loss of the rays of those before and after; 0 leaves them out."""
    previous_frames: Annotated[int, Field(ge=0, le=100)] = 0
    """Earlier key frames whose images a sample holds too, newest first; before the start of a scene its first one is repeated."""
    load_interval: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Train on every n-th key frame of the split only; 1 trains on all."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes to training samples."""

    @model_validator(mode="before")
    @classmethod
    def _count_offsets(cls, values: Any) -> Any:
        """Take the earlier name of `label_frames`, which gave the other key frames one by one."""
        if not isinstance(values, dict) or "auxiliary_offsets" not in values or "label_frames" in values:
            return values
        values = dict(values)
        offsets = values.pop("auxiliary_offsets")
        if not isinstance(offsets, list | tuple) or not all(isinstance(offset, int) for offset in offsets):
            raise ValueError(f"auxiliary_offsets is {offsets}, expected whole numbers")
        loader = cls(label_frames=2 * max((abs(offset) for offset in offsets), default=0) + 1)
        if sorted(offsets) != list(loader.auxiliary_offsets):
            expected = f"label_frames takes its place, {loader.label_frames} for {loader.auxiliary_offsets}"
            raise ValueError(f"auxiliary_offsets is {offsets}; {expected}")
        return values | {"label_frames": loader.label_frames}

    @property
    def auxiliary_offsets(self) -> tuple[int, ...]:
        """The other key frames whose labels a sample has: -1 is the one before, 1 the one after."""
        reach = self.label_frames // 2
        return tuple(offset for offset in range(-reach, reach + 1) if offset)


def still_windows(key_frame: KeyFrame, config: LoaderConfig) -> list[ImageWindow]:
    """Return the window of each camera as seen at test time."""
    return [
        choose_window(sensor_size(sensor), config.image_size, vertical_position=config.vertical_position) for sensor in key_frame.cameras
    ]


def read_views(
    key_frame: KeyFrame, dataroot: Path, config: LoaderConfig, *, windows: Sequence[ImageWindow], in_ego_of: KeyFrame
) -> tuple[Float[Tensor, "view 3 h w"], Cameras]:
    """Return the images of a key frame through the given windows, RGB in [0, 1], and the cameras of what they show."""
    return _read_slots(list(zip(key_frame.cameras, windows)), dataroot, config, in_ego_of=in_ego_of)


Slot: TypeAlias = tuple[SensorFrame, ImageWindow] | None
"""What a view of a sample shows, or nothing."""


def _read_slots(
    slots: Sequence[Slot], dataroot: Path, config: LoaderConfig, *, in_ego_of: KeyFrame
) -> tuple[Float[Tensor, "view 3 h w"], Cameras]:
    images, seen = [], []
    for slot in slots:
        if slot is None:
            images.append(torch.zeros(3, *config.image_size, dtype=torch.uint8))
            seen.append(Cameras.nowhere(config.image_size))
        else:
            sensor, window = slot
            images.append(read_image(dataroot / sensor.filename, sensor, window, config.image_size))
            seen.append(window.camera(camera_of(sensor, in_ego_of=in_ego_of), config.image_size))
    return torch.stack(images).float().div_(255), stack(seen)


def read_frames(index: Index, position: int, dataroot: Path, config: LoaderConfig, *, windows: Sequence[ImageWindow]) -> Views:
    """Return the images of a key frame and of those before it, newest first, each camera through one window in all of them.

    The views are the cameras of the key frame, also in the frames before, where a camera that is missing leaves a black image of
    `Cameras.nowhere`. Such images also follow until there are as many views as the data set's largest key frame has cameras, so that
    samples stack.
    """
    key_frame = index[position]
    window_of = {camera.channel: window for camera, window in zip(key_frame.cameras, windows)}
    padding = [None] * (index.num_views - len(window_of))
    frames: list[tuple[Tensor, Cameras]] = []
    for offset in range(1 + config.previous_frames):
        earlier = index.neighbour(position, -offset)
        if earlier is not None:
            there = {camera.channel: camera for camera in index[earlier].cameras}
            slots = [(there[channel], window) if channel in there else None for channel, window in window_of.items()]
            frames.append(_read_slots([*slots, *padding], dataroot, config, in_ego_of=key_frame))
        else:
            frames.append(frames[-1])
    return Views(torch.stack([images for images, _ in frames]), stack([cameras for _, cameras in frames]))


def blacken(
    images: Float[Tensor, "*frame view 3 h w"], key_frame: KeyFrame, masks: VehicleMasks | None, windows: Sequence[ImageWindow]
) -> Float[Tensor, "*frame view 3 h w"]:
    """Return the images of a key frame's cameras with their own vehicle black, as the masks have it through the same windows."""
    if masks is None:
        return images
    image_size = (images.shape[-2], images.shape[-1])
    return blacken_hidden(images, [masks.through_window(sensor, window, image_size) for sensor, window in zip(key_frame.cameras, windows)])


def blacken_corners(images: Float[Tensor, "*frame view 3 h w"], windows: Sequence[ImageWindow]) -> Float[Tensor, "*frame view 3 h w"]:
    """Return the images black where turned windows show nothing, which a change of colours would have made grey."""
    if not any(window.rotation for window in windows):
        return images
    height, width = images.shape[-2:]
    everything = Image.new("L", (width, height), 255)
    of_all = [dataclasses.replace(window, top=0, left=0, height=height, width=width) for window in windows]
    return blacken_hidden(images, [1 - mask_through_window(everything, window, (height, width)) for window in of_all])


def calibration_scenes(index: Index, config: LoaderConfig, split: str = "train") -> tuple[str, ...]:
    """Return the scenes of a split that are kept back from training: those that the index says, where any of them are here, or else so many
    evenly spread over it.
    """
    # Of a scene all key frames may be incomplete
    empty = {scene.name for scene in index.scenes if not scene.count}
    names = [name for name in index.splits.get(split, ()) if name not in empty]
    there = tuple(name for name in names if name in (index.kept_back or ()))
    if there or index.kept_back == ():
        return there
    count = min(config.calibration_scenes, len(names) // 8)
    return tuple(names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count))


class TrainingSet(Dataset[TrainingSample]):
    """Key frames of a split with their images and labelled rays.

    An index may lie beyond the length: `epoch * len(self) + i` is sample `i` with the random draws of that epoch. That, and nothing of
    the process it is made in, decides what a sample holds, so batches are the same for any number of workers and after a resume;
    `EpochSampler` gives such indices.

    The key frames are those of `split` that are not kept back for calibration, or those at the given positions of the index. What
    `masks` cover is black, whatever the colours are changed to.
    """

    def __init__(
        self,
        index: Index,
        store: LabelStore,
        dataroot: Path,
        config: LoaderConfig,
        *,
        split: str = "train",
        part: Part = "train",
        seed: int = 0,
        positions: Sequence[int] | None = None,
        masks: VehicleMasks | None = None,
    ):
        self.index = index
        self.store = store
        self.dataroot = dataroot
        self.config = config
        self.masks = masks
        self.part: Part = part
        self.seed = seed
        if positions is None:
            kept_back = set(index.of_scenes(calibration_scenes(index, config, split)))
            positions = [position for position in index.of_split(split) if position not in kept_back][:: config.load_interval]
        self.positions = positions
        for position in self.positions:
            if index.tokens[position] not in store:
                raise ValueError(
                    f"{store.folder / MANIFEST_NAME}: key frame {index.tokens[position]} of split {split} has no labels; "
                    "run `splattingocc prepare` for its scene"
                )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: int) -> TrainingSample:
        epoch, i = divmod(key, len(self))
        rng = np.random.default_rng((self.seed, epoch, i))
        position, augment = self.positions[i], self.config.augment
        key_frame = self.index[position]
        windows = [
            choose_random_window(sensor_size(sensor), self.config.image_size, augment, rng, vertical_position=self.config.vertical_position)
            for sensor in key_frame.cameras
        ]
        views = read_frames(self.index, position, self.dataroot, self.config, windows=windows)
        images = blacken_corners(jitter_colors(views.images, augment, rng), windows)
        images = blacken(images, key_frame, self.masks, windows)
        new_ego_from_ego = choose_ego_change(augment, rng)
        rays, labels = self._rays(position, key_frame)
        rays, cameras = rays.transform(new_ego_from_ego), views.cameras.transform_ego(new_ego_from_ego)
        rays, labels = draw_rays(rays, labels, self.config.num_rays, class_balance=self.config.class_balance, rng=rng)
        return TrainingSample(key_frame.token, Views(images, cameras), rays, labels)

    def _rays(self, position: int, key_frame: KeyFrame) -> LabelledRays:
        """Return the rays of a key frame and of its auxiliary ones, in its ego frame."""
        held_out_fraction = self.config.held_out_fraction
        parts = [labelled_rays(key_frame, self.store, part=self.part, held_out_fraction=held_out_fraction)]
        for offset in self.config.auxiliary_offsets if self.config.auxiliary_weight else ():
            neighbour = self.index.neighbour(position, offset)
            if neighbour is not None:
                parts.append(
                    auxiliary_rays(
                        self.index[neighbour],
                        key_frame,
                        self.store,
                        weight=self.config.auxiliary_weight,
                        part=self.part,
                        held_out_fraction=held_out_fraction,
                    )
                )
        return join(parts)


class PredictionSet(Dataset[PredictionSample]):
    """Key frames as seen at test time, in the order of `positions` (of the index): images and cameras, nothing random, no labels."""

    def __init__(self, index: Index, dataroot: Path, config: LoaderConfig, positions: Sequence[int], *, masks: VehicleMasks | None = None):
        self.index = index
        self.dataroot = dataroot
        self.config = config
        self.positions = positions
        self.masks = masks

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> PredictionSample:
        position = self.positions[i]
        key_frame = self.index[position]
        windows = still_windows(key_frame, self.config)
        views = read_frames(self.index, position, self.dataroot, self.config, windows=windows)
        return PredictionSample(key_frame.token, Views(blacken(views.images, key_frame, self.masks, windows), views.cameras))


class EpochSampler(Sampler[int]):
    """The order of a `TrainingSet` in one epoch, shuffled, and this rank's share of it.

    The order depends on the seed and the epoch only. Ranks get equally many samples; what is left over waits for another epoch's order.
    """

    def __init__(self, num_samples: int, *, seed: int = 0, rank: int = 0, world_size: int = 1):
        if num_samples < world_size:
            raise ValueError(f"{num_samples} training samples for {world_size} ranks, expected at least one for each")
        self.num_samples = num_samples
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._num_done = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of; Lightning calls it."""
        self.epoch = epoch

    def go_on(self, epoch: int, num_done: int) -> None:
        """Let the next iteration be of an epoch of which this rank has had some samples already."""
        self.epoch, self._num_done = epoch, num_done

    def __len__(self) -> int:
        return self.num_samples // self.world_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples)
        first = self.epoch * self.num_samples
        own = order[self.rank :: self.world_size][: len(self)]
        num_done, self._num_done = self._num_done, 0
        return (first + int(i) for i in own[num_done:])
