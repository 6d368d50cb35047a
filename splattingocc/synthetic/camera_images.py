"""Rendering what a scene's cameras see.

A ray a pixel finds the surface. A second one, from there, looks towards the light that matters most: the sun; under a closed sky, on every
other pixel, one of four parts of the sky, so that neighbours together say how much of it a place sees; in the dark the strongest lamp. On
wet ground a third one finds what is mirrored. The camera (`camera_effects.py`) makes the picture of the radiances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.launch import launch
from splattingocc.kernels.mesh_cast import MeshHits
from splattingocc.synthetic.camera_effects import VehicleState, draw_camera, motion_of, take_picture
from splattingocc.synthetic.light import Light
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.radiance import TO_LAMP, TO_SKY, TO_SUN, Faces, Hits, gather_light, start_mirror_rays, start_second_rays
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.shading import sky_of

VIEW_DISTANCE = 160.0
"""Metres."""
MIRROR_DISTANCE = 60.0
"""Metres to what wet ground mirrors."""
LAMP_DISTANCE, MAX_LAMPS = 70.0, 20
"""How far from a camera street lamps light what it sees (metres), and how many of them, the nearest ones."""


def pixel_rays(K: ndarray, world_from_cam: ndarray, image_size: tuple[int, int], step: int = 1) -> Rays:
    """Return the rays, row by row, through the centres of every `step`-th pixel of an image."""
    height, width = image_size
    x = torch.arange(step / 2, width, step, dtype=torch.float64).sub(K[0, 2]).div(K[0, 0]).float()
    y = torch.arange(step / 2, height, step, dtype=torch.float64).sub(K[1, 2]).div(K[1, 1]).float()
    right, down, ahead, origin = torch.from_numpy(world_from_cam[:3].astype(np.float32)).unbind(dim=-1)
    directions = (ahead + y[:, None, None] * down + x[:, None] * right).reshape(-1, 3)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return Rays(origin.expand_as(directions).contiguous(), directions)


def render_image(
    scene: SceneMesh,
    light: Light,
    K: ndarray,
    world_from_cam: Float[ndarray, "4 4"],
    image_size: tuple[int, int],
    seed: int,
    *,
    vehicle: VehicleState | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """Render one camera's picture of the scene at the time that the scene is set to; `seed` draws the sensor noise.

    `vehicle` is what carries the camera: its headlights shine and its motion blurs. Without it neither is there.
    """
    rays = pixel_rays(K, world_from_cam, image_size).to(scene.device)
    hits = scene.cast(rays, VIEW_DISTANCE)
    radiances = _radiances(scene, light, rays, hits, image_size, float(1.0 / K[0, 0]), vehicle, seed)
    camera = draw_camera(light, K, image_size)
    motion = motion_of(vehicle, K, world_from_cam, camera.shutter)
    return take_picture(camera, radiances, motion, (rays, hits.distances), image_size, seed)


def _radiances(
    scene: SceneMesh, light: Light, rays: Rays, hits: MeshHits, image_size: tuple[int, int], pixel_angle: float,
    vehicle: VehicleState | None, seed: int,
) -> Float[Tensor, "pixel 3"]:  # fmt: skip
    """Return the linear RGB light along each ray."""
    device, count = scene.device, len(hits.triangles)
    mode = TO_LAMP if light.is_dark else TO_SUN if light.has_sun else TO_SKY
    lamps = _lamps_near(scene, rays.origins[0]) if light.is_dark else torch.zeros(0, 3, device=device)
    num_lamps = len(lamps)
    starts, normals, toward = (torch.zeros_like(rays.origins) for _ in range(3))
    limits, chosen = torch.zeros_like(hits.distances), torch.empty_like(hits.triangles)
    table = Hits()
    table.origins, table.directions, table.starts, table.normals = _vectors(rays.origins, rays.directions, starts, normals)
    table.triangles, table.distances = wp.from_torch(hits.triangles), wp.from_torch(hits.distances)
    table.barycentrics = wp.from_torch(hits.barycentrics, dtype=wp.vec2)
    table.limits, table.chosen = wp.from_torch(limits), wp.from_torch(chosen)
    table.height, table.width = image_size
    corners, lamp_places, ways = _vectors(scene.corners.reshape(-1, 3), lamps if num_lamps else torch.zeros(1, 3, device=device), toward)
    sky = sky_of(light)
    if vehicle is not None:
        sky.has_vehicle = 1
        sky.vehicle_from_world = wp.mat44(np.linalg.inv(vehicle.world_from_ego).astype(np.float32))
    launch(start_second_rays, count, [table, corners, mode, sky.sun, lamp_places, num_lamps, ways], device=device)
    blocked = scene.is_blocked(Rays(starts, toward), limits)
    table.blocked = wp.from_torch(blocked)
    mirrored, mirrored_triangles = _mirror(scene, light, table, starts, count, seed)
    table.mirrored, table.mirrored_triangles = _vectors(mirrored)[0], wp.from_torch(mirrored_triangles)
    radiances = torch.empty_like(rays.origins)
    inputs = [table, _faces(scene), mode, lamp_places, num_lamps, pixel_angle, sky, _vectors(radiances)[0]]
    launch(gather_light, count, inputs, device=device)
    return radiances


def _mirror(scene: SceneMesh, light: Light, table: Any, starts: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the mirrored ray of each pixel and which triangle it meets: −1 for none, −2 where the ground is not wet."""
    triangles = torch.full((count,), -2, dtype=torch.int32, device=scene.device)
    mirrored = torch.zeros_like(starts)
    if light.wetness == 0.0:
        return mirrored, triangles
    is_wet = torch.empty(count, dtype=torch.bool, device=scene.device)
    launch(
        start_mirror_rays, count, [table, wp.from_torch(scene.materials), seed, _vectors(mirrored)[0], wp.from_torch(is_wet)],
        device=scene.device,
    )  # fmt: skip
    wet = is_wet.nonzero()[:, 0]
    triangles[wet] = scene.cast(Rays(starts[wet], mirrored[wet]), MIRROR_DISTANCE).triangles
    return mirrored, triangles


def _lamps_near(scene: SceneMesh, place: Float[Tensor, " 3"]) -> Float[Tensor, "lamp 3"]:
    """Return the street lamps that matter for a camera, the nearest ones first: the middle of each run of lamp triangles in the mesh."""
    shining = (scene.materials[: scene.num_static] == Material.STREET_LAMP).nonzero()[:, 0]
    # Sums are taken by NumPy: torch would add up in another order for another number of threads.
    middles = scene.corners[shining].cpu().numpy().mean(axis=1)
    ends = np.flatnonzero(np.diff(shining.cpu().numpy()) > 1) + 1
    places = np.array([run.mean(axis=0) for run in np.split(middles, ends) if len(run)], dtype=np.float32).reshape(-1, 3)
    distances = np.linalg.norm(places - place.cpu().numpy(), axis=-1)
    nearest = np.argsort(distances, kind="stable")[:MAX_LAMPS]
    return torch.from_numpy(places[nearest[distances[nearest] < LAMP_DISTANCE]]).to(scene.device)


def _vectors(*tensors: Tensor) -> list:
    return [wp.from_torch(tensor, dtype=wp.vec3) for tensor in tensors]


def _faces(scene: SceneMesh) -> Any:
    faces = Faces()
    faces.uvs = wp.from_torch(scene.uvs.reshape(-1, 2), dtype=wp.vec2)
    faces.materials, faces.colors = wp.from_torch(scene.materials), wp.from_torch(scene.colors, dtype=wp.vec3)
    faces.num_static = scene.num_static
    return faces
