"""How rendering time grows with rays and with empty Gaussians, as one picture of two curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splattingocc.files import write_atomically
from splattingocc.visualization.curves import DOTS_PER_INCH, PANEL_INCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("index", "forward", "backward")
CURVES = {"rays": "num_rays", "empty Gaussians": "num_empty"}
"""What lies on the horizontal axis of each panel, and the number of a record that says it."""
MOST_FOR_EMPTY = 1.5
"""Times the first point that the last one, of ten times the empty Gaussians, may take."""


def draw_scaling(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the records of `splattingocc.splatting.bench_scaling.bench_scaling` into a PNG."""
    # Imported where it is needed, because it takes a second
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * PANEL_INCHES[0], PANEL_INCHES[1] + 0.4), dpi=DOTS_PER_INCH, layout="constrained")
    threads = records[0]["num_threads"]
    words = f"trained-like volume, {records[0]['num_channels']} channels, {threads} thread{'' if threads == 1 else 's'}"
    figure.suptitle(words, fontweight="bold")
    for axes, (name, number) in zip(figure.subplots(1, 2), CURVES.items()):
        _draw_curve(axes, name, number, [record for record in records if record["curve"] == name])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    # Without the versions of programs the same curves are the same bytes
    write_atomically(path, lambda temporary: canvas.print_png(temporary, metadata={"Software": None}))


def _draw_curve(axes: Axes, name: str, number: str, records: Sequence[Mapping[str, Any]]) -> None:
    at = [record[number] / 1000 for record in records]
    totals = [sum(record[f"{part}_cpu_s"] for part in PARTS) for record in records]
    axes.plot(at, totals, "o-", color="C3", linewidth=1.8, label="all")
    for color, part in enumerate(PARTS):
        axes.plot(at, [record[f"{part}_cpu_s"] for record in records], "o-", markersize=3, linewidth=1, color=f"C{color}", label=part)
    if name == "rays":
        per_ray = totals[-1] / at[-1]
        axes.plot([0, at[-1]], [0, per_ray * at[-1]], color="grey", linestyle=":", linewidth=1, label="as many times as rays")
        axes.set_title("time against rays")
    else:
        allowed = MOST_FOR_EMPTY * totals[0]
        axes.axhline(allowed, color="grey", linestyle=":", linewidth=1, label=f"{MOST_FOR_EMPTY} times the first")
        axes.set_title(f"time against empty Gaussians, {records[0]['num_rays']:,} rays")
    axes.set(xlabel=f"thousands of {name}", ylabel="CPU seconds, median")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
