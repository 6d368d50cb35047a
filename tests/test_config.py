import pytest
from pydantic import ValidationError

from splattingocc.config import Config


class Oven(Config):
    temperature: float = 180.0
    """Degrees."""
    minutes: int = 20
    """How long."""


def test_an_unknown_key_names_the_nearest_right_one():
    with pytest.raises(ValidationError, match=r"temperatur is not an option of Oven; did you mean temperature\?"):
        Oven(temperatur=200)


def test_a_key_like_no_other_lists_what_there_is():
    with pytest.raises(ValidationError, match="qqq is not an option of Oven; it has temperature, minutes"):
        Oven(qqq=1)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Oven().minutes = 3
