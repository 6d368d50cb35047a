import pytest
import torch

from splattingocc.taxonomy import CLASSES, FREE, IGNORE, SKY
from splattingocc.visualization.palettes import CLASS_COLORS, FARTHEST_METRES, IGNORE_COLOR, SKY_COLOR, class_colors, distance_colors


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len(CLASS_COLORS) == len(CLASSES)
    assert len({*CLASS_COLORS, SKY_COLOR, IGNORE_COLOR}) == len(CLASSES) + 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_classes_sky_and_what_is_no_class_get_their_colours(dtype: torch.dtype) -> None:
    colors = class_colors(torch.tensor([[4, 11, SKY], [IGNORE, FREE, 200]], dtype=dtype))
    assert colors.tolist() == [[[0, 150, 245], [255, 0, 255], list(SKY_COLOR)], [list(IGNORE_COLOR)] * 3]


def test_near_is_warm_far_is_cold_and_nothing_looks_like_sky() -> None:
    near, far, beyond, nothing = distance_colors(torch.tensor([2.0, FARTHEST_METRES, 3 * FARTHEST_METRES, torch.nan])).int()
    assert near[0] > 200
    assert near[0] > 2 * near[2]
    assert far[2] > far[0]
    assert torch.equal(far, beyond)
    assert nothing.tolist() == list(SKY_COLOR)


def test_equal_ratios_of_distance_are_equally_far_apart_on_the_scale() -> None:
    scale = distance_colors(torch.logspace(0, torch.log10(torch.tensor(FARTHEST_METRES)).item(), 256))
    middle = distance_colors(torch.tensor([FARTHEST_METRES**0.5]))
    assert (scale[127].int() - middle[0].int()).abs().max() <= 4
