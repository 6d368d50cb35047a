"""Commands that look at results, speed and the installation."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from splattingocc.engine.ledger import Ledger, Run

COLUMNS = ("command", "name", "result", "changed", "seed", "commit", "processes")
"""Of the ledger's table, behind the number of the run; on narrow terminals the first five."""
WIDE = 120
"""Columns of a terminal that has room for all of them."""


MOST_THREADS = 1024


@dataclass
class Bench:
    """Measure on this machine; prints p50 and p95 of several runs."""

    what: tyro.conf.Positional[Literal["render", "infer"]]
    """`render`: Gaussians beside NeRF sampling, on the same rays. `infer`: a network on one frame, from images to a grid."""
    network: tyro.conf.Positional[Path | None] = None
    """For `infer`: `network.safetensors`, `zoo/<name>`, or a configuration, whose network then has random weights."""
    rays: Annotated[int, Field(ge=1, le=10_000_000)] = 24_000
    """For `render`: rays of one run."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Timed runs, after one that is not."""
    threads: tuple[int, ...] = (1, 2)
    """For `infer`: how many threads of the CPU to time it with, one after the other."""
    ways: tuple[Literal["eager", "torch.compile", "onnxruntime"], ...] = ("eager", "torch.compile", "onnxruntime")
    """For `infer`: what runs the network; `torch.compile` its convolutions alone, and it needs a C++ compiler."""
    onnx: Path | None = None
    """For `infer`: the same network as `splattingocc export` wrote it, to time onnxruntime beside torch."""
    json: bool = False
    """Print one JSON line for each case instead of a table."""
    peers: bool = False
    """For `render`: on a CPU, beside NeRF sampling, one that skips empty cells, brute force and, where it is installed, Mitsuba."""
    out: Path | None = None
    """With `--peers`: a file that the JSON lines are written to as well."""
    curves: Path | None = None
    """With `--peers`: a PNG of the time against the number of rays and of empty Gaussians, which are measured for it."""

    def run(self) -> None:
        if not self.peers and (path := self.out or self.curves):
            raise ValueError(f"{path}: is for `bench render --peers`")
        for name in ("rays", "peers") if self.what == "infer" else ("threads", "ways"):
            if getattr(self, name) != getattr(Bench, name):
                raise ValueError(f"--{name}: is for `bench {'render' if self.what == 'infer' else 'infer'}`")
        if self.what == "infer":
            self._infer()
        elif self.network is not None or self.onnx is not None:
            raise ValueError(f"{self.network or self.onnx}: `bench render` takes no network, `bench infer` does")
        elif self.peers:
            from splattingocc.cli.peers import print_peers

            print_peers(rays=self.rays, repeats=self.repeats, as_json=self.json, out=self.out, curves=self.curves)
        else:
            self._render()

    def _render(self) -> None:
        import torch

        from splattingocc.splatting.bench import bench_render

        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        rows = [row for device in devices for row in bench_render(num_rays=self.rays, repeats=self.repeats, device=device)]
        if self.json:
            print("\n".join(json.dumps(row) for row in rows))
            return
        table = Table(title=f"{self.rays:,} rays; seconds, median of {self.repeats} (95th percentile)")
        for column in ("", "device", "forward", "backward", "peak memory"):
            table.add_column(column)
        for row in rows:
            times = (f"{row[f'{step}_p50_s']:.3f} ({row[f'{step}_p95_s']:.3f})" for step in ("forward", "backward"))
            table.add_row(*map(text, (row["what"], row["device"], *times, f"{row['peak_memory_mb']:,.0f} MB")))
        Console().print(table)

    def _infer(self) -> None:
        from splattingocc.pipeline.bench_inference import bench_inference
        from splattingocc.zoo import find_in_zoo

        if self.network is None:
            raise ValueError("expected a network or a configuration, as in `splattingocc bench infer NETWORK`")
        if not self.threads or not self.ways:
            raise ValueError(f"--{'ways' if self.threads else 'threads'}: expected at least one")
        for count in self.threads:
            if not 1 <= count <= MOST_THREADS:
                raise ValueError(f"--threads {count}: expected 1 to {MOST_THREADS}")
        path = find_in_zoo(self.network)
        rows = bench_inference(path, ways=self.ways, repeats=self.repeats, threads=self.threads, onnx=self.onnx)
        if self.json:
            for row in rows:
                print(json.dumps(row), flush=True)
            return
        table = Table(title=f"{self.network}, one frame; milliseconds, median of {self.repeats} (95th percentile)")
        for column in ("", "device", "threads", "ms a frame", "peak memory"):
            table.add_column(column)
        for row in rows:
            first = (row["what"], row["device"].split()[0], row["num_threads"])
            if "failed" in row:
                table.add_row(*map(text, (*first, row["failed"], "–")))
            else:
                times = f"{1000 * row['p50_s']:,.0f} ({1000 * row['p95_s']:,.0f})"
                table.add_row(*map(text, (*first, times, f"{row['peak_memory_mb']:,.0f} MB")))
        Console().print(table)


@dataclass
class Log:
    """Print the ledger of runs as a table, or what two runs differ in."""

    compare: tuple[str, str] | None = None
    """Two runs, by the beginning or the end of their number."""
    path: Path = Path("work_dirs/log.txt")
    """The ledger."""
    json: bool = False
    """Print a JSON object a line instead: for each run, or for each difference with `--compare`."""

    def run(self) -> None:
        from splattingocc.engine.ledger import differences, read_ledger

        ledger = read_ledger(self.path)
        if self.compare is None:
            self._print_runs(ledger)
        else:
            first, second = (_contents(self._find(ledger.runs, number)) for number in self.compare)
            for name, value in differences(second, first).items():
                before = _at(first, name)
                print(
                    json.dumps({"name": name, "first": before, "second": value}) if self.json else printable(f"{name}: {before} → {value}")
                )
        if unread := ledger.unread:
            print(f"{printable(self.path)}: {len(unread)} of its lines cannot be read, the first is line {unread[0]}", file=sys.stderr)

    def _print_runs(self, ledger: Ledger) -> None:
        if self.json:
            for run in ledger.runs:
                print(json.dumps(dataclasses.asdict(run)))
            return
        console = Console()
        table = Table(title=cell(self.path), box=None, header_style="bold", pad_edge=False)
        # The whole number of a run, because `--compare` asks for it; of the other columns what there is room for
        table.add_column("run", no_wrap=True)
        columns = COLUMNS if console.width >= WIDE else COLUMNS[:5]
        for column in columns:
            table.add_column(column)
        for run in ledger.runs:
            row = _row_of(run)
            table.add_row(*map(cell, (run.id, *(row[column] for column in columns))))
        console.print(table)

    def _find(self, runs: list[Run], number: str) -> Run:
        found = [run for run in runs if run.id.startswith(number) or run.id.endswith(number)]
        if len(found) != 1:
            raise ValueError(f"--compare {number}: {len(found)} runs of {self.path} have such a number, expected one")
        return found[0]


def _row_of(run: Run) -> dict[str, Any]:
    """Return what stands in the table's columns behind the number of the run."""
    row = {column: run.what.get(column, "–") for column in COLUMNS}
    if isinstance(changed := row["changed"], Mapping):
        row["changed"] = ", ".join(f"{option}={value}" for option, value in changed.items())
    # Scores and errors first: in a narrow column they are what is seen
    result = ", ".join(f"{name} {run.result[name]}" for name in sorted(run.result, key=lambda name: name == "seconds"))
    return row | {"result": result or "running, or killed"}


def _contents(run: Run) -> dict[str, Any]:
    return run.what | run.result


def printable(value: object) -> str:
    """Return text from outside as one line that a terminal takes as text: what would move its cursor or cannot be encoded is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(value))


def text(value: object) -> Text:
    """Return text from outside for a table, in which square brackets are no markup."""
    return Text(printable(value))


def cell(value: object) -> Text:
    """Return text from outside as a cell of one line, cut off where there is no room."""
    return Text(printable(value), no_wrap=True, overflow="ellipsis")


def _at(content: Any, name: str) -> Any:
    """Return what a dotted name leads to; dots may be part of a key."""
    if name in content:
        return content[name]
    head, _, rest = name.partition(".")
    return _at(content[head], rest) if rest and isinstance(content.get(head), dict) else None


@dataclass
class Report:
    """Write one HTML file that shows a run: its scores, curves, pictures, films, and its occupancy and Gaussians in 3D."""

    work_dir: tyro.conf.Positional[Path]
    """Folder of a run, of the demo, or of a prediction cache. What is not in it is not in the report, which says so."""
    out: Path | None = None
    """Where the file goes; by default into that folder, as `report.html`, or `report_<split>.html` of another split than val."""
    split: str = "val"
    """Which split's predictions and scores."""
    scenes: tuple[str, ...] = ()
    """Show key frames of these scenes only, by name."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 20
    """Key frames that the 3D view has, spread evenly over those that were predicted."""
    gts: Path | None = None
    """Folder of Occ3D's truth; by default that of the data that the network was trained on."""
    gaussians: Annotated[int, Field(ge=0, le=1_000_000)] = 12_000
    """Gaussians of each key frame, the most opaque ones; 0 shows none. They are predicted again, from the network and the images."""
    max_megabytes: Annotated[float, Field(gt=0, le=1000)] = 15.0
    """Size of the file, 10^6 bytes; of curves, films and pictures, in this order, those that would make it larger are left out."""

    def run(self) -> None:
        from splattingocc.report.found import find
        from splattingocc.report.gaussians import predict_gaussians
        from splattingocc.report.page import MEGABYTE, write_report

        found = find(self.work_dir, split=self.split, scenes=self.scenes, most_frames=self.frames, gts=self.gts)
        gaussians = predict_gaussians(found, self.gaussians)
        out = self.out or self.work_dir / ("report.html" if found.split == "val" else f"report_{found.split}.html")
        path = write_report(found, gaussians, out, most_bytes=round(self.max_megabytes * MEGABYTE))
        for line in found.missing:
            print(printable(line), file=sys.stderr)
        print(f"{path} ({path.stat().st_size / MEGABYTE:.1f} MB)")


@dataclass
class Doctor:
    """Say what is installed, whether the kernels run, which data are there, and what to do about what is missing."""

    dataroot: Path | None = None
    """Look at the data in this folder too."""
    version: str | None = None
    """Folder of its tables; where there is only one, that one."""
    labels: Path | None = None
    """Folder of the 2D label store; `<dataroot>/labels_2d` by default."""
    gts: Path | None = None
    """Folder of Occ3D's truth; `<dataroot>/gts` by default."""

    def run(self) -> None:
        from splattingocc.data.nuscenes import only_version, versions_of
        from splattingocc.doctor import examine

        for option, value in (("--version", self.version), ("--labels", self.labels), ("--gts", self.gts)):
            if value is not None and self.dataroot is None:
                raise ValueError(f"{option} {value}: does nothing without --dataroot, the folder of the data")

        table = Table(title="splattingocc doctor")
        for column in ("", "found", "what to do"):
            table.add_column(column)
        root = self.dataroot
        version = self.version or (only_version(root) if root is not None and versions_of(root) else "v1.0-trainval")
        findings = examine(root, version, labels=self.labels, gts=self.gts)
        for finding in findings:
            style = "red" if finding.is_problem else "yellow" if finding.advice else ""
            table.add_row(*map(text, (finding.name, finding.found, finding.advice or "")), style=style)
        Console().print(table)
        if problems := [finding.name for finding in findings if finding.is_problem]:
            raise ValueError(f"something that is needed does not work: {', '.join(problems)}")
