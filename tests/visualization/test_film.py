import logging
from pathlib import Path

import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from splattingocc.visualization import film
from splattingocc.visualization.film import write_film

COLORS = ((255, 0, 0), (0, 175, 0), (75, 0, 75), (230, 230, 250))


def flat(color: tuple[int, int, int], height: int = 64, width: int = 96) -> UInt8[Tensor, "h w 3"]:
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, 3)


def test_an_mp4_is_what_browsers_play_and_keeps_colours_and_time(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = write_film((flat(color) for color in COLORS), tmp_path / "deep" / "film.mp4", frames_per_second=2.0)
    assert path == tmp_path / "deep" / "film.mp4"
    with av.open(path) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 2
        assert container.duration / av.time_base == pytest.approx(len(COLORS) / 2)
        frames = list(container.decode(stream))
    for frame, color in zip(frames, COLORS, strict=True):
        shown = torch.from_numpy(frame.to_ndarray(format="rgb24")).float()
        assert (shown - torch.tensor(color)).abs().mean(dim=(0, 1)).max() < 4
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert list(path.parent.iterdir()) == [path]


def test_odd_sides_become_even_with_the_last_row_and_column_repeated(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = write_film([flat(COLORS[1], 65, 97)], tmp_path / "one.mp4", frames_per_second=2.0)
    with av.open(path) as container:
        (frame,) = container.decode(video=0)
        assert container.duration / av.time_base == pytest.approx(0.5)
    assert (frame.height, frame.width) == (66, 98)
    shown = torch.from_numpy(frame.to_ndarray(format="rgb24")).float()
    assert (shown - torch.tensor(COLORS[1])).abs().max() < 8


def test_without_an_encoder_the_film_is_a_webp_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        path = write_film(map(flat, COLORS), tmp_path / "film.mp4", frames_per_second=4.0)
    assert path == tmp_path / "film.webp"
    assert len(caplog.messages) == 1
    assert "film.webp" in caplog.messages[0]
    assert ".[film]" in caplog.messages[0]
    with Image.open(path) as image:
        assert image.n_frames == len(COLORS)
        for number, color in enumerate(COLORS):
            image.seek(number)
            image.load()
            assert image.info["duration"] == 250
            difference = torch.tensor(image.convert("RGB").getpixel((40, 40))) - torch.tensor(color)
            assert difference.abs().max() < 8


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
@pytest.mark.parametrize(
    ("frames", "message"),
    [([], "no frames"), ([flat(COLORS[0]), flat(COLORS[0], 32, 32)], "frame 1 of the film is 32 × 32 pixels, the first is 96 × 64")],
)
def test_what_is_no_film_is_refused_and_leaves_nothing(
    frames: list[UInt8[Tensor, "h w 3"]], message: str, suffix: str, tmp_path: Path
) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    with pytest.raises(ValueError, match=message):
        write_film(iter(frames), tmp_path / f"film{suffix}", frames_per_second=2.0)
    assert not list(tmp_path.iterdir())


def test_another_suffix_and_impossible_speeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"film\.gif: films end with \.mp4 or \.webp"):
        write_film([flat(COLORS[0])], tmp_path / "film.gif", frames_per_second=2.0)
    with pytest.raises(ValueError, match="frames_per_second is 0"):
        write_film([flat(COLORS[0])], tmp_path / "film.webp", frames_per_second=0.0)
