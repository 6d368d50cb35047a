"""The command line: `splattingocc demo | synth | prepare | train | test | visualize | bench | log | doctor`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import ValidationError

from splattingocc.cli.data import Prepare, Synth
from splattingocc.cli.look import Bench, Doctor, Log, Visualize
from splattingocc.cli.run import Demo, Test, Train
from splattingocc.engine.interruption import InterruptedTraining
from splattingocc.experiment import ExperimentConfig, describe_validation, load_config

COMMANDS: dict[str, type] = {
    "demo": Demo,
    "synth": Synth,
    "prepare": Prepare,
    "train": Train,
    "test": Test,
    "visualize": Visualize,
    "bench": Bench,
    "log": Log,
    "doctor": Doctor,
}
CONFIGURED = ("train", "test", "visualize")
"""Commands whose first argument is a configuration file that sets the defaults of their options."""

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
            expanded += [f"--{name}", *value.strip("[]()").replace(",", " ").split()]
        elif inside and not word.startswith("-"):
            raise ValueError(f"--cfg-options {word}: expected key=value")
        else:
            inside = False
            expanded.append(word)
    return expanded


@contextmanager
def suggestion() -> Iterator[None]:
    """Name the value that was probably meant after tyro's message about an unknown one; of option names it says so itself."""
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            yield
    finally:
        message = errors.getvalue()
        sys.stderr.write(message)
        if refused := INVALID_CHOICE.search(TERMINAL_ART.sub(" ", message)):
            value, option, choices = refused.groups()
            suggest(value, re.findall(r"'(.*?)'", choices), before=f"{option} ")


def suggest(word: str, known: Sequence[str], *, before: str = "") -> None:
    if near := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        print(f"did you mean {before}{near[0]}?", file=sys.stderr)


def parse(arguments: Sequence[str]) -> Any:
    """Turn command-line words into one of the command classes; what cannot be understood ends with exit code 2."""
    with suggestion():
        return _parse(arguments)


def _parse(arguments: Sequence[str]) -> Any:
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS:
        if not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            print(f"splattingocc: {name} is not a command; {meant}", file=sys.stderr)
            sys.exit(2)
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="splattingocc", args=list(arguments))
        raise AssertionError("tyro accepts known commands only")
    command, rest = COMMANDS[name], expand_cfg_options(arguments[1:])
    prog = f"splattingocc {name}"
    if name not in CONFIGURED or not rest or rest[0].startswith("-"):
        return tyro.cli(command, prog=prog, args=rest)
    # The same command with the configuration file's values as the defaults of its options
    experiment = dataclasses.field(default=load_config(Path(rest[0])))
    options = [("experiment", Annotated[ExperimentConfig, tyro.conf.arg(name="")], experiment)]
    configured = dataclasses.make_dataclass(command.__name__, options, bases=(command,), namespace={"__doc__": command.__doc__})
    return tyro.cli(configured, prog=prog, args=rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a `ValueError` and what the system refuses (a full disk) are the user's to mend and end in one line."""
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
    except ValidationError as error:
        sys.exit(f"splattingocc: {describe_validation(error)}")
    except InterruptedTraining as error:
        print(f"splattingocc: {error}", file=sys.stderr)
        sys.exit(128 + error.signal_number)
    except (ValueError, OSError) as error:
        # An error in a loader's worker comes wrapped in its traceback, of which the last line is the error
        last = str(error).strip().splitlines()[-1] if str(error) else type(error).__name__
        sys.exit(f"splattingocc: {last.removeprefix('ValueError: ')}")
    except KeyboardInterrupt:
        sys.exit("splattingocc: interrupted")
