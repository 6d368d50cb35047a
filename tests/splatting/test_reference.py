import dataclasses

import torch
from scenes import random_gaussians, random_means, random_rays
from torch import Tensor

from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.reference import render_reference


def test_the_gradient_of_the_reference_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(2)
    gaussians = random_gaussians(random_means(40, generator), generator, channels=2, scales=(0.3, 0.5)).map(Tensor.double)
    rays = random_rays(5, generator, spread=0.5).map(Tensor.double)
    labels = torch.tensor([1.0, 2.0, 0.5, 3.0, float("nan")], dtype=torch.float64)

    def outputs(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        moved = Gaussians(means, quats, scales, opacities, features, gaussians.grid)
        rendering: Rendering = render_reference(moved, rays, near=0.1, far=9.0, label_distances=labels)
        assert rendering.in_front is not None
        assert rendering.at_hit is not None
        return rendering.features, rendering.distances, rendering.alphas, rendering.in_front, rendering.at_hit

    fields = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features]
    assert outputs(*fields)[2].min() > 0.01, "every ray must meet something"
    assert torch.autograd.gradcheck(outputs, [field.clone().requires_grad_() for field in fields], eps=1e-7, atol=1e-5)


def test_a_clamped_alpha_has_no_gradient_to_opacity():
    generator = torch.Generator().manual_seed(0)
    gaussians = random_gaussians(torch.zeros(1, 3), generator)
    opacities = torch.tensor([1.0], requires_grad=True)
    rays = random_rays(1, generator)
    rays = dataclasses.replace(rays, origins=-2.0 * rays.directions)
    rendering = render_reference(dataclasses.replace(gaussians, opacities=opacities), rays, near=0.1, far=9.0)
    assert rendering.alphas.item() == torch.tensor(0.99).item()
    (gradient,) = torch.autograd.grad(rendering.alphas.sum(), opacities)
    assert gradient.item() == 0
