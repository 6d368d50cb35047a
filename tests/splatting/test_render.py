import dataclasses
import math

import pytest
import torch
from scenes import (
    FIELDS,
    GRID,
    gradients_of,
    leaves,
    outputs_of,
    random_gaussians,
    random_labels,
    random_means,
    random_rays,
)
from torch import Tensor

from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import rigid
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.gaussian_render import HITS_PER_RAY
from splattingocc.kernels.gaussian_walk import PENDING
from splattingocc.splatting.field import Rendering
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.reference import render_reference
from splattingocc.splatting.render import render

NEAR, FAR = 0.2, 9.0
CPU_AND_CUDA = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")]
    ),
]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def assert_matches_reference(gaussians: Gaussians, rays: Rays, labels: Tensor | None, *, device: str = "cpu") -> Rendering:
    """Compare with the float64 reference: results within 1e-5, gradients within 1e-4 of the largest of each field."""
    ours, exact = leaves(gaussians, device=device), leaves(gaussians, torch.float64)
    labels_here, labels_exact = (labels.to(device), labels.double()) if labels is not None else (None, None)
    rendering = render(ours, rays.to(device), near=NEAR, far=FAR, label_distances=labels_here)
    reference = render_reference(exact, rays.map(Tensor.double), near=NEAR, far=FAR, label_distances=labels_exact)
    results, expected = outputs_of(rendering), outputs_of(reference)
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(results[name].double().cpu(), value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    gradients, expected_gradients = gradients_of(rendering, ours), gradients_of(reference, exact)
    for name in FIELDS:
        scale = expected_gradients[name].abs().max() if expected_gradients[name].numel() else torch.tensor(0.0)
        error = (gradients[name].double().cpu() - expected_gradients[name]).abs()
        assert (error <= 1e-4 * scale + 1e-9).all(), f"gradient to {name} is off by {error.max():.2e}, its largest entry is {scale:.2e}"
    return rendering.to("cpu").detach()


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("channels", [1, 3, 17, 18, 33])
def test_free_gaussians_match_the_reference_for_any_channel_count(channels, device, generator):
    gaussians = random_gaussians(random_means(400, generator), generator, channels=channels)
    rendering = assert_matches_reference(gaussians, random_rays(150, generator), random_labels(150, generator), device=device)
    assert rendering.alphas.max() > 0.5


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("scales", [(0.02, 0.06), (0.04, 0.12), (0.1, 0.45)])
def test_voxel_aligned_gaussians_of_any_reach_match_the_reference(scales, device, generator):
    centers = GRID.centers().reshape(-1, 3)
    means = centers + 0.39 * (torch.rand(centers.shape, generator=generator) - 0.5)
    gaussians = random_gaussians(means, generator, scales=scales)
    assert_matches_reference(gaussians, random_rays(100, generator), random_labels(100, generator), device=device)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_supports_of_four_cells_match_the_reference(device, generator):
    gaussians = random_gaussians(random_means(60, generator), generator, scales=(0.05, 0.47))
    gaussians = dataclasses.replace(gaussians, opacities=torch.full((60,), 0.95))
    assert_matches_reference(gaussians, random_rays(200, generator), random_labels(200, generator), device=device)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_clusters_of_many_gaussians_in_a_cell_match_the_reference(device, generator):
    clusters = random_means(6, generator)
    means = clusters.repeat_interleave(60, 0) + 0.1 * torch.randn(360, 3, generator=generator)
    gaussians = random_gaussians(means, generator, scales=(0.02, 0.1))
    rays = random_rays(150, generator)
    toward = torch.nn.functional.normalize(clusters[torch.arange(150) % 6] - rays.origins, dim=-1)
    rays = dataclasses.replace(rays, directions=torch.where(torch.arange(150)[:, None] < 100, toward, rays.directions))
    assert_matches_reference(gaussians, rays, random_labels(150, generator), device=device)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("slanted", [False, True])
def test_more_gaussians_waiting_than_the_buffer_holds_match_the_reference(slanted, device, generator):
    count = 4 * PENDING
    means = torch.tensor([0.0, 0.0, 0.2]) + 0.15 * torch.randn(count, 3, generator=generator)
    gaussians = random_gaussians(means, generator, scales=(0.05, 0.2))
    # Faint, so that the ray goes on through all of them
    gaussians = dataclasses.replace(gaussians, opacities=0.005 + 0.015 * torch.rand(count, generator=generator))
    directions = torch.tensor([[1.0, 1.0, 1.0] if slanted else [1.0, 0.0, 0.0]]).repeat(40, 1)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    rays = Rays(torch.tensor([0.0, 0.0, 0.2]) - 3 * directions + 0.1 * torch.randn(40, 3, generator=generator), directions)
    rendering = assert_matches_reference(gaussians, rays, random_labels(40, generator), device=device)
    assert rendering.alphas.max() < 0.999, "the rays stopped before the buffer could run over"


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_more_gaussians_on_a_ray_than_are_noted_for_the_backward_pass_match_the_reference(device, generator):
    count, opacity = 2 * HITS_PER_RAY, 0.01
    means = torch.linspace(-2.3, 2.3, count)[:, None] * torch.tensor([1.0, 0.0, 0.0]) + 0.01 * torch.randn(count, 3, generator=generator)
    gaussians = random_gaussians(means, generator, scales=(0.1, 0.2))
    gaussians = dataclasses.replace(gaussians, opacities=torch.full((count,), opacity))
    directions = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).repeat(10, 1)
    rays = Rays(0.01 * torch.randn(20, 3, generator=generator) - 2.5 * directions, directions)
    rendering = assert_matches_reference(gaussians, rays, random_labels(20, generator), device=device)
    assert rendering.alphas.min() > 1 - (1 - opacity) ** HITS_PER_RAY, "no ray met more than are noted"


def test_axis_parallel_rays_match_the_reference(generator):
    directions = torch.cat([torch.eye(3), -torch.eye(3)]).repeat(20, 1)
    # Origins on cell borders, cell centres and anywhere; exact ties in t_c on the aligned set
    origins = random_means(120, generator)
    origins[:40] = 0.4 * (origins[:40] / 0.4).round()
    gaussians = random_gaussians(GRID.centers().reshape(-1, 3), generator, scales=(0.1, 0.3))
    assert_matches_reference(gaussians, Rays(origins - 3 * directions, directions), random_labels(120, generator))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_gaussians_at_one_distance_are_composited_in_the_order_of_their_cells(order: list[int]):
    """On a ray along an axis that passes between cells, whose Gaussians are at their centres."""
    grid = VoxelGrid((0.0, 0.0, 0.0), (4.0, 4.0, 4.0), 0.5)
    means = torch.tensor([[2.25, 1.75, 2.25], [2.25, 2.25, 2.25], [2.25, 2.25, 2.25]])[order]
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1), torch.full((3, 3), 0.3)
    gaussians = Gaussians(means, quats, scales, torch.full((3,), 0.9), torch.eye(3)[order], grid)
    rays = Rays(torch.tensor([[0.1, 2.0, 2.25]]), torch.tensor([[1.0, 0.0, 0.0]]))
    found, expected = (way(gaussians, rays, near=NEAR, far=FAR).features for way in (render, render_reference))
    torch.testing.assert_close(found, expected)
    assert found[0, 0] > found[0, 1:].max()


def test_rays_that_miss_see_nothing(generator):
    gaussians = random_gaussians(random_means(200, generator), generator)
    rays = random_rays(50, generator)
    away = Rays(rays.origins + torch.tensor([20.0, 0.0, 0.0]), torch.tensor([[0.0, 0.6, 0.8]]).repeat(50, 1))
    rendering = assert_matches_reference(gaussians, away, random_labels(50, generator))
    assert all((output == 0).all() for output in outputs_of(rendering).values())


@pytest.mark.parametrize(("num_gaussians", "num_rays"), [(0, 7), (5, 0), (0, 0)])
def test_empty_sets_render_to_zeros_and_zero_gradients(num_gaussians, num_rays, generator):
    gaussians = leaves(random_gaussians(random_means(num_gaussians, generator), generator))
    rendering = render(gaussians, random_rays(num_rays, generator), near=NEAR, far=FAR, label_distances=random_labels(num_rays, generator))
    assert rendering.features.shape == (num_rays, 3)
    assert all((output == 0).all() for output in outputs_of(rendering).values())
    assert all((gradient == 0).all() for gradient in gradients_of(rendering, gaussians).values())


def test_a_ray_through_the_centre_of_one_gaussian_sees_its_opacity_at_its_distance():
    gaussians = Gaussians(
        torch.tensor([[1.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.1),
        torch.tensor([0.7]),
        torch.ones(1, 1),
        GRID,
    )
    rays = Rays(torch.tensor([[-1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    rendering = render(gaussians, rays, near=NEAR, far=FAR, label_distances=torch.tensor([2.3]), margin=0.4)
    torch.testing.assert_close(rendering.alphas, torch.tensor([0.7]))
    torch.testing.assert_close(rendering.distances, torch.tensor([2.0]))
    torch.testing.assert_close(rendering.at_hit, torch.tensor([0.7]))
    assert rendering.in_front is not None
    assert rendering.in_front.item() == 0


def test_opacities_zero_and_near_one_match_the_reference(generator):
    gaussians = random_gaussians(random_means(300, generator), generator)
    extremes = torch.tensor([0.0, 1.0 / 256, 0.995, 1.0])[torch.arange(300) % 4]
    gaussians = dataclasses.replace(gaussians, opacities=extremes)
    assert_matches_reference(gaussians, random_rays(150, generator), random_labels(150, generator))


def test_gaussians_with_centres_outside_of_the_grid_are_not_rendered(generator):
    gaussians = random_gaussians(2 * random_means(300, generator), generator)
    assert not GRID.cells_of(gaussians.means)[1].all()
    assert_matches_reference(gaussians, random_rays(100, generator), None)


def test_without_label_distances_there_are_no_line_of_sight_masses(generator):
    rendering = render(random_gaussians(random_means(50, generator), generator), random_rays(9, generator), near=NEAR, far=FAR)
    assert rendering.in_front is None
    assert rendering.at_hit is None


def test_one_and_two_threads_render_the_same_bits(generator):
    gaussians = random_gaussians(random_means(800, generator), generator)
    rays, labels = random_rays(500, generator), random_labels(500, generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            ours = leaves(gaussians)
            rendering = render(ours, rays, near=NEAR, far=FAR, label_distances=labels)
            results.append((outputs_of(rendering.detach()), gradients_of(rendering, ours)))
    finally:
        torch.set_num_threads(threads)
    (outputs_one, gradients_one), (outputs_two, gradients_two) = results
    for name, value in outputs_one.items():
        assert torch.equal(value, outputs_two[name]), name
    for name, value in gradients_one.items():
        torch.testing.assert_close(value, gradients_two[name], rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def test_two_backward_passes_give_the_same_bits(generator):
    gaussians = leaves(random_gaussians(random_means(800, generator), generator))
    rays, labels = random_rays(500, generator), random_labels(500, generator)
    first, second = (gradients_of(render(gaussians, rays, near=NEAR, far=FAR, label_distances=labels), gaussians) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_batch_renders_as_its_elements_do(generator):
    elements = [random_gaussians(random_means(200, generator), generator) for _ in range(4)]
    bundles = [random_rays(40, generator) for _ in range(4)]
    labels = torch.stack([random_labels(40, generator) for _ in range(4)]).reshape(2, 2, 40)
    fields = {name: torch.stack([getattr(e, name) for e in elements]).unflatten(0, (2, 2)) for name in FIELDS}
    batch = leaves(Gaussians(**fields, grid=GRID))
    rays = Rays(
        torch.stack([b.origins for b in bundles]).unflatten(0, (2, 2)), torch.stack([b.directions for b in bundles]).unflatten(0, (2, 2))
    )
    rendering = render(batch, rays, near=NEAR, far=FAR, label_distances=labels)
    assert rendering.features.shape == (2, 2, 40, 3)
    single = render(elements[2], bundles[2], near=NEAR, far=FAR, label_distances=labels[1, 0])
    for name, value in outputs_of(single).items():
        assert torch.equal(outputs_of(rendering)[name][1, 0], value), name
    rendering.features[1, 0].sum().backward()
    assert batch.means.grad is not None
    assert batch.means.grad[1, 0].abs().sum() > 0
    assert batch.means.grad[0].abs().sum() == 0


@pytest.mark.parametrize(
    "turned", [torch.diag(torch.tensor([1.0, -1.0, 1.0])), torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0, 0, 1]])]
)
def test_flipping_or_turning_volume_and_rays_together_renders_the_same(turned, generator):
    grid = VoxelGrid((-2.0, -2.0, -1.0), (2.0, 2.0, 1.4), 0.4)
    gaussians = random_gaussians(random_means(500, generator, grid), generator, grid=grid)
    # Isotropic, so that turning the means turns the whole volume
    gaussians = dataclasses.replace(gaussians, scales=gaussians.scales[:, :1].repeat(1, 3))
    rays, labels = random_rays(200, generator, grid=grid), random_labels(200, generator)
    new_from_ego = rigid(turned, torch.zeros(3))
    moved = dataclasses.replace(gaussians, means=gaussians.means @ turned.T)
    before = outputs_of(render(gaussians, rays, near=NEAR, far=FAR, label_distances=labels))
    after = outputs_of(render(moved, rays.transform(new_from_ego), near=NEAR, far=FAR, label_distances=labels))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", math.nan),
        ("means", math.inf),
        ("quats", math.nan),
        ("quats", 2.0),
        ("scales", math.nan),
        ("scales", 0.0),
        ("scales", -0.1),
        ("scales", 50.0),
        ("opacities", math.nan),
        ("opacities", -0.1),
        ("opacities", 1.1),
        ("features", math.nan),
        ("features", -math.inf),
    ],
)
def test_a_bad_value_of_the_gaussians_is_refused_by_name(name, value, generator):
    gaussians = random_gaussians(random_means(50, generator), generator)
    getattr(gaussians, name).reshape(-1)[7] = value
    if name == "scales" and value == 50.0:
        gaussians.opacities[:] = 0.5
    with pytest.raises(ValueError, match=rf"gaussians\.{name}"):
        render(gaussians, random_rays(5, generator), near=NEAR, far=FAR)


@pytest.mark.parametrize(("name", "value"), [("origins", math.nan), ("directions", math.nan), ("directions", 1.5)])
def test_a_bad_value_of_the_rays_is_refused_by_name(name, value, generator):
    rays = random_rays(5, generator)
    getattr(rays, name)[3, 1] = value
    with pytest.raises(ValueError, match=rf"rays\.{name}"):
        render(random_gaussians(random_means(50, generator), generator), rays, near=NEAR, far=FAR)


@pytest.mark.parametrize("name", FIELDS)
def test_another_dtype_or_device_is_refused_by_name(name, generator):
    gaussians = random_gaussians(random_means(50, generator), generator)
    rays = random_rays(5, generator)
    for changed in (getattr(gaussians, name).double(), getattr(gaussians, name).to("meta")):
        with pytest.raises(ValueError, match=r"gaussians|rays"):
            render(dataclasses.replace(gaussians, **{name: changed}), rays, near=NEAR, far=FAR)


@pytest.mark.parametrize(("near", "far"), [(-1.0, 9.0), (3.0, 2.0), (0.1, math.inf), (math.nan, 9.0)])
def test_a_range_that_makes_no_sense_is_refused(near, far, generator):
    with pytest.raises(ValueError, match="near"):
        render(random_gaussians(random_means(5, generator), generator), random_rays(5, generator), near=near, far=far)
