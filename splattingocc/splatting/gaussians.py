"""A volume of 3D Gaussians: the field that this project is about."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.field import Field, Occupancy, PointResponses, Rendering
from splattingocc.splatting.walk import Walk


@dataclass(frozen=True)
class Gaussians(Field):
    """Anisotropic 3D Gaussians in the ego frame. They need not be aligned with `grid`, and a cell may hold any number of them."""

    means: Float[Tensor, "*batch gaussian 3"]
    """Centres, metres."""
    quats: Float[Tensor, "*batch gaussian 4"]
    """Unit quaternions w, x, y, z: ego from the Gaussian's own axes. Gradients flow as if the norm were one, and are not projected onto the
    unit sphere: who optimises quaternions normalises them, which projects."""
    scales: Float[Tensor, "*batch gaussian 3"]
    """Standard deviations along the own axes, metres."""
    opacities: Float[Tensor, "*batch gaussian"]
    """In [0, 1): the alpha of a ray through the centre."""
    features: Float[Tensor, "*batch gaussian channel"]
    """What is composited; class probabilities in training."""
    grid: VoxelGrid
    """Indexes the Gaussians by their centre's cell. Gaussians outside of it are not rendered."""
    mean_opacity_of_all: Float[Tensor, "*batch"] | None = None
    """Where these are only the Gaussians that a step asks for: the mean opacity of all that there would be."""
    walks: tuple[Walk, ...] | None = None
    """In the same case, for each sample the walk of the rays that were asked for; no others can be rendered."""

    @property
    def mean_opacity(self) -> Float[Tensor, "*batch"]:
        """Return the mean over all Gaussians, also over those that are not here."""
        return self.opacities.mean(dim=-1) if self.mean_opacity_of_all is None else self.mean_opacity_of_all

    # The modules that these methods call describe Gaussians themselves and import this one

    def render(
        self,
        rays: Rays,
        *,
        near: float,
        far: float,
        label_distances: Float[Tensor, "*batch ray"] | None = None,
        margin: float = 0.4,
    ) -> Rendering:
        """Composite the Gaussians along each ray, as `splatting.render.render` does."""
        from splattingocc.splatting.render import render

        return render(self, rays, near=near, far=far, label_distances=label_distances, margin=margin)

    def read_out(self, grid: VoxelGrid, *, threshold: float) -> Occupancy:
        """Turn one set of Gaussians into the occupancy of a grid, as `splatting.read_out.read_out` does."""
        from splattingocc.splatting.read_out import read_out

        if self.walks is not None:
            raise ValueError("gaussians: are only those that a step asks for, expected all of them to read out a grid")
        return read_out(self, grid, threshold=threshold)

    def query(self, points: Float[Tensor, "point 3"]) -> PointResponses:
        """Ask the Gaussian of each point's own cell, as `splatting.query.query` does."""
        from splattingocc.splatting.query import query

        return query(self, points)
