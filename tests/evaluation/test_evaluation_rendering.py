import math

import pytest
import torch

from splattingocc.evaluation.rendering import RenderingScores
from splattingocc.geometry.rays import RayLabels
from splattingocc.splatting.field import Rendering
from splattingocc.taxonomy import IGNORE, SKY


def _rendering(distances, classes, **masses):
    count = len(distances)
    features = torch.zeros(count, 17)
    for ray, label in enumerate(classes):
        if label is not None:
            features[ray, label] = 0.5
    fields = {"in_front": torch.full((count,), 0.1), "at_hit": torch.full((count,), 0.8), **masses}
    return Rendering(features, torch.tensor(distances), torch.ones(count), **fields)


def _labels(distances, classes, weights=None):
    return RayLabels(torch.tensor(classes), torch.tensor(distances), torch.tensor(weights or [1.0] * len(distances)))


def test_known_rays_give_known_scores():
    scores = RenderingScores()
    scores.update(_rendering([11.0, 20.0, 30.0, 0.0], [4, 4, 11, None]), _labels([10.0, 20.0, 20.0, 10.0], [4, 4, 4, 0]))
    result = scores.compute()
    assert result["median_relative_error"] == pytest.approx(0.1)
    assert result["abs_rel"] == pytest.approx((0.1 + 0 + 0.5 + 1) / 4)
    assert result["rmse_m"] == pytest.approx(math.sqrt((1 + 0 + 100 + 100) / 4))
    assert result["delta_1"] == 0.5
    assert result["class_accuracy"] == 0.5  # the ray that met nothing is wrong, although class 0 is its argmax
    # Of the classes that are shown or true, 4 has two of three rays right, 0 and 11 none
    assert result["class_miou"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert result["mass_in_front"] == pytest.approx(0.1)
    assert result["mass_at_hit"] == pytest.approx(0.8)
    assert result["num_rays"] == 4


def test_padding_unknown_distances_and_unknown_classes_do_not_count():
    nan = math.nan
    scores = RenderingScores()
    scores.update(
        _rendering([10.0, 99.0, 99.0, 10.0, 10.0], [4, 5, 5, 5, 5]),
        _labels([10.0, 10.0, nan, 10.0, nan], [4, 4, IGNORE, IGNORE, SKY], [1.0, 0.0, 1.0, 1.0, 1.0]),
    )
    result = scores.compute()
    assert result["num_rays"] == 2
    assert result["abs_rel"] == 0
    assert result["class_accuracy"] == 1


def test_frames_accumulate_as_if_they_were_one():
    torch.manual_seed(0)
    rendered, true = torch.rand(40) * 30 + 1, torch.rand(40) * 30 + 1
    classes, labels = torch.randint(0, 17, (40,)).tolist(), torch.randint(0, 17, (40,)).tolist()
    whole, parts = RenderingScores(), RenderingScores()
    whole.update(_rendering(rendered.tolist(), classes), _labels(true.tolist(), labels))
    for part in (slice(0, 13), slice(13, 40)):
        parts.update(_rendering(rendered[part].tolist(), classes[part]), _labels(true[part].tolist(), labels[part]))
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-6)


def test_what_processes_counted_adds_up_to_what_one_would_have_counted():
    frames = [(_rendering([11.0, 30.0], [4, 4]), _labels([10.0, 20.0], [4, 5])), (_rendering([5.0], [2]), _labels([7.0], [2]))]
    alone, parts = RenderingScores(), [RenderingScores(), RenderingScores(), RenderingScores()]
    for part, frame in zip(parts, frames):  # the third has nothing to do
        part.update(*frame)
        alone.update(*frame)
    assert (parts[0] + parts[1] + parts[2]).compute() == alone.compute()
    assert parts[0].compute()["num_rays"] == 2


def test_a_batch_axis_is_allowed():
    rendering, labels = _rendering([11.0, 20.0], [4, 4]), _labels([10.0, 20.0], [4, 5])
    scores = RenderingScores()
    scores.update(rendering.map(lambda tensor: tensor[None]), labels.map(lambda tensor: tensor[None]))
    assert scores.compute()["num_rays"] == 2
    assert scores.compute()["class_accuracy"] == 0.5


def test_nothing_counted_is_nan_and_not_zero():
    result = RenderingScores().compute()
    assert result["num_rays"] == 0
    assert all(math.isnan(value) for key, value in result.items() if key != "num_rays")


def test_a_rendering_without_line_of_sight_masses_is_refused():
    with pytest.raises(ValueError, match="label_distances"):
        RenderingScores().update(_rendering([1.0], [1], in_front=None, at_hit=None), _labels([1.0], [1]))
