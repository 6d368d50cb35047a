"""The figures by which pictures are compared (`benchmarks/synthetic_images.py`), on made-up data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from splattingocc.data.nuscenes import read_index
from splattingocc.synthetic.writer import SynthConfig, write_dataset

_PATH = Path(__file__).parents[2] / "benchmarks/synthetic_images.py"
_SPEC = importlib.util.spec_from_file_location("synthetic_images", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
figures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)


def test_statistics_of_a_half_white_half_red_image():
    image = np.full((4, 10, 3), 255, dtype=np.uint8)
    image[:, 5:] = (51, 0, 0)
    found = figures.image_statistics(image)
    red = 0.2 * 0.299
    assert found["brightness"] == pytest.approx((1 + red) / 2)
    assert found["contrast"] == pytest.approx((1 - red) / 2)
    assert found["saturation"] == pytest.approx(0.5)
    assert found["blown"] == pytest.approx(0.5)


def test_colours_are_means_over_three_by_three_pixels():
    image = np.zeros((5, 6, 3), dtype=np.uint8)
    image[2, 3] = (90, 180, 9)
    image[0, 0] = 40
    colors = figures.colors_around(image, np.array([[3.9, 2.1], [4.5, 3.5], [0.2, 0.2], [1.0, 4.9]]))
    np.testing.assert_allclose(colors, [[10, 20, 1], [10, 20, 1], [10, 10, 10], [0, 0, 0]])


@pytest.mark.parametrize("num_bins", figures.BIN_COUNTS)
def test_classes_of_their_own_colours_are_told_apart_whatever_their_numbers(num_bins: int):
    rng = np.random.default_rng(0)

    def draw(count: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        colors = np.concatenate([rng.uniform(0, 60, (count, 3)), rng.uniform(180, 255, (other, 3))])
        return colors, np.repeat([4, 11], [count, other])

    assert figures.color_accuracy(draw(4000, 4000), draw(20, 500), [4, 11], num_bins=num_bins) > 0.97


def test_classes_of_the_same_colours_are_guessed():
    rng = np.random.default_rng(1)
    train, test = ((rng.normal(128, 40, (60_000, 3)).clip(0, 255), rng.integers(0, 3, 60_000)) for _ in range(2))
    assert figures.color_accuracy(train, test, [0, 1, 2], num_bins=8) == pytest.approx(1 / 3, abs=0.02)


def test_a_written_data_set_is_measured(tmp_path: Path):
    config = SynthConfig(num_scenes=2, num_val_scenes=1, frames_per_scene=1, drive_seconds=1.0, image_size=(45, 80))
    write_dataset(config, tmp_path / "synth", progress=False)
    found = figures.measure(read_index(tmp_path / "synth", config.version), tmp_path / "synth")
    assert found["images"] == 12
    assert 0 < found["contrast"] < 0.5
    assert 0 < found["color_accuracy"] < 1
    alone = figures.measure(read_index(tmp_path / "synth", config.version), tmp_path / "synth", max_scenes=1)
    assert alone["color_accuracy"] is None
