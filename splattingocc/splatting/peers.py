"""The candidates of `splattingocc bench render --peers`: our renderer, and others that are given the same Gaussians and rays."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.gaussian_scene import index_gaussians
from splattingocc.splatting import bench_scenes as scenes
from splattingocc.splatting.bench import NERF_RAYS_AT_ONCE, NUM_NERF_SAMPLES, loss_of
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.mitsuba_peer import MitsubaGaussians
from splattingocc.splatting.nerf import render_nerf
from splattingocc.splatting.reference import render_reference
from splattingocc.splatting.render import render
from splattingocc.splatting.skipping_nerf import occupied_places, render_skipping_nerf

SKIPPING_RAYS_AT_ONCE = 4000
"""Of 2,000, 4,000, 6,000 and all, which are within a tenth of each other: each part fills a gradient of the whole volume."""
BRUTE_RAYS = 8
"""Rays of the brute force, which takes a fifth of a second for each."""
BRUTE_RAYS_AT_ONCE = 2
WARM_UP_RAYS = 2
"""What kernels are compiled and memory is mapped with, before anything is measured."""
PARTS = ("index", "forward", "backward")
"""Of a round: what is built before any ray is followed, following them, and the gradients."""


@dataclass(frozen=True)
class Scene:
    """What candidates are given."""

    gaussians: Gaussians
    rays: Rays
    labels: Tensor

    def first(self, num_rays: int) -> Scene:
        return Scene(self.gaussians, self.rays[:num_rays], self.labels[:num_rays])


class Laps:
    """CPU and wall-clock seconds of one round, part by part."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[name] += time.process_time() - cpu
        self.wall[name] += time.perf_counter() - wall


class Candidate(ABC):
    """One way to render a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def start(self) -> None:
        """Make what is no input, once and not timed; most need nothing."""
        return

    def warm_up(self) -> None:
        few = type(self)(self.scene.first(WARM_UP_RAYS))
        few.start()
        few.round(Laps())

    @abstractmethod
    def round(self, laps: Laps) -> None:
        """Index, render and go back once; gradients begin at zero."""

    @abstractmethod
    def gradient_bytes(self) -> int: ...


class TorchCandidate(Candidate):
    """One whose gradients are torch's, of leaves that are its inputs."""

    rays_at_once: int | None = None

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        gaussians = scene.gaussians.map(lambda tensor: tensor.detach().requires_grad_())
        self.gaussians = gaussians
        self.leaves = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features]

    def index(self) -> None:
        """Build what is built anew for each step."""

    @abstractmethod
    def render(self, rays: Rays, labels: Tensor) -> Rendering: ...

    def round(self, laps: Laps) -> None:
        for leaf in self.leaves:
            leaf.grad = None
        with laps.part("index"):
            self.index()
        count = len(self.scene.labels)
        for start in range(0, count, self.rays_at_once or count):
            part = slice(start, start + (self.rays_at_once or count))
            with laps.part("forward"):
                rendering = self.render(self.scene.rays[part], self.scene.labels[part])
            loss = loss_of(rendering)
            with laps.part("backward"):
                loss.backward()

    def gradient_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.leaves)


class Ours(TorchCandidate):
    """Index and rays in one call, as in training. The index is built once more to time it, and taken off."""

    def index(self) -> None:
        gaussians = self.scene.gaussians
        index_gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.grid)

    def render(self, rays: Rays, labels: Tensor) -> Rendering:
        return render(self.gaussians, rays, near=scenes.NEAR, far=scenes.FAR, label_distances=labels)

    def round(self, laps: Laps) -> None:
        super().round(laps)
        for seconds in (laps.cpu, laps.wall):
            seconds["forward"] = max(0.0, seconds["forward"] - seconds["index"])


class BruteForce(TorchCandidate):
    """The specification, every ray against every Gaussian."""

    rays_at_once = BRUTE_RAYS_AT_ONCE

    def render(self, rays: Rays, labels: Tensor) -> Rendering:
        return render_reference(self.gaussians, rays, near=scenes.NEAR, far=scenes.FAR, label_distances=labels)


class Nerf(TorchCandidate):
    """A density of the same opacity in each cell, sampled everywhere."""

    rays_at_once = NERF_RAYS_AT_ONCE

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        grid, gaussians = scene.gaussians.grid, scene.gaussians
        self.grid = grid
        self.densities = (-torch.log1p(-gaussians.opacities) / grid.cell_size).reshape(grid.shape).requires_grad_()
        self.features = gaussians.features.detach().reshape(*grid.shape, -1).requires_grad_()
        self.leaves = [self.densities, self.features]

    def options(self, labels: Tensor) -> dict[str, Any]:
        return {"near": scenes.NEAR, "far": scenes.FAR, "num_samples": NUM_NERF_SAMPLES, "label_distances": labels}

    def render(self, rays: Rays, labels: Tensor) -> Rendering:
        return render_nerf(self.densities, self.features, self.grid, rays, **self.options(labels))


class SkippingNerf(Nerf):
    """The same density, sampled where it is not empty and light arrives."""

    rays_at_once = SKIPPING_RAYS_AT_ONCE

    def index(self) -> None:
        self.occupied = occupied_places(self.densities, self.grid.cell_size)

    def render(self, rays: Rays, labels: Tensor) -> Rendering:
        return render_skipping_nerf(self.densities, self.features, self.grid, rays, occupied=self.occupied, **self.options(labels))


class Mitsuba(Candidate):
    """Ray-traced Gaussians, colours alone: no distances, nothing of labels."""

    def start(self) -> None:
        self.traced = MitsubaGaussians(self.scene.gaussians, self.scene.rays, num_threads=torch.get_num_threads())

    def round(self, laps: Laps) -> None:
        with laps.part("index"):
            self.traced.build()
        with laps.part("forward"):
            colours = self.traced.render()
        with laps.part("backward"):
            self.traced.backward(2 * colours)

    def gradient_bytes(self) -> int:
        return sum(gradient.nbytes for gradient in self.traced.gradients())


OURS, OURS_FEW = "ours", "ours, rays of the brute force"
CANDIDATES: Mapping[str, type[Candidate]] = {
    OURS: Ours,
    "NeRF sampling": Nerf,
    "NeRF, skipping": SkippingNerf,
    "Mitsuba": Mitsuba,
    OURS_FEW: Ours,
    "brute force": BruteForce,
}
OF_FEW_RAYS = (OURS_FEW, "brute force")
