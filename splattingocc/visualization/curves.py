"""How a training went, as one picture of curves in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from splattingocc.files import BadFile, read_bytes, read_json, write_atomically
from splattingocc.files.step_tables import read_step_table
from splattingocc.splatting.field import OccupancyThreshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE: Final = "curves.png"
PANEL_INCHES: Final = (5.0, 3.6)
"""Width and height of a panel."""
MARGIN_INCHES: Final = {"left": 0.75, "right": 0.15, "bottom": 0.55, "top": 0.3}
"""Around each panel's axes, for its title, labels and numbers: a layout that measures them makes drawing take half as long again."""
TITLE_INCHES: Final = 0.4
DOTS_PER_INCH: Final = 90
MOST_COLUMNS: Final = 4
WHOSE: Final = ("checkpoint", "predictions")
"""What a file of scores says of whose they are: the digest of a network, or another program's predictions."""
SMOOTHED_SHARE: Final = 0.02
"""Of a training: the steps that the bold curves are means over. What single steps had is drawn faintly behind them."""


class _Reliability(msgspec.Struct):
    """A range of predicted probability."""

    cells: int
    hit: float
    """Share of its cells that were occupied."""
    lower: float = msgspec.field(name="from")


class _Calibration(msgspec.Struct):
    """What `curves.png` shows of `calibration.json`."""

    threshold: float
    f1: float
    f1_by_threshold: dict[str, float]
    reliability: list[_Reliability]
    ground_threshold: float | None = None


class _Band(msgspec.Struct):
    """Scores of voxels in a band of distance, percent; null where there is nothing to score."""

    miou_17: float | None
    geometric_iou: float | None


class _Scores(msgspec.Struct):
    by_distance: dict[str, _Band]


class _Table:
    """The numbers of a table of steps, by column."""

    def __init__(self, path: Path) -> None:
        # A step that was done twice, because a training was killed after it, has two rows; those of validations and of ends of epochs are
        # rows of their own
        self._columns: dict[str, dict[int, float]] = {}
        for row in read_step_table(read_bytes(path)).rows if path.exists() else ():
            for name, cell in row.items():
                if cell and name != "step":
                    self._columns.setdefault(name, {})[int(row["step"])] = float(cell)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._columns if name.startswith(prefix))

    def column(self, name: str) -> tuple[Int64[np.ndarray, " step"], Float64[np.ndarray, " step"]]:
        """Return the steps that have a number in the column, and the numbers; none where there is no such column."""
        found = sorted(self._columns.get(name, {}).items())
        return np.array([step for step, _ in found], dtype=np.int64), np.array([value for _, value in found], dtype=np.float64)


def draw_curves(run_folder: Path, *, scores: Mapping[str, Any] | None = None) -> Path:
    """Draw `curves.png` in a run's folder, and return its path: what the run has logged, calibrated and scored by now.

    Losses, learning rate, gradients and speed by step are those of `logs/`, reliability and F1 by threshold those of `calibration.json`,
    scores by distance those of each `metrics_<split>.json` that are of the same network, or predictions, as `scores`, the content of one of
    them. What a folder does not have gets no panel; a folder that has none of it is a `ValueError`, a file that is something else a
    `BadFile`.
    """
    of_scores = () if scores is None else _panels_of_scores(run_folder, [scores.get(name) for name in WHOSE])
    panels = [*_panels_of_steps(run_folder), *_panels_of_calibration(run_folder), *of_scores]
    if not panels:
        raise ValueError(f"{run_folder}: nothing to draw curves of: no logs/metrics.csv, calibration.json or metrics_<split>.json")
    # Imported where it is needed, because it takes a second
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), MOST_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    width, height = columns * PANEL_INCHES[0], rows * PANEL_INCHES[1] + TITLE_INCHES
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    figure.suptitle(run_folder.resolve().name, y=1 - 0.5 * TITLE_INCHES / height, va="center", fontweight="bold", parse_math=False)
    for number, draw in enumerate(panels):
        row, column = divmod(number, columns)
        left = column * PANEL_INCHES[0] + MARGIN_INCHES["left"]
        bottom = (rows - 1 - row) * PANEL_INCHES[1] + MARGIN_INCHES["bottom"]
        wide = PANEL_INCHES[0] - MARGIN_INCHES["left"] - MARGIN_INCHES["right"]
        high = PANEL_INCHES[1] - MARGIN_INCHES["bottom"] - MARGIN_INCHES["top"]
        place = figure.add_axes((left / width, bottom / height, wide / width, high / height))
        draw(place)
        # At its own height: matplotlib would measure everything around it to choose one, a fifth of the time of all
        place.set_title(place.get_title(), y=1.0)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    path = run_folder / CURVES_FILE
    canvas = FigureCanvasAgg(figure)
    # Without the versions of programs the same curves are the same bytes
    write_atomically(path, lambda temporary: canvas.print_png(temporary, metadata={"Software": None}))
    return path


def _panels_of_steps(run_folder: Path) -> list[Callable[[Axes], None]]:
    metrics, speed = _Table(run_folder / "logs" / "metrics.csv"), _Table(run_folder / "logs" / "speed.csv")
    parts = metrics.names("loss/")
    panels: list[Callable[[Axes], None]] = []
    if len(metrics.column("loss")[0]):
        validated = ["val/loss"] if metrics.names("val/loss") else []
        panels.append(lambda axes: _draw_steps(axes, metrics, ["loss", *validated], "loss", labels=["training", "kept-back scenes"]))
    if parts:
        labels = [name.removeprefix("loss/").replace("_", " ") for name in parts]
        panels.append(lambda axes: _draw_steps(axes, metrics, parts, "parts of the loss, weighted", labels=labels))
    if rates := metrics.names("learning_rate/"):
        labels_of_rates = [name.removeprefix("learning_rate/") for name in rates]
        panels.append(lambda axes: _draw_steps(axes, metrics, rates, "learning rate", labels=labels_of_rates, smooth=False))
    if metrics.names("gradient_norm"):
        panels.append(lambda axes: _draw_steps(axes, metrics, ["gradient_norm"], "norm of the gradients", logarithmic=True))
    if speed.names("samples_per_second"):
        panels.append(lambda axes: _draw_steps(axes, speed, ["samples_per_second"], "samples per second"))
    return panels


def _draw_steps(
    axes: Axes,
    table: _Table,
    names: Sequence[str],
    title: str,
    *,
    labels: Sequence[str] = (),
    smooth: bool = True,
    logarithmic: bool = False,
) -> None:
    everything = [value for name in names for value in table.column(name)[1].tolist() if math.isfinite(value)]
    # Parts differ by orders of magnitude; what may be 0 or negative cannot be on a logarithmic axis
    if everything and min(everything) > 0 and (logarithmic or (len(names) > 2 and smooth)):
        axes.set_yscale("log")
    for i, name in enumerate(names):
        steps, values = table.column(name)
        color, label = f"C{i}", labels[i] if labels else None
        is_rare = name.startswith("val/")
        window = 1 if is_rare or not smooth else max(1, round(SMOOTHED_SHARE * len(steps)))
        if window > 1:
            axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(steps, _moving_mean(values, window), color=color, label=label, linewidth=1.6, marker="o" if is_rare else None)
    axes.set_title(title)
    axes.set_xlabel("step")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=min(0.0, *everything) if everything else None)
    if len(names) > 1:
        axes.legend(fontsize=8, ncols=2 if len(names) > 4 else 1, framealpha=0.6)


def _moving_mean(values: Float64[np.ndarray, " step"], window: int) -> Float64[np.ndarray, " step"]:
    """Return the mean over the window around each place; the ends have what there is of it."""
    ones = np.ones(window)
    return np.convolve(values, ones, mode="same")[: len(values)] / np.convolve(np.ones(len(values)), ones, mode="same")[: len(values)]


def _panels_of_calibration(run_folder: Path) -> list[Callable[[Axes], None]]:
    path = run_folder / "calibration.json"
    if not path.exists():
        return []
    found = read_json(path, _Calibration, what="a calibration")
    if not found.reliability or not found.f1_by_threshold:
        raise BadFile(path, "holds no curve, expected f1_by_threshold and reliability of at least one range")
    try:
        curve = {float(threshold): f1 for threshold, f1 in found.f1_by_threshold.items()}
    except ValueError as error:
        raise BadFile(path, f"f1_by_threshold: expected numbers as its keys: {error}") from error

    both = OccupancyThreshold(found.threshold if found.ground_threshold is None else found.ground_threshold, found.threshold)

    def draw_reliability(axes: Axes) -> None:
        # Ranges that hold no cell are left out of the file; all have the same width
        lowers = [each.lower for each in found.reliability]
        width = min((upper - lower for lower, upper in zip(lowers, lowers[1:])), default=0.05)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="as often as predicted")
        axes.plot([lower + width / 2 for lower in lowers], [each.hit for each in found.reliability], "o-", markersize=4, label="hit")
        axes.bar(
            lowers, _shares([each.cells for each in found.reliability]), width, align="edge", alpha=0.15, color="C0", label="share of cells"
        )
        axes.axvline(found.threshold, color="C3", linewidth=1, linestyle="--", label=f"threshold {both}")
        axes.set(
            title="reliability, on 2D labels", xlabel="predicted probability", ylabel="share that is occupied", xlim=(0, 1), ylim=(0, 1)
        )
        axes.legend(fontsize=8)

    def draw_f1(axes: Axes) -> None:
        axes.plot(list(curve), list(curve.values()))
        axes.plot([found.threshold], [found.f1], "o", color="C3", label=f"chosen: {found.threshold:.3f}, F1 {found.f1:.3f}")
        axes.set(title="F1 of occupied cells, on 2D labels", xlabel="threshold", ylabel="F1", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)

    return [draw_reliability, draw_f1]


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / max(1, sum(counts)) for count in counts]


def _panels_of_scores(run_folder: Path, whose: list[Any]) -> list[Callable[[Axes], None]]:
    panels: list[Callable[[Axes], None]] = []
    for path in sorted(run_folder.glob("metrics_*.json")):
        content = read_json(path, dict[str, Any], what="scores")
        if [content.get(name) for name in WHOSE] != whose:
            continue
        # Beside methods there are a table in Markdown and scores of renderings
        methods = {name: scores for name, scores in content.items() if isinstance(scores, dict) and "by_distance" in scores}
        try:
            by_method = msgspec.convert(methods, dict[str, _Scores])
        except msgspec.ValidationError as error:
            raise BadFile(path, f"is not a file of scores: {error}") from error
        if by_method:
            split = path.stem.removeprefix("metrics_")
            panels.append(lambda axes, scored=by_method, split=split: _draw_scores(axes, scored, split))
    return panels


def _draw_scores(axes: Axes, by_method: dict[str, _Scores], split: str) -> None:
    for i, (name, scores) in enumerate(by_method.items()):
        for field, style, what in (("miou_17", "o-", "mIoU"), ("geometric_iou", "s--", "IoU")):
            values = [getattr(band, field) for band in scores.by_distance.values()]
            heights = [math.nan if value is None else value for value in values]
            axes.plot(list(scores.by_distance), heights, style, color=f"C{i}", markersize=5, label=f"{name}: {what}")
    axes.set(title=f"scores by distance, {split}, inside mask_camera", ylabel="percent", xlabel="distance from the vehicle")
    # Room for the words below the first and the last
    axes.margins(x=0.2)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, framealpha=0.6)
