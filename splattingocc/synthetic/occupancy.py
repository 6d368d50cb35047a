"""The truth in voxels: which cells surfaces pass through, and which cells the sensors could have seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from splattingocc.data.taxonomy import CLASS_OF_LIDARSEG, FREE, NUM_CLASSES
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.kernels.launch import launch
from splattingocc.kernels.voxel_walk import mark_visited
from splattingocc.synthetic.camera_images import pixel_rays
from splattingocc.synthetic.lidar_sweeps import lidar_rays
from splattingocc.synthetic.rig import Sensor
from splattingocc.synthetic.scene_mesh import SceneMesh

SAMPLE_SPACING = 0.12
"""Greatest distance between neighbouring samples of a triangle, metres; a third of a cell."""
AREA_UNIT = 1e-4
"""What a count of one stands for, square metres. Counts are whole numbers, so that their sum does not depend on the order."""
CAMERA_RAYS_ACROSS = 200
"""Rays over the width of an image: about 0.3° apart, less than a cell at 70 m."""


@dataclass(frozen=True)
class VoxelTruth:
    """One key frame's truth, in the fields and the convention of Occ3D-nuScenes."""

    semantics: UInt8[ndarray, "x y z"]
    mask_lidar: UInt8[ndarray, "x y z"]
    mask_camera: UInt8[ndarray, "x y z"]
    """Lies within `mask_lidar`."""


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
    world_from_ego: Float[ndarray, "4 4"],
    lidar_poses: list[Float[ndarray, "4 4"]],
    cameras: list[tuple[Sensor, Float[ndarray, "4 4"]]],
    image_size: tuple[int, int],
    grid: VoxelGrid = OCC3D_GRID,
) -> VoxelTruth:
    """Mark what could be seen: by the LiDAR from any of `lidar_poses` (world_from_lidar, all key frames of the scene), and of that, by one
    of the key frame's own cameras (with their world_from_cam)."""
    ego_from_world = torch.from_numpy(np.linalg.inv(world_from_ego))
    occupied = (semantics != FREE).to(torch.uint8)

    def visited(rays: list[Rays]) -> Tensor:
        origins, directions = torch.cat([r.origins for r in rays]), torch.cat([r.directions for r in rays])
        moved = Rays(origins.double(), directions.double()).transform(ego_from_world)
        return mark_visited(occupied, grid, moved.to(occupied.device))

    mask_lidar = visited([lidar_rays(pose) for pose in lidar_poses])
    step = max(1, image_size[1] // CAMERA_RAYS_ACROSS)
    mask_camera = visited([pixel_rays(sensor.K, pose, image_size, step) for sensor, pose in cameras if sensor.K is not None]) & mask_lidar
    return VoxelTruth(*(tensor.cpu().numpy() for tensor in (semantics, mask_lidar, mask_camera)))
