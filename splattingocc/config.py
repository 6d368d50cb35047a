"""The base of every configuration class; each one stands right above the class or function it configures."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """An immutable set of options. An unknown key is an error; a field's docstring becomes its `--help` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
