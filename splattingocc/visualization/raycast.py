"""Pictures of a voxel grid, cast on any machine: no display, no OpenGL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from splattingocc.config import Config, Coordinate, ImageSize
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit
from splattingocc.struct import stack
from splattingocc.visualization.palettes import ARROW_COLOR, EMPTY_COLOR, OUTLINE_COLOR
from splattingocc.visualization.voxels import Voxels, is_on_arrow

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
OUTLINE_METRES = 0.9
OUTLINE_SHARE = 0.06
"""What is behind gets a line where it is farther by this much, and by this share of the distance to what is before it."""
FAR_BEHIND = 1e6
"""Metres."""
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
    image_size: ImageSize = (338, 600)
    """Height and width of the perspective picture, pixels."""
    pixels_per_cell: Annotated[int, Field(ge=1, le=64)] = 3
    """Size of the picture from above."""
    supersampling: Annotated[int, Field(ge=1, le=16)] = 2
    """Rays per pixel along each axis of the perspective picture."""
    sun: tuple[Coordinate, Coordinate, Coordinate] = (-0.45, 0.55, 1.0)
    """Direction towards the sun, ego frame."""

    @model_validator(mode="after")
    def _check(self) -> PictureConfig:
        if self.position[:2] == self.target[:2]:
            raise ValueError(f"target: {self.target} is straight above or below the position, {self.position}; give one aside of it")
        if not any(self.sun):
            raise ValueError("sun: 0 0 0 is no direction")
        return self


def seen_from(config: PictureConfig, degrees: float) -> PictureConfig:
    """Return the same view after the virtual camera went around the vehicle by an angle, to the left as the vehicle looks."""
    turn = math.radians(degrees)

    def turned(point: tuple[float, float, float]) -> tuple[float, float, float]:
        x, y, z = point
        return (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn), z)

    return config.model_copy(update={"position": turned(config.position), "target": turned(config.target)})


@dataclass(frozen=True)
class VoxelScene:
    """Voxels ready for drawing, from as many places as wanted; made by `prepare`."""

    voxels: Voxels
    occupied: UInt8[Tensor, "x y z"]
    fill: Float[Tensor, "1 1 x y z"]
    """Share of occupied cells in the neighbourhood of each cell."""
    grid: VoxelGrid


def prepare(voxels: Voxels, grid: VoxelGrid) -> VoxelScene:
    """Return what all pictures of these voxels share."""
    padded = functional.pad(voxels.occupied.float()[None, None], (OCCLUSION_CELLS // 2,) * 6)
    # The same as a mean over a cube, in a quarter of the time
    fill = padded
    for size in ((OCCLUSION_CELLS, 1, 1), (1, OCCLUSION_CELLS, 1), (1, 1, OCCLUSION_CELLS)):
        fill = functional.avg_pool3d(fill, size, stride=1)
    return VoxelScene(voxels, voxels.occupied.to(torch.uint8), fill, grid)


def picture_from_above(scene: VoxelScene, config: PictureConfig | None = None) -> UInt8[Tensor, "h w 3"]:
    """Draw the highest voxel of each column, and the floor of empty ones; forward (x) is up, left (y) is left."""
    config, grid = config or PictureConfig(), scene.grid
    step = grid.cell_size / config.pixels_per_cell
    height, width = (count * config.pixels_per_cell for count in grid.shape[:2])
    x = grid.upper[0] - (torch.arange(height) + 0.5) * step
    y = grid.upper[1] - (torch.arange(width) + 0.5) * step
    above = torch.full((height, width), grid.upper[2] + grid.cell_size)
    origins = torch.stack([x[:, None].expand(height, width), y.expand(height, width), above], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand(height * width, 3)
    colors, _ = _draw(scene, Rays(rearrange(origins, "h w xyz -> (h w) xyz"), down), config, edges=False)
    return _to_bytes(rearrange(colors, "(h w) rgb -> h w rgb", h=height))


def picture_in_perspective(scene: VoxelScene, config: PictureConfig | None = None) -> UInt8[Tensor, "h w 3"]:
    """Draw the voxels as a virtual camera behind and above the vehicle sees them."""
    config = config or PictureConfig()
    return _supersampled(scene, _virtual_camera_rays(config), config.image_size, config)


def picture_of_camera(scene: VoxelScene, camera: Cameras, config: PictureConfig | None = None) -> UInt8[Tensor, "h w 3"]:
    """Draw the voxels as a camera (no batch axis) of the vehicle sees them: by its own pose, intrinsics and image size.

    Give it voxels without the vehicle, which would stand around the camera.
    """
    config = config or PictureConfig()
    height, width = camera.image_size
    finer = camera.resize((height * config.supersampling, width * config.supersampling))
    return _supersampled(scene, stack([finer]).pixel_rays(), camera.image_size, config)


def _supersampled(scene: VoxelScene, rays: Rays, image_size: tuple[int, int], config: PictureConfig) -> UInt8[Tensor, "h w 3"]:
    """Draw the rays of a picture that is so much finer, line by line."""
    colors, depths = _draw(scene, rays, config, edges=True)
    height, factor = image_size[0], config.supersampling
    colors, depths = (rearrange(values, "(h w) ... -> h w ...", h=height * factor) for values in (colors, depths))
    colors[_is_outline(depths)] = torch.tensor(OUTLINE_COLOR) / 255
    # Antialiasing: the mean of the rays inside each pixel, added up, which is quicker than a mean over two axes
    parts = [colors[i::factor, j::factor] for i in range(factor) for j in range(factor)]
    return _to_bytes(sum(parts[1:], parts[0]) / len(parts))


def _is_outline(depths: Float[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Say where a thing ends before another that is farther behind it than the surfaces of one thing are: there it gets a line."""
    nearest = depths.clone()
    for axis in (0, 1):
        length = depths.shape[axis] - 1
        first, second = depths.narrow(axis, 0, length), depths.narrow(axis, 1, length)
        nearest.narrow(axis, 0, length).copy_(torch.minimum(nearest.narrow(axis, 0, length), second))
        nearest.narrow(axis, 1, length).copy_(torch.minimum(nearest.narrow(axis, 1, length), first))
    # Of two neighbours the farther one is inked: nothing gets thinner by its line
    return depths - nearest > OUTLINE_METRES + OUTLINE_SHARE * nearest


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


def _draw(scene: VoxelScene, rays: Rays, config: PictureConfig, *, edges: bool) -> tuple[Float[Tensor, "ray 3"], Float[Tensor, " ray"]]:
    """Return the colour, in [0, 1], that each ray sees, EMPTY_COLOR where it meets nothing, and the metres to there.

    Floor and nothing are FAR_BEHIND: a line goes around what stands before them.
    """
    sun = functional.normalize(torch.tensor(config.sun), dim=0)
    colors = (torch.tensor(EMPTY_COLOR) / 255).repeat(len(rays.origins), 1)
    depths = torch.full((len(colors),), FAR_BEHIND)
    for start in range(0, len(colors), RAYS_PER_BAND):
        part = slice(start, start + RAYS_PER_BAND)
        band = rays[part]
        hits = cast_first_hit(scene.occupied, scene.grid, band)
        found = hits.cells >= 0
        distances = hits.enter_distances.float()
        _draw_floor(scene, band, hits.leave_distances.float(), found, colors[part])
        if found.any():
            colors[part][found] = _shade(scene, band[found], hits.cells[found], distances[found], sun, edges=edges)
            depths[part][found] = distances[found]
    return colors, depths


def _draw_floor(
    scene: VoxelScene, rays: Rays, leave_distances: Float[Tensor, " ray"], found: Bool[Tensor, " ray"], colors: Float[Tensor, "ray 3"]
) -> None:
    """Colour, in place, the rays that meet no voxel and leave the grid through its bottom."""
    grid = scene.grid
    passes = (~found & (rays.directions[:, 2] < 0) & (leave_distances > 0)).nonzero().flatten()
    points = rays[passes].at(leave_distances[passes])
    on_floor = points[:, 2] < grid.lower[2] + 0.01 * grid.cell_size
    cells = ((points[on_floor, :2] - points.new_tensor(grid.lower[:2])) / grid.cell_size).long()
    x, y = (cells[:, axis].clamp(0, grid.shape[axis] - 1) for axis in (0, 1))
    colors[passes[on_floor]] = scene.voxels.floor[x, y].float() / 255


def _shade(
    scene: VoxelScene,
    rays: Rays,
    cells: Int64[Tensor, " ray"],
    distances: Float[Tensor, " ray"],
    sun: Float[Tensor, "3"],
    *,
    edges: bool,
) -> Float[Tensor, "ray 3"]:
    colors = scene.voxels.colors.reshape(-1, 3)[cells].float() / 255
    points = rays.at(distances)
    in_cell, normals = _face(scene.grid, cells, points, rays.directions)
    is_ego = scene.voxels.ego.flatten()[cells]
    if is_ego.any():
        # Painted on its roof and bonnet
        colors[is_ego & (normals[:, 2] > 0) & is_on_arrow(points)] = torch.tensor(ARROW_COLOR) / 255
    above_face = points + normals * scene.grid.cell_size
    light = AMBIENT + (1 - AMBIENT) * (normals @ sun).clamp(min=0)
    light = light * torch.where(_is_in_shadow(scene, points + 1e-3 * normals, sun), SHADOW, 1.0)
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


def _is_in_shadow(scene: VoxelScene, points: Float[Tensor, "ray 3"], sun: Float[Tensor, "3"]) -> Bool[Tensor, " ray"]:
    return cast_first_hit(scene.occupied, scene.grid, Rays(points, sun.expand_as(points))).cells >= 0


def _fill_at(scene: VoxelScene, points: Float[Tensor, "ray 3"]) -> Float[Tensor, " ray"]:
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
