"""What rays meet of Gaussians: a rendering is made of nothing else, and is the same from the walk that found it."""

import dataclasses
from typing import Any

import pytest
import torch
from scenes import FIELDS, GRID, random_gaussians, random_means
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.kernels.gaussian_render import HITS_PER_RAY
from splattingocc.kernels.gaussian_scene import index_gaussians
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.reference import render_reference
from splattingocc.splatting.walk import Walk

RANGE: dict[str, Any] = {"near": 0.2, "far": 5.0}


def rays_from_one_side(count: int, generator: torch.Generator) -> Rays:
    """Rays through half of the grid, so that the other half is met by none."""
    origins = torch.tensor([-2.3, -1.5, 0.0]) + 0.1 * torch.rand(count, 3, generator=generator)
    directions = torch.tensor([1.0, 0.3, 0.0]) + 0.2 * torch.randn(count, 3, generator=generator)
    return Rays(origins, torch.nn.functional.normalize(directions, dim=-1))


def walked(gaussians: Gaussians, rays: Rays) -> tuple[Tensor, Walk]:
    fields = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
    walk = Walk.through(index_gaussians(*fields, gaussians.grid), gaussians.grid, rays, **RANGE)
    return walk.met_ids(), walk


def results_and_gradients(gaussians: Gaussians, rays: Rays, labels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a rendering, and the gradient to each field of the Gaussians of a loss that weighs all of it."""
    leaves = {name: getattr(gaussians, name).detach().clone().requires_grad_() for name in FIELDS}
    rendering = dataclasses.replace(gaussians, **leaves).render(rays, **RANGE, label_distances=labels)
    results = {name: value for name, value in vars(rendering).items() if value is not None}
    weighed = [(value * torch.linspace(0.5, 1.5, value.numel()).view(value.shape)).sum() for value in results.values()]
    torch.stack(weighed).sum().backward()
    return results, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("count", "num_rays", "largest_opacity"), [(400, 60, 0.9), (20_000, 20, 0.02)], ids=["few", "more than are noted of a ray"]
)
def test_the_gaussians_that_are_met_render_as_all_of_them_and_take_all_of_the_gradient(count: int, num_rays: int, largest_opacity: float):
    generator = torch.Generator().manual_seed(0)
    gaussians = random_gaussians(random_means(count, generator), generator)
    gaussians = dataclasses.replace(gaussians, opacities=largest_opacity * torch.rand(count, generator=generator))
    rays = rays_from_one_side(num_rays, generator)
    labels = 1 + 3 * torch.rand(num_rays, generator=generator)
    ids, walk = walked(gaussians, rays)
    assert 0 < len(ids) < count
    assert bool((walk.hits.counts == HITS_PER_RAY).any()) == (largest_opacity < 0.1)
    # In another order than they were in, and beside some that no ray meets
    unmet = torch.ones(count, dtype=torch.bool).index_fill(0, ids, False).nonzero().squeeze(1)
    rows = torch.cat([ids.flip(0), unmet[:5]])
    kept = walk.keep_met(torch.arange(len(ids)).flip(0))
    few = dataclasses.replace(gaussians[rows], walks=(kept,))
    results, gradients = results_and_gradients(few, rays, labels)
    expected, expected_gradients = results_and_gradients(gaussians, rays, labels)
    for name, value in expected.items():
        torch.testing.assert_close(results[name], value, rtol=1e-6, atol=1e-7)
    for name, gradient in expected_gradients.items():
        spread = torch.zeros_like(gradient).index_put((rows,), gradients[name])
        torch.testing.assert_close(spread, gradient, rtol=1e-4, atol=1e-5)
    assert all(gradient.any() for gradient in gradients.values())


def test_what_is_met_is_what_the_reference_gives_a_gradient():
    generator = torch.Generator().manual_seed(1)
    gaussians = random_gaussians(random_means(300, generator), generator)
    rays = rays_from_one_side(40, generator)
    features = gaussians.features.clone().requires_grad_()
    render_reference(dataclasses.replace(gaussians, features=features), rays, **RANGE).features.sum().backward()
    assert features.grad is not None
    assert set(walked(gaussians, rays)[0].tolist()) == set(features.grad.any(dim=1).nonzero().squeeze(1).tolist())


def test_no_other_rays_no_grid_and_no_other_points_are_answered():
    generator = torch.Generator().manual_seed(2)
    gaussians = random_gaussians(random_means(200, generator), generator)
    rays = rays_from_one_side(10, generator)
    ids, walk = walked(gaussians, rays)
    few = dataclasses.replace(gaussians[ids], walks=(walk.keep_met(torch.arange(len(ids))),))
    few.render(rays, **RANGE)
    with pytest.raises(ValueError, match="expected the rays, near and far that were asked for"):
        few.render(Rays(rays.origins + 0.1, rays.directions), **RANGE)
    with pytest.raises(ValueError, match="expected the rays, near and far that were asked for"):
        few.render(rays, near=0.2, far=4.0)
    with pytest.raises(ValueError, match="expected all of them to read out a grid"):
        few.read_out(GRID, threshold=0.5)
    with pytest.raises(ValueError, match="expected points that were asked for"):
        few.query(torch.tensor([[2.3, 1.9, 1.3]]))


def test_rays_that_meet_nothing_keep_nothing():
    generator = torch.Generator().manual_seed(3)
    gaussians = random_gaussians(random_means(50, generator), generator)
    rays = Rays(torch.tensor([[10.0, 0, 0]]), torch.tensor([[1.0, 0, 0]]))
    ids, walk = walked(gaussians, rays)
    assert len(ids) == 0
    few = dataclasses.replace(gaussians[ids], walks=(walk.keep_met(ids),))
    assert few.render(rays, **RANGE).alphas.tolist() == [0.0]
