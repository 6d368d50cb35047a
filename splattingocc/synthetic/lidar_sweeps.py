"""What a scene's LiDAR measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.mesh_cast import cast_at_mesh
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Mesh, box, join
from splattingocc.synthetic.scene_mesh import SceneMesh, soup_index

NUM_BEAMS, NUM_AZIMUTHS = 32, 1085
LOWEST_BEAM, HIGHEST_BEAM = -30.67, 10.67
"""Degrees above the horizon."""
MAX_RANGE = 100.0
"""Metres."""
RANGE_NOISE = 0.02
"""Standard deviation, metres."""
MEAN_NOISE_POINTS = 6.0
"""Points of no surface in a sweep: rain, dust, crosstalk."""
NOISE_CATEGORY, EGO_CATEGORY = 0, 31
"""nuScenes-lidarseg indices."""


@dataclass(frozen=True)
class Sweep:
    """The returns of one turn of the LiDAR, in the order in which they were measured."""

    points: Float32[ndarray, "point 5"]
    """x, y, z in the sensor frame (metres), intensity 0..255, beam number from the lowest: the columns of nuScenes' files."""
    categories: UInt8[ndarray, " point"]
    """nuScenes-lidarseg index."""
    things: Int32[ndarray, " point"]
    """Number of the annotated thing that was hit, or −1."""


@dataclass(frozen=True)
class Returns:
    """What came back of the rays of a turn."""

    rays: Int64[ndarray, " point"]
    """Which of the rays it was."""
    distances: Float[ndarray, " point"]
    """As measured, metres."""
    brightness: Float32[ndarray, " point"]
    """Of the surface, 0..1."""
    categories: UInt8[ndarray, " point"]
    """nuScenes-lidarseg index."""
    things: Int32[ndarray, " point"]
    """Number of the annotated thing that was hit, or −1."""


@cache
def beam_directions() -> Float[ndarray, "ray 3"]:
    """Return the unit directions of all beams of a turn in the sensor frame, azimuth by azimuth, the lowest beam first."""
    azimuths = np.arange(NUM_AZIMUTHS) * (2 * np.pi / NUM_AZIMUTHS)
    elevations = np.deg2rad(np.linspace(LOWEST_BEAM, HIGHEST_BEAM, NUM_BEAMS))
    azimuth, elevation = np.meshgrid(azimuths, elevations, indexing="ij")
    # The sensor turns clockwise, starting behind the vehicle.
    x, y = -np.sin(azimuth), -np.cos(azimuth)
    return np.stack([x * np.cos(elevation), y * np.cos(elevation), np.sin(elevation)], axis=-1).reshape(-1, 3)


def lidar_rays(world_from_lidar: Float[ndarray, "4 4"], chosen: Int64[ndarray, " ray"] | slice = slice(None)) -> Rays:
    """Return the rays of a turn in the world frame, or those of some numbers."""
    directions = torch.from_numpy((beam_directions()[chosen] @ world_from_lidar[:3, :3].T).astype(np.float32))
    return Rays(torch.from_numpy(world_from_lidar[:3, 3].astype(np.float32)).expand_as(directions).contiguous(), directions)


def ego_body() -> Mesh:
    """The parts of the ego vehicle that its own LiDAR sees, ego frame."""
    color = (0.5, 0.5, 0.5)
    roof = box((2.0, 1.1, 0.1), (0.55, 0, 1.5), Material.PAINT, color, taper=(0.95, 0.9))
    body = box((4.0, 1.7, 0.6), (1.35, 0, 0.6), Material.PAINT, color)
    return join([roof, body]).labelled(EGO_CATEGORY)


class Lidar:
    """One vehicle's LiDAR and what it sees of that vehicle."""

    def __init__(self, ego_from_lidar: Float[ndarray, "4 4"], device: torch.device) -> None:
        self.ego_from_lidar = ego_from_lidar
        body = soup_index(torch.from_numpy(ego_body().corners).to(device))
        rays = lidar_rays(ego_from_lidar).to(device)
        hits = cast_at_mesh(body, rays, torch.full((len(rays.origins),), MAX_RANGE, device=device))
        self._ego_distances = torch.where(hits.triangles >= 0, hits.distances, torch.inf).cpu().numpy()

    def returns(self, scene: SceneMesh, rays: Rays, rng: Generator, *, numbers: ndarray, limits: Float[Tensor, " ray"]) -> Returns:
        """Measure the scene at the time that it is set to, along some rays of a turn (world frame), each up to its own greatest distance.

        `numbers` are the rays' numbers in the turn; `rng` draws errors and losses.
        """
        hits = scene.cast(rays.to(scene.device), limits.to(scene.device))
        triangles = hits.triangles.long().clamp(min=0)
        distances = np.where(hits.triangles.cpu() >= 0, hits.distances.cpu(), np.inf)
        is_ego = self._ego_distances[numbers] < distances
        distances = np.minimum(distances, self._ego_distances[numbers])
        brightness = scene.brightness[triangles].cpu().numpy()
        returned = np.flatnonzero(np.isfinite(distances) & _returns(distances, scene.materials[triangles].cpu().numpy(), brightness, rng))
        measured = distances[returned] + rng.normal(0, RANGE_NOISE, len(returned))
        hit = triangles[torch.from_numpy(returned).to(scene.device)]
        categories = np.where(is_ego[returned], EGO_CATEGORY, scene.categories[hit].cpu().numpy()).astype(np.uint8)
        things = np.where(is_ego[returned], -1, scene.things[hit].cpu().numpy()).astype(np.int32)
        return Returns(returned, measured, brightness[returned], categories, things)

    def measure(self, scene: SceneMesh, world_from_ego: Float[ndarray, "4 4"], rng: Generator) -> Sweep:
        """Measure the scene at the time that it is set to; `rng` draws noise and lost returns."""
        rays, every = lidar_rays(world_from_ego @ self.ego_from_lidar), np.arange(NUM_BEAMS * NUM_AZIMUTHS)
        returns = self.returns(scene, rays, rng, numbers=every, limits=torch.full((len(every),), MAX_RANGE))
        fading = np.exp(-returns.distances / 60) * rng.uniform(0.7, 1.3, len(returns.rays))
        intensities = np.clip(255 * returns.brightness * fading, 0, 255).round()
        positions = beam_directions()[returns.rays] * returns.distances[:, None]
        points = np.column_stack([positions, intensities, returns.rays % NUM_BEAMS]).astype(np.float32)
        return _with_noise_points(Sweep(points, returns.categories, returns.things), rng)


def _returns(distances: ndarray, materials: ndarray, brightness: ndarray, rng: Generator) -> ndarray:
    """Draw which hits come back: fewer from afar, from dark surfaces, from glass."""
    lost = 0.01 + 0.5 * np.clip((distances - 45.0) / 55.0, 0, 1) * (1.3 - brightness)
    lost = np.where(materials == Material.GLASS, 0.5, lost)
    return rng.random(len(distances)) > lost


def _with_noise_points(sweep: Sweep, rng: Generator) -> Sweep:
    count = int(rng.poisson(MEAN_NOISE_POINTS))
    beams = rng.integers(0, NUM_BEAMS * NUM_AZIMUTHS, count)
    positions = beam_directions()[beams] * rng.uniform(2.0, 25.0, (count, 1))
    points = np.column_stack([positions, rng.integers(0, 5, count), beams % NUM_BEAMS]).astype(np.float32)
    return Sweep(
        np.concatenate([sweep.points, points]),
        np.concatenate([sweep.categories, np.full(count, NOISE_CATEGORY, np.uint8)]),
        np.concatenate([sweep.things, np.full(count, -1, np.int32)]),
    )
