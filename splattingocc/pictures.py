"""Pictures of a key frame: what the cameras see, what the network renders for them, and the occupancy beside the truth."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import MANIFEST_NAME, LabelStore
from splattingocc.data.labelled_rays import LabelledRays, labelled_rays
from splattingocc.data.loaders import LoaderConfig, PredictionSet, blacken, read_views, still_windows
from splattingocc.data.occ3d import read_truth, truth_path
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.engine.inference import predict_fields, render_surfaces
from splattingocc.engine.module import RenderConfig
from splattingocc.evaluation.predictions import CachedFrame, PredictionCache, grid_of_cache, read_grid
from splattingocc.experiment import ExperimentConfig, open_masks
from splattingocc.files import sha256_of
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.prediction import open_network
from splattingocc.splatting.field import Field
from splattingocc.struct import stack
from splattingocc.visualization.panels import CameraMaps, draw_grid, save_cameras, save_occupancies, save_overview, save_renderings

IMAGE_WIDTH = 640
"""Pixels of the camera images in the pictures; the network may see smaller ones."""
MAP_WIDTH = 224
"""Pixels, and rays, of a rendered map's row."""


def draw_key_frame(
    config: ExperimentConfig, checkpoint: Path, cache: PredictionCache, index: Index, position: int, out: Path
) -> list[Path]:
    """Draw the key frame at a position of the index whose prediction is in a cache of this checkpoint; return the paths of the pictures."""
    if cache.manifest.provenance.checkpoint_hash != sha256_of(checkpoint):
        raise ValueError(f"{cache.directory}: predictions of another checkpoint than {checkpoint}; predict again")
    network, _ = open_network(config, checkpoint)
    key_frame, field = index[position], _see(config, network, index, position)
    predicted = cache.read(CachedFrame(key_frame.scene, key_frame.index_in_scene, key_frame.token)).semantics
    return _draw(config, field, predicted, key_frame, out)


def draw_key_frame_without_cache(config: ExperimentConfig, checkpoint: Path, index: Index, position: int, out: Path) -> list[Path]:
    """Draw the key frame at a position of the index, read out with the checkpoint's own threshold; return the paths of the pictures."""
    network, threshold = open_network(config, checkpoint)
    if threshold is None:
        raise ValueError(f"{checkpoint}: has no occupancy threshold; only the network file of a finished training has one")
    field = _see(config, network, index, position)
    predicted = field.read_out(config.grid.voxels, threshold=threshold).semantics.cpu()
    return _draw(config, field, predicted, index[position], out)


def draw_cached_grids(folder: Path) -> list[Path]:
    """Draw every predicted grid in a folder of a prediction cache, each beside its file; return the paths of the pictures."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ValueError(f"{folder}: no predictions (*.npz) in this folder; give one scene of a cache, e.g. work_dirs/x/output/scene-0103")
    pictures, voxels = [], grid_of_cache(folder.parent)
    for path in track(files, f"drawing {escape(folder.name)}"):
        grid = draw_grid("predicted occupancy", read_grid(path, voxels), voxels)
        pictures.append(save_occupancies(path.with_suffix(".png"), [grid], f"{folder.name}, {path.stem}"))
    return pictures


def _draw(config: ExperimentConfig, field: Field, predicted: UInt8[Tensor, "x y z"], key_frame: KeyFrame, out: Path) -> list[Path]:
    cameras = _camera_maps(config, field, key_frame)
    grids = [draw_grid("predicted occupancy", predicted, config.grid.voxels)]
    if truth_path(config.data.truth_folder, key_frame.scene, key_frame.token).exists():
        truth = read_truth(config.data.truth_folder, key_frame.scene, key_frame.token)
        grids.append(draw_grid("true occupancy", truth.semantics, OCC3D_GRID))
    stem = f"{key_frame.scene}_{key_frame.index_in_scene:03d}"
    title = f"{key_frame.scene}, key frame {key_frame.index_in_scene}"
    return [
        save_cameras(out / f"{stem}_cameras.png", cameras, title),
        save_renderings(out / f"{stem}_rendering.png", cameras, title),
        save_occupancies(out / f"{stem}_occupancy.png", grids, title),
        save_overview(out / f"{stem}_overview.png", cameras, _front_of(key_frame), grids),
    ]


def _front_of(key_frame: KeyFrame) -> int:
    """Return the camera that looks most nearly straight ahead."""
    return max(range(len(key_frame.cameras)), key=lambda view: key_frame.cameras[view].ego_from_sensor[0, 2])


def _see(config: ExperimentConfig, network: OccupancyNetwork, index: Index, position: int) -> Field:
    """Return what the network sees in a key frame."""
    samples = PredictionSet(index, config.data.dataroot, config.data.loader, [position], masks=open_masks(config.data, index))
    return next(predict_fields(network, [stack([samples[0]])]))[1]


def _views(config: ExperimentConfig, key_frame: KeyFrame, loader: LoaderConfig) -> tuple[Float[Tensor, "view 3 h w"], Cameras]:
    windows = still_windows(key_frame, loader)
    images, cameras = read_views(key_frame, config.data.dataroot, loader, windows=windows, in_ego_of=key_frame)
    masks = None if config.data.vehicle_masks is None else VehicleMasks(config.data.vehicle_masks)
    return blacken(images, key_frame, masks, windows), cameras


def _camera_maps(config: ExperimentConfig, field: Field, key_frame: KeyFrame) -> list[CameraMaps]:
    """Return, for each camera, what the network input shows of it, sharper than the network sees it, with labels and renderings."""
    height, width = config.data.loader.image_size
    loader = config.data.loader.model_copy(update={"image_size": (round(IMAGE_WIDTH * height / width), IMAGE_WIDTH)})
    images, cameras = _views(config, key_frame, loader)
    semantics, distances = _render_maps(field, cameras.resize((round(MAP_WIDTH * height / width), MAP_WIDTH)), config.render)
    (rays, labels), camera_of_ray = _labels_of(config, key_frame)
    maps = []
    for view, sensor in enumerate(key_frame.cameras):
        own = camera_of_ray == view
        pixels, visible = cameras[view].project(rays[own].at(labels[own].distances))
        shown = labels[own][visible]
        image = (images[view].permute(1, 2, 0) * 255).round().to(torch.uint8)
        maps.append(CameraMaps(sensor.channel, image, pixels[visible], shown.semantics, shown.distances, semantics[view], distances[view]))
    return maps


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
