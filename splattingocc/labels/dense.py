"""2D labels from dense maps of any source: a class per pixel, metric depth per pixel or from LiDAR, and how sure the source is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from pydantic import Field, model_validator

from splattingocc.config import Config, Probability
from splattingocc.data.camera_images import check_upright, stored_as
from splattingocc.data.key_frames import KeyFrame, SensorFrame
from splattingocc.data.label_store import MAX_DISTANCE, RayTable
from splattingocc.files import BadFile, open_image, read_json, read_only_array, sha256_of
from splattingocc.geometry.cameras import NEAR_PLANE
from splattingocc.labels.lidar import LidarLabelConfig, find_shown_pixels, read_points, to_world
from splattingocc.labels.source import MissingInput
from splattingocc.taxonomy import CLASSES, IGNORE, NUM_CLASSES, SKY

CITYSCAPES_TRAIN_IDS = (
    "driveable_surface", "sidewalk", "manmade", "manmade", "manmade", "manmade", "manmade", "manmade", "vegetation", "terrain", "sky",
    "pedestrian", "ignore", "car", "truck", "bus", "ignore", "motorcycle", "bicycle",
)  # fmt: skip
"""Class of each Cityscapes train id: road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky,
person, rider (who belongs to a vehicle of a kind that is not said), car, truck, bus, train, motorcycle, bicycle."""
_INDEX_OF_NAME = {name: index for index, name in enumerate(CLASSES)} | {"sky": SKY, "ignore": IGNORE}
MAP_SUFFIXES = (".png", ".npy", ".npz")
"""Where several are there, the first is read."""
GREY_PIXELS = ("L", "I;16B")
"""Pillow's names of the PNG pixels that are the numbers of a map: 8-bit and 16-bit grey. It stretches the numbers of fewer bits."""
PALETTE_PIXELS = ("P", "P;4", "P;2", "P;1")
"""Those whose numbers are places in a palette."""
LARGEST_PIXEL = 64
"""Bytes that a pixel of an array may take."""


class DenseLabelConfig(Config):
    """Which maps become labels. A map is `<folder>/<camera>/<name of the image>.png`, `.npy` or `.npz` (one array), of its size."""

    semantics: Path | None = None
    """Folder of class maps, whole numbers; of a PNG with a palette its indices, not its colours."""
    class_map: Literal["occ3d", "cityscapes"] | Path = "occ3d"
    """What the numbers mean: Occ3D's classes with 254 for sky and 255 for unknown, Cityscapes' train ids, or a JSON file that gives the
    name of a class, `sky` or `ignore` for each number; what it leaves out is ignored."""
    depth: Path | None = None
    """Folder of depth maps, metres times `depth_scale`; nan, inf and what lies less than 0.1 m in front of the camera, such as 0, are
    unknown. Without it distances come from the LiDAR."""
    depth_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Units of a depth map per metre, e.g. 256 for 16-bit PNGs in the manner of KITTI."""
    depth_along: Literal["axis", "ray"] = "axis"
    """Depth is measured along the camera's axis (z-depth) or along the pixel's ray."""
    confidence: Path | None = None
    """Folder of confidence maps: 0..1, or 0..255 for whole numbers."""
    min_confidence: Probability = 0.5
    """Pixels of less are ignored."""
    stride: Annotated[int, Field(ge=1, le=16_384)] = 8
    """Every `stride`-th pixel of every `stride`-th row becomes a label."""
    max_distance: Annotated[float, Field(gt=1, le=MAX_DISTANCE)] = 120.0
    """Metres from the camera beyond which a distance is dropped, and the class with it; the store holds up to 131 m. The sky has none.
    LiDAR points of less than 1 m are left out, as of labels from LiDAR."""

    point_columns: Literal[3, 4, 5, 6] = 5
    """float32 numbers of a point in a `.bin` sweep, where distances come from the LiDAR; nuScenes has 5."""

    @model_validator(mode="after")
    def _check(self) -> DenseLabelConfig:
        if self.semantics is None and (self.depth is not None or self.confidence is not None):
            raise ValueError("dense.semantics: depth and confidence maps need class maps beside them; give their folder")
        unused = {"point_columns": "where distances come from depth maps (dense.depth)"} if self.depth is not None else {}
        if self.semantics is not None and self.depth is None:
            unused |= dict.fromkeys(("depth_scale", "depth_along"), "without depth maps (dense.depth)")
        if self.semantics is not None and self.confidence is None:
            unused["min_confidence"] = "without confidence maps (dense.confidence)"
        for name, where in unused.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"dense.{name} {value}: does nothing {where}; leave it out")
        return self


@dataclass(frozen=True)
class DenseLabels:
    """The label source of class maps, with distances from depth maps or from the LiDAR."""

    config: DenseLabelConfig

    def describe(self) -> str:
        """Return the one line that the manifest keeps."""
        config = self.config
        distances = "lidar"
        if config.depth is not None:
            distances = f"depth maps {config.depth.resolve()} ({config.depth_scale} per metre, along the {config.depth_along})"
        more = "" if config.confidence is None else f", confidence {config.confidence.resolve()} at least {config.min_confidence}"
        more += f", {config.point_columns} columns" if config.point_columns != 5 else ""
        names = config.class_map if isinstance(config.class_map, str) else f"sha256 {sha256_of(config.class_map)[:12]}"
        classes = f"class maps {config.semantics and config.semantics.resolve()} ({names})"
        return f"{classes}, distances from {distances}, stride {config.stride}, max_distance {config.max_distance} m{more}"

    def label(self, key_frame: KeyFrame, dataroot: Path, *, others: Mapping[int, KeyFrame]) -> RayTable:
        """Return the labelled pixels of a key frame, from its own maps alone."""
        return label_densely(key_frame, dataroot, self.config)

    def input_files(self, key_frame: KeyFrame, dataroot: Path) -> list[Path]:
        """Return the maps, and the sweep where distances come from it."""
        sweep = key_frame.lidar if self.config.depth is None else None
        return [*input_maps(key_frame, self.config), *([dataroot / sweep.filename] if sweep else [])]


def read_class_table(class_map: str | Path) -> UInt8[np.ndarray, " source"]:
    """Return the class of each number a map may hold; IGNORE for numbers that mean nothing."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    if class_map == "occ3d":
        table[:NUM_CLASSES] = np.arange(NUM_CLASSES)
        table[SKY] = SKY
    elif class_map == "cityscapes":
        table[: len(CITYSCAPES_TRAIN_IDS)] = [_INDEX_OF_NAME[name] for name in CITYSCAPES_TRAIN_IDS]
    else:
        given: dict[int, str] = {}
        for number, name in _read_class_file(Path(class_map)).items():
            if not (number.isascii() and number.isdecimal() and len(number) <= 3 and int(number) <= 255):
                raise ValueError(f"{class_map}: key {number!r}, expected a number from 0 to 255")
            if name not in _INDEX_OF_NAME:
                raise ValueError(f"{class_map}: {number} is {name!r}, expected one of {', '.join(_INDEX_OF_NAME)}")
            if int(number) in given:
                raise ValueError(f"{class_map}: {int(number)} is given twice, as {given[int(number)]!r} and as {number!r}")
            given[int(number)] = number
            table[int(number)] = _INDEX_OF_NAME[name]
    return table


def _read_class_file(path: Path) -> dict[str, str]:
    return read_json(path, dict[str, str], what='a JSON object like {"0": "driveable_surface", "10": "sky"}')


def find_map(folder: Path, camera: SensorFrame) -> Path:
    """Return the file with the map of a camera's image; `MissingInput` where there is none."""
    stem = folder / camera.channel / Path(camera.filename).stem
    path = next((found for suffix in MAP_SUFFIXES if (found := stem.with_name(stem.name + suffix)).exists()), None)
    if path is None:
        raise MissingInput(f"{stem}: no map of that name; expected {', '.join(MAP_SUFFIXES)}")
    return path


def check_names(key_frames: Iterable[KeyFrame], known: dict[tuple[str, str], str]) -> None:
    """Refuse two images of a camera that one map would be of: folders of an image are no part of its map's name. `known` grows."""
    for key_frame in key_frames:
        for camera in key_frame.cameras:
            stem = Path(camera.filename).stem
            if (other := known.setdefault((camera.channel, stem), camera.filename)) != camera.filename:
                both = f"{other} and {camera.filename}"
                raise ValueError(f"dense maps: one of {camera.channel}/{stem} would be of two images, {both}; give images other names")


def input_maps(key_frame: KeyFrame, config: DenseLabelConfig) -> list[Path]:
    """Return the files of all maps that a key frame's labels are made from."""
    folders = [folder for folder in (config.semantics, config.depth, config.confidence) if folder is not None]
    return [find_map(folder, camera) for folder in folders for camera in key_frame.cameras]


def read_map(path: Path, camera: SensorFrame, *, may_have_palette: bool = False) -> Shaped[np.ndarray, "h w"]:
    """Read the map of a camera's image; `ValueError` where it is damaged, holds no numbers or has another size than the image."""
    assert camera.image_size is not None
    if path.suffix == ".png":
        values = _read_png(path, may_have_palette=may_have_palette)
    else:
        height, width = camera.image_size
        values = read_only_array(path, limit=LARGEST_PIXEL * height * width)
    if values.dtype.kind not in "iuf":
        raise BadFile(path, f"holds {values.dtype}, expected numbers")
    if values.shape != tuple(camera.image_size):
        raise BadFile(path, f"shape is {values.shape}, the image of sample_data {camera.token} is {camera.image_size}")
    return values


def _read_png(path: Path, *, may_have_palette: bool) -> Shaped[np.ndarray, "h w"]:
    with open_image(path) as image:
        if image.format != "PNG":
            raise BadFile(path, f"is a {image.format} file, which changes the numbers of a map; expected a PNG")
        pixels = stored_as(image)
        if pixels not in GREY_PIXELS + (PALETTE_PIXELS if may_have_palette else ()):
            expected = "8-bit or 16-bit grey" + (", or a palette whose indices are the classes" if may_have_palette else "")
            raise BadFile(path, f"its pixels are {pixels}, expected {expected}")
        check_upright(path, image)
        return np.array(image)


def label_densely(key_frame: KeyFrame, dataroot: Path, config: DenseLabelConfig) -> RayTable:
    """Return the labelled pixels of a key frame.

    With depth maps, every `stride`-th pixel has the class and the distance of its maps. Without, the LiDAR points that a camera sees have
    their own distance and the class of their pixel, and every `stride`-th pixel of the sky is added. A sky pixel has no distance; any
    other needs one, or a class, to be kept. A pixel below the least confidence says nothing; a LiDAR point in it keeps its distance, as
    does one on the sky, whose class is then unknown.
    """
    assert config.semantics is not None
    table = read_class_table(config.class_map)
    hits = None
    if config.depth is None:
        if key_frame.lidar is None:
            raise ValueError("the data set has no LiDAR: give depth maps with --dense.depth")
        points = read_points(dataroot / key_frame.lidar.filename, config.point_columns)
        options = LidarLabelConfig(max_distance=config.max_distance)
        hits = find_shown_pixels(to_world(points, key_frame.lidar), key_frame, options)
    parts: list[RayTable] = []
    for view, camera in enumerate(key_frame.cameras):
        is_sure = _sure_pixels(camera, config)
        semantics = np.where(is_sure, _classes(camera, table, config), IGNORE).astype(np.uint8)
        pixels, rows, columns = _every(config.stride, semantics.shape)
        if hits is not None:
            own = hits.camera_indices == view
            u, v = hits.pixels[own].T.astype(np.int64)
            # What was measured is no sky, whatever the map says
            classes = np.where(semantics[v, u] == SKY, IGNORE, semantics[v, u]).astype(np.uint8)
            parts.append(_table(view, classes, hits.pixels[own], hits.distances[own]))
            is_sky = semantics[rows, columns] == SKY
            pixels, rows, columns = pixels[is_sky], rows[is_sky], columns[is_sky]
            distances = np.full(len(pixels), np.nan, dtype=np.float32)
        else:
            distances = _distances(camera, pixels, rows, columns, config)
            distances[semantics[rows, columns] == SKY] = np.nan  # some maps give it a large one
            # Where maps are not sure of the class, they are no surer of the distance; a LiDAR's is measured
            kept = ~(distances > min(config.max_distance, MAX_DISTANCE)) & is_sure[rows, columns]
            pixels, rows, columns, distances = pixels[kept], rows[kept], columns[kept], distances[kept]
        parts.append(_table(view, semantics[rows, columns], pixels, distances))
    return _join(parts)


def _classes(camera: SensorFrame, table: UInt8[np.ndarray, " source"], config: DenseLabelConfig) -> UInt8[np.ndarray, "h w"]:
    assert config.semantics is not None
    path = find_map(config.semantics, camera)
    numbers = read_map(path, camera, may_have_palette=True)
    if numbers.dtype.kind == "f" or numbers.min() < 0 or numbers.max() > 255:
        raise BadFile(path, f"{numbers.dtype} from {numbers.min()} to {numbers.max()}, expected whole numbers from 0 to 255")
    return table[numbers.astype(np.uint8)]


def _sure_pixels(camera: SensorFrame, config: DenseLabelConfig) -> Bool[np.ndarray, "h w"]:
    assert camera.image_size is not None
    if config.confidence is None:
        return np.ones(camera.image_size, dtype=np.bool_)
    return _read_confidence(find_map(config.confidence, camera), camera) >= config.min_confidence


def _read_confidence(path: Path, camera: SensorFrame) -> Shaped[np.ndarray, "h w"]:
    """Read a confidence map, 0 to 1."""
    confidence = read_map(path, camera)
    largest = 1 if confidence.dtype.kind == "f" else 255
    if not ((confidence >= 0) & (confidence <= largest)).all():
        found = f"{confidence.dtype} from {confidence.min()} to {confidence.max()}"
        raise BadFile(path, f"{found}, expected 0 to 1, or whole numbers from 0 to 255")
    return confidence / largest


def _every(stride: int, size: tuple[int, ...]) -> tuple[Float32[np.ndarray, "pixel 2"], np.ndarray, np.ndarray]:
    """Return the centres, rows and columns of a regular choice of pixels."""
    rows, columns = (index.ravel() for index in np.mgrid[stride // 2 : size[0] : stride, stride // 2 : size[1] : stride])
    return np.stack([columns + 0.5, rows + 0.5], axis=1).astype(np.float32), rows, columns


def _distances(
    camera: SensorFrame, pixels: Float32[np.ndarray, "pixel 2"], rows: np.ndarray, columns: np.ndarray, config: DenseLabelConfig
) -> Float32[np.ndarray, " pixel"]:
    """Return metres along the ray of each pixel; nan where unknown."""
    assert config.depth is not None
    assert camera.K is not None
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    along_ray_per_depth = np.linalg.norm(homogeneous @ np.linalg.inv(camera.K).T, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # not finite is unknown
        values = read_map(find_map(config.depth, camera), camera)[rows, columns].astype(np.float64) / config.depth_scale
        distances = values * along_ray_per_depth if config.depth_along == "axis" else values
        is_known = np.isfinite(distances) & (distances > NEAR_PLANE * along_ray_per_depth)
    return np.where(is_known, distances, np.nan).astype(np.float32)


def _table(
    view: int, semantics: UInt8[np.ndarray, " pixel"], pixels: Float32[np.ndarray, "pixel 2"], distances: Float32[np.ndarray, " pixel"]
) -> RayTable:
    """Put a camera's labels together, without those that say nothing; a distance on the sky is dropped."""
    distances = np.where(semantics == SKY, np.nan, distances).astype(np.float32)
    table = RayTable(np.full(len(semantics), view, dtype=np.uint8), semantics, pixels, distances)
    return table[(semantics != IGNORE) | np.isfinite(distances)]


def _join(parts: list[RayTable]) -> RayTable:
    return RayTable(
        np.concatenate([part.camera_indices for part in parts]),
        np.concatenate([part.semantics for part in parts]),
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )
