"""Films of pictures: MP4 where an encoder is installed, animated WebP where none is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from splattingocc.files import write_atomically

ENCODER: Final = "av"
"""The package that brings FFmpeg's libraries with it; extra `film`."""
CONSTANT_RATE_FACTOR: Final = 20
"""Quality of H.264, less is better: edges of voxels and letters stay sharp."""
KEY_FRAME_SECONDS: Final = 2.0
"""At most so far apart are the frames that a player can jump to."""
WEBP_QUALITY: Final = 80
SLOWEST, FASTEST = 0.01, 240.0
"""Frames per second."""


def has_encoder() -> bool:
    """Say whether films can be MP4 here."""
    return find_spec(ENCODER) is not None


def write_film(frames: Iterable[UInt8[Tensor, "h w 3"]], path: Path, *, frames_per_second: float) -> Path:
    """Write pictures of one size as a film and return its path, whose suffix tells the format.

    `.mp4` is H.264 as all browsers play it, of even sides (the last row or column is repeated where one is odd) and with its table of
    contents at the front. Without the encoder it becomes an animated `.webp` of the same name, and a warning is logged that says so. Frames
    are taken one after the other and, for MP4, not kept. No frame at all, frames of different sizes, another suffix and speeds that no
    player knows are a `ValueError`; nothing is written then.
    """
    if path.suffix not in (".mp4", ".webp"):
        raise ValueError(f"{path}: films end with .mp4 or .webp")
    if not SLOWEST <= frames_per_second <= FASTEST:
        raise ValueError(f"frames_per_second is {frames_per_second:g}, expected {SLOWEST:g} to {FASTEST:g}")
    if path.suffix == ".mp4" and not has_encoder():
        path = path.with_suffix(".webp")
        logging.getLogger(__name__).warning(
            "%s: no encoder of MP4 is installed, the film is an animated WebP (pip install -c requirements/constraints.txt -e '.[film]')",
            path,
        )
    write = _write_mp4 if path.suffix == ".mp4" else _write_webp
    write_atomically(path, lambda temporary: write(_of_one_size(frames, path), temporary, frames_per_second))
    return path


def _of_one_size(frames: Iterable[UInt8[Tensor, "h w 3"]], path: Path) -> Iterator[UInt8[Tensor, "h w 3"]]:
    size = None
    for number, frame in enumerate(frames):
        size = size or frame.shape
        if frame.shape != size:
            raise ValueError(
                f"{path}: frame {number} of the film is {frame.shape[1]} × {frame.shape[0]} pixels, the first is {size[1]} × {size[0]}"
            )
        yield frame.cpu()
    if size is None:
        raise ValueError(f"{path}: no frames; a film has at least one")


def _write_mp4(frames: Iterator[UInt8[Tensor, "h w 3"]], path: Path, frames_per_second: float) -> None:
    # A large optional package
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(frames_per_second).limit_denominator(1000)
    first = _even(next(frames))
    with av.open(path, mode="w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(CONSTANT_RATE_FACTOR)})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = max(1, round(KEY_FRAME_SECONDS * frames_per_second))
        stream.time_base = 1 / rate
        # Said in the file, because players guess it from the size otherwise, and classes are told by their colours
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, frame in enumerate(_chain(first, frames)):
            picture = av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")
            encoded = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            encoded.pts, encoded.time_base, encoded.duration = number, 1 / rate, 1
            container.mux(stream.encode(encoded))
        container.mux(stream.encode())


def _chain(first: UInt8[Tensor, "h w 3"], frames: Iterator[UInt8[Tensor, "h w 3"]]) -> Iterator[UInt8[Tensor, "h w 3"]]:
    yield first
    yield from map(_even, frames)


def _even(frame: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "even_h even_w 3"]:
    """Repeat the last row or column of an odd side: colours have half of the pixels' resolution."""
    height, width = frame.shape[:2]
    frame = torch.cat([frame, frame[-1:]]) if height % 2 else frame
    return (torch.cat([frame, frame[:, -1:]], dim=1) if width % 2 else frame).contiguous()


def _write_webp(frames: Iterator[UInt8[Tensor, "h w 3"]], path: Path, frames_per_second: float) -> None:
    first, *others = (Image.fromarray(frame.numpy()) for frame in frames)
    milliseconds = round(1000 / frames_per_second)
    first.save(path, format="WEBP", save_all=True, append_images=others, duration=milliseconds, loop=0, quality=WEBP_QUALITY)
