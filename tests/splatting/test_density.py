import math

import pytest
import torch
from scenes import GRID

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting import density
from splattingocc.splatting.density import DensityVolume
from splattingocc.splatting.nerf import render_nerf
from splattingocc.struct import stack


def random_volume(seed: int = 0) -> DensityVolume:
    generator = torch.Generator().manual_seed(seed)
    densities = 2 * torch.rand(GRID.shape, generator=generator)
    return DensityVolume(densities, torch.rand(*GRID.shape, 5, generator=generator).softmax(-1), GRID, 0.1)


def random_rays(count: int = 50) -> tuple[Rays, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return Rays(torch.zeros(count, 3), directions), 0.2 + torch.rand(count, generator=generator)


def mirrored(volume: DensityVolume) -> DensityVolume:
    return DensityVolume(volume.densities.flip(1), volume.features.flip(1), volume.grid, volume.sample_step)


def test_rays_in_parts_and_samples_of_a_batch_render_as_alone_forward_and_backward(monkeypatch: pytest.MonkeyPatch):
    """One call of `render_nerf` is the specification."""
    rays, labels = random_rays()
    volumes = [random_volume(seed).map(lambda tensor: tensor.requires_grad_()) for seed in (0, 1)]
    batch = stack(volumes)
    monkeypatch.setattr(density, "SAMPLED_AT_ONCE", 30 * 6 * 7)
    together = batch.render(stack([rays, rays]), near=0.0, far=3.0, label_distances=torch.stack([labels, labels]), margin=0.3)
    weights = torch.rand(len(labels))
    (together.distances * weights + together.features.sum(-1) + together.distortion).sum().backward()
    for i, volume in enumerate(volumes):
        leaves = volume.densities.detach().requires_grad_(), volume.features.detach().requires_grad_()
        alone = render_nerf(*leaves, GRID, rays, near=0.0, far=3.0, num_samples=30, label_distances=labels, margin=0.3)
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(together, name)[i], value)
        (alone.distances * weights + alone.features.sum(-1) + alone.distortion).sum().backward()
        torch.testing.assert_close(volume.densities.grad, leaves[0].grad)
        torch.testing.assert_close(volume.features.grad, leaves[1].grad)


def test_mirroring_volume_and_rays_renders_and_reads_the_same():
    rays, labels = random_rays()
    grid = VoxelGrid((-1.6, -1.6, -0.8), (1.6, 1.6, 0.8), 0.4)
    volume = DensityVolume(torch.rand(grid.shape), torch.rand(*grid.shape, 5), grid, 0.1)
    flip = torch.tensor([1.0, -1.0, 1.0])
    flipped = Rays(rays.origins * flip, rays.directions * flip)
    one, other = (
        field.render(lines, near=0.0, far=3.0, label_distances=labels) for field, lines in ((volume, rays), (mirrored(volume), flipped))
    )
    for name, value in vars(one).items():
        torch.testing.assert_close(getattr(other, name), value)
    assert torch.equal(mirrored(volume).read_out(grid, threshold=0.2).semantics.flip(1), volume.read_out(grid, threshold=0.2).semantics)


def test_read_out_and_queries_at_cell_centres_are_the_cells_own():
    volume = random_volume()
    occupancy = volume.read_out(GRID, threshold=0.3)
    expected = 1 - torch.exp(-volume.densities * GRID.cell_size)
    torch.testing.assert_close(occupancy.probabilities, expected)
    torch.testing.assert_close(volume.opacities, expected.flatten())
    classes = volume.features.argmax(-1)
    assert torch.equal(occupancy.semantics, torch.where(expected >= 0.3, classes, 5).to(torch.uint8))
    said = volume.query(GRID.centers().reshape(-1, 3))
    torch.testing.assert_close(said.opacities, expected.flatten())
    torch.testing.assert_close(said.features, volume.features.flatten(0, 2))
    assert said.valid.all()
    outside = volume.query(torch.tensor([[1e3, 0.0, 0.0]]))
    assert not outside.valid.any()
    assert outside.opacities.tolist() == [0.0]
    for threshold in (0.0, 1.5):
        with pytest.raises(ValueError, match="threshold: must be in"):
            volume.read_out(GRID, threshold=threshold)


def test_a_wall_a_cell_thick_stops_what_its_opacity_says():
    """Crossed at right angles: 1 − exp(−σ c), within what interpolation and sampling blur."""
    grid = VoxelGrid((0.0, -2.0, -2.0), (8.0, 2.0, 2.0), 0.4)
    densities = torch.zeros(grid.shape)
    densities[10] = -math.log(1 - 0.7) / 0.4
    volume = DensityVolume(densities, torch.ones(*grid.shape, 1), grid, 0.05)
    rays = Rays(torch.tensor([[0.0, 0.2, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]]))
    rendering = volume.render(rays, near=0.0, far=8.0)
    torch.testing.assert_close(rendering.alphas, torch.tensor([0.7]), atol=5e-3, rtol=0)
    torch.testing.assert_close(rendering.distances, torch.tensor([4.2]), atol=0.1, rtol=0)


def test_distortion_is_the_double_sum_of_its_definition():
    rays, _ = random_rays(4)
    volume = random_volume()
    found = render_nerf(volume.densities, volume.features, GRID, rays, near=0.0, far=2.0, num_samples=40).distortion
    assert found is not None
    step = 2.0 / 40
    t = step * (torch.arange(40) + 0.5)
    for i in range(4):
        points = rays.origins[i] + t[:, None] * rays.directions[i]
        sigma = torch.stack([_trilinear(volume, point) for point in points]) * step
        weights = torch.exp(-(sigma.cumsum(0) - sigma)) * (1 - torch.exp(-sigma))
        expected = (weights[:, None] * weights * (t[:, None] - t).abs()).sum() + weights.square().sum() * step / 3
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)


def _trilinear(volume: DensityVolume, point: torch.Tensor) -> torch.Tensor:
    """Interpolate one point by hand: weights of the eight centres around it; outside of the grid are zeros."""
    place = (point - torch.tensor(GRID.lower)) / GRID.cell_size - 0.5
    low = place.floor().long()
    total = torch.zeros(())
    for corner in range(8):
        cell = low + torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        if all(0 <= c < n for c, n in zip(cell.tolist(), GRID.shape)):
            total = total + volume.densities[tuple(cell.tolist())] * (1 - (place - cell).abs()).prod()
    return total
