"""A trained network as a function of images: what other programs call."""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from splattingocc.data.calibration import FARTHEST_POSITION, check_pose
from splattingocc.data.image_arrays import Array, Arrays, array_of, views_of_arrays
from splattingocc.data.key_frames import Index, ego_from_other_ego
from splattingocc.data.samples import PredictionSample
from splattingocc.engine.checkpoint import NETWORK_FILE
from splattingocc.engine.inference import Surfaces, predict_fields, render_surfaces
from splattingocc.engine.options import RenderConfig
from splattingocc.evaluation.predictions import save_occupancy
from splattingocc.experiment import ExperimentConfig, build_prediction_loader
from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.networks import experiment_of, run_folder
from splattingocc.pipeline.prediction import open_network
from splattingocc.splatting.field import Field, Occupancy, OccupancyThreshold
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.struct import Struct, stack
from splattingocc.taxonomy import FREE
from splattingocc.visualization.ply import MIN_OPACITY, save_cells, save_gaussians
from splattingocc.zoo import find_in_zoo

PROBED = 4
"""Every so many-th cell along each axis is looked for in the views."""


@dataclass(frozen=True)
class OccupiedCells(Struct):
    """The cells of a grid that are not free, in the order x, y, z."""

    centers: Float[Tensor, "cell 3"]
    """Metres in the ego frame."""
    semantics: UInt8[Tensor, " cell"]
    """Class index."""
    probabilities: Float[Tensor, " cell"]


@dataclass(frozen=True)
class PredictedOccupancy(Occupancy):
    """What a network sees around the vehicle: as a grid, as points, and along any ray."""

    grid: VoxelGrid
    """Where the cells are, in the ego frame."""
    field: Field
    """What the grid was read out of; it can be read out again, by another threshold, and by another grid whose cells are not too small for
    its Gaussians."""
    rendering: RenderConfig
    """From where to where along a ray the network was trained to be rendered."""

    def points(self) -> OccupiedCells:
        """Return the occupied cells as points."""
        occupied = self.semantics != FREE
        return OccupiedCells(self.grid.centers(self.semantics.device)[occupied], self.semantics[occupied], self.probabilities[occupied])

    def render(self, rays: Rays) -> Surfaces:
        """Return what a LiDAR or a camera with these rays, in the ego frame, would meet. Wrong rays are a `ValueError`."""
        if not isinstance(rays, Rays) or not all(isinstance(values, Tensor) for values in (rays.origins, rays.directions)):
            raise ValueError("rays: expected Rays(origins, directions) of two tensors (ray, 3); torch.from_numpy makes one of an array")
        for name, values in (("origins", rays.origins), ("directions", rays.directions)):
            if values.ndim != 2 or values.shape != (len(rays.origins), 3) or not values.is_floating_point():
                raise ValueError(f"rays.{name} is of {values.dtype} and the shape {tuple(values.shape)}, expected floats (ray, 3)")
        _check_defaults()
        return render_surfaces(self.field, rays.map(Tensor.float), self.rendering)

    def save(self, path: str | Path) -> None:
        """Write the grid: `.npz` as Occ3D lays out its labels, with `probabilities` beside `semantics`; `.ply` as a mesh in class colours.

        Any other name is a `ValueError`.
        """
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path}: is a folder, expected the name of a file")
        if path.suffix == ".npz":
            save_occupancy(path, self.semantics, self.probabilities)
        elif path.suffix == ".ply":
            save_cells(path, self.semantics, self.grid)
        else:
            raise ValueError(f"{path}: expected a name that ends with .npz (a grid) or .ply (a mesh)")

    def save_gaussians(self, path: str | Path, *, min_opacity: float = MIN_OPACITY) -> int:
        """Write the Gaussians that are at least so opaque as a PLY for splat viewers, in class colours; return how many there are.

        A network that predicts no Gaussians, and another name than `.ply`, is a `ValueError`.
        """
        path = Path(path)
        if not isinstance(self.field, Gaussians):
            raise ValueError(
                f"{path}: this network predicts a {type(self.field).__name__}, expected Gaussians (network.head.kind gaussians)"
            )
        if path.suffix != ".ply":
            raise ValueError(f"{path}: expected a name that ends with .ply")
        return save_gaussians(path, self.field, min_opacity=min_opacity)


def predict_key_frame(config: ExperimentConfig, checkpoint: Path, index: Index, position: int) -> PredictedOccupancy:
    """Return what a network sees in the key frame at a position of an index, by the threshold in its file."""
    network, threshold = open_network(config, checkpoint)
    if threshold is None:
        raise ValueError(f"{checkpoint}: has no occupancy threshold; only the network file of a finished training has one")
    ((_, field),) = predict_fields(network, build_prediction_loader(config, index, [position]))
    occupancy = threshold.read_out(field, config.grid.voxels)
    return PredictedOccupancy(occupancy.probabilities, occupancy.semantics, config.grid.voxels, field, config.render)


@dataclass(frozen=True)
class EarlierFrame:
    """What a stream's next frames may look back at."""

    images: Float[Tensor, "view 3 h w"]
    cameras: Cameras
    """(view,), seen from its own ego frame."""
    world_from_ego: Float64[np.ndarray, "4 4"]


class Predictor:
    """Predict the occupancy around a vehicle from the images of its cameras.

    A network that looks at earlier frames remembers those that it was given with their `world_from_ego`; `reset` forgets them.
    """

    def __init__(
        self,
        network: OccupancyNetwork,
        config: ExperimentConfig,
        *,
        threshold: SupportsFloat,
        ground_threshold: SupportsFloat | None = None,
    ) -> None:
        self.network, self.config = network.eval(), config
        self.threshold = _threshold("threshold", threshold)
        self.ground_threshold = self.threshold if ground_threshold is None else _threshold("ground_threshold", ground_threshold)
        self._earlier: list[EarlierFrame] = []
        self._has_said: set[str] = set()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threshold: SupportsFloat | None = None,
        ground_threshold: SupportsFloat | None = None,
        device: str | torch.device | None = None,
    ) -> Predictor:
        """Open the file of a trained network, or `zoo/<name>`, with the occupancy thresholds in it unless others are given.

        `threshold` alone is of every class; `ground_threshold` of GROUND_CLASSES.

        Without a device it runs on the first CUDA device where there is one. A file that is damaged, of another version or not there is
        a `ValueError`, and so is a checkpoint of an unfinished training, which has no threshold, where none is given.
        """
        if not isinstance(path, str | Path):
            raise ValueError(f"path is {path!r}, expected that of a network's file, or zoo/<name>")
        _check_defaults()
        path = find_in_zoo(Path(path))
        config, remarks = experiment_of(path)
        network, calibrated = open_network(config, path, None if device is None else _device(device))
        for remark in remarks:
            warnings.warn(remark, stacklevel=2)
        if threshold is None and calibrated is None:
            finished = run_folder(path) / NETWORK_FILE
            instead = f"take {finished}, or give one" if finished.is_file() else "give one"
            raise ValueError(f"{path}: has no threshold, which only the network of a finished training has; {instead}, threshold=0.5")
        if threshold is None:
            assert calibrated is not None
            if calibrated.others == 0:
                raise ValueError(f"{path}: its threshold is 0, by which every cell is occupied; give one, threshold=0.5")
            if calibrated.ground == 0 and ground_threshold is None:
                raise ValueError(f"{path}: its ground_threshold is 0, by which every cell of ground is occupied; give ground_threshold=0.5")
            threshold, ground_threshold = calibrated.others, calibrated.ground if ground_threshold is None else ground_threshold
        return cls(network, config, threshold=threshold, ground_threshold=ground_threshold)

    @property
    def grid(self) -> VoxelGrid:
        """The cells of what is predicted, in the ego frame."""
        return self.config.grid.voxels

    @property
    def device(self) -> torch.device:
        """Where the network is, and all that it returns."""
        return next(self.network.parameters()).device

    def reset(self) -> None:
        """Forget the earlier frames: the next one begins a drive."""
        self._earlier = []

    def __call__(
        self,
        images: Arrays,
        K: Array | list[Any] | tuple[Any, ...],
        cam_from_ego: Array | list[Any] | tuple[Any, ...],
        *,
        world_from_ego: Array | None = None,
        vehicle_masks: Arrays | None = None,
    ) -> PredictedOccupancy:
        """Return what surrounds the vehicle; `K` is of the images as they are given.

        images: one for each view, RGB, uint8 or floats in [0, 1], of any sizes, channels last or first; None where a camera took none.
        K: (view, 3, 3), pixels. cam_from_ego: (view, 4, 4), metres: where each camera was when it took its image, seen from the ego frame
        in which the result is wanted. world_from_ego: (4, 4), of a world that stands still between calls; only networks that look at
        earlier frames use it. vehicle_masks: True where a view shows the own vehicle, for networks that were trained with such masks.

        What is wrong is a `ValueError` that begins with the argument's name; then nothing is remembered of the call.
        """
        _check_defaults()
        frame = views_of_arrays(images, K, cam_from_ego, self.config.data.loader, vehicle_masks)
        pose = None if world_from_ego is None else _pose(world_from_ego)
        self._say_what_is_missing(pose is None, vehicle_masks is None)
        self._say_which_see_nothing(frame[1])
        views = stack([self._with_earlier(*frame, pose)])
        ((_, field),) = predict_fields(self.network, [PredictionSample("", views)])
        self._earlier = [] if pose is None else [EarlierFrame(*frame, pose), *self._earlier][: self.config.network.previous_frames]
        occupancy = OccupancyThreshold(ground=self.ground_threshold, others=self.threshold).read_out(field, self.grid)
        return PredictedOccupancy(occupancy.probabilities, occupancy.semantics, self.grid, field, self.config.render)

    def inputs(
        self,
        images: Arrays,
        K: Array | list[Any] | tuple[Any, ...],
        cam_from_ego: Array | list[Any] | tuple[Any, ...],
        *,
        vehicle_masks: Arrays | None = None,
    ) -> dict[str, np.ndarray]:
        """Return what `splattingocc export NETWORK out.onnx` takes, by name, from what a call takes: images cut and scaled, and `K`."""
        _check_defaults()
        seen, cameras = views_of_arrays(images, K, cam_from_ego, self.config.data.loader, vehicle_masks)
        self._say_what_is_missing(no_pose=False, no_masks=vehicle_masks is None)
        self._say_which_see_nothing(cameras)
        return {"images": seen.numpy(), "K": cameras.K.numpy(), "cam_from_ego": cameras.cam_from_ego.numpy()}

    def _with_earlier(
        self, images: Float[Tensor, "view 3 h w"], cameras: Cameras, world_from_ego: Float64[np.ndarray, "4 4"] | None
    ) -> Views:
        """Return a frame and those before it, newest first; before the first one it is repeated, as in training."""
        frames = [(images, cameras)]
        if world_from_ego is not None:
            frames += [_seen_from(images, cameras, world_from_ego, earlier) for earlier in self._earlier]
        frames += frames[-1:] * (1 + self.config.network.previous_frames - len(frames))
        return Views(torch.stack([images for images, _ in frames]), stack([cameras for _, cameras in frames]))

    def _say_what_is_missing(self, no_pose: bool, no_masks: bool) -> None:
        """Warn, once each, of what a network was trained with and a call lacks."""
        if no_pose and self.config.network.previous_frames:
            self._warn("world_from_ego is not given: earlier frames, which this network looks at, are not used")
        if no_masks and self.config.data.vehicle_masks is not None:
            self._warn("vehicle_masks are not given: this network was trained on images in which the own vehicle is black")

    def _say_which_see_nothing(self, cameras: Cameras) -> None:
        """Warn of views that no cell is in: nearly always a `cam_from_ego` that is another transform."""
        every = tuple(slice(None, None, PROBED) for _ in range(3))
        centers = self.grid.centers()[every].reshape(-1, 3)
        _, in_view = cameras.project(centers.expand(len(cameras.K), -1, -1))
        blind = cameras.are_somewhere & ~in_view.any(dim=-1)
        if blind.any():
            which = ", ".join(f"images[{view}]" for view in blind.nonzero().flatten().tolist())
            self._warn(
                f"{which}: no cell of the grid is in view; cam_from_ego takes a point from the ego frame into the camera's (z ahead), "
                "in metres"
            )

    def _warn(self, text: str) -> None:
        if text not in self._has_said:
            self._has_said.add(text)
            warnings.warn(text, stacklevel=4)


def _seen_from(
    images: Float[Tensor, "view 3 h w"], cameras: Cameras, world_from_ego: Float64[np.ndarray, "4 4"], earlier: EarlierFrame
) -> tuple[Float[Tensor, "view 3 h w"], Cameras]:
    """Return an earlier frame with its cameras seen from the newest one's ego frame, and without the views that the newest one lacks."""
    if len(earlier.images) != len(images):
        raise ValueError(
            f"images has {len(images)} views, expected {len(earlier.images)} as in the call before: None stands for an image that was not "
            "taken; reset() begins a new drive, with any cameras"
        )
    ego_from_earlier = torch.from_numpy(ego_from_other_ego(world_from_ego, earlier.world_from_ego)).float()
    moved, taken = earlier.cameras.transform_ego(ego_from_earlier), cameras.are_somewhere & earlier.cameras.are_somewhere
    nowhere = stack([Cameras.nowhere(cameras.image_size)] * len(taken))
    chosen = dataclasses.replace(
        nowhere,
        K=torch.where(taken[:, None, None], moved.K, nowhere.K),
        cam_from_ego=torch.where(taken[:, None, None], moved.cam_from_ego, nowhere.cam_from_ego),
    )
    return earlier.images * taken[:, None, None, None], chosen


def _check_defaults() -> None:
    """Refuse defaults of torch's, which are those of the whole process, by which new tensors would be unlike those that they meet."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32:
        raise ValueError(f"torch's default dtype is {dtype}, expected torch.float32 while a network is loaded and used")
    if device.type != "cpu":
        raise ValueError(f"torch's default device is {device}, expected cpu: Predictor.load(…, device={str(device)!r}) chooses a network's")


def _pose(world_from_ego: Array) -> Float64[np.ndarray, "4 4"]:
    pose = array_of(world_from_ego, "world_from_ego", "floats of the shape (4, 4)")
    check_pose(pose, "world_from_ego", farthest=FARTHEST_POSITION)
    return pose.astype(np.float64)


def _threshold(name: str, value: SupportsFloat) -> float:
    try:
        found = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of arrays and tensors, and of a number that no float is
        found = math.nan
    if not 0 < found <= 1:
        given = f"of the shape {tuple(shape)}" if (shape := getattr(value, "shape", ())) else repr(value)
        raise ValueError(f"{name} is {given}, expected a number of more than 0 and at most 1")
    return found


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}, expected cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, expected cpu, cuda or cuda:<number>: the renderer runs on no other")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, expected one that is there: of CUDA there are {torch.cuda.device_count()}")
    return device
