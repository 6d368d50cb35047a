"""NeRF sampling that skips empty cells: it must be the plain one wherever what it skips is empty."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.splatting.nerf import render_nerf
from splattingocc.splatting.skipping_nerf import occupied_places, render_skipping_nerf

GRID = VoxelGrid((-2.0, -1.6, -1.0), (2.0, 2.4, 1.4), 0.4)
OPTIONS = {"near": 0.2, "far": 5.0, "num_samples": 60}
NUM_RAYS = 80
RESULTS = ("features", "distances", "alphas", "in_front", "at_hit")


def scene(*, filled: float = 0.15, density: float = 6.0) -> tuple[Tensor, Tensor, Rays, Tensor]:
    """Return densities, most of them exactly 0, features, rays that start inside and outside, and labels, one of them nan."""
    generator = torch.Generator().manual_seed(3)
    occupied = torch.rand(GRID.shape, generator=generator) < filled
    densities = (density * (0.2 + torch.rand(GRID.shape, generator=generator)) * occupied).requires_grad_()
    features = torch.randn(*GRID.shape, 4, generator=generator).requires_grad_()
    origins = 3 * (torch.rand(NUM_RAYS, 3, generator=generator) - 0.5)
    directions = torch.nn.functional.normalize(torch.randn(NUM_RAYS, 3, generator=generator), dim=-1)
    directions[0] = torch.tensor([1.0, 0.0, 0.0])
    origins[0], origins[1], directions[1] = torch.tensor([-3.0, 0.1, 0.1]), torch.tensor([9.0, 9.0, 9.0]), torch.tensor([0.0, 0.0, 1.0])
    labels = 3 * torch.rand(NUM_RAYS, generator=generator)
    labels[2] = math.nan
    return densities, features, Rays(origins, directions), labels


def rendered(densities: Tensor, features: Tensor, rays: Rays, labels: Tensor, *, skipping: bool, **options: float) -> dict[str, Tensor]:
    """Return results and the gradients of a sum over all of them."""
    if skipping:
        occupied = occupied_places(densities, GRID.cell_size)
        rendering = render_skipping_nerf(
            densities, features, GRID, rays, occupied=occupied, label_distances=labels, **{**OPTIONS, "min_transmittance": 0.0, **options}
        )
    else:
        rendering = render_nerf(densities, features, GRID, rays, label_distances=labels, **OPTIONS)
    results = {name: getattr(rendering, name) for name in RESULTS}
    loss = sum((number + 1) * result.square().sum() for number, result in enumerate(results.values()))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, [densities, features])
    return {**results, "of densities": gradients[0], "of features": gradients[1]}


def test_skipping_what_is_empty_renders_the_same_and_has_the_same_gradients():
    densities, features, rays, labels = scene()
    plain, skipping = (rendered(densities, features, rays, labels, skipping=skipping) for skipping in (False, True))
    assert plain["alphas"].max() > 0.9
    for name in (*RESULTS, "of features"):
        torch.testing.assert_close(skipping[name], plain[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    # An empty cell would learn from samples that are not made; all samples of one that is not empty are
    occupied = densities > 0
    torch.testing.assert_close(skipping["of densities"][occupied], plain["of densities"][occupied], rtol=1e-3, atol=1e-4)
    assert plain["of densities"][occupied].abs().max() > 0.1


def test_what_light_does_not_reach_changes_results_by_that_light_alone():
    densities, features, rays, labels = scene(filled=0.6, density=20.0)
    whole, cut = (rendered(densities, features, rays, labels, skipping=True, min_transmittance=least) for least in (0.0, 0.01))
    assert not torch.equal(whole["alphas"], cut["alphas"])
    assert (whole["alphas"] - cut["alphas"]).abs().max() <= 0.01


def test_a_place_is_occupied_where_any_of_the_cells_around_it_is():
    densities = torch.zeros(GRID.shape)
    densities[2, 3, 1] = 1.0
    found = occupied_places(densities, GRID.cell_size).nonzero()
    assert found.tolist() == [[x, y, z] for x in (2, 3) for y in (3, 4) for z in (1, 2)]
    assert not occupied_places(torch.full(GRID.shape, 0.003 / GRID.cell_size), GRID.cell_size).any()
    assert occupied_places(torch.full(GRID.shape, 0.005 / GRID.cell_size), GRID.cell_size).all()


@pytest.mark.parametrize("empty", ["volume", "rays"])
def test_nothing_to_sample_is_no_mass(empty: str):
    densities, features, rays, labels = scene()
    if empty == "volume":
        densities = torch.zeros_like(densities, requires_grad=True)
    else:
        rays, labels = rays[:0], labels[:0]
    found = rendered(densities, features, rays, labels, skipping=True)
    assert found["features"].shape == (len(labels), 4)
    assert not any(found[name].any() for name in found)
