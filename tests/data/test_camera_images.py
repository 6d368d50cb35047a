import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splattingocc.data.augment import ImageWindow
from splattingocc.data.camera_images import read_image
from splattingocc.data.key_frames import SensorFrame

HEIGHT, WIDTH = 24, 40
SENSOR = SensorFrame("frame-7", "front", "x", 0, (HEIGHT, WIDTH), np.eye(3), np.eye(4), np.eye(4))
WHOLE = ImageWindow(0, 0, HEIGHT, WIDTH)


def colours() -> Image.Image:
    """Four flat colours, so that no encoder changes them much and a palette holds them all."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2], pixels[HEIGHT // 2 :] = (240, 16, 16), (16, 96, 224)
    return Image.fromarray(pixels)


def read(path: Path) -> torch.Tensor:
    return read_image(path, SENSOR, WHOLE, (HEIGHT, WIDTH))


def rgb_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def png(bits: int, kind: int, row: bytes) -> bytes:
    """A PNG of WIDTH × HEIGHT equal rows, of a kind that Pillow does not write (0 grey, 2 RGB, 4 grey and alpha, 6 RGBA)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * HEIGHT)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGB", "JPEG"), ("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")],
)
def test_colours_grey_palettes_and_opaque_alpha_are_what_they_show(tmp_path: Path, mode: str, kind: str):
    image = colours().convert(mode)
    image.save(tmp_path / "image", kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    found = read(tmp_path / "image").int()
    assert (found - rgb_of(image).int()).abs().max() <= (4 if kind == "JPEG" else 0)


def test_grey_of_four_bits_spans_black_to_white(tmp_path: Path):
    (tmp_path / "grey.png").write_bytes(png(4, 0, bytes([0x0F] * (WIDTH // 2))))
    assert read(tmp_path / "grey.png")[:, 0, :4].tolist() == [[0, 255, 0, 255]] * 3


def turned(orientation: int) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        colours().save(path, "JPEG", exif=exif)

    return save


def save_transparent_palette(path: Path) -> None:
    colours().convert("P").save(path, "PNG", transparency=0)


def save_film(path: Path) -> None:
    colours().save(path, "PNG", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])


def save_with_alpha(path: Path) -> None:
    image = colours().convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 254))
    image.save(path, "PNG")


def save_keyed(path: Path) -> None:
    colours().save(path, "PNG", transparency=(240, 16, 16))


SIXTEEN = "has 16 bits a colour, whose scale is not known; convert it to 8 bits"


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: Image.fromarray(np.full((HEIGHT, WIDTH), 4000, np.uint16)).save(path, "PNG"), SIXTEEN),
        (lambda path: path.write_bytes(png(16, 2, bytes(6 * WIDTH))), SIXTEEN),
        (lambda path: path.write_bytes(png(16, 4, bytes(4 * WIDTH))), SIXTEEN),
        (lambda path: path.write_bytes(png(16, 6, bytes(8 * WIDTH))), SIXTEEN),
        (lambda path: colours().convert("CMYK").save(path, "JPEG"), "its pixels are CMYK, expected RGB or 8-bit grey; convert it"),
        (save_with_alpha, "is partly transparent, expected opaque pixels; remove its alpha channel"),
        (save_transparent_palette, "is partly transparent"),
        (save_keyed, "is partly transparent"),
        (save_film, "is an animated PNG, expected one picture"),
        (turned(3), "EXIF orientation 3 asks viewers to turn it, and the calibration cannot; store the pixels as"),
        (turned(2), "EXIF orientation 2"),
        (turned(6), "EXIF orientation 6"),
        (lambda path: colours().resize((20, 10)).save(path, "PNG"), "20×10 pixels, expected 40×24, the size of images of front"),
        (lambda path: colours().save(path, "BMP"), "cannot be read as an image: neither JPEG nor PNG"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\nshowpage\n"), "neither JPEG nor PNG"),
        (lambda path: path.write_bytes(b""), "neither JPEG nor PNG"),
        (lambda path: path.mkdir(), "is a folder, expected a file"),
        (lambda path: None, "no such file"),
    ],
)  # fmt: skip
def test_what_an_image_does_not_tell_is_not_guessed(tmp_path: Path, save: Callable[[Path], object], message: str):
    path = tmp_path / "image.jpg"
    save(path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        read(path)
    assert str(caught.value).startswith(f"{path}: {message}") or message in str(caught.value)
    assert str(caught.value).endswith(" (sample_data frame-7)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_upright_images_with_exif_data_are_read(tmp_path: Path, orientation: int):
    turned(orientation)(tmp_path / "image.jpg")
    assert (read(tmp_path / "image.jpg").int() - rgb_of(colours()).int()).abs().float().mean() < 20


def test_exif_data_that_cannot_be_read_are_named(tmp_path: Path):
    colours().save(tmp_path / "image.png", exif=b"Exif\0\0" + b"not a TIFF header")
    with pytest.raises(ValueError, match=r"image\.png: its EXIF data, which may say that it is turned, cannot be read \(.*\); remove them"):
        read(tmp_path / "image.png")


def test_of_several_pictures_in_a_jpeg_the_first_is_the_cameras(tmp_path: Path):
    colours().save(tmp_path / "image.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], quality=100)
    assert (read(tmp_path / "image.jpg").int() - rgb_of(colours()).int()).abs().float().mean() < 20


def test_every_cut_of_a_file_is_refused_by_name(tmp_path: Path):
    for kind in ("PNG", "JPEG"):
        content = io.BytesIO()
        colours().save(content, kind)
        whole = content.getvalue()
        # The last bytes of either only say that the picture has ended
        for length in range(0, len(whole) - 20, 7):
            (tmp_path / "image").write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"image: .*\(sample_data frame-7\)$"):
                read(tmp_path / "image")


def test_a_larger_image_is_decoded_at_a_fraction_of_its_size(tmp_path: Path):
    sensor = dataclasses.replace(SENSOR, image_size=(8 * HEIGHT, 8 * WIDTH))
    colours().resize((8 * WIDTH, 8 * HEIGHT), Image.Resampling.NEAREST).save(tmp_path / "large.jpg", quality=95)
    found = read_image(tmp_path / "large.jpg", sensor, ImageWindow(0, 0, 8 * HEIGHT, 8 * WIDTH), (HEIGHT, WIDTH))
    assert (found.int() - rgb_of(colours()).int()).abs().float().mean() < 5
