"""A picture composed of pictures, captions and legends, laid out in pixels from the top left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from splattingocc.files import write_atomically
from splattingocc.taxonomy import CLASSES, NUM_CLASSES, SKY
from splattingocc.visualization.palettes import CLASS_COLORS, FARTHEST_METRES, NEAREST_METRES, SKY_COLOR, distance_colors

MARGIN: Final = 20
"""Free pixels around everything."""
GAP: Final = 10
"""Pixels between neighbouring pictures."""
CAPTION_HEIGHT: Final = 26
"""Pixels that a caption takes above what it names."""
LEGEND_ROW_HEIGHT: Final = 24
TITLE_HEIGHT: Final = 28
DETAILS_HEIGHT: Final = 20
"""Pixels of each line of details below a title."""
DISTANCE_BAR_HEIGHT: Final = 46
"""Pixels of a distance scale with its ticks and its name."""
WEBP_QUALITY: Final = 85
INK: Final = (32, 36, 44)
FAINT_INK: Final = (96, 104, 116)
DISTANCE_TICKS: Final = (1, 2, 5, 10, 20, 50)
"""Metres."""
_SWATCH = 13
_BAR_THICKNESS = 12
_TEXT_SIZE = 14
_TITLE_SIZE = 19
_BETWEEN_DETAILS = "   ·   "


LegendEntry: TypeAlias = tuple[str, tuple[int, int, int]]
"""A name and its colour."""


@dataclass(frozen=True)
class Heading:
    """What stands above a picture."""

    title: str
    details: tuple[str, ...] = ()
    """What made the picture and how good it is, each in a few words."""


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


class Sheet:
    """White paper of a given size that pictures, captions and legends are put on."""

    def __init__(self, width: int, height: int) -> None:
        self.paper = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.paper)

    def put_picture(self, picture: UInt8[Tensor, "h w 3"], left: int, top: int, size: tuple[int, int]) -> None:
        """Put a picture at the size (height, width); smaller ones are enlarged with their pixels kept square."""
        image = Image.fromarray(picture.cpu().numpy())
        method = Image.Resampling.NEAREST if size[1] >= 2 * image.width else Image.Resampling.LANCZOS
        self.paper.paste(image.resize((size[1], size[0]), method), (left, top))

    def put_heading(self, heading: Heading, left: int, top: int, width: int, *, most_lines: int | None = None) -> None:
        """Write the title and below it the details, which `heading_height` has counted the lines of; the last of the most lines that there
        is room for is cut off where more would follow."""
        title_font, font = _font(_TITLE_SIZE, bold=True), _font(_TEXT_SIZE)
        self.pen.text((left, top), _shortened(heading.title, title_font, width), font=title_font, fill=INK)
        lines = _lines(heading.details, width)
        if most_lines is not None and len(lines) > most_lines:
            lines[most_lines - 1 :] = [_BETWEEN_DETAILS.join(lines[most_lines - 1 :])]
        for number, line in enumerate(lines):
            y = top + TITLE_HEIGHT + number * DETAILS_HEIGHT
            self.pen.text((left, y), _shortened(line, font, width), font=font, fill=FAINT_INK)

    def put_caption(self, text: str, left: int, top: int, width: int) -> None:
        """Write a line above what begins CAPTION_HEIGHT below `top`, cut off where it is wider than its picture."""
        font = _font(_TEXT_SIZE)
        self.pen.text((left, top + CAPTION_HEIGHT - 6), _shortened(text, font, width), font=font, fill=INK, anchor="ls")

    def put_sideways(self, text: str, left: int, top: int, height: int) -> None:
        """Write a line that reads upwards, centred on the height of the picture to its right."""
        font = _font(_TEXT_SIZE)
        strip = Image.new("RGB", (height, CAPTION_HEIGHT), "white")
        ImageDraw.Draw(strip).text((height / 2, CAPTION_HEIGHT - 8), text, font=font, fill=INK, anchor="ms")
        self.paper.paste(strip.transpose(Image.Transpose.ROTATE_90), (left, top))

    def put_legend(self, entries: Sequence[LegendEntry], left: int, top: int, width: int) -> None:
        """Name colours in aligned columns; `legend_height` says how much room that takes."""
        columns = _legend_columns(entries, width)
        pitch = width / columns
        for i, (name, color) in enumerate(entries):
            x, y = left + round(i % columns * pitch), top + i // columns * LEGEND_ROW_HEIGHT
            box = (x, y + 4, x + _SWATCH, y + 4 + _SWATCH)
            self.pen.rectangle(box, fill=color, outline=FAINT_INK)
            self.pen.text((x + _SWATCH + 7, y + 4 + _SWATCH / 2), name, font=_font(_TEXT_SIZE - 1), fill=INK, anchor="lm")

    def put_distance_bar(self, left: int, top: int, width: int, name: str = "distance along the ray [m]") -> None:
        """Put the colour scale of distances, with ticks below and its name to the left."""
        font = _font(_TEXT_SIZE - 1)
        label_width = round(font.getlength(name)) + 16
        start, length = left + label_width, width - label_width
        self.pen.text((left, top + _BAR_THICKNESS / 2 + 2), name, font=font, fill=INK, anchor="lm")
        metres = NEAREST_METRES * (FARTHEST_METRES / NEAREST_METRES) ** torch.linspace(0, 1, length)
        self.put_picture(distance_colors(metres).expand(_BAR_THICKNESS, length, 3), start, top + 2, (_BAR_THICKNESS, length))
        for tick in DISTANCE_TICKS:
            x = start + round(math.log(tick / NEAREST_METRES) / math.log(FARTHEST_METRES / NEAREST_METRES) * (length - 1))
            bottom = top + 2 + _BAR_THICKNESS
            self.pen.line((x, bottom, x, bottom + 4), fill=INK)
            text = f"≥ {tick}" if tick == FARTHEST_METRES else f"≤ {tick}" if tick == NEAREST_METRES else str(tick)
            anchor = "rt" if tick == FARTHEST_METRES else "lt" if tick == NEAREST_METRES else "mt"
            self.pen.text((x, bottom + 7), text, font=font, fill=INK, anchor=anchor)

    def as_picture(self) -> UInt8[Tensor, "h w 3"]:
        """Return all that was put on the paper by now."""
        return torch.from_numpy(np.array(self.paper))

    def save(self, path: Path) -> Path:
        """Write a PNG, or a WebP where the path ends so, whole or not at all."""
        options = {"format": "WEBP", "quality": WEBP_QUALITY, "method": 6} if path.suffix == ".webp" else {"format": "PNG"}
        write_atomically(path, lambda temporary: self.paper.save(temporary, **options))
        return path


def heading_height(heading: Heading, width: int) -> int:
    """Return the pixels from the top of a heading of that width to what it stands above."""
    return TITLE_HEIGHT + len(_lines(heading.details, width)) * DETAILS_HEIGHT + (DETAILS_HEIGHT // 4 if heading.details else 0)


def _lines(details: Sequence[str], width: int) -> list[str]:
    """Put as many details on each line as fit."""
    lines: list[str] = []
    for detail in details:
        longer = f"{lines[-1]}{_BETWEEN_DETAILS}{detail}" if lines else detail
        if lines and _font(_TEXT_SIZE).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(detail)
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, or as much of its beginning as fits: names of folders are as long as people make them."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def class_entries(semantics: Iterable[Tensor]) -> list[LegendEntry]:
    """Return the legend of the classes that occur in any of the tensors, by index, and of SKY where it does."""
    present = sorted({index for tensor in semantics for index in tensor.unique().tolist()})
    entries = [(CLASSES[index].replace("_", " "), CLASS_COLORS[index]) for index in present if index < NUM_CLASSES]
    return [*entries, ("nothing hit", SKY_COLOR)] if SKY in present else entries


def legend_height(entries: Sequence[LegendEntry], width: int) -> int:
    """Return the pixels from the top of a legend of that width to its bottom."""
    return math.ceil(len(entries) / _legend_columns(entries, width)) * LEGEND_ROW_HEIGHT


def _legend_columns(entries: Sequence[LegendEntry], width: int) -> int:
    widest = max((_font(_TEXT_SIZE - 1).getlength(name) for name, _ in entries), default=0) + _SWATCH + 7 + 18
    most = max(1, int(width / widest))
    # As many columns as fill the rows evenly
    return max(1, math.ceil(len(entries) / math.ceil(len(entries) / most))) if entries else 1
