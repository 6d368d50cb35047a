"""Compare ways to supervise and to render, all else equal: one cell for each variant and seed, one table.

    splattingocc synth --out D --scenes 30 --val-scenes 6 --frames 2 --image-size 180 320 --seed 1 && splattingocc prepare --dataroot D
    python benchmarks/comparison.py splattingocc-synth --dataroot D --weights FILE.pth --work-dir W --table docs/results.md --section twins

All variants of a seed share encoder, data, order of samples, image phase, ray budget and number of joint steps, and each chooses its
threshold from 2D labels. A finished cell is a line in `W/results.jsonl` and is never made again; a run that was killed goes on where it
was. A cell is another one as soon as an option or the code is another: it is made anew, and older lines stay. A cell that fails is reported
with its error, the others go on, and the status is 1. `--table` puts the tables between the two marks of a page.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from comparison_cell import Cell, common_experiment, forget_checkpoints, run_cell, source
from comparison_table import read_lines, report, rewrite
from comparison_variants import VARIANTS, changed

from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.files import first_line, sole_writer
from splattingocc.models.backbones.weights import WeightsConfig

RESULTS_FILE = "results.jsonl"
LOG_FILE = "log.txt"
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
ENDED = 1


@dataclass
class Arguments:
    config: tyro.conf.Positional[Path]
    """Configuration that the variants differ from: a file, or the name of one that comes with the package."""
    work_dir: Path
    """Folder of all cells and of `results.jsonl`."""
    dataroot: Path | None = None
    """Data set with labels and truth; that of the configuration by default."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which rows to fill; all by default."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the rows; cells are made seed by seed."""
    joint_steps: int = 80
    """Steps after the image phase, rounded up to whole epochs."""
    weights: Path | None = None
    """Weights that the encoder of all cells begins with; those of the configuration by default."""
    table: Path | None = None
    """Page to write the tables into, between the lines `<!-- comparison: begin -->` and `<!-- comparison: end -->`."""
    section: str = "comparison"
    """What these two lines name, where a page has several tables."""
    only_table: bool = False
    """Train nothing."""
    cell: tuple[str, int] | None = None
    """Make this cell (variant, seed) in this process: what the comparison starts itself with."""


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = tyro.cli(Arguments, args=words)
    for name in (*options.variants, *([options.cell[0]] if options.cell else ())):
        if name not in VARIANTS:
            raise ValueError(f"--variants: {name} is none; there are {', '.join(VARIANTS)}")
    config = begun_with(load_config(options.config), options.weights)
    common = common_experiment(config, options.dataroot, options.joint_steps, options.work_dir)
    if options.cell is not None:
        end_with_parent()
        finish(cell_of(common, *options.cell), options.work_dir)
        return 0
    failed = 0
    if not options.only_table:
        with sole_writer(options.work_dir):
            failed = compare(common, options, lambda cell: in_own_process(cell, options.work_dir, words))
    if options.table is not None:
        write_table(common, options)
    return ENDED if failed else 0


def begun_with(config: ExperimentConfig, weights: Path | None) -> ExperimentConfig:
    """Return the experiment whose encoder begins with a file's weights; None leaves it as it is."""
    if weights is None:
        return config
    backbone = config.network.backbone
    if not isinstance(backbone, WeightsConfig):
        raise ValueError(f"--weights: network.backbone.kind is {backbone.kind}, which begins with no file's weights")
    if not weights.is_file():
        raise ValueError(f"--weights: {weights}: no such file")
    return changed(config, {"network.backbone.weights": weights.resolve()})


def cell_of(common: ExperimentConfig, variant: str, seed: int) -> Cell:
    return Cell(VARIANTS[variant], changed(common, {"seed": seed}))


def compare(common: ExperimentConfig, options: Arguments, make: Callable[[Cell], str | None]) -> int:
    """Make all cells that are not finished; return how many failed. `make` returns the error of a cell that did."""
    results = options.work_dir / RESULTS_FILE
    errors: dict[str, str] = {}
    cells = [cell_of(common, variant, seed) for seed in options.seeds for variant in options.variants]
    for number, cell in enumerate(cells, 1):
        name = f"{number}/{len(cells)} {cell.variant.name}, seed {cell.seed}"
        lines = read_lines(results)
        if (line := finished(lines, cell)) is not None:
            print(f"{name}: finished before{'' if line['variant'] == cell.variant.name else ' as ' + line['variant']}", flush=True)
            continue
        of_others = [line for line in lines if (line["variant"], line["seed"]) == (cell.variant.name, cell.seed) and "error" not in line]
        if of_others:
            print(f"{name}: other options or other code than those of {len(of_others)} lines, which stay; made anew", flush=True)
        began = time.monotonic()
        error = make(cell)
        if error is None and finished(read_lines(results), cell) is None:
            error = "options or code were changed while it was made; begin the comparison again"
        if error is not None:
            errors[name] = error
            append(results, {**identity(cell), "error": error})
        print(f"{name}: {'failed: ' + error if error else f'{time.monotonic() - began:.0f} s'}", flush=True)
    for name, error in errors.items():
        print(f"failed: {name}: {error}", flush=True)
    return len(errors)


def finished(lines: Sequence[dict[str, Any]], cell: Cell) -> dict[str, Any] | None:
    """Return the line of a cell of these options and this code."""
    own = {"digest": cell.digest, "source": source()}
    return next((line for line in reversed(lines) if own.items() <= line.items() and "error" not in line), None)


def identity(cell: Cell) -> dict[str, Any]:
    return {"variant": cell.variant.name, "seed": cell.seed, "digest": cell.digest, "source": source()}


def finish(cell: Cell, work_dir: Path) -> None:
    """Make a cell in this process, and write its line."""
    append(work_dir / RESULTS_FILE, run_cell(cell, work_dir))
    forget_checkpoints(cell, work_dir)


def in_own_process(cell: Cell, work_dir: Path, words: Sequence[str]) -> str | None:
    """Make a cell in a process of its own, whose memory is then the cell's; return what went wrong, if anything did."""
    log = cell.folder(work_dir) / LOG_FILE
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), *words, "--cell", cell.variant.name, str(cell.seed)]
    # As the command line has it, which sets it before torch is loaded
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    with log.open("a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code == 0:
        return None
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; {log}"
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{said[-1] if said else f'status {code}'}; {log}"


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends, so that a comparison that is begun again meets no other."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to the results, wholly on the disk when this returns; after a half-written one it begins a new line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_table(common: ExperimentConfig, options: Arguments) -> None:
    """Write the tables of all variants: cells of these options, all made by the code that made the newest of them."""
    assert options.table is not None
    cells = {(name, seed): cell_of(common, name, seed).digest for name in VARIANTS for seed in options.seeds}
    digests = set(cells.values())
    lines = [line for line in read_lines(options.work_dir / RESULTS_FILE) if line["digest"] in digests and "error" not in line]
    by_digest = {line["digest"]: line for line in lines if line["source"] == lines[-1]["source"]}
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for (name, seed), digest in cells.items():
        if digest in by_digest:
            results.setdefault(name, {})[seed] = by_digest[digest]
    given = ["python", "benchmarks/comparison.py", options.config.name, "--joint-steps", str(options.joint_steps)]
    given += [] if options.weights is None else ["--weights", options.weights.name]
    rewrite(options.table, report(results, options.seeds, shlex.join([*given, "--seeds", *map(str, options.seeds)])), options.section)
    print(f"{options.table}: {len(by_digest)} cells, {len(lines) - len(by_digest)} of other code or older", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(first_line(error))
