import io
from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer

from splattingocc.engine.meter import WINDOW_STEPS, Reading, Step, StepMeter, peak_memory_bytes
from splattingocc.engine.module import OccupancyModule
from splattingocc.engine.options import OptimizationConfig


def meter_after(
    seconds: list[float],
    *,
    first_step: int = 0,
    total_steps: int = 100,
    samples: int = 2,
    image_steps: int = 0,
    meter: StepMeter | None = None,
) -> StepMeter:
    """A meter that has seen steps of so many seconds, with a loss that counts them; those of an image step are others."""
    if meter is None:
        meter = StepMeter()
        meter.first_step = first_step
    meter.total_steps, meter.image_steps = total_steps, image_steps
    for i, each in enumerate(seconds):
        number = first_step + i + 1
        names = ("depth_bins", "pixel_classes") if number <= image_steps else ("semantic", "depth_bins")
        meter.add(Step(each if i else None, samples, float(number), dict.fromkeys(names, number / 2)), number)
    return meter


def read(meter: StepMeter) -> Reading:
    reading = meter.read()
    assert reading is not None
    return reading


def test_speed_and_time_left_are_those_of_the_steps_but_the_first():
    reading = read(meter_after([60.0, 0.5, 0.5, 0.5, 0.5]))
    assert reading.samples_per_second == pytest.approx(4.0)
    assert reading.seconds_left == pytest.approx(95 * 0.5)
    assert read(meter_after([60.0])).samples_per_second is None
    assert StepMeter().read() is None


def test_a_resumed_training_has_only_what_is_left_before_it():
    reading = read(meter_after([3.0, 1.0, 1.0], first_step=90))
    assert reading.step == 93
    assert reading.seconds_left == pytest.approx(7.0)


def test_the_window_forgets_how_slow_it_was():
    reading = read(meter_after([5.0] * 20 + [0.1] * (WINDOW_STEPS + 1), total_steps=1000))
    assert reading.samples_per_second == pytest.approx(20.0)
    assert reading.loss == pytest.approx(20 + 1 + (WINDOW_STEPS + 1) / 2)


def test_steps_with_other_losses_begin_anew():
    meter = meter_after([0.1] * 30)
    meter.add(Step(7.0, 2, 50.0, {"semantic": 20.0, "depth_bins": 20.0, "query": 10.0}), 31)
    first = read(meter)
    assert (first.loss, first.parts["query"], first.seconds_left) == (50.0, 10.0, None)
    meter.add(Step(2.0, 2, 40.0, {"semantic": 20.0, "depth_bins": 10.0, "query": 10.0}), 32)
    assert read(meter).seconds_left == pytest.approx(68 * 2.0)


def test_the_summary_says_everything_in_eighty_columns():
    parts = dict.fromkeys(
        ("semantic", "distance", "line_of_sight", "empty", "query", "depth_bins", "pixel_classes", "opacity_prior"), 1.234
    )
    reading = Reading(12345, 28130, 10.3456, parts, 12.345, 45296.4, 12.34)
    assert reading.summary() == "step 12345/28130 · loss 10.346 · 12.3 samples/s · 12.3 GiB · 12:34:56 left"
    assert len(reading.summary()) <= 80
    assert reading.parts_in_short().startswith("semantic 1.234  distance 1.234  line 1.234")
    assert len(reading.parts_in_short()) <= 120


def test_the_results_tell_where_a_training_began_and_ended():
    results = meter_after([60.0, 0.5, 0.5], first_step=10).results()
    assert (results["first_step"], results["last_step"], results["samples_per_second"]) == (10, 13, 4.0)
    assert results["losses"] == {"semantic": 6.25, "depth_bins": 6.25}
    assert "loss" not in StepMeter().results()


def test_before_steps_that_cost_more_the_time_left_is_that_of_the_cheap_ones():
    reading = read(meter_after([9.0] + [0.5] * 49, image_steps=200, total_steps=440))
    assert (reading.phase_end, reading.seconds_left) == (200, pytest.approx(150 * 0.5))
    assert reading.summary().endswith(" · 0:01:15 to step 200, then slower")
    assert read(meter_after([9.0], image_steps=200, total_steps=440)).summary().endswith(" · – to step 200, then slower")
    of_all = read(meter_after([0.5] * 200 + [9.0] + [2.0] * 9, image_steps=200, total_steps=440))
    assert (of_all.phase_end, of_all.seconds_left) == (None, pytest.approx(230 * 2.0))
    assert of_all.summary().endswith(" · 0:07:40 left")


def test_the_number_of_image_steps_is_that_of_the_training():
    module = OccupancyModule.__new__(OccupancyModule)
    LightningModule.__init__(module)
    module.optimization = OptimizationConfig(image_steps=200)
    meter = StepMeter()
    meter.on_train_start(Mock(spec=Trainer, global_step=7, estimated_stepping_batches=440.0), module)
    assert (meter.image_steps, meter.total_steps, meter.first_step) == (200, 440, 7)
    meter.add(Step(None, 1, 1.0, {"depth_bins": 1.0}), 8)
    assert read(meter).phase_end == 200


@pytest.mark.parametrize("image_steps", [0, 60, 100, 1000])
def test_a_training_of_one_kind_of_steps_says_how_much_is_left(image_steps: int):
    reading = read(meter_after([1.0] * 60, image_steps=image_steps, total_steps=100 if image_steps else 200))
    assert reading.summary().endswith(" left")
    assert reading.phase_end is None


@pytest.mark.parametrize("stop", [1, 3, 20, 21, 40, 90, 120])
def test_a_training_that_was_interrupted_leaves_the_numbers_of_one_that_was_not(stop: int):
    """The state goes through a file as a checkpoint does; steps after 20 are of another kind."""
    whole = meter_after([0.25] * 120, image_steps=20, total_steps=120)
    before = meter_after([0.25] * stop, image_steps=20, total_steps=120)
    before._seconds_before = 60.0
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = StepMeter()
    state = torch.load(file, weights_only=True)
    after.load_state_dict(state)
    after.load_state_dict(state)  # which changes nothing
    meter_after([0.25] * (120 - stop), first_step=stop, image_steps=20, total_steps=120, meter=after)
    found, expected = after.results(), whole.results()
    assert found["losses"] == expected["losses"]
    assert (found["loss"], found["first_step"], found["last_step"]) == (expected["loss"], 0, 120)
    assert read(after).loss == read(whole).loss
    assert found["samples_per_second"] == expected["samples_per_second"] == 8.0
    assert found["seconds"] >= 60.0


def test_the_speed_shown_is_that_of_the_process_at_hand():
    after = StepMeter()
    after.load_state_dict(meter_after([100.0] * 40).state_dict())
    assert read(after).seconds_left is None
    reading = read(meter_after([9.0, 0.5, 0.5], first_step=40, meter=after))
    assert (reading.samples_per_second, reading.seconds_left) == (4.0, pytest.approx(57 * 0.5))


@pytest.mark.parametrize("state", [{}, {"first_step": "a"}, {"first_step": 0, "step": 1, "seconds": 1.0, "losses": 7}])
def test_a_state_that_is_not_the_meters_is_refused(state: dict):
    with pytest.raises(ValueError, match=r"Object missing|Expected"):
        StepMeter().load_state_dict(state)


def test_this_process_takes_some_memory():
    assert 2**24 < peak_memory_bytes(torch.device("cpu")) < 2**40
