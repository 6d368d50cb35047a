"""Images as cameras and label makers write them: JPEG and PNG, never the other dozens of formats that Pillow would try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from splattingocc.files.reading import BadFile, decoding, open_regular

READERS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}
"""By how a file begins. Some of Pillow's other decoders start programs on a file's content; and `Image.open` warns of sizes in a way that
only a setting of the whole process changes."""
LARGEST_SIDE = 16_384
"""Pixels."""
LARGEST_IMAGE = 100_000_000
"""Pixels."""
LARGEST_IMAGE_FILE = 2**29
"""Bytes."""


def check_image_size(height: int, width: int) -> None:
    """Refuse sizes that no camera has: a table may declare anything."""
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE and height * width <= LARGEST_IMAGE):
        raise ValueError(f"{height} × {width} pixels, expected sides of 1 to {LARGEST_SIDE:,} and at most {LARGEST_IMAGE:,} pixels in all")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a JPEG or PNG file of a size that a camera has; what goes wrong inside, decoding included, is a `BadFile`."""
    with open_regular(path, limit=LARGEST_IMAGE_FILE) as file, decoding(path, "a JPEG or PNG image"):
        begin = file.peek()
        reader = next((reader for prefix, reader in READERS.items() if begin.startswith(prefix)), None)
        if reader is None:
            raise BadFile(path, "cannot be read as an image: neither JPEG nor PNG")
        image = reader(file)
        with image:
            check_image_size(image.height, image.width)
            yield image
