"""The command line: `splattingocc demo | synth | prepare | describe | train | test | visualize | report | export | bench | log | doctor`.

What a command needs is imported when it runs, so that `--help` answers at once and Ctrl-C ends it also while it imports.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import io
import itertools
import os
import re
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_type_hints

from splattingocc import __version__
from splattingocc.cli.ending import ending_well, one_line
from splattingocc.config_files import describe_known

if TYPE_CHECKING:
    from splattingocc.experiment import ExperimentConfig

COMMANDS = {
    "demo": "run.Demo",
    "synth": "data.Synth",
    "prepare": "data.Prepare",
    "describe": "run.Describe",
    "train": "run.Train",
    "test": "run.Test",
    "visualize": "draw.Visualize",
    "report": "look.Report",
    "export": "share.Export",
    "bench": "look.Bench",
    "log": "look.Log",
    "doctor": "look.Doctor",
}
"""Where in this package the class of each command stands."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that say how threads of OpenMP wait: for all libraries, for GNU's and for Intel's."""
CONFIGURED = ("describe", "train", "test", "visualize", "export")
"""Commands whose first argument is a configuration, a file or a name, that sets the defaults of their options."""
OF_NETWORKS = ("test", "visualize", "export")
"""Those for which it may also be a network's file, or `zoo/<name>`: it holds the configuration that it was trained with."""

KIND_OPTION = re.compile(r"--[\w.-]+\.kind(?=$|=)")
"""An option that says of which kind a part is."""
SWITCHED = re.compile(r"--[\w.-]+=(true|false)", re.IGNORECASE)
"""An option that is switched on or off in one word."""
INVALID_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(.*?)'. Expected one of \((.*?)\)")
"""How tyro refuses a value."""
TERMINAL_ART = re.compile(r"(?:\x1b\[[0-9;]*m|[│\s])+")
"""Colours, the frame around a message, and where it was wrapped."""


def expand_cfg_options(words: Sequence[str]) -> list[str]:
    """Turn `--cfg-options a.b=c d=1,2`, as this family of projects writes it, into `--a.b c --d 1 2`."""
    expanded: list[str] = []
    inside = False
    for word in words:
        if word in ("--cfg-options", "--cfg_options"):
            inside = True
        elif inside and not word.startswith("-") and "=" in word:
            name, value = word.split("=", 1)
            expanded += [f"--{name}", *_values(value)]
        elif inside and not word.startswith("-"):
            raise ValueError(f"--cfg-options {word}: expected key=value")
        else:
            inside = False
            expanded.append(word)
    return expanded


def _values(value: str) -> list[str]:
    """Return the values that are written as one: `[1, 2]`, `(1, 2)` or `1,2`; what has a `/` is one path, with all that is in it."""
    if value[:1] + value[-1:] in ("[]", "()") and not set("[]()") & set(value[1:-1]):
        return value[1:-1].replace(",", " ").split()
    return [value] if "/" in value else value.replace(",", " ").split()


def expand_home(words: Sequence[str]) -> list[str]:
    """Put the user's own folder in place of the `~` that paths begin with, as shells do unless it is quoted or follows a `=`."""
    return [re.sub(r"^(|--[^=]+=)~(?=/|$)", lambda found: found[1] + os.path.expanduser("~"), word) for word in words]


def as_flags(words: Sequence[str], switches: Container[str]) -> list[str]:
    """Turn `--a.b True` and `--a.b=False`, as configurations write them, into the flags that the parser knows, `--a.b` and `--a.no-b`.

    Only of the options that are switched on and off, named without the dashes before them.
    """
    split = [part for word in words for part in (word.split("=", 1) if SWITCHED.fullmatch(word) and _name(word) in switches else [word])]
    flags: list[str] = []
    for word in split:
        if flags and word.lower() in ("true", "false") and flags[-1].startswith("--") and _name(flags[-1]) in switches:
            place, _, name = flags[-1][2:].rpartition(".")
            if word.lower() == "false":
                flags[-1] = f"--{place}{'.' if place else ''}no-{name}"
        else:
            flags.append(word)
    return flags


def _name(word: str) -> str:
    """Return the name of an option as a word has it, without a value."""
    return word.removeprefix("--").split("=", 1)[0].replace("_", "-")


def _switches(command: type) -> set[str]:
    """Return the names of a command's options that are True or False, those of its configurations with their place."""
    from splattingocc.config import Config

    def of(config: Config, place: str) -> Iterator[str]:
        for name, value in config:
            if isinstance(value, bool):
                yield f"{place}{name}".replace("_", "-")
            elif isinstance(value, Config):
                yield from of(value, f"{place}{name}.")

    found = {name.replace("_", "-") for name, kind in get_type_hints(command).items() if kind is bool}
    for field in dataclasses.fields(command):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if isinstance(made, Config):
            # That of an experiment stands without a place: its parts are options themselves
            found |= set(of(made, "" if field.name == "experiment" else f"{field.name}."))
    return found


def parse(arguments: Sequence[str]) -> Any:
    """Turn command-line words into one of the command classes; what cannot be understood ends with exit code 2."""
    name = arguments[0] if arguments else "--help"
    if name == "--version":
        print(f"splattingocc {__version__}")
        sys.exit()
    if name not in COMMANDS:
        return _refuse_command(name) if not name.startswith("-") else _print_help(arguments)
    rest = expand_home(expand_cfg_options(arguments[1:]))
    prog = f"splattingocc {name}"
    is_configured = name in CONFIGURED and bool(rest) and not rest[0].startswith("-")
    if name in CONFIGURED and not is_configured and not {"-h", "--help"} & set(rest):
        if name == "export":
            refuse(f" {name}: expected a network's file first, as in `{prog} NETWORK OUT [options]`")
        network = f", or a network's file, as in `{prog} NETWORK [options]`" if name in OF_NETWORKS else ""
        refuse(f" {name}: expected a configuration first, as in `{prog} CONFIG [options]`{network}; {describe_known()}")
    import tyro

    module, class_name = COMMANDS[name].split(".")
    command = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    if is_configured:
        from splattingocc.engine.checkpoint import is_network
        from splattingocc.pipeline.networks import load_experiment
        from splattingocc.zoo import find_in_zoo

        path = find_in_zoo(Path(rest[0]))
        rest[0] = str(path)
        if name not in OF_NETWORKS and is_network(path):
            raise ValueError(f"{path}: a network, expected a configuration; config.json in the folder of its run is one")
        # The same command with the configuration's values as the defaults of its options
        experiment, rest = _with_kinds(load_experiment(path), rest, prog)
        options = [("experiment", Annotated[type(experiment), tyro.conf.arg(name="")], dataclasses.field(default=experiment))]
        command = dataclasses.make_dataclass(command.__name__, options, bases=(command,), namespace={"__doc__": command.__doc__})
    made = _understand(command, prog, as_flags(rest, _switches(command)))
    check_bounds(made)
    return made


def _with_kinds(experiment: ExperimentConfig, words: Sequence[str], prog: str) -> tuple[ExperimentConfig, list[str]]:
    """Return the configuration with parts of the kinds that options like `--network.backbone.kind resnet` ask for, and the words.

    Which other options there are depends on it. Of several for one part the last one counts, as of any option.
    """
    from splattingocc.config import with_kind

    kinds: dict[str, str] = {}
    places: list[tuple[int, str]] = []
    words = [part for word in words for part in (word.split("=", 1) if KIND_OPTION.match(word) else [word])]
    for position, (word, following) in enumerate(zip(words, words[1:])):
        if KIND_OPTION.fullmatch(word):
            name = word.replace("_", "-")
            kinds[name] = following
            places.append((position + 1, name))
    for name, kind in kinds.items():
        try:
            experiment = with_kind(experiment, name[2:].replace("-", "_").split(".")[:-1], kind)
        except ValueError as error:
            refuse(f"{prog.removeprefix('splattingocc')}: {name} {kind}: {error}")
    for position, name in places:
        words[position] = kinds[name]
    return experiment, words


def _understand(command: type, prog: str, words: Sequence[str]) -> Any:
    """Let tyro fill a command class, and say what it refuses in our own words where those are clearer."""
    import tyro

    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            # What the default is decides among several classes; `_with_kinds` has seen to that
            return tyro.cli(command, prog=prog, args=words, config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as ended:
        line = _in_one_line(ended, errors.getvalue(), prog, words)
        if line is not None:
            errors = io.StringIO(line)
        raise
    except ValueError as error:  # of the configuration itself, not of a part of it
        if not hasattr(error, "title"):
            raise
        raise ValueError(_naming_options(one_line(error) or "", error, words)) from error
    finally:
        sys.stderr.write(errors.getvalue())


def _in_one_line(ended: SystemExit, message: str, prog: str, words: Sequence[str]) -> str | None:
    """Return tyro's message about a value that an option cannot have as a line that names the one that was probably meant."""
    if refused := INVALID_CHOICE.search(TERMINAL_ART.sub(" ", message)):
        value, option, choices = refused.groups()
        known = re.findall(r"'(.*?)'", choices)
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
        return f"{prog}: {option} {value}: expected one of {', '.join(known)}{f'; did you mean {option} {near[0]}?' if near else ''}\n"
    # tyro's own words are few; pydantic's, which it repeats, are a page
    cause: BaseException | None = ended
    while cause is not None and not (isinstance(cause, ValueError) and hasattr(cause, "title")):
        cause = cause.__cause__ or cause.__context__
    return f"{prog}: {_naming_options(one_line(cause) or '', cause, words)}\n" if isinstance(cause, Exception) else None


def _naming_options(line: str, error: Any, words: Sequence[str]) -> str:
    """Return pydantic's error, which names a class and its field, with the option of the command line that filled the field."""
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    for problem in error.errors(include_url=False):
        field = ".".join(itertools.takewhile(lambda name: isinstance(name, str), problem["loc"]))
        meant = [option for option in given if f".{option[2:]}".replace("-", "_").endswith(f".{field}")] if field else []
        if len(meant) == 1:
            line = line.replace(f"{error.title}.{field}", meant[0], 1)
    return line


def refuse(message: str) -> NoReturn:
    """End because of words that cannot be understood."""
    print(f"splattingocc{message}", file=sys.stderr)
    sys.exit(2)


def check_bounds(command: object) -> None:
    """Refuse numbers outside of the bounds that the command's annotations state, in the manner of `splattingocc.config`."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic.fields import FieldInfo

    for name, kind in get_type_hints(type(command), include_extras=True).items():
        if any(isinstance(part, FieldInfo) for part in get_args(kind)):
            value = getattr(command, name)
            try:
                TypeAdapter(kind).validate_python(value)
            except ValidationError as error:
                raise ValueError(
                    f"--{name.replace('_', '-')} {value}: {error.errors()[0]['msg'].replace('Input', 'expected a number that', 1)}"
                ) from None


def _print_help(arguments: Sequence[str]) -> None:
    """Print what commands there are, from their docstrings alone: importing them takes seconds."""
    import tyro

    stand_ins = {name: dataclasses.make_dataclass(name, [], namespace={"__doc__": _docstring(place)}) for name, place in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(stand_ins, prog="splattingocc", args=list(arguments))
    raise AssertionError("tyro accepts known commands only")


def _docstring(place: str) -> str | None:
    """Return the docstring of a class by its module and name, without importing it."""
    module, class_name = place.split(".")
    spec = importlib.util.find_spec(f"{__name__}.{module}")
    assert spec is not None
    source = spec.loader.get_source(spec.name)  # type: ignore[union-attr]  # of a file
    return next(ast.get_docstring(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == class_name)


def _refuse_command(name: str) -> NoReturn:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    refuse(f": {name} is not a command; {meant}")


def let_idle_threads_sleep() -> None:
    """Let torch's threads sleep while they wait for each other, unless the environment says how they wait. It is read when torch loads.

    They would spin, for as long as a time slice takes where another process is at work on one of their cores: a training then takes several
    times as long (`docs/experiments.md`).
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def main(arguments: Sequence[str] | None = None, *, is_last: bool | None = None) -> None:
    """Run a command: that of the process's own words, which then ends with it, where none are given."""
    let_idle_threads_sleep()
    with ending_well(is_last=arguments is None if is_last is None else is_last):
        parse(sys.argv[1:] if arguments is None else arguments).run()


def run_alone(prog: str, place: str) -> None:
    """Run a command that is a program of its own, by the place of its class in this package, with the process's words."""
    let_idle_threads_sleep()
    with ending_well(prog, is_last=True):
        module, class_name = place.split(".")
        command = _understand(getattr(importlib.import_module(f"{__name__}.{module}"), class_name), prog, expand_home(sys.argv[1:]))
        check_bounds(command)
        command.run()
