"""Images as cameras and label makers write them: JPEG and PNG, never the other dozens of formats that Pillow would try."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from splattingocc.files.reading import BadFile, decoding, open_regular

FORMATS = ("JPEG", "PNG")
"""Some of Pillow's other decoders start programs on a file's content."""
LARGEST_SIDE = 16_384
"""Pixels."""
LARGEST_IMAGE = 100_000_000
"""Pixels."""
LARGEST_IMAGE_FILE = 2**29
"""Bytes."""

# Larger ones are refused by their size
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def check_image_size(height: int, width: int) -> None:
    """Refuse sizes that no camera has: a table may declare anything."""
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE and height * width <= LARGEST_IMAGE):
        raise ValueError(f"{height} × {width} pixels, expected sides of 1 to {LARGEST_SIDE:,} and at most {LARGEST_IMAGE:,} pixels in all")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a JPEG or PNG file of a size that a camera has; what goes wrong inside, decoding included, is a `BadFile`."""
    with open_regular(path, limit=LARGEST_IMAGE_FILE) as file, decoding(path, "a JPEG or PNG image"):
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise BadFile(path, "cannot be read as an image: neither JPEG nor PNG") from None
        with image:
            check_image_size(image.height, image.width)
            yield image
