"""Fit a volume of Gaussians to one key frame from its 2D labels alone, by Adam, without a network.

What the labels and the losses can give at best: 640,000 Gaussians, one in each cell, every parameter free. 80 % of the key frame's LiDAR
rays train, 20 % are held out and scored. About a minute on two CPU cores.

    python examples/01_fit_one_frame.py --dataroot data/synthetic
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from splattingocc.cli.ending import ending_well
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import inside, labelled_rays
from splattingocc.data.nuscenes import read_index
from splattingocc.evaluation.rendering import RenderingScores
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.generate import generate_labels
from splattingocc.losses.distance import log_distance_error, silog
from splattingocc.losses.line_of_sight import line_of_sight
from splattingocc.losses.semantic import class_nll
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.render import render
from splattingocc.taxonomy import NUM_CLASSES

NEAR, FAR, MARGIN = 0.2, 65.0, 0.4
"""Metres along a ray that count, and how close to the label a hit must be."""
MAX_OPACITY = 0.99
LEARNING_RATES = {"opacity_logits": 0.3, "offset_logits": 0.1, "scale_logits": 0.2, "quats": 0.05, "class_logits": 0.3}


@dataclass(frozen=True)
class Options:
    """Which frame, and how long."""

    dataroot: Path
    """A folder in the nuScenes layout."""
    version: str = "v1.0-mini"
    """The tables to read."""
    frame: int = 0
    """Position of the key frame."""
    steps: int = 45
    """Full-batch steps of Adam."""
    held_out: float = 0.2
    """Share of rays that are only scored."""
    initial_opacity: float = 0.05
    min_scale: float = 0.04
    """Smallest standard deviation, metres."""
    max_scale: float = 0.3
    """Largest standard deviation, metres."""
    semantic: float = 1.0
    """Weight of the class loss."""
    distance: float = 0.5
    """Weight of the scale-invariant distance loss."""
    sight: float = 1.0
    """Weight of the line of sight."""


class FreeVolume(nn.Module):
    """One Gaussian in each cell of the Occ3D grid, every parameter its own."""

    centers: Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        count = OCC3D_GRID.num_cells
        opacity = options.initial_opacity / MAX_OPACITY
        self.register_buffer("centers", OCC3D_GRID.centers().reshape(-1, 3))
        self.opacity_logits = nn.Parameter(torch.full((count,), math.log(opacity / (1 - opacity))))
        self.offset_logits = nn.Parameter(torch.zeros(count, 3))
        self.scale_logits = nn.Parameter(torch.full((count, 3), -0.3))
        self.quats = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1))
        self.class_logits = nn.Parameter(torch.zeros(count, NUM_CLASSES))

    def forward(self) -> Gaussians:
        low, high = self.options.min_scale, self.options.max_scale
        return Gaussians(
            # A little less than half a cell: each Gaussian stays in its own.
            means=self.centers + 0.499 * OCC3D_GRID.cell_size * self.offset_logits.tanh(),
            quats=nn.functional.normalize(self.quats, dim=-1),
            scales=low + (high - low) * self.scale_logits.sigmoid(),
            opacities=MAX_OPACITY * self.opacity_logits.sigmoid(),
            features=self.class_logits.softmax(-1),
            grid=OCC3D_GRID,
        )


def read_rays(options: Options) -> tuple[tuple[Rays, RayLabels], tuple[Rays, RayLabels]]:
    """Return the rays to learn from and those held out, with their 2D labels; made on the spot, nothing is left behind."""
    with tempfile.TemporaryDirectory() as folder:
        index = read_index(options.dataroot, options.version, cache_dir=Path(folder))
        if not 0 <= options.frame < len(index):
            raise SystemExit(f"--frame {options.frame}: {options.version} has key frames 0 to {len(index) - 1}")
        scene = next(scene.name for scene in index.scenes if options.frame in index.of_scenes([scene.name]))
        generate_labels(index, options.dataroot, Path(folder) / "labels", scenes=[scene], show_progress=False)
        store, key_frame = LabelStore.open(Path(folder) / "labels"), index[options.frame]
        train = labelled_rays(key_frame, store, part="train", held_out_fraction=options.held_out)
        held_out = labelled_rays(key_frame, store, part="held_out", held_out_fraction=options.held_out)
    return inside(*train, OCC3D_GRID), inside(*held_out, OCC3D_GRID)


def render_labelled(gaussians: Gaussians, rays: Rays, labels: RayLabels) -> Rendering:
    return render(gaussians, rays, near=NEAR, far=FAR, label_distances=labels.distances, margin=MARGIN)


def loss_of(rendering: Rendering, labels: RayLabels, options: Options) -> Tensor:
    """Compare a rendering with the 2D labels."""
    assert rendering.in_front is not None
    assert rendering.at_hit is not None
    nll = class_nll(rendering.features, labels.semantics, class_weights=torch.ones(NUM_CLASSES)).mean()
    distance = silog(log_distance_error(rendering.distances, labels.distances), labels.weights, variance_focus=0.85)
    sight = line_of_sight(rendering.in_front, rendering.at_hit, labels.distances).mean()
    return options.semantic * nll + options.distance * distance + options.sight * sight


def main(options: Options) -> None:
    if options.steps < 1 or not 0 < options.held_out < 1:
        raise ValueError(f"--steps {options.steps} --held-out {options.held_out}: expected at least one step and a share between 0 and 1")
    (rays, labels), (held_out_rays, held_out_labels) = read_rays(options)
    print(f"{len(labels.distances)} rays train, {len(held_out_labels.distances)} are held out")
    volume = FreeVolume(options)
    groups = [{"params": [getattr(volume, name)], "lr": rate} for name, rate in LEARNING_RATES.items()]
    # Shorter memories than usual: there are only a few dozen steps.
    optimizer = torch.optim.Adam(groups, betas=(0.8, 0.95))
    start = time.perf_counter()
    for step in range(options.steps):
        optimizer.zero_grad()
        loss = loss_of(render_labelled(volume(), rays, labels), labels, options)
        loss.backward()
        optimizer.step()
        print(f"step {step + 1:3d}/{options.steps}  loss {loss.item():.3f}  {time.perf_counter() - start:.0f} s", flush=True)
    scores = RenderingScores()
    with torch.no_grad():
        scores.update(render_labelled(volume(), held_out_rays, held_out_labels), held_out_labels)
    results = scores.compute()
    print("held-out rays:")
    for name in ("median_relative_error", "class_accuracy", "mass_in_front", "mass_at_hit"):
        print(f"  {name:22s} {results[name]:.3f}")


if __name__ == "__main__":
    with ending_well(Path(__file__).name, is_last=True):
        main(tyro.cli(Options, description=__doc__))
