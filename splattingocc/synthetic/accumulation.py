"""The LiDAR's returns of a whole drive, put together as Occ3D does: what stands still in the world, what moves in its own box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.synthetic.layout import Layout
from splattingocc.synthetic.lidar_sweeps import MAX_RANGE, NUM_AZIMUTHS, NUM_BEAMS, Lidar, lidar_rays
from splattingocc.synthetic.localization import Localization
from splattingocc.synthetic.rig import EgoMotion
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.things import MovingThings, Thing
from splattingocc.taxonomy import FREE, IGNORE, NUM_CLASSES

TURN_INTERVAL = 0.1
"""Seconds between the turns that are measured: every other one of a LiDAR that turns 20 times a second."""
NEAR = 15.0
"""Metres: what is nearer is met many times over in a drive."""
NEAR_THINNING, FAR_THINNING = 8, 2
"""Every this many azimuths are measured, in each turn others, where the last turns met something near or nothing, and where they met
something far. All rays of all turns would fill a tenth more cells at seven times the cost (`docs/synthetic.md`)."""
BLOCK = 7
"""Neighbouring azimuths of a beam that are thinned alike."""
SIGHT_TURNS = 5
"""Of the turns every this many, two a second, say what the LiDAR could see."""
REACH = 60.0
"""How far around a key frame's vehicle returns are wanted, metres: a little more than to the corners of its cells."""
CLASSES_OF_CATEGORIES = np.array(CLASS_OF_LIDARSEG, dtype=np.uint8)


@dataclass(frozen=True)
class DriveScan:
    """All that the LiDAR measured in a drive, turn by turn, without the ego vehicle and noise."""

    times: Float[ndarray, " turn"]
    """Seconds since the start of the scene."""
    turns: Int32[ndarray, " point"]
    points: Float32[ndarray, "point 3"]
    """As measured, in the true world frame, metres."""
    classes: UInt8[ndarray, " point"]
    things: Int32[ndarray, " point"]
    """Number of the annotated thing that a point lies on, if that moves in this drive; −1 for all others."""

    def of_turns(self, chosen: slice) -> DriveScan:
        """Return the points of some of the turns."""
        is_chosen = np.zeros(len(self.times), dtype=bool)
        is_chosen[chosen] = True
        kept = is_chosen[self.turns]
        return DriveScan(self.times, self.turns[kept], self.points[kept], self.classes[kept], self.things[kept])


class RayChoice:
    """Which rays of each turn are measured."""

    def __init__(self) -> None:
        self._azimuths, self._beams = np.meshgrid(np.arange(NUM_AZIMUTHS), np.arange(NUM_BEAMS), indexing="ij")
        self._is_far = np.ones((NUM_AZIMUTHS // BLOCK, NUM_BEAMS), dtype=bool)

    def of_turn(self, turn: int) -> Int64[ndarray, " ray"]:
        """Return the numbers of the rays to measure in a turn."""
        thinning = np.where(np.repeat(self._is_far, BLOCK, axis=0), FAR_THINNING, NEAR_THINNING)
        return np.flatnonzero((self._azimuths + self._beams + turn) % thinning == 0)

    def learn(self, numbers: Int64[ndarray, " ray"], distances: Float[ndarray, " ray"]) -> None:
        """Take note of how far rays went; infinitely far is no return."""
        blocks = numbers // NUM_BEAMS // BLOCK * NUM_BEAMS + numbers % NUM_BEAMS
        met_far = np.bincount(blocks, np.isfinite(distances) & (distances >= NEAR), self._is_far.size) > 0
        self._is_far.flat[blocks] = met_far[blocks]


def scan_drive(
    scene: SceneMesh, ego: EgoMotion, lidar: Lidar, things: Sequence[Thing], duration: float, key_times: Sequence[float], rng: Generator
) -> DriveScan:
    """Drive through a scene and measure what lies around the places of the key frames; leaves the scene set to the end of the drive."""
    times = np.arange(0.0, duration, TURN_INTERVAL)
    moves = np.array([thing.motion.moves for thing in things] + [False])
    places = np.stack([ego.world_from_ego(time)[:2, 3] for time in key_times])
    low, high = places.min(axis=0) - REACH, places.max(axis=0) + REACH
    choice, every = RayChoice(), np.arange(NUM_AZIMUTHS * NUM_BEAMS)
    key_turns = {round(time / TURN_INTERVAL) for time in key_times}
    parts = []
    for turn, time in enumerate(times):
        pose = ego.world_from_ego(float(time)) @ lidar.ego_from_lidar
        # A key frame's own turn is there as a whole: its points are what labels are made of.
        chosen = every if turn in key_turns else choice.of_turn(turn)
        rays = lidar_rays(pose, chosen)
        limits = _leaving(rays, low, high).clamp(max=MAX_RANGE)
        reaching = limits > 0
        rays, chosen, limits = rays[reaching], chosen[reaching.numpy()], limits[reaching]
        scene.set_time(float(time))
        returns = lidar.returns(scene, rays, rng, numbers=chosen, limits=limits)
        distances = np.full(len(chosen), np.inf)
        distances[returns.rays] = returns.distances
        choice.learn(chosen, distances)
        points = pose[:3, 3] + rays.directions.numpy()[returns.rays] * returns.distances[:, None]
        classes = CLASSES_OF_CATEGORIES[returns.categories]
        kept = classes != IGNORE
        parts.append((np.full(kept.sum(), turn), points[kept], classes[kept], np.where(moves[returns.things], returns.things, -1)[kept]))
    turns, points, classes, on_things = (np.concatenate(column) for column in zip(*parts))
    return DriveScan(times, turns.astype(np.int32), points.astype(np.float32), classes, on_things.astype(np.int32))


def _leaving(rays: Rays, low: Float[ndarray, " 2"], high: Float[ndarray, " 2"]) -> Float[Tensor, " ray"]:
    """Return the distances at which rays leave a rectangle of the plane; 0 or less for those that never meet it."""
    origins, directions = rays.origins[:, :2], rays.directions[:, :2]
    # A direction that is exactly along an axis gives infinities, which compare as they should.
    to_low, to_high = ((torch.from_numpy(side).float() - origins) / directions for side in (low, high))
    enter, leave = torch.minimum(to_low, to_high).amax(dim=-1), torch.maximum(to_low, to_high).amin(dim=-1)
    return torch.where(leave > enter.clamp(min=0.0), leave, 0.0)


class Accumulation:
    """A drive's returns in the ego frame of any moment of it."""

    def __init__(self, scan: DriveScan, ego: EgoMotion, localization: Localization, things: Sequence[Thing], layout: Layout) -> None:
        self._scan, self._ego, self._localization, self._things, self._layout = scan, ego, localization, things, layout
        stated = np.stack([localization.world_from_ego(time) for time in scan.times])
        true = np.stack([ego.world_from_ego(time) for time in scan.times])
        self._stated_from_true = stated @ np.linalg.inv(true)
        """For each turn, from where the vehicle was to where it is said to have been."""
        moving = scan.things >= 0
        self._static = _moved(scan.points[~moving], scan.turns[~moving], self._stated_from_true)
        self._static_classes = scan.classes[~moving]
        self._thing_points = self._into_boxes(moving)
        self._thing_classes, self._thing_numbers = scan.classes[moving], scan.things[moving]

    def _into_boxes(self, chosen: ndarray) -> Float32[ndarray, "point 3"]:
        """Return points on things in the things' own frames."""
        scan = self._scan
        moving = [thing for thing in self._things if thing.motion.moves]
        poses = MovingThings(moving, self._layout)
        places = [poses.poses_at(float(time)) for time in scan.times]
        position, angle = (np.stack(column) for column in zip(*places))
        row_of = np.full(len(self._things) + 1, -1)
        row_of[[thing.number for thing in moving]] = np.arange(len(moving))
        turns, rows = scan.turns[chosen], row_of[scan.things[chosen]]
        x, y, z = (scan.points[chosen] - position[turns, rows]).T
        cos, sin = np.cos(angle[turns, rows]), np.sin(angle[turns, rows])
        return np.column_stack([cos * x + sin * y, cos * y - sin * x, z]).astype(np.float32)

    def points_at(self, time: float) -> tuple[Float32[ndarray, "point 3"], UInt8[ndarray, " point"]]:
        """Return all points, and their classes, in the ego frame of a moment.

        What moves is put where it is at that moment. Annotators draw its boxes in each turn's own points, so that the errors of the poses
        blur what stands still and not what moves.
        """
        ego_from_stated = np.linalg.inv(self._localization.world_from_ego(time)).astype(np.float32)
        static = self._static @ ego_from_stated[:3, :3].T + ego_from_stated[:3, 3]
        ego_from_world = np.linalg.inv(self._ego.world_from_ego(time))
        is_there = np.array([thing.is_there(time) for thing in self._things] + [False])
        kept = is_there[self._thing_numbers]
        numbers, index = np.unique(self._thing_numbers[kept], return_inverse=True)
        if not len(numbers):
            return static, self._static_classes
        poses = np.stack([ego_from_world @ self._things[number].world_from_thing(self._layout, time) for number in numbers])[index]
        moved = (np.einsum("pij,pj->pi", poses[:, :3, :3], self._thing_points[kept]) + poses[:, :3, 3]).astype(np.float32)
        return np.concatenate([static, moved]), np.concatenate([self._static_classes, self._thing_classes[kept]])

    def voxelized(self, time: float, grid: VoxelGrid = OCC3D_GRID) -> UInt8[Tensor, "x y z"]:
        """Return the class that most points of each cell have, FREE where there is none, in the ego frame of a moment."""
        points, classes = self.points_at(time)
        cells = torch.from_numpy((points - np.array(grid.lower, dtype=np.float32)) * np.float32(1 / grid.cell_size))
        inside = ((cells >= 0) & (cells < torch.tensor(grid.shape))).all(dim=-1)
        x, y, z = cells[inside].to(torch.int64).unbind(dim=-1)
        keys = ((x * grid.shape[1] + y) * grid.shape[2] + z) * NUM_CLASSES + torch.from_numpy(classes)[inside]
        largest, semantics = torch.bincount(keys, minlength=grid.num_cells * NUM_CLASSES).reshape(-1, NUM_CLASSES).max(dim=-1)
        return torch.where(largest > 0, semantics, FREE).to(torch.uint8).reshape(grid.shape)

    def sight_lines(self, ego_from_lidar: Float[ndarray, "4 4"], key_time: float) -> tuple[Rays, Float[Tensor, " ray"]]:
        """Return the rays, in the stated world frame, from the LiDAR to the points that it measured in every `SIGHT_TURNS`-th turn, that of
        a key frame among them, and their lengths, metres."""
        scan = self._scan.of_turns(slice(round(key_time / TURN_INTERVAL) % SIGHT_TURNS, None, SIGHT_TURNS))
        stated = np.stack([self._localization.world_from_ego(time) @ ego_from_lidar for time in scan.times])
        origins = stated[scan.turns, :3, 3]
        ways = _moved(scan.points, scan.turns, self._stated_from_true) - origins
        lengths = np.linalg.norm(ways, axis=-1)
        rays = Rays(torch.from_numpy(origins).double(), torch.from_numpy(ways / lengths[:, None]).double())
        return rays, torch.from_numpy(lengths).double()


def _moved(points: Float[ndarray, "point 3"], turns: ndarray, transforms: Float[ndarray, "turn 4 4"]) -> Float32[ndarray, "point 3"]:
    """Return points, ordered by turns, each moved by its turn's transform."""
    moved = np.empty(points.shape, dtype=np.float32)
    ends = np.searchsorted(turns, np.arange(len(transforms) + 1))
    for transform, start, end in zip(transforms, ends, ends[1:]):
        moved[start:end] = points[start:end] @ transform[:3, :3].T.astype(np.float32) + transform[:3, 3].astype(np.float32)
    return moved
