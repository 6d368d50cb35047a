"""Pictures of a voxel grid, cast on any machine: no display, no OpenGL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from splattingocc.config import Config, Coordinate, ImageSize
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit
from splattingocc.taxonomy import NUM_CLASSES
from splattingocc.visualization.palettes import EGO_COLOR, EMPTY_COLOR, class_colors

EGO = 254
"""Label of the cells that the drawn ego vehicle fills."""
EGO_LOWER = (-1.0, -0.8, 0.0)
EGO_UPPER = (3.4, 0.8, 1.6)
"""Corners of the drawn ego vehicle, metres: a small car whose rear axle is the origin."""
AMBIENT = 0.62
"""Light on a face that the sun does not reach."""
SHADOW = 0.80
"""Share of the light that is left where something stands before the sun."""
OCCLUSION_CELLS = 5
"""Width of the neighbourhood whose fill darkens a face."""
OCCLUSION_OF_A_PLANE = 0.25
"""Fill of that neighbourhood above open ground, which is not to darken it."""
OCCLUSION_STRENGTH = 1.1
EDGE_WIDTH = 0.045
"""Width of the line along a cell's edges, in cells."""
EDGE_STRENGTH = 0.22
EDGE_RANGE = 55.0
"""Metres from the viewer at which edges have faded out."""
RAYS_PER_BAND = 120_000
"""Rays cast and shaded at once: few enough for the caches of a CPU."""


class PictureConfig(Config):
    """How voxels are drawn."""

    position: tuple[Coordinate, Coordinate, Coordinate] = (-27.0, 0.0, 21.0)
    """Where the virtual camera stands, ego metres: behind and above the vehicle."""
    target: tuple[Coordinate, Coordinate, Coordinate] = (7.0, 0.0, -1.0)
    """What it looks at, ego metres."""
    field_of_view: Annotated[float, Field(gt=0, lt=180)] = 62.0
    """Horizontal, degrees."""
    image_size: ImageSize = (405, 720)
    """Height and width of the perspective picture, pixels."""
    pixels_per_cell: Annotated[int, Field(ge=1, le=64)] = 3
    """Size of the picture from above."""
    supersampling: Annotated[int, Field(ge=1, le=16)] = 2
    """Rays per pixel along each axis of the perspective picture."""
    sun: tuple[Coordinate, Coordinate, Coordinate] = (-0.45, 0.55, 1.0)
    """Direction towards the sun, ego frame."""
    show_ego: bool = True
    """Draw the vehicle, for orientation."""

    @model_validator(mode="after")
    def _check(self) -> PictureConfig:
        if self.position[:2] == self.target[:2]:
            raise ValueError(f"target: {self.target} is straight above or below the position, {self.position}; give one aside of it")
        if not any(self.sun):
            raise ValueError("sun: 0 0 0 is no direction")
        return self


@dataclass(frozen=True)
class _Scene:
    """A grid ready for drawing."""

    labels: UInt8[Tensor, "x y z"]
    occupied: UInt8[Tensor, "x y z"]
    fill: Float[Tensor, "1 1 x y z"]
    """Share of occupied cells in the neighbourhood of each cell."""
    grid: VoxelGrid
    sun: Float[Tensor, "3"]


def picture_from_above(semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid, config: PictureConfig | None = None) -> UInt8[Tensor, "h w 3"]:
    """Draw the highest voxel of each column; forward (x) is up, left (y) is left, and empty columns are pale."""
    config = config or PictureConfig()
    scene = _prepare(semantics, grid, config)
    step = grid.cell_size / config.pixels_per_cell
    height, width = (count * config.pixels_per_cell for count in grid.shape[:2])
    x = grid.upper[0] - (torch.arange(height) + 0.5) * step
    y = grid.upper[1] - (torch.arange(width) + 0.5) * step
    above = torch.full((height, width), grid.upper[2] + grid.cell_size)
    origins = torch.stack([x[:, None].expand(height, width), y.expand(height, width), above], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand(height * width, 3)
    colors = _draw(scene, Rays(rearrange(origins, "h w xyz -> (h w) xyz"), down), edges=False)
    return _to_bytes(rearrange(colors, "(h w) rgb -> h w rgb", h=height))


def picture_in_perspective(
    semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid, config: PictureConfig | None = None
) -> UInt8[Tensor, "h w 3"]:
    """Draw the grid as a virtual camera behind and above the vehicle sees it; what is empty is pale."""
    config = config or PictureConfig()
    scene = _prepare(semantics, grid, config)
    colors = _draw(scene, _virtual_camera_rays(config), edges=True)
    height, factor = config.image_size[0], config.supersampling
    # Antialiasing: the mean of the rays inside each pixel.
    colors = reduce(colors, "(h i w j) rgb -> h w rgb", "mean", h=height, i=factor, j=factor)
    return _to_bytes(colors)


def _virtual_camera_rays(config: PictureConfig) -> Rays:
    position, target = torch.tensor(config.position), torch.tensor(config.target)
    forward = functional.normalize(target - position, dim=0)
    right = functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    down = torch.linalg.cross(forward, right)
    height, width = (size * config.supersampling for size in config.image_size)
    half_width = math.tan(math.radians(config.field_of_view) / 2)
    u = ((torch.arange(width) + 0.5) / width * 2 - 1) * half_width
    v = ((torch.arange(height) + 0.5) / height * 2 - 1) * half_width * height / width
    directions = forward + v[:, None, None] * down + u[:, None] * right
    directions = rearrange(functional.normalize(directions, dim=-1), "h w xyz -> (h w) xyz")
    return Rays(position.expand_as(directions), directions)


def _prepare(semantics: UInt8[Tensor, "x y z"], grid: VoxelGrid, config: PictureConfig) -> _Scene:
    if tuple(semantics.shape) != grid.shape:
        raise ValueError(f"semantics have shape {tuple(semantics.shape)}, the grid has {grid.shape}")
    labels = semantics.cpu().clone()
    if config.show_ego:
        centers = grid.centers()
        inside = ((centers > torch.tensor(EGO_LOWER)) & (centers < torch.tensor(EGO_UPPER))).all(dim=-1)
        labels[inside & (labels >= NUM_CLASSES)] = EGO
    occupied = (labels < NUM_CLASSES) | (labels == EGO)
    padded = functional.pad(occupied.float()[None, None], (OCCLUSION_CELLS // 2,) * 6)
    fill = functional.avg_pool3d(padded, OCCLUSION_CELLS, stride=1)
    return _Scene(labels, occupied.to(torch.uint8), fill, grid, functional.normalize(torch.tensor(config.sun), dim=0))


def _draw(scene: _Scene, rays: Rays, *, edges: bool) -> Float[Tensor, "ray 3"]:
    """Return the colour, in [0, 1], that each ray sees; EMPTY_COLOR where it meets nothing."""
    colors = (torch.tensor(EMPTY_COLOR) / 255).repeat(len(rays.origins), 1)
    for start in range(0, len(colors), RAYS_PER_BAND):
        band = rays[start : start + RAYS_PER_BAND]
        hits = cast_first_hit(scene.occupied, scene.grid, band)
        found = hits.cells >= 0
        if found.any():
            distances = hits.enter_distances[found].float()
            colors[start : start + RAYS_PER_BAND][found] = _shade(scene, band[found], hits.cells[found], distances, edges=edges)
    return colors


def _shade(
    scene: _Scene, rays: Rays, cells: Int64[Tensor, " ray"], distances: Float[Tensor, " ray"], *, edges: bool
) -> Float[Tensor, "ray 3"]:
    labels = scene.labels.flatten()[cells]
    colors = class_colors(labels).float() / 255
    colors[labels == EGO] = torch.tensor(EGO_COLOR) / 255
    points = rays.at(distances)
    in_cell, normals = _face(scene.grid, cells, points, rays.directions)
    above_face = points + normals * scene.grid.cell_size
    light = AMBIENT + (1 - AMBIENT) * (normals @ scene.sun).clamp(min=0)
    light = light * torch.where(_is_in_shadow(scene, points + 1e-3 * normals), SHADOW, 1.0)
    light = light * (1 - OCCLUSION_STRENGTH * (_fill_at(scene, above_face) - OCCLUSION_OF_A_PLANE).clamp(0, 0.5))
    height = (points[:, 2] - scene.grid.lower[2]) / (scene.grid.upper[2] - scene.grid.lower[2])
    light = light * (0.94 + 0.12 * height)
    if edges:
        # Two of the three coordinates run along the face; the one across it lies at an edge by nature.
        from_edge = torch.where(normals != 0, torch.ones_like(in_cell), torch.minimum(in_cell, 1 - in_cell)).amin(dim=-1)
        strength = EDGE_STRENGTH * (1 - distances / EDGE_RANGE).clamp(min=0)
        light = light * (1 - strength * (from_edge < EDGE_WIDTH))
    return (colors * light[:, None]).clamp(0, 1)


def _face(
    grid: VoxelGrid, cells: Int64[Tensor, " ray"], points: Float[Tensor, "ray 3"], directions: Float[Tensor, "ray 3"]
) -> tuple[Float[Tensor, "ray 3"], Float[Tensor, "ray 3"]]:
    """Return where in its cell, in [0, 1], each point lies, and the outward normal of the face through which the ray entered."""
    indices = torch.stack(torch.unravel_index(cells, grid.shape), dim=-1)
    in_cell = (points - points.new_tensor(grid.lower)) / grid.cell_size - indices
    from_entry = torch.where(directions > 0, in_cell.abs(), (1 - in_cell).abs())
    from_entry = torch.where(directions == 0, torch.full_like(from_entry, torch.inf), from_entry)
    axis = functional.one_hot(from_entry.argmin(dim=-1), 3)
    return in_cell, -torch.sign(directions) * axis


def _is_in_shadow(scene: _Scene, points: Float[Tensor, "ray 3"]) -> Bool[Tensor, " ray"]:
    return cast_first_hit(scene.occupied, scene.grid, Rays(points, scene.sun.expand_as(points))).cells >= 0


def _fill_at(scene: _Scene, points: Float[Tensor, "ray 3"]) -> Float[Tensor, " ray"]:
    """Read the neighbourhood's fill between cells, so that shading is smooth."""
    lower, upper = points.new_tensor(scene.grid.lower), points.new_tensor(scene.grid.upper)
    position = (points - lower) / (upper - lower) * 2 - 1
    # grid_sample names its axes from the last: z, y, x.
    samples = functional.grid_sample(
        scene.fill, position.flip(-1)[None, None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return rearrange(samples, "1 1 1 1 ray -> ray")


def _to_bytes(colors: Float[Tensor, "h w 3"]) -> UInt8[Tensor, "h w 3"]:
    return (colors * 255).round().to(torch.uint8)
