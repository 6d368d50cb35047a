"""The specification of rendering and read-out: plain torch, every ray against every Gaussian, differentiated by autograd.

For a ray o + t·d and a Gaussian (μ, R(q), s, p, f): W = diag(1/s)·Rᵀ, a = W(o−μ), b = W d, t* = −a·b / b·b, r = a + t*·b,
α = min(p·exp(−½|r|²), MAX_ALPHA). Gaussians whose centre is outside of the grid, with α < MIN_ALPHA, or with t_c = d·(μ−o) outside
of [near, far] do not count. The others are composited in increasing t_c (equal ones in the order of their cells, those of a cell in
their own), each as long as T ≥ MIN_TRANSMITTANCE before it: w = T·α, T ← T·(1−α). What is dropped and where a ray stops are
piecewise constant, and a clamped α has no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import rotation_from_quat
from splattingocc.kernels.gaussian_index import MIN_ALPHA
from splattingocc.kernels.gaussian_render import MAX_ALPHA, MIN_TRANSMITTANCE
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians


def render_reference(
    gaussians: Gaussians,
    rays: Rays,
    *,
    near: float,
    far: float,
    label_distances: Float[Tensor, " ray"] | None = None,
    margin: float = 0.4,
) -> Rendering:
    """Render one (unbatched) set of Gaussians as `splatting.render.render` does, in the dtype given and with rays × Gaussians memory."""
    gaussians = gaussians[_order_of_cells(gaussians)]
    whitening = rotation_from_quat(gaussians.quats).mT / gaussians.scales[:, :, None]
    to_origin = rays.origins[:, None] - gaussians.means
    a = torch.einsum("gij,rgj->rgi", whitening, to_origin)
    b = torch.einsum("gij,rj->rgi", whitening, rays.directions)
    distances = -(a * b).sum(-1) / (b * b).sum(-1)
    r = a + distances[..., None] * b
    alphas = gaussians.opacities * torch.exp(-0.5 * (r * r).sum(-1))
    center_distances = -(to_origin * rays.directions[:, None]).sum(-1)
    inside = gaussians.grid.cells_of(gaussians.means)[1]
    counts = inside & (alphas >= MIN_ALPHA) & (center_distances >= near) & (center_distances <= far)
    alphas = torch.where(counts, alphas.clamp(max=MAX_ALPHA), torch.zeros_like(alphas))

    order = center_distances.argsort(dim=-1, stable=True)
    alphas, distances = alphas.gather(-1, order), distances.gather(-1, order)
    passed = torch.cat([torch.ones_like(alphas[:, :1]), (1 - alphas).cumprod(-1)], dim=-1)[:, :-1]
    weights = torch.where(passed >= MIN_TRANSMITTANCE, passed * alphas, torch.zeros_like(alphas))

    mass = weights.sum(-1)
    moment = (weights * distances).sum(-1)
    hit = mass > 0
    expected = torch.where(hit, moment / torch.where(hit, mass, torch.ones_like(mass)), torch.zeros_like(mass))
    features = (weights[..., None] * gaussians.features[order]).sum(-2)
    if label_distances is None:
        return Rendering(features, expected, mass)
    labels = label_distances[:, None]
    in_front = torch.where(distances < labels - margin, weights, torch.zeros_like(weights)).sum(-1)
    at_hit = torch.where((distances - labels).abs() <= margin, weights, torch.zeros_like(weights)).sum(-1)
    return Rendering(features, expected, mass, in_front, at_hit)


def _order_of_cells(gaussians: Gaussians) -> Int64[Tensor, " gaussian"]:
    grid = gaussians.grid
    cells, _ = grid.cells_of(gaussians.means)
    return ((cells[:, 0] * grid.shape[1] + cells[:, 1]) * grid.shape[2] + cells[:, 2]).argsort(stable=True)


def read_out_reference(
    gaussians: Gaussians, points: Float[Tensor, "point 3"], *, variance: float
) -> tuple[Float[Tensor, " point"], Float[Tensor, "point channel"]]:
    """Return occupancy probabilities and unnormalised class scores at points, as `splatting.read_out.read_out` has them at cell centres.

    `variance` (m²) is added to every covariance, the peak is kept: α = p·exp(−½ (x−μ)ᵀ(Σ + variance·I)⁻¹(x−μ)); below MIN_ALPHA it does
    not count. The probability is 1 − Π(1 − α), the scores are Σ α f.
    """
    rotation = rotation_from_quat(gaussians.quats)
    covariance = rotation @ torch.diag_embed(gaussians.scales.square()) @ rotation.mT
    covariance = covariance + variance * torch.eye(3, dtype=covariance.dtype, device=covariance.device)
    offsets = points[:, None] - gaussians.means
    exponents = torch.einsum("pgi,gij,pgj->pg", offsets, torch.linalg.inv(covariance), offsets)
    alphas = gaussians.opacities * torch.exp(-0.5 * exponents)
    inside = gaussians.grid.cells_of(gaussians.means)[1]
    counts = inside & (gaussians.opacities >= MIN_ALPHA) & (alphas >= MIN_ALPHA)
    alphas = torch.where(counts, alphas, torch.zeros_like(alphas))
    return 1 - (1 - alphas).prod(-1), alphas @ gaussians.features
