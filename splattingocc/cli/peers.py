"""What `splattingocc bench render --peers` does and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

AIMS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("NeRF sampling", "trained-like"): {"total": 60},
    ("NeRF sampling", "fog"): {"total": 30},
    ("NeRF, skipping", ""): {"total": 5},
    ("Mitsuba", ""): {"forward": 4, "backward": 10},
}
"""How many times ours a peer should take, by peer and volume; an empty one is any."""
MOST_MEGABYTES = 100
"""That ours should take beyond inputs and gradients."""
STEPS = ("forward", "backward", "total")


def print_peers(*, rays: int, repeats: int, as_json: bool, out: Path | None, curves: Path | None) -> None:
    """Measure, print a table or JSON lines case by case, write the lines to `out` and the two curves to `curves`."""
    from splattingocc.splatting.bench_peers import bench_peers
    from splattingocc.splatting.bench_scaling import bench_scaling
    from splattingocc.splatting.mitsuba_peer import why_missing

    if missing := why_missing():
        print(missing, file=sys.stderr)
    records: list[Mapping[str, Any]] = []
    # A path that cannot be written is known before minutes of measuring
    _keep(records, out)
    for case in bench_peers(num_rays=rays, repeats=repeats):
        records += case
        _keep(records, out)
        _print(case, as_json)
    if curves is None:
        return
    from splattingocc.visualization.scaling import draw_scaling

    points = bench_scaling(repeats=repeats)
    _keep([*records, *points], out)
    if as_json:
        print("\n".join(json.dumps(point) for point in points))
    draw_scaling(points, curves)


def _keep(records: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    from splattingocc.files import write_atomically

    if out is not None:
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        write_atomically(out, partial(_write, lines))


def _write(lines: str, path: Path) -> None:
    path.write_text(lines)


def _print(case: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print("\n".join(json.dumps(record) for record in case), flush=True)
        return
    first = case[0]
    words = f"{first['volume']} ({first['occupied_share']:.0%} occupied), {first['num_channels']} channels, {first['num_rays']:,} rays"
    title = f"{words}; CPU seconds, medians of {first['repeats']}"
    # Narrow enough for a terminal of eighty columns
    table = Table(title=title, box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in ("index", "forward", "backward", "wall", *(f"{step}\n/ ours" for step in STEPS), "MB\nbeyond"):
        table.add_column(column, justify="right", no_wrap=True)
    for record in case:
        seconds = [f"{record[f'{part}_cpu_s']:.3f}" for part in ("index", "forward", "backward")]
        wall = sum(record[f"{part}_wall_s"] for part in ("index", "forward", "backward"))
        megabytes = record["peak_beyond_mb"]
        over = [f"{record[f'{step}_over_ours']:.1f}" for step in STEPS]
        what = record["what"] if record["num_rays"] == first["num_rays"] else f"{record['what'].split(',')[0]}, {record['num_rays']} rays"
        table.add_row(what, *seconds, f"{wall:.2f}", *over, "–" if megabytes is None else f"{megabytes:,}")
    console = Console()
    console.print(table)
    for record in case:
        if words := verdict(record):
            console.print(f"{record['what']}: {words}", highlight=False)
    console.print()


def verdict(record: Mapping[str, Any]) -> str:
    """Return what is aimed at and whether it is reached, for a peer that there is an aim for and for our memory."""
    if record["what"] == "ours":
        megabytes = record["peak_beyond_mb"]
        return "" if megabytes is None else f"{_word(megabytes <= MOST_MEGABYTES)}: ≤ {MOST_MEGABYTES} MB"
    aims = AIMS.get((record["what"], record["volume"])) or AIMS.get((record["what"], "")) or {}
    return ", ".join(f"{_word(record[f'{step}_over_ours'] >= aim)}: {step} ≥ {aim:g}" for step, aim in aims.items())


def _word(reached: bool) -> str:
    return "reached" if reached else "missed"
