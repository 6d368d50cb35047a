import importlib
import math
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

import splattingocc
from splattingocc.config import (
    LARGEST_IMAGE,
    MOST_PROBLEMS,
    ByKind,
    Config,
    ImageSize,
    KeyFrameOffsets,
    describe_validation,
    kinds_of,
    with_kind,
)
from splattingocc.files import images

BELOW_ZERO = {
    ("GridConfig", "lower"),
    ("GridConfig", "upper"),
    ("LidarLabelConfig", "other_key_frames"),
    ("PictureConfig", "position"),
    ("PictureConfig", "target"),
    ("PictureConfig", "sun"),
}
"""The only fields in which −1 means something: other key frames, and places in the ego frame."""


class Oven(Config):
    temperature: Annotated[float, Field(ge=0, le=300)] = 180.0
    """Degrees."""
    minutes: Annotated[int, Field(ge=0)] = 20
    """How long."""


class Kitchen(Config):
    oven: Oven = Oven()
    sizes: tuple[Annotated[int, Field(ge=0)], ...] = ()


class Hob(Config):
    kind: Literal["hob"] = "hob"
    plates: Annotated[int, Field(ge=1)] = 4


class Stove(Config):
    kind: Literal["stove"] = "stove"
    wood: Annotated[float, Field(ge=0)] = 2.5


class WideHob(Hob):
    plates: Annotated[int, Field(ge=1)] = 6


class Cabin(Config):
    cooker: Annotated[Hob | Stove, ByKind()] = Hob()
    only: Annotated[Hob, ByKind()] = Hob()


def test_a_kind_decides_which_options_there_are():
    assert Cabin.model_validate({"cooker": {"kind": "stove", "wood": 1}}).cooker == Stove(wood=1)
    assert Cabin(cooker=Stove()).cooker == Stove()
    assert Cabin.model_validate({"cooker": {"plates": 2}}).cooker == Hob(plates=2)  # the first, where none is named


@pytest.mark.parametrize("cabin", [Cabin(), Cabin(cooker=Stove(wood=1))])
def test_options_of_any_kind_come_back_from_json(cabin: Cabin):
    assert Cabin.model_validate_json(cabin.model_dump_json()) == cabin
    assert Cabin.model_validate(cabin.model_dump(mode="json")) == cabin


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cooker": {"kind": "stov"}}, "Cabin.cooker: kind is 'stov', expected one of hob, stove; did you mean stove?"),
        ({"only": {"kind": "stove"}}, "Cabin.only: kind is 'stove', expected one of hob"),
        ({"only": Stove()}, "Cabin.only: kind is 'stove', expected one of hob"),
        ({"cooker": {"kind": ["hob"]}}, "Cabin.cooker: kind is ['hob'], expected one of hob, stove"),
        ({"cooker": {"kind": None}}, "Cabin.cooker: kind is None, expected one of hob, stove"),
        ({"cooker": {"kind": "stove", "plates": 2}}, "Cabin.cooker: plates is not an option of Stove; it has kind, wood"),
        ({"cooker": {"kind": "stove", "wood": -1}}, "Cabin.cooker.wood is -1: input should be greater than or equal to 0"),
        ({"cooker": WideHob()}, "Cabin.cooker: a WideHob, expected a Hob: what a kind computes is known of that class"),
        ({"cooker": 3}, "Cabin.cooker is 3: input should be a valid dictionary or instance of Hob"),
        ({"cooker": None}, "Cabin.cooker is None: input should be a valid dictionary or instance of Hob"),
    ],
)
def test_what_is_of_no_kind_or_does_not_fit_it_is_named_without_pydantics_tags(options: dict, said: str):
    with pytest.raises(ValidationError) as refused:
        Cabin.model_validate(options)
    assert describe_validation(refused.value) == said


def test_a_part_is_exchanged_for_one_of_another_kind():
    assert with_kind(Cabin(), ["cooker"], "stove") == Cabin(cooker=Stove())
    assert with_kind(Cabin(cooker=Hob(plates=2)), ["cooker"], "hob") == Cabin(cooker=Hob(plates=2))
    for nowhere in (["oven"], ["cooker", "plates"], ["cooker", "plates", "x"], []):
        assert with_kind(Cabin(), nowhere, "stove") == Cabin()
    with pytest.raises(ValueError, match=r"expected one of hob$"):
        with_kind(Cabin(), ["only"], "stove")


def config_classes() -> list[type[Config]]:
    """Return every configuration class of the package, by import of all its modules."""
    for module in pkgutil.walk_packages(splattingocc.__path__, "splattingocc."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = [], [Config]
    while waiting:
        classes = waiting.pop().__subclasses__()
        found += [one for one in classes if one.__module__.startswith("splattingocc.")]
        waiting += classes
    return sorted(set(found), key=lambda one: one.__name__)


CLASSES = config_classes()


def numbers_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield what the JSON schema of a field says of each number in it, however deep; other configurations are looked at by themselves."""
    if isinstance(schema, dict):
        if schema.get("type") in ("number", "integer"):
            yield schema
        for key, value in schema.items():
            if key not in ("default", "enum", "const"):
                yield from numbers_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from numbers_in(value)


def number_fields() -> list[tuple[type[Config], str]]:
    fields = []
    for one in CLASSES:
        properties = one.model_json_schema()["properties"]
        fields += [(one, name) for name in one.model_fields if any("enum" not in number for number in numbers_in(properties[name]))]
    return fields


FIELDS = number_fields()
NAMES = [f"{one.__name__}.{name}" for one, name in FIELDS]


def shaped_like(default: Any, number: float) -> Any:
    """Return a value of a field's shape that consists of one number."""
    if isinstance(default, tuple):
        return tuple(number for _ in default) or (number,)
    return {"car": number} if isinstance(default, dict) else number


def is_refused(one: type[Config], name: str, value: Any) -> bool:
    """Say whether a class refuses a value, and for the field's own sake."""
    needed = {"name": "x"} if "name" in one.model_fields else {}
    try:
        one(**{**needed, name: value})
    except ValidationError as error:
        return any(problem["loc"][:1] == (name,) for problem in error.errors())
    return False


def test_the_walk_finds_the_configurations_and_their_numbers():
    assert {"ExperimentConfig", "TrainerConfig", "LoaderConfig", "DepthBins", "SynthConfig", "PictureConfig"} <= {
        one.__name__ for one in CLASSES
    }
    assert {"TrainerConfig.devices", "LoaderConfig.image_size", "ObjectiveConfig.class_weights", "RenderConfig.near"} <= set(NAMES)
    assert len(FIELDS) > 70


@pytest.mark.parametrize(("one", "name"), FIELDS, ids=NAMES)
def test_every_number_has_a_lower_and_an_upper_bound(one: type[Config], name: str):
    for number in numbers_in(one.model_json_schema()["properties"][name]):
        assert {"minimum", "exclusiveMinimum"} & set(number)
        assert {"maximum", "exclusiveMaximum"} & set(number)


@pytest.mark.parametrize(("one", "name"), FIELDS, ids=NAMES)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1, 10**30, 1e300])
def test_no_number_of_a_configuration_may_be_nonsense(one: type[Config], name: str, number: float):
    if number == -1 and (one.__name__, name) in BELOW_ZERO:
        assert not is_refused(one, name, shaped_like(one.model_fields[name].default, -1) if name != "sun" else (-1, 0, 0))
        return
    assert is_refused(one, name, shaped_like(one.model_fields[name].default, number))


@pytest.mark.parametrize("one", CLASSES, ids=[one.__name__ for one in CLASSES])
def test_every_field_says_what_it_is(one: type[Config]):
    nested = {
        name
        for name, field in one.model_fields.items()
        if kinds_of(field) or (isinstance(field.annotation, type) and issubclass(field.annotation, Config))
    }
    silent = {name for name, field in one.model_fields.items() if not field.description}
    assert silent <= nested | {"kind"}


def test_an_unknown_key_names_the_nearest_right_one():
    with pytest.raises(ValidationError, match=r"temperatur is not an option of Oven; did you mean temperature\?"):
        Oven(temperatur=200)


def test_a_key_like_no_other_lists_what_there_is():
    with pytest.raises(ValidationError, match="qqq is not an option of Oven; it has temperature, minutes"):
        Oven(qqq=1)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Oven().minutes = 3


def test_a_copy_is_checked_as_a_new_one_is():
    assert Oven().model_copy(update={"minutes": 3}) == Oven(minutes=3)
    assert Oven(minutes=4).model_copy() == Oven(minutes=4)
    with pytest.raises(ValidationError, match="minutes"):
        Oven().model_copy(update={"minutes": -3})
    with pytest.raises(ValidationError, match="did you mean minutes"):
        Oven().model_copy(update={"minute": 3})


def test_true_is_no_number_and_nul_is_no_text():
    with pytest.raises(ValidationError, match="minutes is True, expected a number"):
        Oven(minutes=True)
    with pytest.raises(ValidationError, match=r"minutes is '1\\x000', expected text without NUL characters"):
        Oven(minutes="1\x000")


def said_of(one: type[Config], **options: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        one(**options)
    return describe_validation(refused.value)


def test_an_error_is_one_line_of_class_key_value_and_what_is_right():
    assert said_of(Kitchen, oven={"minutes": -5}) == "Kitchen.oven.minutes is -5: input should be greater than or equal to 0"
    assert said_of(Kitchen, oven={"minute": 5}) == "Kitchen.oven: minute is not an option of Oven; did you mean minutes?"


def test_an_error_stays_short_whatever_was_given():
    assert len(said_of(Oven, minutes="a\n" * 100_000)) < 300
    assert "\n" not in said_of(Oven, minutes="a\n" * 100_000)
    assert len(said_of(Oven, minutes=-(10**5000))) < 300
    assert "\n" not in said_of(Oven, **{"a\nb": 1})
    said = said_of(Kitchen, sizes=[-1] * 1000)
    assert said.count("sizes") == MOST_PROBLEMS
    assert said.endswith(f"; and {1000 - MOST_PROBLEMS} more")


class Pictures(Config):
    size: ImageSize = (1, 1)
    neighbours: KeyFrameOffsets = ()


def test_image_sizes_have_the_bounds_of_images():
    (side,) = numbers_in(Pictures.model_json_schema()["properties"]["size"]["prefixItems"][0])
    assert (side["maximum"], LARGEST_IMAGE) == (images.LARGEST_SIDE, images.LARGEST_IMAGE)
    with pytest.raises(ValidationError, match="16384 × 16384 pixels, expected at most 100,000,000 in all"):
        Pictures(size=(16_384, 16_384))


@pytest.mark.parametrize("offsets", [(0,), (-1, -1), (1, 2, 1)])
def test_a_key_frame_is_no_neighbour_of_itself_and_none_counts_twice(offsets: tuple[int, ...]):
    with pytest.raises(ValidationError, match="expected other key frames than the own one"):
        Pictures(neighbours=offsets)
