"""Scores for people (tables, a Markdown row) and for programs (metrics.json)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from splattingocc.evaluation.miou import OccupancyScores
from splattingocc.evaluation.predictions import Provenance
from splattingocc.evaluation.ray_iou import THRESHOLDS
from splattingocc.evaluation.scoring import ScoredOccupancy
from splattingocc.files import BadFile, read_json, write_atomically
from splattingocc.taxonomy import CLASSES

MARKDOWN_HEADER = (
    "| method | split | mIoU m17 | m15 | IoU | m17 unmasked | IoU unmasked | RayIoU | RayIoU m15 | F-score "
    "| config | seed | checkpoint | commit | threshold |\n" + "|---" * 15 + "|"
)
"""The head of the table of results; masked is inside mask_camera, RayIoU has no mask, the F-score is masked."""


def summary_table(rows: Sequence[ScoredOccupancy], *, title: str = "Occupancy, Occ3D-nuScenes protocol") -> Table:
    """Return the headline scores, one method a line."""
    table = Table(title=title, caption="percent; masked: voxels inside mask_camera; m15 leaves out others and other_flat")
    table.add_column("")
    for column in ("mIoU m17", "mIoU m15", "IoU", "m17 unmasked", "m15 unmasked", "IoU unmasked"):
        table.add_column(column, justify="right")
    for row in rows:
        values = [(s.miou_17, s.miou_15, s.geometric_iou) for s in (row.camera, row.unmasked)]
        table.add_row(Text(row.name), *(_percent(value) for triple in values for value in triple))
    return table


def class_table(rows: Sequence[ScoredOccupancy], *, title: str = "IoU by class") -> Table:
    """Return the IoU of every class, one class a line: of voxels inside mask_camera, of all voxels, and of rays where they were counted."""
    table = Table(title=title, caption="percent; – where neither truth nor prediction holds the class")
    table.add_column("class")
    columns: list[Sequence[float]] = []
    for row in rows:
        for what, ious in (
            ("masked", row.camera.class_ious),
            ("unmasked", row.unmasked.class_ious),
            ("RayIoU", _mean_over_thresholds(row)),
        ):
            if ious is not None:
                table.add_column(Text(f"{row.name}, {what}"), justify="right")
                columns.append(ious)
    for index, name in enumerate(CLASSES):
        table.add_row(name, *(_percent(ious[index]) for ious in columns))
    return table


def _mean_over_thresholds(row: ScoredOccupancy) -> list[float] | None:
    return None if row.rays is None else [math.fsum(ious) / len(ious) for ious in zip(*row.rays.class_ious)]


def rendering_table(scores: Mapping[str, Mapping[str, float | int]], *, title: str = "Rendered rays against 2D labels") -> Table:
    """Return the scores of `RenderingScores.compute`, one score a line and one set of rays a column."""
    table = Table(title=title)
    table.add_column("")
    for name in scores:
        table.add_column(Text(name), justify="right")
    for key in next(iter(scores.values()), {}):
        table.add_row(key, *(_number(columns[key]) for columns in scores.values()))
    return table


def region_table(row: ScoredOccupancy, *, title: str = "By distance and height, inside mask_camera") -> Table:
    """Return the masked scores of one method in each band of distance from the vehicle and of height above the ego frame."""
    table = Table(title=title, caption="percent")
    for column in ("", "mIoU m17", "mIoU m15", "IoU"):
        table.add_column(column, justify="right" if column else "left")
    for kind, bands in (("distance", row.by_distance), ("height", row.by_height)):
        for band, values in bands.items():
            table.add_row(f"{kind} {band}", *(_percent(value) for value in (values.miou_17, values.miou_15, values.geometric_iou)))
    return table


def ray_table(rows: Sequence[ScoredOccupancy], *, title: str = "RayIoU and F-score") -> Table:
    """Return RayIoU by threshold and the F-scores, one method a line."""
    table = Table(title=title, caption="percent; RayIoU has no mask; F-score: voxel centres within 0.6 m")
    table.add_column("")
    for column in (*(f"RayIoU {limit:g} m" for limit in THRESHOLDS), "RayIoU", "RayIoU m15", "F-score", "F unmasked"):
        table.add_column(column, justify="right")
    for row in rows:
        rays = [math.nan] * 5 if row.rays is None else [*row.rays.at.values(), row.rays.mean, row.rays.mean_15]
        table.add_row(Text(row.name), *(_percent(value) for value in (*rays, row.f_score, row.f_score_unmasked)))
    return table


def markdown(row: ScoredOccupancy, provenance: Provenance | None, split: str) -> str:
    """Return a table of one line for the table of results; another program's predictions have no provenance."""
    camera, unmasked = row.camera, row.unmasked
    rays = (math.nan, math.nan) if row.rays is None else (row.rays.mean, row.rays.mean_15)
    figures = [camera.miou_17, camera.miou_15, camera.geometric_iou, unmasked.miou_17, unmasked.geometric_iou, *rays, row.f_score]
    made = ["–"] * 5
    if provenance is not None:
        seed = "–" if provenance.seed is None else str(provenance.seed)
        made = [provenance.config, seed, provenance.checkpoint_hash[:12], provenance.commit[:12], str(provenance.occupancy_threshold)]
    cells = [row.name, split, *(_percent(value) for value in figures), *made]
    return MARKDOWN_HEADER + "\n| " + " | ".join(text.replace("|", r"\|") for text in cells) + " |"


def metrics_of(row: ScoredOccupancy) -> dict[str, Any]:
    """Return one method's scores as plain values for `write_metrics`."""
    metrics: dict[str, Any] = {
        "camera_mask": _as_dict(row.camera),
        "unmasked": _as_dict(row.unmasked),
        "by_distance": {band: _as_dict(values) for band, values in row.by_distance.items()},
        "by_height": {band: _as_dict(values) for band, values in row.by_height.items()},
        "f_score": row.f_score,
        "f_score_unmasked": row.f_score_unmasked,
        "num_frames": row.num_frames,
    }
    if row.rays is not None:
        metrics["ray_iou"] = {
            "mean": row.rays.mean,
            "mean_15": row.rays.mean_15,
            "at": {f"{limit:g} m": value for limit, value in row.rays.at.items()},
            "at_15": {f"{limit:g} m": value for limit, value in row.rays.at_15.items()},
            "class_ious": {f"{limit:g} m": dict(zip(CLASSES, ious)) for limit, ious in zip(THRESHOLDS, row.rays.class_ious)},
        }
    return metrics


def headline_of(row: ScoredOccupancy) -> dict[str, float]:
    """Return the few scores that a line of the ledger holds, percent."""
    figures = {"miou_17": row.camera.miou_17, "miou_15": row.camera.miou_15, "iou": row.camera.geometric_iou, "f_score": row.f_score}
    if row.rays is not None:
        figures["ray_iou"] = row.rays.mean
    return {name: round(value, 3) for name, value in figures.items() if math.isfinite(value)}


def add_metrics(path: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Write scores beside what a file has already of the same network, data and images; return what there is to say of what they replace.

    `checkpoint`, or `predictions` of another program, `data` and `images` among them say of which they are; `truth` against which occupancy
    was scored, and `rendering_part` along which rays `rendering` is.
    """
    try:
        before = read_json(path, dict[str, Any], what="scores") if path.exists() else {}
    except BadFile:
        before = {}
    said = []
    whose, data, images, part, truth = (before.get(key) for key in ("checkpoint", "data", "images", "rendering_part", "truth"))
    if before and (whose, before.get("predictions")) != (metrics.get("checkpoint"), metrics.get("predictions")):
        earlier = f"checkpoint {whose[:12]}" if isinstance(whose, str) else before.get("predictions", "an earlier test")
        said.append(f"{path}: replaces the scores of {earlier}")
        before = {}
    elif data is not None and data != metrics.get("data"):
        said.append(f"{path}: replaces the scores on {data}")
        before = {}
    elif isinstance(images, dict) and images != (new_images := metrics.get("images", {})):
        others = [f"{name} {value}" for name, value in images.items() if new_images.get(name) != value]
        said.append(f"{path}: replaces the scores with {', '.join(others)}")
        before = {}
    elif truth is not None and metrics.get("truth", truth) != truth:
        said.append(f"{path}: replaces the scores against the truth in {truth}")
        before = {name: before[name] for name in ("rendering", "rendering_part") if name in before}
    elif part is not None and metrics.get("rendering_part", part) != part:
        said.append(f"{path}: replaces what was rendered along {part} rays")
    model, new = before.get("model"), metrics.get("model")
    if isinstance(model, dict) and isinstance(new, dict) and "ray_iou" in model and "ray_iou" not in new:
        said.append(f"{path}: RayIoU, which the test before asked for, is no longer in it; --eval all has everything")
    write_metrics(path, {**before, **metrics})
    return said


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json` whole or not at all. JSON has no nan: a score that does not exist is null."""
    text = msgspec.json.format(msgspec.json.encode(_without_nan(metrics)), indent=2)
    write_atomically(path, lambda temporary: temporary.write_bytes(text + b"\n"))


def _as_dict(scores: OccupancyScores) -> dict[str, Any]:
    return {**dataclasses.asdict(scores), "class_ious": dict(zip(CLASSES, scores.class_ious))}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _number(value: float | int) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if math.isnan(value) else f"{value:.3f}"
