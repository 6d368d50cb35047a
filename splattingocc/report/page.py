"""Writes the page."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Final

from PIL import Image
from rich.progress import track

from splattingocc.data.occ3d import OccupancyTruth, read_truth, truth_path
from splattingocc.evaluation.predictions import CachedFrame
from splattingocc.files import naming_the_file, open_image, read_bytes, write_atomically
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.report.found import Found
from splattingocc.report.gaussians import SCALE_STEPS_PER_OCTAVE, SMALLEST_SCALE, PackedGaussians
from splattingocc.report.voxels import ERRORS, counts_of, errors, pack_cells
from splattingocc.taxonomy import CLASSES, NUM_CLASSES
from splattingocc.visualization.palettes import CLASS_COLORS, EGO_COLOR
from splattingocc.visualization.voxels import EGO_LOWER, EGO_UPPER

HERE: Final = Path(__file__).parent
ERROR_COLORS: Final = ((96, 165, 110), (222, 60, 50), (245, 160, 30), (150, 80, 210), (190, 196, 205))
"""RGB of ERRORS."""
PICTURE_WIDTH = 1400
"""Pixels; wider pictures are made as small."""
PICTURE_QUALITY = 82
"""Of WebP, which pictures become in the page."""
CURVES_QUALITY = 90
LARGEST_MEDIUM = 2**28
"""Bytes of a picture or film that is looked at."""
BASE64_GROWTH = 4 / 3
ROOM_FOR_WORDS = 4000
"""Bytes that are kept for headings, and for the lines about what is left out."""
MOST_NAMED = 5
"""Of the pictures and films of a section that are left out."""
MEGABYTE = 10**6
MEDIA_TYPES: Final = {".mp4": "video/mp4", ".webp": "image/webp"}
COLUMNS: Final = {
    "mIoU m17": ("camera_mask", "miou_17"),
    "mIoU m15": ("camera_mask", "miou_15"),
    "IoU": ("camera_mask", "geometric_iou"),
    "m17 unmasked": ("unmasked", "miou_17"),
    "IoU unmasked": ("unmasked", "geometric_iou"),
    "RayIoU": ("ray_iou", "mean"),
    "RayIoU m15": ("ray_iou", "mean_15"),
    "F-score": ("f_score",),
    "key frames": ("num_frames",),
}
"""Of the table of scores: where each stands in what `evaluation/report.py` writes."""
PROTOCOL: Final = (
    "Percent. mIoU is of semantic classes, IoU of occupied against free: over the voxels inside mask_camera, unmasked over all, from one "
    "confusion matrix of all key frames. m17 is the mean of 17 classes, m15 leaves out others and other_flat. RayIoU has no mask: rays "
    "from the LiDAR's places of the scene, right where the class is and the distance is within 1, 2 or 4 m, the mean of the three. "
    "F-score: centres of occupied voxels within 0.6 m of each other, inside mask_camera, the mean of key frames."
)


def write_report(found: Found, gaussians: Mapping[str, PackedGaussians], out: Path, *, most_bytes: int) -> Path:
    """Write all that was found, and the Gaussians of key frames by token, into one HTML file.

    Pictures and films that would make the file larger than `most_bytes` are left out, and named in it; where voxels and Gaussians alone
    would, it is a `ValueError`.
    """
    frames = [_frame(found, frame, gaussians.get(frame.token)) for frame in track(found.frames, "packing voxels", transient=True)]
    content = {
        "classes": [{"name": name.replace("_", " "), "color": color} for name, color in zip(CLASSES, CLASS_COLORS)],
        "errors": [{"name": name, "color": color} for name, color in zip(ERRORS, ERROR_COLORS)],
        "grid": _grid(found.grid),
        "ego": {"lower": EGO_LOWER, "upper": EGO_UPPER, "color": "#{:02x}{:02x}{:02x}".format(*EGO_COLOR)},
        "gaussians": {"smallest_scale": SMALLEST_SCALE, "steps_per_octave": SCALE_STEPS_PER_OCTAVE},
        "frames": frames,
    }
    parts = {
        "title": html.escape(_title(found)),
        "subtitle": html.escape(_subtitle(found)),
        "style": _part("page.css"),
        "viewer": _part("viewer.html") if frames else "",
        # In a script element nothing but an end tag needs an escape
        "content": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        "three": _part("three/three.min.js") if frames else "",
        "script": _part("viewer.js") if frames else "",
    }
    tables = [*_scores(found), *_made_by(found)]
    page = Template(_part("page.html"))
    size = len(page.substitute(parts, missing=_list_of(found.missing), sections="".join(tables)).encode()) + ROOM_FOR_WORDS
    if size > most_bytes:
        raise ValueError(
            f"{out}: {len(frames)} key frames alone are {size / MEGABYTE:.1f} MB, expected at most {most_bytes / MEGABYTE:g}; --frames or "
            "--gaussians takes fewer of them, --max-megabytes allows more"
        )
    media, left_out = _media(found, most_bytes - size)
    sections = "\n".join([*tables[:1], *media, *tables[1:]])
    text = page.substitute(parts, missing=_list_of([*found.missing, *left_out]), sections=sections)
    with naming_the_file(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return out


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _title(found: Found) -> str:
    return found.folder.absolute().name if found.cache is None else f"{found.cache.manifest.provenance.config}, {found.split}"


def _subtitle(found: Found) -> str:
    """Say what is shown, from which network, in one line."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if found.cache is None:
        return f"report of {made}"
    by = found.cache.manifest.provenance
    scenes = len({frame.scene for frame in found.frames})
    shown = f"{len(found.frames)} of {len(found.cache)} key frames, {scenes} scene{'s' if scenes != 1 else ''}"
    return f"{shown} · network {by.checkpoint_hash[:12]} · threshold {by.occupancy_threshold} · commit {by.commit[:12]} · report of {made}"


def _grid(grid: VoxelGrid) -> dict[str, Any]:
    return {"lower": grid.lower, "cell_size": grid.cell_size, "shape": grid.shape}


def _frame(found: Found, frame: CachedFrame, gaussians: PackedGaussians | None) -> dict[str, Any]:
    assert found.cache is not None
    semantics, truth = found.cache.read(frame).semantics, _truth(found.gts, frame)
    counts = {"prediction": counts_of(semantics, NUM_CLASSES)}
    if truth is not None:
        counts |= {"truth": counts_of(truth.semantics, NUM_CLASSES), "error": counts_of(errors(semantics, truth), len(ERRORS))}
    packed: dict[str, Any] = {
        "name": f"{frame.scene}, key frame {frame.index}",
        "has_truth": truth is not None,
        "counts": counts,
        "cells": base64.b64encode(pack_cells(semantics, truth)).decode(),
    }
    if gaussians is not None:
        packed |= {"gaussians": base64.b64encode(gaussians.content).decode(), "gaussians_there": gaussians.there}
    return packed


def _truth(gts: Path | None, frame: CachedFrame) -> OccupancyTruth | None:
    if gts is None or not truth_path(gts, frame.scene, frame.token).is_file():
        return None
    return read_truth(gts, frame.scene, frame.token)


def _list_of(missing: Sequence[str]) -> str:
    """Return the lines about what is not in the page, folded up."""
    if not missing:
        return ""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in missing)
    return f'<details id="missing"><summary>Not in this report: {len(missing)}</summary><ul>{lines}</ul></details>'


# ---- Tables -----------------------------------------------------------------------------------------------------------------------------


def _scores(found: Found) -> Iterator[str]:
    """Make the section of scores; one that is empty holds the place of the first section."""
    if not (found.methods or found.rendering):
        yield ""
        return
    blocks = []
    if found.methods:
        columns = [name for name, place in COLUMNS.items() if any(_at(scores, place) is not None for scores in found.methods.values())]
        rows = [[name, *(_figure(_at(scores, COLUMNS[column])) for column in columns)] for name, scores in found.methods.items()]
        remarks = [f"{name} is {scores['is']}." for name, scores in found.methods.items() if isinstance(scores.get("is"), str)]
        blocks += [_table(["", *columns], rows), _protocol(" ".join([PROTOCOL, *remarks])), *_by_class(found), *_by_distance(found)]
    rays = {name: scores["rendering"] for name, scores in found.methods.items() if isinstance(scores.get("rendering"), dict)}
    if found.rendering:
        rays |= found.rendering
    if rays:
        names = list(dict.fromkeys(name for scores in rays.values() for name in scores))
        rows = [[name.replace("_", " "), *(_figure(scores.get(name), digits=3) for scores in rays.values())] for name in names]
        blocks += ["<h2>Rays against 2D labels</h2>", _table(["", *rays], rows)]
    yield _section("scores", f"Scores, {found.split}", blocks)


def _by_class(found: Found) -> Iterator[str]:
    names = list(found.methods)
    rows = [
        [name.replace("_", " "), *(_figure(_at(found.methods[method], ("camera_mask", "class_ious", name))) for method in names)]
        for name in CLASSES
    ]
    yield f"<h2>IoU by class, inside mask_camera</h2>{_table(['', *names], rows)}"
    yield _protocol("Percent; – where neither truth nor prediction holds the class.")


def _by_distance(found: Found) -> Iterator[str]:
    method, scores = next(iter(found.methods.items()))
    bands = [(kind, band, figures) for kind in ("distance", "height") for band, figures in _items(_at(scores, (f"by_{kind}",)))]
    if bands:
        keys = ("miou_17", "miou_15", "geometric_iou")
        rows = [[f"{kind} {band}", *(_figure(_at(figures, (key,))) for key in keys)] for kind, band, figures in bands]
        title = f"<h2>{html.escape(method)} by distance and height, inside mask_camera</h2>"
        yield title + _table(["", "mIoU m17", "mIoU m15", "IoU"], rows)


def _made_by(found: Found) -> Iterator[str]:
    """Make the section that says where all of it is from."""
    blocks = []
    if found.cache is not None:
        by = found.cache.manifest.provenance
        rows = [["configuration", by.config], ["network", by.checkpoint_hash], ["commit", by.commit], ["split", by.split]]
        rows += [
            ["key frames", str(len(found.cache))],
            ["threshold", str(by.occupancy_threshold)],
            ["seed", "–" if by.seed is None else str(by.seed)],
        ]
        blocks += ["<h2>Predictions</h2>", _table(["made by", ""], rows, words=True)]
    if found.calibration:
        facts = {name: value for name, value in found.calibration.items() if isinstance(value, int | float)}
        rows = [[name.replace("_", " "), _figure(value, digits=4)] for name, value in facts.items()]
        blocks += ["<h2>Calibration of the threshold</h2>", _table(["on kept-back 2D labels", ""], rows)]
    if found.runs:
        rows = [
            [run.id, str(run.what.get("command", "")), run.began or "", run.ended or "–", str(run.what.get("commit", ""))[:12],
             str(run.what.get("seed", "")), _words(run.what.get("changed")), _words(run.result)]
            for run in found.runs
        ]  # fmt: skip
        blocks += ["<h2>Ledger</h2>", _table(["run", "command", "began", "ended", "commit", "seed", "changed", "result"], rows, words=True)]
    if blocks:
        yield _section("provenance", "Where it is from", blocks)


def _words(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, Mapping) else ""


def _items(values: Any) -> list[tuple[str, Any]]:
    """Return what a dictionary holds; nothing of anything else, which a damaged file may have in its place."""
    return list(values.items()) if isinstance(values, Mapping) else []


def _at(values: Any, place: Sequence[str]) -> Any:
    """Return what stands at a place of nested dictionaries; None where nothing does."""
    for name in place:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _figure(value: Any, *, digits: int = 2) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def _section(name: str, title: str, blocks: Sequence[str]) -> str:
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>{"".join(blocks)}</section>'


def _protocol(text: str) -> str:
    return f'<p class="protocol">{html.escape(text)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Return a table of figures, or of words, which stand to the left."""
    of = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{of}</tr></thead><tbody>{body}</tbody></table></div>'


# ---- Pictures and films -----------------------------------------------------------------------------------------------------------------


def _media(found: Found, budget: int) -> tuple[list[str], list[str]]:
    """Return the sections of curves, films and pictures that fit, in this order, and lines about the others."""
    groups = {"curves": [found.curves] if found.curves is not None else [], "film": found.films, "pictures": found.pictures}
    sections, left_out = [], []
    for name, paths in groups.items():
        figures: list[str] = []
        too_large: list[Path] = []
        for path in paths:
            try:
                figure = _figure_of(path, quality=CURVES_QUALITY if name == "curves" else PICTURE_QUALITY, most=budget)
            except ValueError as error:
                left_out.append(f"{name}: {error}")
                continue
            if figure is None:
                too_large.append(path)
                continue
            figures.append(figure)
            budget -= len(figure)
        if too_large:
            more = f" and {len(too_large) - MOST_NAMED} more" if too_large[MOST_NAMED:] else ""
            left = f"{len(too_large)} of {len(paths)} left out, {', '.join(map(str, too_large[:MOST_NAMED]))}{more}"
            left_out.append(f"{name}: {left}: the page would be too large; --max-megabytes allows more")
        if figures:
            sections.append(_section(name, name.capitalize(), figures))
    return sections, left_out


def _figure_of(path: Path, *, quality: int, most: int) -> str | None:
    """Return a picture or a film as it stands in the page, None where that is larger than `most`."""
    media_type = MEDIA_TYPES.get(path.suffix, "image/webp")
    if path.suffix in MEDIA_TYPES:
        if path.stat().st_size * BASE64_GROWTH > most:
            return None
        data = read_bytes(path, limit=LARGEST_MEDIUM)
    else:
        data = _as_webp(path, quality)
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    name = html.escape(path.name)
    shown = (
        f'<video controls loop muted playsinline src="{source}"></video>'
        if media_type == "video/mp4"
        else f'<img alt="{name}" src="{source}">'
    )
    figure = f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
    return figure if len(figure) <= most else None


def _as_webp(path: Path, quality: int) -> bytes:
    with open_image(path) as opened:
        image = opened.convert("RGB")
    if image.width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, format="WEBP", quality=quality)
    return written.getvalue()
