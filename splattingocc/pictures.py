"""Pictures and films of key frames: what the cameras see, what the network renders for them, and the occupancy beside the truth."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from jaxtyping import UInt8
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.occ3d import OccupancyTruth, read_truth, truth_path
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.miou import confusion, scores
from splattingocc.evaluation.predictions import CachedFrame, PredictionCache, grid_of_cache, is_made_by, provenance_of_cache, read_grid
from splattingocc.experiment import ExperimentConfig, build_prediction_set
from splattingocc.files import sha256_of
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.camera_maps import camera_images, camera_maps, check_labels, front_of
from splattingocc.pipeline.prediction import check_tables_of, open_network
from splattingocc.splatting.field import Field, OccupancyThreshold
from splattingocc.struct import stack
from splattingocc.visualization.film import write_film
from splattingocc.visualization.grids import DrawnGrid, PaintedGrid, draw_grid, paint_grids
from splattingocc.visualization.panels import (
    CAMERA_WIDTH,
    film_frame,
    save_camera_views,
    save_cameras,
    save_occupancies,
    save_overview,
    save_renderings,
)
from splattingocc.visualization.raycast import PictureConfig, picture_of_camera, seen_from
from splattingocc.visualization.sheet import Heading
from splattingocc.visualization.voxels import Selection

View: TypeAlias = Literal["behind", "above", "camera", "orbit"]
FILM_IMAGE_WIDTH = 320
"""Pixels of the camera images in a film."""
REAL_TIME = 2.0
"""Key frames of nuScenes a second."""
ORBIT_FRAMES, ORBIT_RATE = 36, 12.0
"""Once around a key frame: pictures, and pictures per second."""


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn of occupancy, and from where."""

    views: tuple[View, ...] = ("behind", "above")
    """`behind` and `above` the vehicle in one picture, what each `camera` would see in another, and a film of an `orbit`."""
    picture: PictureConfig = dataclasses.field(default_factory=PictureConfig)
    selection: Selection = dataclasses.field(default_factory=Selection)


DEFAULT = PictureOptions()


def draw_key_frame(
    config: ExperimentConfig,
    checkpoint: Path,
    cache: PredictionCache,
    index: Index,
    position: int,
    out: Path,
    *,
    options: PictureOptions = DEFAULT,
) -> list[Path]:
    """Draw the key frame at a position of the index whose prediction is in a cache of this checkpoint; return the paths of the pictures."""
    provenance = cache.manifest.provenance
    if provenance.checkpoint_hash != sha256_of(checkpoint):
        raise ValueError(f"{cache.directory}: predictions of another checkpoint than {checkpoint}; predict again")
    check_tables_of(cache, config, index)
    check_labels(config, index, [position])
    network, _ = open_network(config, checkpoint)
    key_frame, (field,) = index[position], _fields(config, network, index, [position])
    predicted = cache.read(CachedFrame(key_frame.scene, key_frame.index_in_scene, key_frame.token)).semantics
    shown = _show_key_frame(config, key_frame, predicted, _made_by(checkpoint, provenance.occupancy_threshold), options)
    return _draw(config, field, key_frame, shown, out, options)


def draw_key_frame_without_cache(
    config: ExperimentConfig, checkpoint: Path, index: Index, position: int, out: Path, *, options: PictureOptions = DEFAULT
) -> list[Path]:
    """Draw the key frame at a position of the index, read out with the checkpoint's own threshold; return the paths of the pictures."""
    field, shown = _predict(config, checkpoint, index, position, options)
    return _draw(config, field, index[position], shown, out, options)


def draw_overview(
    config: ExperimentConfig, checkpoint: Path, index: Index, position: int, path: Path, *, options: PictureOptions = DEFAULT
) -> Path:
    """Draw the overview of a key frame alone into a file, `.png` or `.webp`."""
    field, shown = _predict(config, checkpoint, index, position, options)
    drawn = [draw_grid(grid, options.picture, from_above=False) for grid in shown.grids]
    key_frame = index[position]
    (front,) = camera_maps(config, field, key_frame, [front_of(key_frame)])
    return save_overview(path, _images(config, key_frame, [sensor.channel for sensor in key_frame.cameras]), front, drawn, shown.heading)


def film_scene(
    config: ExperimentConfig,
    checkpoint: Path,
    index: Index,
    positions: Sequence[int],
    path: Path,
    *,
    frames_per_second: float = REAL_TIME,
    options: PictureOptions = DEFAULT,
) -> Path:
    """Film key frames of one scene: cameras, prediction, and truth and errors where there is truth. Return the film's path.

    Truth is in the film where all of the key frames have it. With the view `orbit` the virtual camera goes around the vehicle once.
    """
    network, threshold = _with_threshold(config, checkpoint)
    made_by = _made_by(checkpoint, threshold)

    def frames() -> Iterator[UInt8[Tensor, "h w 3"]]:
        fields = _fields(config, network, index, positions)
        # Frames of a film have one size
        tokens = [index[position].token for position in positions]
        all_have_truth = all(truth_path(config.data.truth_folder, scene, token).exists() for token in tokens)
        channels = _cameras_of(index, positions)
        for number, (position, field) in enumerate(zip(positions, fields)):
            predicted = threshold.read_out(field, config.grid.voxels).semantics.cpu()
            shown = _show_key_frame(config, index[position], predicted, made_by, options)
            grids = shown.grids if all_have_truth else shown.grids[:1]
            drawn = [draw_grid(grid, _turned(options, number / len(positions)), from_above=False) for grid in grids]
            yield film_frame(_images(config, index[position], channels), drawn, shown.heading)

    scene = index[positions[0]].scene
    return write_film(track(frames(), f"filming {escape(scene)}", total=len(positions)), path, frames_per_second=frames_per_second)


def draw_cached_grids(
    folder: Path,
    *,
    gts: Path | None = None,
    known: tuple[ExperimentConfig, Index] | None = None,
    frames_per_second: float = REAL_TIME,
    options: PictureOptions = DEFAULT,
) -> list[Path]:
    """Draw every predicted grid in a scene's folder of a prediction cache, each beside its file, and a film of them all.

    With `gts`, those that there is truth of are drawn beside it, and the film shows it where that is all of them. Where the data are
    `known`, the film shows the cameras, too. Returns the paths of the pictures, the film's last.
    """
    if folder.name in ("", ".."):  # its name is the scene's, and the cache is above it
        folder = folder.resolve()
    files = predictions_in(folder)

    def is_known(token: str) -> bool:
        return known[1].has(token) if known is not None else gts is not None and truth_path(gts, folder.name, token).exists()

    token_of = {path: _token_of(path, is_known) for path in files}
    if known is not None and all(map(known[1].has, token_of.values())):
        place_of = {path: known[1].position_of(token) for path, token in token_of.items()}
        files = sorted(files, key=place_of.__getitem__)
    tokens = [token_of[path] for path in files]
    with_truth = [gts is not None and truth_path(gts, folder.name, token).exists() for token in tokens]
    if known is not None and not {*tokens} <= {*known[1].tokens}:
        print(f"no cameras in the film: {known[0].data.dataroot} {known[1].version} has not all of these key frames", file=sys.stderr)
        known = None
    voxels, provenance = grid_of_cache(folder.parent), provenance_of_cache(folder.parent)
    made_by = () if provenance is None else _details(provenance.config, provenance.checkpoint_hash, provenance.occupancy_threshold)
    pictures: list[Path] = []

    def frames() -> Iterator[UInt8[Tensor, "h w 3"]]:
        channels = () if known is None else _cameras_of(known[1], [known[1].position_of(token) for token in tokens])
        for number, (path, token, has_truth) in enumerate(zip(files, tokens, with_truth)):
            truth = read_truth(gts, folder.name, token) if gts is not None and has_truth else None
            frame = token if token == path.stem else _frame_of(path)
            by = made_by if provenance is None or is_made_by(path, provenance) else ("made by something else than the rest of these",)
            shown = _show(read_grid(path, voxels), voxels, truth, Heading(f"{folder.name}, {frame}", by), options)
            drawn = [draw_grid(grid, _turned(options, number / len(files)), from_above="above" in options.views) for grid in shown.grids]
            pictures.append(_save_occupancies(path.with_suffix(".png"), drawn, shown, options))
            in_film, heading = drawn if all(with_truth) else drawn[:1], shown.heading
            if known is None:
                yield film_frame([], in_film, heading)
            else:
                config, index = known
                yield film_frame(_images(config, index[index.position_of(token)], channels), in_film, heading)

    counted = track(frames(), f"drawing {escape(folder.name)}", total=len(files))
    film = write_film(counted, folder / f"{folder.name}.mp4", frames_per_second=frames_per_second)
    return [*pictures, film]


def predictions_in(folder: Path) -> list[Path]:
    """Return the files of a scene's predictions, in order; none at all are a `ValueError`."""
    files = sorted(folder.glob("*.npz"), key=_place)
    if not files:
        raise ValueError(f"{folder}: no predictions (*.npz) in this folder; give one scene of a cache, e.g. work_dirs/x/output/scene-0103")
    return files


def _place(path: Path) -> tuple[int, str]:
    """Return the order of a file of predictions, `<frame>_<token>`, in its scene; of three digits and of more."""
    number, _, token = path.stem.partition("_")
    return (int(number) if token and number.isdecimal() else -1), path.name


def _token_of(path: Path, is_known: Callable[[str], bool]) -> str:
    """Return the token of the key frame that a file of predictions is of: `<frame>_<token>`, or of another program's the whole name."""
    number, _, token = path.stem.partition("_")
    return path.stem if is_known(path.stem) or not (token and number.isdecimal()) else token


def _frame_of(path: Path) -> str:
    """Return what a file of predictions is of: `<frame>_<token>` tells which key frame of its scene."""
    number, _, token = path.stem.partition("_")
    return f"key frame {int(number)}" if token and number.isdecimal() else path.stem


@dataclass(frozen=True)
class _Shown:
    """A key frame's grids, ready for drawing from anywhere, and what is said of them."""

    grids: list[PaintedGrid]
    heading: Heading


def _show(
    predicted: UInt8[Tensor, "x y z"], grid: VoxelGrid, truth: OccupancyTruth | None, heading: Heading, options: PictureOptions
) -> _Shown:
    if truth is not None and grid == OCC3D_GRID:
        found = scores(confusion(predicted, truth.semantics, truth.mask_camera))
        score = f"this frame, inside mask_camera: mIoU {found.miou_17:.1f} %, IoU {found.geometric_iou:.1f} %"
        heading = Heading(heading.title, (*heading.details, score))
    if drawn := str(options.selection):
        heading = Heading(heading.title, (*heading.details, f"drawn {drawn}"))
    grids = paint_grids(
        predicted,
        grid,
        truth=None if truth is None else truth.semantics,
        seen=None if truth is None else truth.mask_camera,
        truth_grid=OCC3D_GRID,
        selection=options.selection,
        for_cameras="camera" in options.views,
    )
    return _Shown(grids, heading)


def _show_key_frame(
    config: ExperimentConfig, key_frame: KeyFrame, predicted: UInt8[Tensor, "x y z"], made_by: tuple[str, ...], options: PictureOptions
) -> _Shown:
    gts, truth = config.data.truth_folder, None
    if truth_path(gts, key_frame.scene, key_frame.token).exists():
        truth = read_truth(gts, key_frame.scene, key_frame.token)
    heading = Heading(f"{key_frame.scene}, key frame {key_frame.index_in_scene}", made_by)
    return _show(predicted, config.grid.voxels, truth, heading, options)


def _made_by(checkpoint: Path, threshold: OccupancyThreshold) -> tuple[str, ...]:
    path = checkpoint.resolve()
    return _details(f"{path.parent.name}/{path.name}", sha256_of(checkpoint), threshold)


def _details(network: str, digest: str, threshold: OccupancyThreshold) -> tuple[str, ...]:
    return f"{network} ({digest[:8]})", f"threshold {threshold}"


def _with_threshold(config: ExperimentConfig, checkpoint: Path) -> tuple[OccupancyNetwork, OccupancyThreshold]:
    network, threshold = open_network(config, checkpoint)
    if threshold is None:
        raise ValueError(f"{checkpoint}: has no occupancy threshold; only the network file of a finished training has one")
    return network, threshold


def _fields(config: ExperimentConfig, network: OccupancyNetwork, index: Index, positions: Sequence[int]) -> Iterator[Field]:
    """Yield what the network sees in key frames, one after the other."""
    samples = build_prediction_set(config.data, index, list(positions))
    for _, field in predict_fields(network, (stack([samples[i]]) for i in range(len(positions)))):
        yield field


def _cameras_of(index: Index, positions: Sequence[int]) -> tuple[str, ...]:
    """Return the cameras that any of some key frames has, in their order in the index."""
    found = {sensor.channel for position in positions for sensor in index[position].cameras}
    return tuple(channel for channel in index.channels if channel in found)


def _images(config: ExperimentConfig, key_frame: KeyFrame, channels: Sequence[str]) -> list[tuple[str, UInt8[Tensor, "h w 3"]]]:
    """Return an image of each of these cameras, black where the key frame has none: in a film each stays in its place."""
    images, _ = camera_images(config, key_frame, FILM_IMAGE_WIDTH)
    taken = {sensor.channel: image for sensor, image in zip(key_frame.cameras, images)}
    return [(channel, taken.get(channel, images[0] * 0)) for channel in channels]


def _turned(options: PictureOptions, share: float) -> PictureConfig:
    """Return the view of a moving picture of which a share is over."""
    return seen_from(options.picture, 360 * share) if "orbit" in options.views else options.picture


def _predict(config: ExperimentConfig, checkpoint: Path, index: Index, position: int, options: PictureOptions) -> tuple[Field, _Shown]:
    """Return what a network sees in a key frame, and its grids at the network's own threshold."""
    check_labels(config, index, [position])
    network, threshold = _with_threshold(config, checkpoint)
    (field,) = _fields(config, network, index, [position])
    predicted = threshold.read_out(field, config.grid.voxels).semantics.cpu()
    return field, _show_key_frame(config, index[position], predicted, _made_by(checkpoint, threshold), options)


def _draw(config: ExperimentConfig, field: Field, key_frame: KeyFrame, shown: _Shown, out: Path, options: PictureOptions) -> list[Path]:
    cameras = camera_maps(config, field, key_frame)
    drawn = [draw_grid(grid, options.picture, from_above="above" in options.views) for grid in shown.grids]
    stem, heading = f"{key_frame.scene}_{key_frame.index_in_scene:03d}", shown.heading
    images = [(camera.name, camera.image) for camera in cameras]
    paths = [
        save_cameras(out / f"{stem}_cameras.png", cameras, heading),
        save_renderings(out / f"{stem}_rendering.png", cameras, heading),
        _save_occupancies(out / f"{stem}_occupancy.png", drawn, shown, options),
        save_overview(out / f"{stem}_overview.png", images, cameras[front_of(key_frame)], drawn, heading),
    ]
    if "camera" in options.views:
        paths.append(_save_camera_views(config, key_frame, shown, out / f"{stem}_views.png", options))
    if "orbit" in options.views:
        paths.append(_film_orbit(shown, out / f"{stem}_orbit.mp4", options))
    return paths


def _save_occupancies(path: Path, drawn: Sequence[DrawnGrid], shown: _Shown, options: PictureOptions) -> Path:
    # There is nothing else to see of a grid where only views of key frames and moving ones are asked for
    in_perspective = "behind" in options.views or "above" not in options.views
    return save_occupancies(path, drawn, shown.heading, in_perspective=in_perspective, column_width=options.picture.image_size[1])


def _save_camera_views(config: ExperimentConfig, key_frame: KeyFrame, shown: _Shown, path: Path, options: PictureOptions) -> Path:
    images, cameras = camera_images(config, key_frame, CAMERA_WIDTH)
    named = [(sensor.channel, image) for sensor, image in zip(key_frame.cameras, images)]
    drawn = []
    for grid in shown.grids:
        assert grid.for_cameras is not None
        pictures = [picture_of_camera(grid.for_cameras, cameras[view], options.picture) for view in range(len(named))]
        drawn.append((grid.name, pictures))
    return save_camera_views(path, named, drawn, shown.heading, shown.grids)


def _film_orbit(shown: _Shown, path: Path, options: PictureOptions) -> Path:
    """Film one key frame from all around."""

    def frames() -> Iterator[UInt8[Tensor, "h w 3"]]:
        for number in track(range(ORBIT_FRAMES), f"going around {escape(path.stem)}"):
            config = _turned(options, number / ORBIT_FRAMES)
            yield film_frame([], [draw_grid(grid, config, from_above=False) for grid in shown.grids], shown.heading)

    return write_film(frames(), path, frames_per_second=ORBIT_RATE)
