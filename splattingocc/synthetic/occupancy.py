"""The truth in voxels: which cells surfaces pass through, and which cells the sensors could have seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.geometry.cameras import NEAR_PLANE
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import transform_directions, transform_points
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.kernels.launch import launch
from splattingocc.kernels.voxel_walk import mark_visited
from splattingocc.synthetic.camera_images import pixel_rays
from splattingocc.synthetic.rig import Sensor
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.taxonomy import FREE, NUM_CLASSES

wp.set_module_options({"enable_backward": False})  # gradients, where there are any, are kernels of their own

SAMPLE_SPACING = 0.12
"""Greatest distance between neighbouring samples of a triangle, metres; a third of a cell."""
AREA_UNIT = 1e-4
"""What a count of one stands for, square metres. Counts are whole numbers, so that their sum does not depend on the order."""
FACE_DEPTH = 0.499
"""How far from a cell's middle a ray aims at its face, in cells: a hair inside, so that a grazing ray enters through that face."""
CAMERA_RAYS_ACROSS = 160
"""Rays over the width of an image: about 0.4° apart, less than a cell at 55 m."""


@dataclass(frozen=True)
class VoxelTruth:
    """One key frame's truth, in the fields and the convention of Occ3D-nuScenes."""

    semantics: UInt8[ndarray, "x y z"]
    mask_lidar: UInt8[ndarray, "x y z"]
    mask_camera: UInt8[ndarray, "x y z"]
    """Lies within `mask_lidar`."""


def concatenate(rays: list[Rays]) -> Rays:
    """Put (ray, 3) batches of rays behind each other."""
    return Rays(torch.cat([part.origins for part in rays]), torch.cat([part.directions for part in rays]))


def _rays_to(
    centers_world: Float[Tensor, "cell 3"],
    sensor: Sensor,
    world_from_cam: Float[ndarray, "4 4"],
    image_size: tuple[int, int],
    cell_size: float,
) -> Rays:
    """Return the rays from a camera to the middles of those faces of the cells that look at it and lie in its image. Rays through pixels
    alone would miss cells of the ground, which from afar are much thinner than a pixel."""
    origin = torch.from_numpy(world_from_cam[:3, 3]).to(centers_world.device)
    reach = FACE_DEPTH * cell_size
    ways = centers_world - origin
    directions = torch.cat([ways - axis * ways.sign() * reach for axis in torch.eye(3, dtype=ways.dtype, device=ways.device)])
    x, y, z = transform_directions(torch.from_numpy(world_from_cam.T.copy()).to(centers_world.device), directions).unbind(dim=-1)
    assert sensor.K is not None
    u, v = sensor.K[0, 0] * x / z + sensor.K[0, 2], sensor.K[1, 1] * y / z + sensor.K[1, 2]
    seen = (z > NEAR_PLANE) & (u >= 0) & (u < image_size[1]) & (v >= 0) & (v < image_size[0])
    kept = directions[seen].float()
    return Rays(origin.float().expand_as(kept), kept / kept.norm(dim=-1, keepdim=True))


@wp.kernel
@no_type_check
def _count_surfaces(
    first: int,
    corners: wp.array(dtype=wp.vec3),
    classes: wp.array(dtype=int),
    grid_from_world: wp.mat44,
    spacing: float,
    area_unit: float,
    shape: wp.vec3i,
    cell_size: float,
    num_classes: int,
    counts: wp.array(dtype=int),
):
    """Add every triangle's area to the cells it passes through, at the middles of small equal triangles that it is cut into."""
    triangle = first + wp.tid()
    a = wp.transform_point(grid_from_world, corners[3 * triangle])
    b = wp.transform_point(grid_from_world, corners[3 * triangle + 1])
    c = wp.transform_point(grid_from_world, corners[3 * triangle + 2])
    low = wp.min(wp.min(a, b), c)
    high = wp.max(wp.max(a, b), c)
    for axis in range(3):
        if high[axis] < 0.0 or low[axis] > float(shape[axis]):
            return
    ab = b - a
    ac = c - a
    longest = wp.max(wp.max(wp.length(ab), wp.length(ac)), wp.length(c - b)) * cell_size
    cuts = int(wp.ceil(longest / spacing))
    if cuts < 1:
        return
    area = 0.5 * wp.length(wp.cross(ab, ac)) * cell_size * cell_size
    weight = wp.max(1, int(area / float(cuts * cuts) / area_unit + 0.5))
    for i in range(cuts):
        for j in range(cuts - i):
            for half in range(2):
                if half == 0 or i + j < cuts - 1:
                    shift = (1.0 + float(half)) / 3.0
                    point = a + ab * ((float(i) + shift) / float(cuts)) + ac * ((float(j) + shift) / float(cuts))
                    x = int(wp.floor(point[0]))
                    y = int(wp.floor(point[1]))
                    z = int(wp.floor(point[2]))
                    if x >= 0 and y >= 0 and z >= 0 and x < shape[0] and y < shape[1] and z < shape[2]:
                        cell = (x * shape[1] + y) * shape[2] + z
                        wp.atomic_add(counts, cell * num_classes + classes[triangle], weight)


def voxelize(scene: SceneMesh, ego_from_world: Float[ndarray, "4 4"], grid: VoxelGrid = OCC3D_GRID) -> UInt8[Tensor, "x y z"]:
    """Return the class with the largest surface in each cell, FREE where no surface passes, at the time that the scene is set to."""
    device = scene.device
    class_of_category = torch.tensor(CLASS_OF_LIDARSEG, dtype=torch.int32, device=device)
    classes = class_of_category[scene.categories.long()]
    grid_from_ego = np.diag([1 / grid.cell_size] * 3 + [1.0])
    grid_from_ego[:3, 3] = -np.array(grid.lower) / grid.cell_size
    grid_from_world = wp.mat44(*(grid_from_ego @ ego_from_world).astype(np.float32).reshape(-1).tolist())
    counts = torch.zeros(grid.num_cells, NUM_CLASSES, dtype=torch.int32, device=device)
    corners = wp.from_torch(scene.corners.reshape(-1, 3), dtype=wp.vec3)
    inputs = [corners, wp.from_torch(classes), grid_from_world, SAMPLE_SPACING, AREA_UNIT, wp.vec3i(*grid.shape), grid.cell_size]
    # Additions of a CPU launch are not atomic: one chunk, one thread.
    launch(_count_surfaces, len(classes), [*inputs, NUM_CLASSES, wp.from_torch(counts.reshape(-1))], device=device, num_chunks=1)
    largest, semantics = counts.max(dim=-1)
    return torch.where(largest > 0, semantics, FREE).to(torch.uint8).reshape(grid.shape)


def observed_truth(
    semantics: UInt8[Tensor, "x y z"],
    measured: Bool[Tensor, "x y z"],
    world_from_ego: Float[ndarray, "4 4"],
    sight_lines: tuple[Rays, Float[Tensor, " ray"]],
    cameras: list[tuple[Sensor, Float[ndarray, "4 4"]]],
    image_size: tuple[int, int],
    grid: VoxelGrid = OCC3D_GRID,
) -> VoxelTruth:
    """Mark what could be seen: by the LiDAR in the whole drive, as in Occ3D, and of that, by one of the key frame's own cameras, given with
    their world_from_cam.

    The LiDAR saw the cells that it `measured` something in, and those on its `sight_lines`: rays (world frame) and their lengths, metres.
    Lines of other turns, too, end at the first cell that is occupied at the key frame, which what moves may not have filled then.
    """
    ego_from_world = torch.from_numpy(np.linalg.inv(world_from_ego)).to(semantics.device)
    occupied = (semantics != FREE).to(torch.uint8)

    def visited(rays: Rays, lengths: Float[Tensor, " ray"] | None = None) -> Tensor:
        moved = Rays(rays.origins.double(), rays.directions.double()).transform(ego_from_world)
        return mark_visited(occupied, grid, moved, lengths)

    # As published: of the points inside of the grid.
    lines, lengths = sight_lines
    ends = transform_points(ego_from_world, lines.origins + lines.directions * lengths[:, None])
    ends_inside = grid.cells_of(ends)[1]
    step = max(1, image_size[1] // CAMERA_RAYS_ACROSS)
    # What was measured was seen, though in another turn than those whose lines are followed.
    mask_lidar = visited(lines[ends_inside], lengths[ends_inside]) | measured.to(torch.uint8)
    surfaces = grid.centers(semantics.device)[(occupied & mask_lidar).bool()].double()
    surfaces_world = transform_points(torch.from_numpy(world_from_ego).to(semantics.device), surfaces)
    camera_rays = [pixel_rays(sensor.K, pose, image_size, step).to(semantics.device) for sensor, pose in cameras if sensor.K is not None]
    camera_rays += [_rays_to(surfaces_world, sensor, pose, image_size, grid.cell_size) for sensor, pose in cameras]
    mask_camera = visited(concatenate(camera_rays)) & mask_lidar
    return VoxelTruth(*(tensor.cpu().numpy() for tensor in (semantics, mask_lidar, mask_camera)))
