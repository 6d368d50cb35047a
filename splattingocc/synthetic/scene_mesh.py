"""A scene's triangles on the device, at any time, and casting rays at them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.mesh_cast import MeshHits, MeshIndex, cast_at_mesh, is_blocked
from splattingocc.synthetic.mesh import join
from splattingocc.synthetic.things import MovingThings
from splattingocc.synthetic.world import World


def soup_index(corners: Float[Tensor, "triangle 3 3"]) -> MeshIndex:
    """Index triangles that share no corners."""
    numbers = torch.arange(3 * len(corners), dtype=torch.int32, device=corners.device).reshape(-1, 3)
    return MeshIndex(corners.reshape(-1, 3), numbers)


class SceneMesh:
    """All triangles of a world: first those that stand still, then those that move, in one numbering."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._moving_things = MovingThings(world.moving_things, world.ground.layout)
        moving = self._moving_things.mesh()
        mesh = join([world.static, moving])
        self.num_static = len(world.static)
        self.corners = torch.from_numpy(mesh.corners).to(device)
        self.uvs = torch.from_numpy(mesh.uvs).to(device)
        self.materials = torch.from_numpy(mesh.materials).to(device)
        self.colors = torch.from_numpy(mesh.colors).to(device)
        self.brightness = self.colors.mean(dim=-1)
        """Mean of each triangle's colour: what the LiDAR's infrared light meets."""
        self.categories = torch.from_numpy(mesh.categories).to(device)
        self.things = torch.from_numpy(mesh.things).to(device)
        self._static_index = soup_index(self.corners[: self.num_static])
        self._moving_index = soup_index(self.corners[self.num_static :]) if len(moving) else None

    @property
    def device(self) -> torch.device:
        return self.corners.device

    def set_time(self, time: float) -> None:
        """Move what moves to where it is at a time in seconds since the start of the scene."""
        if self._moving_index is None:
            return
        self.corners[self.num_static :] = torch.from_numpy(self._moving_things.corners_at(time)).to(self.device)
        self._moving_index.move(self.corners[self.num_static :].reshape(-1, 3))

    def cast(self, rays: Rays, max_distances: Float[Tensor, " ray"] | float) -> MeshHits:
        """Find what each ray of a (ray, 3) batch, world frame, meets first within its greatest distance, or within one for all."""
        limits = torch.as_tensor(max_distances, dtype=torch.float32, device=self.device).expand(len(rays.origins))
        hits = cast_at_mesh(self._static_index, rays, limits)
        if self._moving_index is None:
            return hits
        nearer = cast_at_mesh(self._moving_index, rays, hits.distances)
        replaced = nearer.triangles >= 0
        return MeshHits(
            torch.where(replaced, nearer.triangles + self.num_static, hits.triangles),
            torch.where(replaced, nearer.distances, hits.distances),
            torch.where(replaced[:, None], nearer.barycentrics, hits.barycentrics),
        )

    def is_blocked(self, rays: Rays, max_distances: Float[Tensor, " ray"]) -> Bool[Tensor, " ray"]:
        """Say of each ray whether it meets anything within its greatest distance."""
        blocked = is_blocked(self._static_index, rays, max_distances)
        if self._moving_index is not None:
            blocked |= is_blocked(self._moving_index, rays, max_distances)
        return blocked
