import dataclasses

import pytest
import torch
from scenes import GRID, random_gaussians, random_means
from torch import Tensor

from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.read_out import cell_variance, read_out
from splattingocc.splatting.reference import read_out_reference
from splattingocc.taxonomy import GROUND_CLASSES, NUM_CLASSES


@pytest.mark.parametrize("widen_by_cell", [True, False])
def test_read_out_matches_the_reference(widen_by_cell):
    generator = torch.Generator().manual_seed(0)
    gaussians = random_gaussians(random_means(500, generator), generator, scales=(0.03, 0.4))
    occupancy = read_out(gaussians, GRID, threshold=0.6, widen_by_cell=widen_by_cell)
    variance = cell_variance(GRID) if widen_by_cell else 0.0
    centers = GRID.centers().reshape(-1, 3).double()
    probabilities, scores = read_out_reference(gaussians.map(Tensor.double), centers, variance=variance)
    torch.testing.assert_close(occupancy.probabilities.flatten().double(), probabilities, rtol=1e-5, atol=1e-5)
    expected = torch.where(probabilities >= 0.6, scores.argmax(-1), torch.full_like(scores.argmax(-1), 3))
    assert 0.05 < (expected < 3).double().mean() < 0.95
    assert torch.equal(occupancy.semantics.flatten().long(), expected)


def one_wall(offset: float) -> Gaussians:
    """A thin, opaque disc across x, `offset` metres from the centre of the cell around (0.2, 0.2, 0)."""
    return Gaussians(
        torch.tensor([[0.2 + offset, 0.2, 0.0]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[0.04, 0.2, 0.2]]),
        torch.tensor([0.95]),
        torch.tensor([[0.1, 0.9]]),
        GRID,
    )


def test_a_thin_wall_off_the_middle_fills_its_cell_only_when_widened():
    (cell,), _ = GRID.cells_of(torch.tensor([[0.2, 0.2, 0.0]]))
    x, y, z = cell.tolist()
    widened = read_out(one_wall(0.15), GRID, threshold=0.3)
    narrow = read_out(one_wall(0.15), GRID, threshold=0.3, widen_by_cell=False)
    assert widened.semantics[x, y, z] == 1
    assert narrow.semantics[x, y, z] == 2, "free is the number of classes"


def test_no_gaussians_read_out_as_free():
    empty = one_wall(0.0).map(lambda tensor: tensor[:0])
    occupancy = read_out(empty, GRID, threshold=0.3)
    assert (occupancy.semantics == 2).all()
    assert (occupancy.probabilities == 0).all()


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5, float("nan")])
def test_a_threshold_that_fills_the_grid_or_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        read_out(one_wall(0.0), GRID, threshold=threshold)


def test_a_bad_value_is_refused_by_name():
    with pytest.raises(ValueError, match=r"gaussians\.features"):
        read_out(dataclasses.replace(one_wall(0.0), features=torch.tensor([[float("nan"), 0.5]])), GRID, threshold=0.3)
    with pytest.raises(ValueError, match=r"gaussians\.scales"):
        read_out(dataclasses.replace(one_wall(0.0), scales=torch.zeros(1, 3)), GRID, threshold=0.3)


def test_cells_of_ground_have_their_threshold_and_others_theirs():
    """What two thresholds give is what each gives alone, by class."""
    generator = torch.Generator().manual_seed(3)
    gaussians = random_gaussians(random_means(500, generator), generator, scales=(0.05, 0.4))
    features = torch.rand(500, NUM_CLASSES, generator=generator)
    gaussians = dataclasses.replace(gaussians, features=features)
    of = {threshold: read_out(gaussians, GRID, threshold=threshold).semantics for threshold in (0.2, 0.5)}
    classes = of[0.2]
    is_ground = torch.isin(classes, torch.tensor(GROUND_CLASSES))
    for ground, others in ((0.2, 0.5), (0.5, 0.2)):
        found = OccupancyThreshold(ground=ground, others=others).read_out(gaussians, GRID)
        assert torch.equal(found.semantics, torch.where(is_ground, of[ground], of[others]))
        assert torch.equal(found.probabilities, read_out(gaussians, GRID, threshold=0.5).probabilities)
    assert not torch.equal(of[0.5][is_ground], classes[is_ground])
    assert torch.equal(OccupancyThreshold.of_all(0.5).read_out(gaussians, GRID).semantics, of[0.5])
    assert [str(threshold) for threshold in (OccupancyThreshold.of_all(0.5), OccupancyThreshold(0.1, 0.25))] == [
        "0.5",
        "0.25 (ground 0.1)",
    ]
