import math

from splattingocc.engine.module import learning_rate_factor


def test_the_learning_rate_rises_linearly_then_falls_along_a_cosine_to_zero():
    factors = [learning_rate_factor(step, 10, 110) for step in range(111)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert math.isclose(factors[60], 0.5)
    assert factors[110] < 1e-9
    assert factors[10:] == sorted(factors[10:], reverse=True)
