"""The weather and the time of day of a scene."""

import numpy as np
import pytest

from splattingocc.synthetic.light import WEATHER_SHARES, Light, Weather, draw_light


def test_the_kinds_of_weather_come_as_often_as_said():
    assert sum(WEATHER_SHARES.values()) == pytest.approx(1.0)
    drawn = [draw_light(np.random.default_rng(seed)).weather for seed in range(1500)]
    for weather, share in WEATHER_SHARES.items():
        assert drawn.count(weather) / len(drawn) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("weather", list(Weather))
def test_the_weather_of_a_scene_can_be_chosen_and_is_the_same_for_the_same_seed(weather: Weather):
    lights = [draw_light(np.random.default_rng(seed), weather) for seed in (3, 3, 4)]
    assert lights[0] == lights[1] != lights[2]
    assert lights[0].weather == weather
    assert np.linalg.norm(lights[0].sun) == pytest.approx(1.0)


def test_the_sky_gives_less_light_at_dusk_and_least_at_night():
    def sky(weather: Weather) -> np.ndarray:
        return np.array([max(draw_light(np.random.default_rng(seed), weather).sky_color) for seed in range(20)])

    assert sky(Weather.NIGHT).max() < sky(Weather.DUSK).min() < sky(Weather.DUSK).max() < sky(Weather.RAIN).min()


def test_only_rain_and_some_nights_wet_the_ground():
    lights: list[Light] = [draw_light(np.random.default_rng(seed)) for seed in range(400)]
    wet = {light.weather for light in lights if light.wetness > 0}
    assert wet == {Weather.RAIN, Weather.NIGHT}
    assert all(light.wetness > 0 for light in lights if light.weather == Weather.RAIN)
    assert any(light.wetness == 0 for light in lights if light.weather == Weather.NIGHT)
