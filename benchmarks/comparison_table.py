"""The tables of a comparison: a line of results for each cell in, mean ± standard deviation over the seeds out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_scores import THRESHOLDS
from comparison_variants import TWINS, VARIANTS

from splattingocc.files import BadFile, read_bytes, write_atomically


def marks_of(section: str) -> tuple[str, str]:
    """Return the two lines around what is rewritten of a page."""
    return f"<!-- {section}: begin -->", f"<!-- {section}: end -->"


@dataclass(frozen=True)
class Column:
    """One figure of a table."""

    title: str
    place: tuple[str, ...]
    """Where it is in a line of results."""
    factor: float = 1.0
    digits: int = 2

    def of(self, line: Mapping[str, Any]) -> float | None:
        """Return the figure; None where a line has none."""
        found: Any = line
        for key in self.place:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None or math.isnan(found) else self.factor * found


def _at_threshold(title: str, figure: str, read_out: str = "own") -> Column:
    return Column(title, ("read_outs", read_out, "at_threshold", figure))


def _at_best(title: str, figure: str, read_out: str = "own") -> Column:
    return Column(title, ("read_outs", read_out, "best", figure, "value"))


FALSE_BANDS = {"middle": "0.6–2.2 m", "high": "above"}
"""What is said of voxels that are wrongly filled."""
COLUMNS = (
    _at_threshold("mIoU m17", "miou_17"),
    _at_threshold("m15", "miou_15"),
    _at_threshold("IoU", "iou"),
    _at_threshold("IoU 0.6–2.2 m", "iou_middle"),
    _at_threshold("RayIoU", "ray_iou"),
    *(_at_threshold(f"filled of free, {band}, %", f"false_{name}") for name, band in FALSE_BANDS.items()),
    Column("distance error, %", ("rendering", "median_relative_error"), factor=100),
    _at_best("oracle: mIoU m17", "miou_17"),
    _at_best("IoU", "iou"),
    _at_best("RayIoU", "ray_iou"),
    Column("s a step", ("seconds_per_step",)),
    Column("GiB", ("peak_memory_gib",), digits=1),
)
READ_OUT_COLUMNS = tuple(
    make(title, figure, read_out)
    for read_out, of in (("own", "own"), ("opacity", "by opacity"), ("centre", "at centres"))
    for make, title, figure in (
        (_at_threshold, f"{of}: mIoU m17", "miou_17"),
        (_at_threshold, "IoU", "iou"),
        (_at_threshold, "RayIoU", "ray_iou"),
        (_at_best, "oracle: mIoU m17", "miou_17"),
        (_at_best, "IoU", "iou"),
        (_at_best, "RayIoU", "ray_iou"),
    )
)

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""A line of results for each variant, by name, and seed."""


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Return "mean ± standard deviation" of a sample (n − 1); of a single value it alone, of none a dash."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table_of(results: Results, names: Iterable[str], columns: Sequence[Column], seeds: Sequence[int]) -> str:
    """Return a Markdown table with a row for each of these variants that has any result; seeds that a row lacks are said."""
    titles = ["training", "seeds", *(column.title for column in columns)]
    rows = [_row(titles), "|---" * len(titles) + "|"]
    for name in names:
        lines = results.get(name, {})
        there = [seed for seed in seeds if seed in lines]
        if not there:
            continue
        missing = [str(seed) for seed in seeds if seed not in lines]
        said = ", ".join(map(str, there)) + (f" (no {', '.join(missing)})" if missing else "")
        cells = []
        for column in columns:
            values = [value for seed in there if (value := column.of(lines[seed])) is not None]
            cells.append(mean_and_deviation(values, column.digits))
        rows.append(_row([VARIANTS[name].title, said, *cells]))
    return "\n".join(rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _of_ground(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say what share of a threshold ground has, where it is not all of it."""
    ratios = sorted({line.get("ground_ratio", 1.0) for line in lines})
    return "" if ratios == [1.0] else f", and ground has {_in_words(ratios)} of it (calibration.ground_ratio, found with 3D truth)"


def report(results: Results, seeds: Sequence[int], command: str) -> str:
    """Return all tables, with what they were measured with."""
    lines = [line for of_variant in results.values() for seed, line in of_variant.items() if seed in seeds]
    if not lines:
        return "No cell is finished yet."
    keys = ("config", "commit", "key_frames", "image_steps", "joint_steps", "device")
    said = {key: ", ".join(sorted({_in_words(line[key]) for line in lines})) for key in keys}
    parts = [
        f"`{command}`, commit {said['commit']}, {said['device']}. {said['config']}, key frames {said['key_frames']}: {said['image_steps']} "
        f"image steps, which all rows of a seed share, then {said['joint_steps']} joint steps. Mean ± standard deviation over seeds "
        "(n − 1); percent, inside mask_camera but for RayIoU. The threshold is chosen from 2D labels in every row"
        f"{_of_ground(lines)}; *oracle* is each figure at the best of {1 + len(THRESHOLDS)} thresholds by the 3D truth that scores it. "
        "Distance error: median of "
        "|rendered − labelled| / labelled over the labelled rays of the val split. Seconds are those of a joint step, with the loading of "
        "its samples; GiB is all that the process took (on a GPU its tensors)."
    ]
    for group in dict.fromkeys(variant.group for variant in VARIANTS.values()):
        names = [name for name, variant in VARIANTS.items() if variant.group == group and name in results]
        if any(_made_as_itself(results, name) for name in names):
            # What is left out is left out of it
            names = names if group == TWINS or "learned" not in results else ["learned", *names]
            parts.append(f"**{group}**\n\n{table_of(results, names, COLUMNS, seeds)}")
    with_both = [name for name in VARIANTS if _made_as_itself(results, name, read_out="opacity")]
    if with_both:
        parts.append(
            "**Ways to read Gaussians out.** *Own* is what `splattingocc test` does: their response at a cell's centre, widened by the "
            "cell; *at centres*, it is not widened; *by opacity*, a cell is as probably filled as its Gaussian is opaque, and has "
            f"that one's class.\n\n{table_of(results, with_both, READ_OUT_COLUMNS, seeds)}"
        )
    return "\n\n".join(parts)


def _made_as_itself(results: Results, name: str, read_out: str = "own") -> bool:
    """Say whether any cell of a variant was made with this way to read out, and is not that of another variant by another name."""
    return any(line["variant"] == name and read_out in line["read_outs"] for line in results.get(name, {}).values())


def _in_words(value: Any) -> str:
    return " ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, Mapping) else str(value)


def rewrite(page: Path, text: str, section: str) -> None:
    """Put a text between the two marks of a section; `ValueError` where the page does not have both, once and in order."""
    content = read_bytes(page).decode()
    begin, end = marks_of(section)
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise BadFile(page, f"expected the lines {begin} and {end}, each once, around what is to be rewritten")
    before, after = content[: content.index(begin)], content[content.index(end) :]
    write_atomically(page, lambda temporary: temporary.write_text(f"{before}{begin}\n\n{text}\n\n{after}"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of results; one that was half written when its process ended is said and left out."""
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(read_bytes(path).decode(errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and {"variant", "seed", "digest", "source"} <= line.keys():
            found.append(line)
        elif text.strip():
            print(f"{path}, line {number}: half written or no line of results; ignored", flush=True)
    return found
