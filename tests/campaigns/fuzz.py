"""Damage every kind of file that the program reads, and look at what it does: `python tests/campaigns/fuzz.py --inputs 2000 --out DIR`.

Right are: a refusal in one line that names the file; the same result as of the file as it was; the file made again. A result that is
another one needs a reason, which the reader of that kind states (`readers.py`). Wrong are a traceback, a hang, a line that names
nothing, a folder outside that was touched, and a change that was accepted without a reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import children  # noqa: E402
import damage as damages  # noqa: E402
import world  # noqa: E402
from readers import READERS, Reader, digest  # noqa: E402

HANG = 30.0
"""Seconds of work, or of none at all, after which a child counts as hanging."""
MOST_MEMORY = 4096
"""MiB that reading a damaged file of this small world may take."""
RIGHT = ("refused", "same", "healed", "changed, explained")
WRONG = ("changed, unexplained", "no file named", "several lines", "traceback", "crash", "hang", "memory", "canary touched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to look at one again")
    parser.add_argument("--out", type=Path, required=True, help="folder of results, a JSON line for each input")
    parser.add_argument("--only", default="", help="readers whose names hold this")
    parser.add_argument("--scratch", type=Path, help="where copies of the world go; a temporary folder by default")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=options.scratch))
    try:
        root = world_in(scratch)
        readers = [reader for reader in READERS if options.only in reader.name]
        with (out / "inputs.jsonl").open("w") as file:
            outcomes = [
                write(file, outcome)
                for outcome in campaign(root, readers, range(options.first, options.first + options.inputs), options.seed, scratch)
            ]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print_table(outcomes, readers)
    sys.exit(any(outcome["outcome"] in WRONG for outcome in outcomes))


def world_in(scratch: Path) -> Path:
    """Build the world where its copies will lie, because absolute paths decide predictions; return where it is kept."""
    here, root = scratch / "here", scratch / "world"
    children_must_work(children.run(lambda: world.build(here), scratch, scratch / "logs", timeout=300))
    here.rename(root)
    world.warm_up(root, scratch / "warm")
    return root


def write(file: Any, outcome: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(outcome), file=file, flush=True)
    if outcome["outcome"] in WRONG:
        print(json.dumps(outcome)[:600], flush=True)
    return outcome


def children_must_work(ended: children.Ended) -> children.Ended:
    if ended.status != 0:
        raise SystemExit(f"the undamaged world does not work: {ended.status} {ended.stderr[-2000:]}")
    return ended


def campaign(root: Path, readers: list[Reader], numbers: range, seed: int, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield what came of each input; readers take turns by their weight."""
    before = fingerprint(root)
    expected: dict[str, str] = {}
    turns = [reader for reader in readers for _ in range(reader.weight)]
    random.Random(seed).shuffle(turns)
    for number in numbers:
        reader = turns[number % len(turns)]
        if reader.name not in expected:
            expected[reader.name] = undisturbed(root, reader, scratch)
        yield one_input(root, reader, number, seed, scratch, expected[reader.name])
    assert fingerprint(root) == before, "a child wrote into the world that all inputs are copied from"


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the content of every file of a folder, and every name in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def undisturbed(root: Path, reader: Reader, scratch: Path) -> str:
    folder = scratch / "here"
    world.copy(root, folder, (*reader.parts, "canary"))
    ended = children_must_work(children.run(lambda: digest(reader.read()), folder, scratch / "logs", timeout=300))
    shutil.rmtree(folder)
    return ended.result


def one_input(root: Path, reader: Reader, number: int, seed: int, scratch: Path, expected: str) -> dict[str, Any]:
    """Damage one file in a copy of the world, let it be read, and say what came of it."""
    folder, rng = scratch / "here", random.Random(f"{seed} {number}")
    world.copy(root, folder, (*reader.parts, "canary"))
    names = sorted(str(path.relative_to(root)) for path in root.glob(reader.files))
    name = rng.choice(names)
    os.chdir(folder)  # damage may point at the canary beside
    kind = damages.draw_damage(Path(name), rng)
    damages.damage(Path(name), kind, rng)
    before = fingerprint(folder / "canary")
    ended = children.run(lambda: digest(reader.read()), folder, scratch / "logs", timeout=HANG)
    is_touched = fingerprint(folder / "canary") != before or (scratch / "canary").exists()
    os.chdir("/")
    outcome, detail = judge(reader, kind, name, ended, expected)
    if is_touched:
        outcome = "canary touched"
    shutil.rmtree(folder)
    return {
        "number": number, "seed": seed, "reader": reader.name, "file": name, "damage": kind, "outcome": outcome, "detail": detail,
        "status": ended.status, "seconds": round(ended.seconds, 2), "peak_mib": ended.peak_mib,
    }  # fmt: skip


def judge(reader: Reader, kind: str, name: str, ended: children.Ended, expected: str) -> tuple[str, str]:
    """Return the outcome, and the line or the reason that goes with it."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    if ended.status is None:
        return "hang", said
    if "Traceback (most recent call last)" in ended.stderr:
        return "traceback", f"{said} | {' | '.join(line.strip() for line in lines if 'splattingocc/' in line)[-300:]}"
    if ended.status < 0 or ended.status == 70:
        return "crash", f"{ended.status}: {said}"
    if ended.peak_mib > MOST_MEMORY:
        return "memory", f"{ended.peak_mib} MiB"
    if ended.status:
        if sum(line.startswith("splattingocc") for line in lines) != 1 or not said.startswith("splattingocc"):
            return "several lines", " | ".join(lines)[-500:]
        return ("refused" if names_it(name, said) else "no file named"), said
    if ended.result == expected:
        return ("healed" if reader.heals else "same"), ""
    is_accident = kind in damages.BYTES or kind in damages.NO_FILE
    reason = reader.accident if is_accident else reader.forged
    if kind == "missing" and reader.optional:
        reason = "the file may be missing"
    return ("changed, unexplained", kind) if reason is None else ("changed, explained", reason)


def names_it(name: str, said: str) -> bool:
    """Say whether a line names the damaged file, or at least a file or folder that it lies beside or in."""
    path = Path(name)
    stem = path.name.removesuffix("".join(path.suffixes))
    return path.name in said or str(path.parent) in said or path.stem in said or stem in said


def print_table(outcomes: list[dict[str, Any]], readers: list[Reader]) -> None:
    counts = Counter((outcome["reader"], outcome["outcome"]) for outcome in outcomes)
    columns = [column for column in (*RIGHT, *WRONG) if any(outcome["outcome"] == column for outcome in outcomes)]
    columns = list(dict.fromkeys((*RIGHT, *columns, "traceback", "hang", "no file named")))
    print(f"| file and reader | inputs | {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) + 1)}")
    for reader in readers:
        row = [counts[reader.name, column] for column in columns]
        if sum(row):
            print(f"| {reader.name} | {sum(row)} | {' | '.join(map(str, row))} |")
    totals = [sum(outcome["outcome"] == column for outcome in outcomes) for column in columns]
    print(f"| all | {len(outcomes)} | {' | '.join(map(str, totals))} |")
    slowest = max((outcome["seconds"] for outcome in outcomes), default=0.0)
    print(f"slowest input {slowest:.1f} s, {time.process_time():.0f} s of this process")


if __name__ == "__main__":
    main()
