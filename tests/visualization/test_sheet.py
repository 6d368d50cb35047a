from pathlib import Path

import pytest
import torch
from PIL import Image

from splattingocc.taxonomy import IGNORE, SKY
from splattingocc.visualization.palettes import CLASS_COLORS, SKY_COLOR
from splattingocc.visualization.sheet import (
    DISTANCE_BAR_HEIGHT,
    LEGEND_ROW_HEIGHT,
    Heading,
    Sheet,
    class_entries,
    heading_height,
    legend_height,
)

ALL = class_entries([torch.arange(17)])


def test_a_picture_keeps_its_pixels_and_its_place() -> None:
    picture = torch.randint(0, 255, (7, 9, 3), dtype=torch.uint8)
    sheet = Sheet(40, 30)
    sheet.put_picture(picture, 11, 5, (7, 9))
    assert sheet.paper.crop((11, 5, 20, 12)).tobytes() == picture.numpy().tobytes()
    assert sheet.paper.getpixel((10, 5)) == sheet.paper.getpixel((20, 11)) == (255, 255, 255)


def test_the_legend_names_present_classes_only_in_order_and_sky_last() -> None:
    entries = class_entries([torch.tensor([16, 4, IGNORE]), torch.tensor([17, SKY, 9], dtype=torch.uint8)])
    names = [name for name, _ in entries]
    assert names == ["car", "trailer", "vegetation", "nothing hit"]
    assert [color for _, color in entries] == [CLASS_COLORS[4], CLASS_COLORS[9], CLASS_COLORS[16], SKY_COLOR]


@pytest.mark.parametrize("width", [200, 600, 1700])
def test_a_legend_stays_in_its_room_and_shows_every_colour(width: int) -> None:
    height = legend_height(ALL, width)
    sheet = Sheet(width + 40, height + 40)
    sheet.put_legend(ALL, 20, 20, width)
    left, top, right, bottom = inked(sheet)
    assert left >= 20
    assert top >= 20
    assert right <= 20 + width
    assert bottom <= 20 + height
    colors = {color for _, color in sheet.paper.getcolors(maxcolors=1 << 20)}
    assert set(CLASS_COLORS) <= colors
    assert height % LEGEND_ROW_HEIGHT == 0


def test_the_distance_bar_stays_in_its_room() -> None:
    sheet = Sheet(480, DISTANCE_BAR_HEIGHT + 40)
    sheet.put_distance_bar(20, 20, 440)
    left, top, right, bottom = inked(sheet)
    assert left >= 20
    assert top >= 20
    assert right <= 460
    assert bottom <= 20 + DISTANCE_BAR_HEIGHT


def test_a_caption_that_would_run_into_its_neighbour_is_cut_off() -> None:
    sheet = Sheet(300, 50)
    sheet.put_caption("a rather long caption", 0, 0, 40)
    drawn = sheet.as_picture() < 255
    assert drawn[:, :40].any()
    assert not drawn[:, 41:].any()


@pytest.mark.parametrize("width", [200, 600, 1700])
def test_a_heading_of_any_length_stays_in_its_room(width: int) -> None:
    heading = Heading("scene-0103, key frame 3 " + "of a folder with a long name " * 5, tuple("a detail of some length" for _ in range(4)))
    height = heading_height(heading, width)
    sheet = Sheet(width + 40, height + 40)
    sheet.put_heading(heading, 20, 20, width)
    left, top, right, bottom = inked(sheet)
    assert left >= 20
    assert top >= 20
    assert right <= 20 + width
    assert bottom <= 20 + height


def test_details_share_a_line_where_there_is_room() -> None:
    heading = Heading("title", ("one detail", "another"))
    assert heading_height(heading, 600) < heading_height(heading, 100)
    assert heading_height(Heading("title"), 600) < heading_height(heading, 600)


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Sheet(10, 10).save(tmp_path / "deep" / "sheet.png")
    before = path.read_bytes()
    sheet = Sheet(20, 20)

    def fail(temporary: Path, **_: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(sheet.paper, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        sheet.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def inked(sheet: Sheet) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of everything that is not white."""
    white = Image.new("L", sheet.paper.size, 255)
    mask = Image.composite(Image.new("L", sheet.paper.size, 0), white, sheet.paper.convert("L").point(lambda value: 255 * (value > 250)))
    box = mask.getbbox()
    assert box is not None
    return box
