import os
import stat

import numpy as np
import pytest
from PIL import Image

from splattingocc.files import BadFile, open_image


def test_other_formats_start_no_program(tmp_path, monkeypatch):
    """Pillow would hand an EPS file to Ghostscript, whatever the file's name."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 160 90\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(BadFile, match="neither JPEG nor PNG"), open_image(path) as image:
        image.load()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "webp", "ppm"])
def test_only_jpeg_and_png_are_read(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (20, 10)).save(path)
    with pytest.raises(BadFile, match="neither JPEG nor PNG"), open_image(path):
        pass


def test_a_declared_size_is_checked_before_anything_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.fromarray(np.zeros((30_000, 30_000), bool)).save(path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(BadFile, match=r"30000 × 30000|exceeds limit"), open_image(path) as image:
        image.load()


def test_half_an_image_names_its_file(tmp_path):
    path = tmp_path / "x.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(BadFile, match=f"^{path}: "), open_image(path) as image:
        image.load()
