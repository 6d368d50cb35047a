"""What travels to the page's viewer: which cells show, what each is beside the truth, and that nothing is lost on the way."""

import zlib

import numpy as np
import pytest
import torch

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.report.voxels import (
    CONFUSED,
    ERROR_SHOWS,
    ERRORS,
    FALSE,
    MISSED,
    NOT_JUDGED,
    NOTHING,
    PREDICTION_SHOWS,
    RIGHT,
    SEEN_SHIFT,
    TRUTH_SHIFT,
    TRUTH_SHOWS,
    counts_of,
    errors,
    exposed,
    pack_cells,
)
from splattingocc.taxonomy import FREE

CAR, TREE = 4, 16


def free_grid() -> torch.Tensor:
    return torch.full(OCC3D_GRID.shape, FREE, dtype=torch.uint8)


def truth_of(semantics: torch.Tensor, seen: torch.Tensor | None = None) -> OccupancyTruth:
    mask = torch.ones_like(semantics, dtype=torch.bool) if seen is None else seen
    return OccupancyTruth("token", semantics, mask, mask)


def unpacked(content: bytes) -> dict[int, int]:
    """Return the code of each cell by its flat index, decoded as the viewer does."""
    planes = np.frombuffer(zlib.decompress(content), np.uint8).reshape(6, -1).astype(np.int64)
    indices = np.cumsum(planes[0] + (planes[1] << 8) + (planes[2] << 16) + (planes[3] << 24))
    return dict(zip(indices.tolist(), (planes[4] + (planes[5] << 8)).tolist()))


@pytest.mark.parametrize(
    ("predicted", "true", "seen", "expected"),
    [
        (CAR, CAR, True, RIGHT),
        (FREE, CAR, True, MISSED),
        (CAR, FREE, True, FALSE),
        (CAR, TREE, True, CONFUSED),
        (CAR, CAR, False, NOT_JUDGED),
        (CAR, FREE, False, NOT_JUDGED),
        (FREE, CAR, False, NOTHING),
        (FREE, FREE, True, NOTHING),
    ],
)
def test_a_cell_is_judged_only_where_a_camera_sees(predicted: int, true: int, seen: bool, expected: int) -> None:
    prediction, truth, mask = free_grid(), free_grid(), torch.zeros(OCC3D_GRID.shape, dtype=torch.bool)
    prediction[3, 4, 5], truth[3, 4, 5], mask[3, 4, 5] = predicted, true, seen
    found = errors(prediction, truth_of(truth, mask))
    assert found[3, 4, 5] == expected
    assert (found != NOTHING).sum() == (expected != NOTHING)
    assert counts_of(found, len(ERRORS)) == [int(kind == expected) for kind in range(len(ERRORS))]


def test_what_is_enclosed_by_its_like_does_not_travel_and_its_shell_does() -> None:
    looks = torch.full((9, 9, 9), NOTHING, dtype=torch.uint8)
    looks[2:7, 2:7, 2:7] = CAR
    shows = exposed(looks)
    assert shows.sum() == 5**3 - 3**3
    assert not shows[3:6, 3:6, 3:6].any()


def test_hiding_a_class_leaves_no_hole_in_what_it_touched() -> None:
    looks = torch.full((9, 9, 9), NOTHING, dtype=torch.uint8)
    looks[2:7, 2:7, 2:7] = CAR
    looks[4, 4, 4] = TREE
    shows = exposed(looks)
    assert shows[4, 4, 4]
    assert all(shows[cell] for cell in [(3, 4, 4), (5, 4, 4), (4, 3, 4), (4, 5, 4), (4, 4, 3), (4, 4, 5)])
    assert not shows[3, 3, 3]


def test_a_filled_grid_shows_on_its_border() -> None:
    shows = exposed(torch.full((4, 5, 6), CAR, dtype=torch.uint8))
    assert shows.sum() == 4 * 5 * 6 - 2 * 3 * 4


def test_cells_come_back_as_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, truth = free_grid(), free_grid()
    for grid, num in ((prediction, 500), (truth, 700)):
        grid.view(-1)[torch.randperm(grid.numel(), generator=generator)[:num]] = torch.randint(
            0, FREE, (num,), generator=generator, dtype=torch.uint8
        )
    seen = torch.rand(OCC3D_GRID.shape, generator=generator) < 0.5
    of = truth_of(truth, seen)
    codes = unpacked(pack_cells(prediction, of))
    judged = errors(prediction, of)
    wanted = ((prediction != FREE) | (truth != FREE)).flatten().nonzero().flatten().tolist()
    assert [index for index, code in codes.items() if code >> PREDICTION_SHOWS] == wanted
    for index in wanted:
        code, predicted, true = codes[index], int(prediction.view(-1)[index]), int(truth.view(-1)[index])
        assert (code & 31, code >> TRUTH_SHIFT & 31, bool(code >> SEEN_SHIFT & 1)) == (predicted, true, bool(seen.view(-1)[index]))
        # So few of them that each has a free neighbour
        assert bool(code >> PREDICTION_SHOWS & 1) == (predicted != FREE)
        assert bool(code >> TRUTH_SHOWS & 1) == (true != FREE)
        assert bool(code >> ERROR_SHOWS & 1) == (int(judged.view(-1)[index]) != NOTHING)


def test_without_truth_nothing_of_it_shows() -> None:
    prediction = free_grid()
    prediction[10, 20, 3] = CAR
    (index, code), = unpacked(pack_cells(prediction, None)).items()  # fmt: skip
    assert index == (10 * 200 + 20) * 16 + 3
    assert code == CAR + (FREE << TRUTH_SHIFT) + (1 << PREDICTION_SHOWS)


def test_an_empty_prediction_is_packed_as_nothing() -> None:
    assert unpacked(pack_cells(free_grid(), None)) == {}
