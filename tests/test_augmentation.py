"""Augmentation changes nothing but the view of the same geometry: a plain and an augmented batch have the same losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.samples import TrainingSample
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.inputs import LossInputs
from splattingocc.losses.objective import Objective, ObjectiveConfig
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReading
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.render import render
from splattingocc.struct import stack

BINS = DepthBins()


def one_gaussian_in_some_cells(count: int) -> Gaussians:
    """Return isotropic Gaussians in different cells of the Occ3D grid, most of them where the tiny world has its road and wall."""
    centers = OCC3D_GRID.centers()[:, 60:140, :8].reshape(-1, 3)
    chosen = centers[torch.randperm(len(centers))[:count]]
    means = chosen + 0.15 * (2 * torch.rand(count, 3) - 1)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4)
    scales = (0.05 + 0.2 * torch.rand(count, 1)).expand(count, 3).contiguous()
    return Gaussians(means, quats, scales, 0.9 * torch.rand(count), torch.rand(count, 17).softmax(-1), OCC3D_GRID)


def losses_of(sample: TrainingSample, gaussians: Gaussians, reading: ImageReading) -> dict[str, float]:
    batch, volume = stack([sample]), stack([gaussians])
    torch.manual_seed(1)
    rendering = render(volume, batch.rays, near=0.5, far=70.0, label_distances=batch.labels.distances)
    inputs = LossInputs(
        reading=reading, field=volume, rendering=rendering, rays=batch.rays, labels=batch.labels, cameras=batch.views.cameras[:, 0]
    )
    return {name: value.item() for name, value in Objective(ObjectiveConfig(), BINS)(inputs).parts.items()}


@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(mirror_x_probability=1.0),
        AugmentConfig(mirror_y_probability=1.0),
        AugmentConfig(mirror_x_probability=1.0, mirror_y_probability=1.0),
        AugmentConfig(flip_probability=1.0),
        AugmentConfig(flip_probability=1.0, mirror_y_probability=1.0, brightness=0.3),
    ],
    ids=["mirror x", "mirror y", "mirror both", "flip images", "flip images, mirror y, colours"],
)
def test_augmented_and_plain_batches_have_equal_losses(tiny_dataroot: Path, tiny_store: Path, tmp_path: Path, augment: AugmentConfig):
    index, store = read_index(tiny_dataroot, "v1.0-tiny", cache_dir=tmp_path), LabelStore.open(tiny_store)
    plain, augmented = (
        TrainingSet(index, store, tiny_dataroot, LoaderConfig(image_size=(64, 176), num_rays=12_000, augment=config))[1]
        for config in (AugmentConfig(), augment)
    )
    torch.manual_seed(0)
    gaussians = one_gaussian_in_some_cells(20_000)
    reading = ImageReading(torch.zeros(1, 6, 2, 4, 44), torch.randn(1, 6, BINS.count, 16, 44), torch.randn(1, 6, 17, 16, 44))
    signs = torch.tensor([-1.0 if augment.mirror_x_probability else 1.0, -1.0 if augment.mirror_y_probability else 1.0, 1.0])
    moved = dataclasses.replace(gaussians, means=gaussians.means * signs)
    flipped = reading.map(lambda values: values.flip(-1)) if augment.flip_probability else reading
    before, after = losses_of(plain, gaussians, reading), losses_of(augmented, moved, flipped)
    assert all(value > 0 for name, value in before.items() if name != "empty")  # nothing of the tiny world lies outside of the grid
    assert after == pytest.approx(before, rel=1e-3)
