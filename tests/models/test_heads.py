"""The heads beside the default one: what is fixed stays fixed, and a density is read as it was predicted."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.cell_head import EVIDENCE_CENTER, EVIDENCE_FLOOR, MAX_OPACITY
from splattingocc.models.density_head import DensityHead, DensityHeadConfig
from splattingocc.models.evidence import Evidence
from splattingocc.models.gaussian_head import GaussianHead, GaussianHeadConfig
from splattingocc.models.interfaces import ChosenCells
from splattingocc.splatting.density import DensityVolume

GRID = VoxelGrid((-3.2, -3.2, -0.8), (3.2, 3.2, 2.4), 0.4)
FIXED: dict[str, Any] = {"learn_offsets": False, "learn_scales": False, "learn_rotations": False, "initial_scale": 0.1}


def random_inputs(coarsening: int) -> tuple[torch.Tensor, Evidence]:
    shape = GRID.coarsen(coarsening).shape
    return torch.randn(2, 4, *shape), Evidence(0.2 * torch.rand(2, GRID.num_cells), torch.rand(2, GRID.num_cells, 17).softmax(-1))


def test_fixed_gaussians_stay_at_the_centres_round_and_of_one_size():
    torch.manual_seed(0)
    head = GaussianHead(GaussianHeadConfig(**FIXED), 4, GRID, 2)
    volume, evidence = random_inputs(2)
    gaussians = head(volume, evidence)
    assert torch.equal(gaussians.means, head.centers.expand(2, -1, -1))
    assert torch.equal(gaussians.scales, torch.full((2, GRID.num_cells, 3), 0.1))
    assert torch.equal(gaussians.quats, torch.tensor([1.0, 0, 0, 0]).expand(2, GRID.num_cells, 4))
    assert gaussians.opacities.std() > 0
    (gaussians.opacities.sum() + gaussians.features[..., 0].sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize("learned", ["learn_offsets", "learn_scales", "learn_rotations"])
def test_what_is_learned_alone_changes_alone(learned: str):
    torch.manual_seed(0)
    head = GaussianHead(GaussianHeadConfig(**FIXED | {learned: True}), 4, GRID, 1)
    torch.nn.init.normal_(head.geometry.weight)
    gaussians = head(*random_inputs(1))
    varies = {
        "learn_offsets": (gaussians.means - head.centers).std() > 0.01,
        "learn_scales": gaussians.scales.std() > 0.01,
        "learn_rotations": gaussians.quats.std(dim=1).min() > 0.01,
    }
    assert [name for name, does in varies.items() if does] == [learned]
    assert torch.allclose(gaussians.quats.norm(dim=-1), torch.ones(()), atol=1e-5)


def test_a_scale_that_is_not_learned_needs_no_bounds():
    assert GaussianHeadConfig(**FIXED | {"initial_scale": 0.01}).largest_scale == 0.01
    with pytest.raises(ValidationError, match=r"head\.initial_scale is 0\.01 m, expected more than"):
        GaussianHeadConfig(initial_scale=0.01)


@pytest.mark.parametrize("coarsening", [1, 2])
def test_a_density_lies_in_the_cells_that_the_head_predicted_it_for(coarsening: int):
    torch.manual_seed(0)
    head = DensityHead(DensityHeadConfig(), 4, GRID, coarsening)
    _, evidence = random_inputs(coarsening)
    volume = torch.zeros(2, 4, *GRID.coarsen(coarsening).shape)
    field = head(volume, evidence)
    assert isinstance(field, DensityVolume)
    cells, inside = GRID.cells_of(head.centers)
    assert inside.all()
    odds = 0.03 / (MAX_OPACITY - 0.03) * (evidence.surface + EVIDENCE_FLOOR) / EVIDENCE_CENTER
    expected = MAX_OPACITY * odds / (1 + odds)
    x, y, z = cells.unbind(-1)
    torch.testing.assert_close(1 - torch.exp(-field.densities[:, x, y, z] * GRID.cell_size), expected)
    assert torch.equal(field.features[:, x, y, z].argmax(-1), evidence.classes.argmax(-1))
    occupancy = field[0].read_out(GRID, threshold=0.5)
    torch.testing.assert_close(occupancy.probabilities[x, y, z], expected[0])


@pytest.mark.parametrize("coarsening", [1, 2])
def test_chosen_cells_are_predicted_as_among_all_of_them(coarsening: int):
    torch.manual_seed(0)
    head = GaussianHead(GaussianHeadConfig(), 4, GRID, coarsening)
    for layer in (head.geometry, head.classes):
        torch.nn.init.normal_(layer.weight)
    volume, evidence = random_inputs(coarsening)
    whole = head(volume, evidence)
    cells = torch.stack([torch.randperm(GRID.num_cells)[:200].sort().values for _ in range(2)])
    at = torch.arange(2)[:, None], cells
    few = head(volume, Evidence(evidence.surface, evidence.classes[at]), ChosenCells(cells))
    for name in ("means", "quats", "scales", "opacities", "features"):
        torch.testing.assert_close(getattr(few, name), getattr(whole, name)[at])
    torch.testing.assert_close(few.mean_opacity, whole.opacities.mean(dim=1))


@pytest.mark.parametrize("coarsening", [1, 2, 4])
def test_a_head_knows_which_of_its_cells_holds_a_point(coarsening: int):
    head = GaussianHead(GaussianHeadConfig(), 4, GRID, coarsening)
    chosen = torch.randperm(GRID.num_cells)[:50]
    points = head.centers[chosen] + 0.19 * (2 * torch.rand(50, 3) - 1)
    outside = torch.tensor([[0.0, 0.0, 2.5], [-3.3, 0.0, 0.0]])
    behind_the_last = [GRID.num_cells] * len(outside)
    assert head.indices_of(torch.cat([points, outside])).tolist() == [*chosen.tolist(), *behind_the_last]


def test_the_gradient_of_the_opacities_is_as_exact_as_that_of_a_layer():
    """Summed over as many cells as a grid has, beside float64."""
    torch.manual_seed(0)
    grid = VoxelGrid((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)
    head = GaussianHead(GaussianHeadConfig(), 16, grid, 2)
    volume = torch.rand(1, 16, *grid.coarsen(2).shape).contiguous(memory_format=torch.channels_last_3d)
    evidence = Evidence(torch.zeros(1, grid.num_cells), torch.zeros(1, grid.num_cells, 0))
    head.opacities_of_all(volume, evidence).sum().backward()
    found = head.geometry.weight.grad
    assert found is not None
    found = found.double()
    head.zero_grad()
    evidence = Evidence(evidence.surface.double(), evidence.classes.double())
    head.double().opacities_of_all(volume.double(), evidence).sum().backward()
    expected = head.geometry.weight.grad
    assert expected is not None
    assert (found - expected).norm() < 1e-6 * expected.norm()
