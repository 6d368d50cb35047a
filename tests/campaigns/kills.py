"""Kill commands at random moments, start them again, and compare with what an undisturbed run leaves: byte for byte, and nothing more.

`python tests/campaigns/kills.py --kills 200 --out DIR`. Every round kills a command one to six times with -9, each time in the middle of
what the one before it left, lets it run to the end, and looks at its results, at its folder, and at the processes that it started.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

if __name__ == "__main__":  # a worker that `prepare` spawns imports this file and needs none of it
    import children
    import torch
    import world

    from splattingocc.cli import main as command

ORPHANS_END = 10.0
"""Seconds without any work after which the processes of a killed command count as left over."""
LONGEST = 120.0
"""Seconds that a command may take in all."""
OF_THE_MOMENT = ("console.log", "log.txt", "environment.json", "metrics.json", "metrics.csv", "speed.csv", "curves.png")
"""Files whose bytes hold the time, or what the machine did; of some, the part that does not is compared."""
SET_ASIDE = ("checkpoints_before_", "metrics_before_", "speed_before_")
"""What a training that begins again at step 0 keeps of an earlier one; counted, because killing before the first checkpoint makes one."""
BY_THE_CLOCK = ("seconds", "samples_per_second", "peak_memory_gib")


@dataclass(frozen=True)
class Case:
    """A command that is killed."""

    name: str
    parts: tuple[str, ...]
    """Of the world, that it needs."""
    words: tuple[str, ...]
    """The command, each time the same."""
    results: tuple[str, ...]
    """Files and folders that it makes."""
    weight: int
    most_kills: int = 6


def _train(name: str, weight: int, *options: str) -> Case:
    words = ("train", "config.json", "--work-dir", "runs/small", "--auto-resume", *options)
    return Case(f"train, {name}", ("synth", "config.json"), words, ("runs",), weight)


SYNTH = ("synth", "--out", "data", "--scenes", "3", "--val-scenes", "1", "--frames", "2", "--image-size", "32", "64")
PREPARE = ("prepare", "--dataroot", "synth", "--out", "labels")
TEST = ("test", "config.json", "runs/small/network.safetensors")
WITHOUT = ("--optimization.ema-decay", "0")
CASES = (
    Case("synth", (), SYNTH, ("data",), 6),
    Case("prepare, no workers", ("synth",), (*PREPARE, "--workers", "0"), ("labels",), 6),
    Case("prepare, 2 workers", ("synth",), (*PREPARE, "--workers", "2"), ("labels",), 3, 2),
    _train("averaged weights", 6),
    _train("no averaging", 4, *WITHOUT),
    _train("averaged weights, a loader worker", 4, "--data.num-workers", "1"),
    _train("averaged weights, a checkpoint a step", 3, "--trainer.checkpoint-steps", "1"),
    _train("a checkpoint a step, 2 loader workers", 3, *WITHOUT, "--trainer.checkpoint-steps", "1", "--data.num-workers", "2"),
    Case("test, predict and score", ("synth", "config.json", "trained"), TEST, ("runs",), 6),
    Case("test, a loader worker", ("synth", "config.json", "trained"), (*TEST, "--data.num-workers", "1"), ("runs",), 4),
    Case("test, score", ("synth", "config.json", "predicted"), (*TEST, "--eval", "segm", "ray"), ("runs",), 4),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of results, a JSON line for each round")
    parser.add_argument("--only", default="", help="commands whose names hold this")
    parser.add_argument("--scratch", type=Path, help="where copies of the world go; a temporary folder by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="kills-", dir=options.scratch))
    # What libraries leave in the system's temporary folder is litter, too
    (scratch / "tmp").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch / "tmp")
    rounds: list[dict[str, Any]] = []
    try:
        root = _world_in(scratch)
        cases = [case for case in CASES if options.only in case.name]
        with (options.out / "rounds.jsonl").open("w") as file:
            campaign = Campaign(root, scratch, random.Random(options.seed))
            turns = [case for case in cases for _ in range(case.weight)]
            campaign.rng.shuffle(turns)
            number = 0
            while sum(len(one["killed_at"]) for one in rounds) < options.kills:
                rounds.append(campaign.round(turns[number % len(turns)]))
                print(json.dumps(rounds[-1]), file=file, flush=True)
                if rounds[-1]["wrong"]:
                    print(json.dumps(rounds[-1]), flush=True)
                number += 1
    finally:
        os.chdir("/")
        shutil.rmtree(scratch, ignore_errors=True)
    _print_table(rounds, cases)
    sys.exit(any(one["wrong"] for one in rounds))


def _world_in(scratch: Path) -> Path:
    here, root = scratch / "here", scratch / "world"
    ended = children.run(lambda: world.build(here), scratch, scratch / "logs", timeout=300)
    assert ended.status == 0, ended.stderr
    here.rename(root)
    for name, without in (("trained", ("output", "metrics_val.json")), ("predicted", ("metrics_val.json",))):
        world.copy(root, root / name, ("runs",))
        for lost in without:
            path = root / name / "runs/small" / lost
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(root / "runs")
    world.warm_up(root, scratch / "warm")
    return root


class Campaign:
    """Rounds of kills, and the undisturbed runs that they are compared with."""

    def __init__(self, root: Path, scratch: Path, rng: random.Random) -> None:
        self.root, self.scratch, self.rng = root, scratch, rng
        self.folder, self.logs = scratch / "here", scratch / "logs"
        self.undisturbed: dict[str, tuple[float, dict[str, str]]] = {}

    def round(self, case: Case) -> dict[str, Any]:
        if case.name not in self.undisturbed:
            self._begin(case)
            ended = self._run(case)
            assert ended.status == 0, ended.stderr
            self.undisturbed[case.name] = ended.seconds, what_is_left(self.folder, case)
        seconds, expected = self.undisturbed[case.name]
        self._begin(case)
        killed_at: list[float] = []
        wrong: list[str] = []
        for _ in range(self.rng.randint(1, case.most_kills)):
            moment = self.rng.uniform(0, seconds)
            child = children.start(lambda: command(list(case.words)), self.folder, self.logs)
            time.sleep(moment)
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                os.waitpid(child, 0)
                break  # it was faster this time
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed_at.append(round(moment, 3))
            wrong += self._orphans()
        ended = self._run(case)
        if ended.status != 0:
            wrong.append(f"ended with {ended.status}: {ended.stderr[-1000:]}")
        found = what_is_left(self.folder, case)
        aside = sum(name.startswith(SET_ASIDE) for path in found for name in path.split("/")[-1:])
        found = {path: content for path, content in found.items() if not any(name.startswith(SET_ASIDE) for name in path.split("/"))}
        wrong += [f"differs: {path}" for path in expected if path in found and found[path] != expected[path]]
        wrong += [f"missing: {path}" for path in expected if path not in found]
        wrong += [f"litter: {path}" for path in found if path not in expected]
        wrong += [f"litter: {path}" for path in self._litter_elsewhere()]
        return {"case": case.name, "killed_at": killed_at, "of": round(seconds, 3), "wrong": wrong, "set_aside": aside}

    def _begin(self, case: Case) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for part in case.parts:
            is_run = (self.root / part / "runs").is_dir()
            world.copy(self.root / part if is_run else self.root, self.folder, ("runs",) if is_run else (part,))

    def _run(self, case: Case) -> children.Ended:
        return children.run(lambda: command(list(case.words)), self.folder, self.logs, timeout=LONGEST)

    def _orphans(self) -> list[str]:
        """Wait for the processes that a killed one has started, which work in its folder; name those that do not end by themselves."""
        worked, rested = 0.0, time.monotonic()
        while left := _processes_in(self.folder):
            before, worked = worked, sum(map(children.seconds_of_work, left))
            if worked != before:
                rested = time.monotonic()  # one that still imports comes to look at its parent later
            if time.monotonic() - rested > ORPHANS_END:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                return [f"{len(left)} processes outlive their killed parent"]
            time.sleep(0.05)
        return []

    def _litter_elsewhere(self) -> list[str]:
        return [str(path) for path in (self.scratch / "tmp").iterdir()]


def _processes_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder) and (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(process.name))
        except OSError:
            continue
    return found


def what_is_left(folder: Path, case: Case) -> dict[str, str]:
    """Return the digest of everything that a command leaves, but for what is of the moment."""
    left: dict[str, str] = {}
    for result in case.results:
        for path in sorted((folder / result).rglob("*")):
            if path.is_symlink():
                left[str(path.relative_to(folder))] = f"a link to {os.readlink(path)}"
            elif path.is_file():
                left[str(path.relative_to(folder))] = hashlib.sha256(_lasting(path)).hexdigest()
            elif not any(path.iterdir()):
                left[str(path.relative_to(folder))] = "an empty folder"
    return left


def _lasting(path: Path) -> bytes:
    """Return the part of a file that must be the same after each run."""
    read: dict[str, Callable[[Path], object]] = {
        "metrics.csv": _last_rows,
        "metrics.json": lambda path: {key: value for key, value in json.loads(path.read_text()).items() if key not in BY_THE_CLOCK},
    }
    if path.suffix == ".ckpt":
        return _of_checkpoint(path)
    if path.name in read:
        return repr(read[path.name](path)).encode()
    return b"" if path.name in OF_THE_MOMENT else path.read_bytes()


def _last_rows(path: Path) -> dict[str, dict[str, str]]:
    """Return the last row of each step: a step that was done twice has two."""
    with path.open() as file:
        return {row["step"]: row for row in csv.DictReader(file)}


def _of_checkpoint(path: Path) -> bytes:
    """Return the digest of a checkpoint's weights, averaged and not, of the optimizer and of where it stands."""
    checkpoint = torch.load(path, weights_only=True, mmap=True)
    found = hashlib.sha256()
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        _feed(found, checkpoint.get(part))
    return found.digest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(value.detach().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            found.update(str(key).encode())
            _feed(found, value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            _feed(found, one)
    else:
        found.update(repr(value).encode())


def _print_table(rounds: list[dict[str, Any]], cases: list[Case]) -> None:
    print("| command | kills | rounds | equal to the undisturbed run | litter | orphans | began again at step 0 |")
    print(f"|---|{6 * '---:|'}")
    for name in [*(case.name for case in cases), "all"]:
        own = [one for one in rounds if name in (one["case"], "all")]
        equal = sum(not any(word.startswith(("differs", "missing", "ended")) for word in one["wrong"]) for one in own)
        litter, orphans = (sum(any(mark in word for word in one["wrong"]) for one in own) for mark in ("litter", "outlive"))
        kills, aside = sum(len(one["killed_at"]) for one in own), sum(one["set_aside"] > 0 for one in own)
        print(f"| {name} | {kills} | {len(own)} | {equal} | {litter} | {orphans} | {aside} |")


if __name__ == "__main__":
    main()
