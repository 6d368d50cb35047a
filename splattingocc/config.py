"""The base of every configuration class, and the kinds of numbers that their fields are.

Each configuration class stands right above the class or function it configures. Every number in one has a lower and an upper bound: what
lies outside of it would crash hours later or compute nonsense.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

C = TypeVar("C", bound="Config")
LARGEST_IMAGE = 100_000_000
"""Pixels."""
LONGEST_VALUE = 80
"""Characters of a wrong value that an error repeats."""
MOST_PROBLEMS = 5
"""Wrong values that one error names."""
KIND_TAG = "kind="
"""Begins pydantic's name for the choice among several classes, which is no part of an option's name."""


def _check_odd(count: int) -> int:
    if count % 2 == 0:
        raise ValueError(f"{count}, expected an odd number: the own key frame, and as many before as after it")
    return count


def _check_area(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > LARGEST_IMAGE:
        raise ValueError(f"{size[0]} × {size[1]} pixels, expected at most {LARGEST_IMAGE:,} in all")
    return size


def _check_offsets(offsets: tuple[int, ...]) -> tuple[int, ...]:
    if 0 in offsets or len(set(offsets)) < len(offsets):
        raise ValueError(f"{offsets}, expected other key frames than the own one (0), each once")
    return offsets


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
"""Of something that must not be all of it."""
Weight = Annotated[float, Field(ge=0, le=1e6)]
"""Of a loss or a sample beside others; 0 leaves it out."""
Metres = Annotated[float, Field(gt=0, le=1000)]
Distance = Annotated[float, Field(ge=0, le=1000)]
"""Metres."""
Coordinate = Annotated[float, Field(ge=-1000, le=1000)]
"""Metres along an axis of the ego frame."""
Channels = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What the random generators of Python, numpy and torch all take."""
Steps = Annotated[int, Field(ge=0, le=10**9)]
"""Optimizer steps."""
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Workers = Annotated[int, Field(ge=0, le=256)]
"""Processes beside this one; 0 does the work in this one."""
ImageSide = Annotated[int, Field(ge=1, le=16_384)]
"""Pixels."""
ImageSize = Annotated[tuple[ImageSide, ImageSide], AfterValidator(_check_area)]
"""Height and width, pixels."""
LabelFrames = Annotated[int, Field(ge=1, le=1001), AfterValidator(_check_odd)]
"""How many key frames give labels: the own one, and as many before as after it."""
KeyFrameOffsets = Annotated[tuple[Annotated[int, Field(ge=-1000, le=1000)], ...], AfterValidator(_check_offsets)]
"""Other key frames of a scene: -1 is the one before, 1 the one after."""


class Config(BaseModel):
    """An immutable set of options. An unknown key is an error, so is nan; a field's docstring becomes its `--help` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_no_option(cls, values: Any) -> Any:
        """Say which key was probably meant, which pydantic's own message does not, and take no True for a 1."""
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(cls.model_fields)}"
                raise ValueError(f"{key if str(key).isidentifier() else _shortened(key)} is not an option of {cls.__name__}; {meant}")
            if isinstance(value, bool) and cls.model_fields[key].annotation in (int, float):
                raise ValueError(f"{key} is {value}, expected a number")
            if isinstance(value, str | Path) and "\0" in str(value):
                raise ValueError(f"{key} is {_shortened(value)}, expected text without NUL characters")
        return values

    def model_copy(self: C, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> C:
        """Return these options with some changed; checked as new ones are, which pydantic's own copies are not."""
        return type(self).model_validate({**dict(self), **(update or {})})


class ByKind:
    """Mark of a field with one of several configuration classes, which their field `kind` tells apart: `Annotated[A | B, ByKind()]`.

    A `kind` is a `Literal` of one name, which is also its default. Values without one are of the first class.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds = kinds_in(source)
        choices = {f"{KIND_TAG}{kind}": handler.generate_schema(choice) for kind, choice in kinds.items()}
        first = next(iter(kinds))

        def check(value: Any) -> Any:
            kind = value.get("kind", first) if isinstance(value, dict) else getattr(value, "kind", first)
            if kind not in tuple(kinds):
                raise ValueError(f"kind is {_shortened(kind)}, {expected_one_of(kind, kinds)}")
            if isinstance(value, Config) and type(value) is not kinds[kind]:
                raise ValueError(
                    f"a {type(value).__name__}, expected a {kinds[kind].__name__}: what a kind computes is known of that class"
                )
            return value

        def tag(value: Any) -> str:
            return KIND_TAG + (value.get("kind", first) if isinstance(value, dict) else getattr(value, "kind", first))

        return core_schema.no_info_before_validator_function(check, core_schema.tagged_union_schema(choices, discriminator=tag))


def kinds_in(annotation: Any) -> dict[str, type[Config]]:
    """Return the classes of a field marked `ByKind`, by their kind, from its annotation without the mark."""
    classes = get_args(annotation) or (annotation,)
    kinds = {choice.model_fields["kind"].default: choice for choice in classes}
    assert len(kinds) == len(classes), f"{annotation}: a kind stands for one class"
    return kinds


def kinds_of(field: FieldInfo) -> dict[str, type[Config]] | None:
    """Return the classes that a field can have, by their kind, where it is marked `ByKind`."""
    return kinds_in(field.annotation) if any(isinstance(mark, ByKind) for mark in field.metadata) else None


def with_kind(config: C, place: Sequence[str], kind: str) -> C:
    """Return options of which those at a place (the names of fields) are of another kind, with its defaults; nothing else is checked.

    Where there is no choice, or what is there is of this kind already, they stay as they are. `ValueError` for a kind that there is not.
    """
    name, *rest = place or ("",)
    field = type(config).model_fields.get(name)
    if field is None or not isinstance(value := getattr(config, name), Config):
        return config
    if rest:
        value = with_kind(value, rest, kind)
    elif (kinds := kinds_of(field)) is not None and value.model_dump()["kind"] != kind:
        if kind not in kinds:
            raise ValueError(expected_one_of(kind, kinds))
        value = kinds[kind]()
    return BaseModel.model_copy(config, update={name: value})  # type: ignore[return-value]


def expected_one_of(name: object, known: Iterable[str]) -> str:
    """Say which names there are, and which was probably meant."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"expected one of {', '.join(known)}{f'; did you mean {near[0]}?' if near else ''}"


def describe_validation(error: ValidationError) -> str:
    """Say a pydantic error in one line: class, key, value, what is wrong, and the key that was probably meant."""
    problems = error.errors(include_url=False)
    lines = [_describe(error.title, problem) for problem in problems[:MOST_PROBLEMS]]
    return "; ".join(lines) + (f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else "")


def _describe(title: str, problem: Mapping[str, Any]) -> str:
    where = ".".join([title, *(str(name) for name in problem["loc"] if not str(name).startswith(KIND_TAG))])
    # What a validator of ours says repeats the value where that helps
    if problem["type"] in ("value_error", "missing"):
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where} is {_shortened(problem['input'])}: {message}"


def _shortened(value: object) -> str:
    """Return a value as Python writes it, in one line of bounded length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
