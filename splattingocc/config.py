"""The base of every configuration class; each one stands right above the class or function it configures."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """An immutable set of options. An unknown key is an error; a field's docstring becomes its `--help` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        """Say which key was probably meant, which pydantic's own message does not."""
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(key, cls.model_fields, n=1)
                meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(cls.model_fields)}"
                raise ValueError(f"{key} is not an option of {cls.__name__}; {meant}")
        return values
