"""Commands that look at results, speed and the installation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console
from rich.table import Table


@dataclass
class Bench:
    """Measure on this machine; prints p50 and p95 of several runs."""

    what: tyro.conf.Positional[Literal["render"]]
    """`render`: Gaussians beside NeRF sampling, on the same rays."""
    rays: Annotated[int, Field(ge=1, le=10_000_000)] = 24_000
    """Rays of one run."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Timed runs, after one that is not."""
    json: bool = False
    """Print one JSON line for each case instead of a table."""

    def run(self) -> None:
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
            table.add_row(row["what"], row["device"], *times, f"{row['peak_memory_mb']:,.0f} MB")
        Console().print(table)


@dataclass
class Log:
    """Print the ledger of runs as a table, or what two runs differ in."""

    compare: tuple[str, str] | None = None
    """Two runs, by the beginning or the end of their number."""
    path: Path = Path("work_dirs/log.txt")
    """The ledger."""

    def run(self) -> None:
        from splattingocc.engine.ledger import differences, read_ledger

        runs = read_ledger(self.path)
        if self.compare is None:
            table = Table(title=str(self.path))
            for column in ("run", "command", "name", "commit", "changed", "seed", "processes", "result"):
                table.add_column(column)
            for run in runs:
                changed = ", ".join(f"{name}={value}" for name, value in run.what["changed"].items())
                result = ", ".join(f"{name} {value}" for name, value in run.result.items()) or "running, or killed"
                what = [str(run.what[name]) for name in ("command", "name", "commit")]
                table.add_row(run.id, *what, changed, str(run.what["seed"]), str(run.what["processes"]), result)
            Console().print(table)
            return
        first, second = (self._find(runs, number) for number in self.compare)
        for name, value in differences(second.what | second.result, first.what | first.result).items():
            print(f"{name}: {_at(first.what | first.result, name)} → {value}")

    def _find(self, runs: list, number: str) -> Any:
        found = [run for run in runs if run.id.startswith(number) or run.id.endswith(number)]
        if len(found) != 1:
            raise ValueError(f"--compare {number}: {len(found)} runs of {self.path} have such a number, expected one")
        return found[0]


def _at(content: Any, name: str) -> Any:
    """Return what a dotted name leads to; dots may be part of a key."""
    if name in content:
        return content[name]
    head, _, rest = name.partition(".")
    return _at(content[head], rest) if rest and isinstance(content.get(head), dict) else None


@dataclass
class Doctor:
    """Say what is installed, whether the kernels run, which data are there, and what to do about what is missing."""

    dataroot: Path | None = None
    """Look at the data in this folder too."""
    version: str | None = None
    """Folder of its tables; where there is only one, that one."""

    def run(self) -> None:
        from splattingocc.data.nuscenes import only_version, versions_of
        from splattingocc.doctor import examine

        table = Table(title="splattingocc doctor")
        for column in ("", "found", "what to do"):
            table.add_column(column)
        root = self.dataroot
        version = self.version or (only_version(root) if root is not None and versions_of(root) else "v1.0-trainval")
        findings = examine(root, version)
        for finding in findings:
            style = "red" if finding.is_problem else "yellow" if finding.advice else ""
            table.add_row(finding.name, finding.found, finding.advice or "", style=style)
        Console().print(table)
        if problems := [finding.name for finding in findings if finding.is_problem]:
            raise ValueError(f"something that is needed does not work: {', '.join(problems)}")
