from itertools import accumulate

import pytest
import torch

from splattingocc.engine.meter import WINDOW_STEPS, Reading, Step, StepMeter, peak_memory_bytes


def meter_after(seconds: list[float], *, first_step: int = 0, total_steps: int = 100, samples: int = 2) -> StepMeter:
    """A meter that has seen steps of so many seconds, with a loss that counts them."""
    meter = StepMeter()
    meter.first_step, meter.total_steps = first_step, total_steps
    for number, ended in enumerate(accumulate(seconds), start=1):
        meter.add(Step(ended, samples, float(number), {"semantic": number / 2, "depth_bins": number / 2}), first_step + number)
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
    meter.add(Step(10.0, 2, 50.0, {"semantic": 20.0, "depth_bins": 20.0, "query": 10.0}), 31)
    first = read(meter)
    assert (first.loss, first.parts["query"], first.seconds_left) == (50.0, 10.0, None)
    meter.add(Step(12.0, 2, 40.0, {"semantic": 20.0, "depth_bins": 10.0, "query": 10.0}), 32)
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
    assert results["losses"] == {"semantic": 1.25, "depth_bins": 1.25}
    assert "loss" not in StepMeter().results()


def test_this_process_takes_some_memory():
    assert 2**24 < peak_memory_bytes(torch.device("cpu")) < 2**40
