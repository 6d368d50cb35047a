"""The page as a file: what is in it, how large it may be, and that nothing in it can leave it or be mistaken for markup."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import write_cache, write_scores, write_truth

from splattingocc.cli import main
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.report.found import find
from splattingocc.report.page import HERE, PROTOCOL, write_report
from splattingocc.taxonomy import FREE

FIFTEEN_MEGABYTES = 15_000_000


class Addresses(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "poster", "data")]


def content_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]


def write_run(folder: Path, num_frames: int = 1) -> Path:
    write_cache(folder / "output", {"scene-0001": num_frames})
    write_scores(folder)
    return folder


def report_of(folder: Path, most_bytes: int = FIFTEEN_MEGABYTES, gts: Path | None = None) -> str:
    found = find(folder, split="val", most_frames=20, gts=gts)
    return write_report(found, {}, folder / "report.html", most_bytes=most_bytes).read_text()


def test_everything_is_in_the_file(tmp_path: Path) -> None:
    write_run(tmp_path)
    Image.new("RGB", (2000, 100), "red").save(tmp_path / "curves.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "overview.png")
    (tmp_path / "drive.mp4").write_bytes(b"a film")
    text = report_of(tmp_path)
    addresses = Addresses()
    addresses.feed(text)
    assert [address.split(";")[0] for address in addresses.found] == ["data:image/webp", "data:video/mp4", "data:image/webp"]
    assert "default-src 'none'" in text
    assert PROTOCOL.split(".")[1] in text
    assert "12.50" in text
    for name in ("curves.png", "drive.mp4", "overview.png"):
        assert f"<figcaption>{name}</figcaption>" in text


def test_without_predictions_there_is_no_viewer_and_the_rest_is_there(tmp_path: Path) -> None:
    write_scores(tmp_path)
    text = report_of(tmp_path)
    assert "<canvas" not in text
    assert "12.50" in text
    assert "predictions: no output in" in text
    assert len(text) < 50_000  # without three.js


def test_names_from_files_are_no_markup(tmp_path: Path) -> None:
    scores = {"</script><b>": {"camera_mask": {"miou_17": 1.0}, "is": "<i>an oracle"}}
    write_cache(tmp_path / "output", {"scene-<!--<script>": 1})
    (tmp_path / "metrics_val.json").write_text(json.dumps(scores))
    text = report_of(tmp_path)
    assert "<b>" not in text
    assert "<i>" not in text
    assert "<!--<script>" not in text
    assert content_of(text)["frames"][0]["name"] == "scene-<!--<script>, key frame 0"


def test_twenty_frames_of_a_full_street_are_far_below_the_limit(tmp_path: Path) -> None:
    """Grids as full as Occ3D's, 5 % of all cells, and without any of the order of a real street: harder to pack."""
    generator = torch.Generator().manual_seed(0)
    full = torch.where(
        torch.rand(OCC3D_GRID.shape, generator=generator) < 0.05, torch.randint(0, FREE, OCC3D_GRID.shape, generator=generator), FREE
    ).to(torch.uint8)
    write_cache(tmp_path / "output", {"scene-0001": 1}, grids={"scene-0001-0": full})
    write_truth(tmp_path / "gts", "scene-0001", "scene-0001-0", full.roll(1, dims=0))
    packed = content_of(report_of(tmp_path, gts=tmp_path / "gts"))["frames"][0]["cells"]
    assert 20 * len(packed) < FIFTEEN_MEGABYTES / 2


def test_what_does_not_fit_is_left_out_and_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "film.mp4").write_bytes(b"0" * 300_000)
    noise = torch.randint(0, 256, (400, 400, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(tmp_path / "zz.png")
    whole = report_of(tmp_path)
    small = report_of(tmp_path, most_bytes=len(whole) - 1000)
    assert len(small.encode()) <= len(whole) - 1000
    assert "<figcaption>film.mp4</figcaption>" in small
    assert "<figcaption>zz.png</figcaption>" not in small
    assert re.search(r"pictures: 1 of 1 left out, \S*zz\.png: the page would be too large", small)
    # What is small enough is there, whatever comes before it
    (tmp_path / "another.mp4").write_bytes(b"0" * 900_000)
    (tmp_path / "zz.mp4").write_bytes(b"0" * 1000)
    (tmp_path / "unreadable.png").write_bytes(b"no picture")
    small = report_of(tmp_path, most_bytes=len(whole) + 8000)
    assert all(f"<figcaption>{name}</figcaption>" in small for name in ("film.mp4", "zz.mp4", "zz.png"))
    assert re.search(r"film: 1 of 3 left out, \S*another\.mp4: the page would be too large", small)
    assert "pictures: 1 of 2 left out" not in small


def test_voxels_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(ValueError, match=r"1 key frames alone are 0\.\d MB, expected at most 0\.1; --frames or --gaussians"):
        report_of(tmp_path, most_bytes=100_000)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "overview.png").write_bytes(b"no picture")
    (tmp_path / "curves.png").write_bytes(b"no picture either")
    text = report_of(tmp_path)
    for name in ("overview", "curves"):
        assert re.search(rf"<li>\w+: \S*{name}\.png: cannot be read as an image", text)
        assert f"<figcaption>{name}.png</figcaption>" not in text


def test_the_command_writes_it_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, num_frames=3)
    main(["report", str(tmp_path), "--frames", "2", "--out", str(tmp_path / "page.html")], is_last=False)
    printed = capsys.readouterr()
    assert re.search(r"page\.html \(0\.\d MB\)$", printed.out.strip())
    assert len(content_of((tmp_path / "page.html").read_text())["frames"]) == 2
    assert "Gaussians: no network.safetensors in" in printed.err
    assert "truth: no folder has none" not in printed.err


def test_each_split_has_a_report_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_cache(tmp_path / "output_train", {"scene-0002": 1}, "train")
    for split in ("val", "train"):
        main(["report", str(tmp_path), "--split", split], is_last=False)
    shown = {path.name: content_of(path.read_text())["frames"][0]["name"] for path in tmp_path.glob("report*.html")}
    assert shown == {"report.html": "scene-0001, key frame 0", "report_train.html": "scene-0002, key frame 0"}


def test_the_bundled_library_is_the_one_that_is_described() -> None:
    source = Path(__file__).parents[2] / "tools" / "three"
    described = (source / "README.md").read_text()
    bundled = (HERE / "three" / "three.min.js").read_bytes()
    assert hashlib.sha256(bundled).hexdigest() in described
    version = json.loads((source / "package.json").read_text())["devDependencies"]["three"]
    assert f"three.js](https://threejs.org) {version}" in described
    assert b"SPDX-License-Identifier: MIT" in bundled
    assert "MIT License" in (HERE / "three" / "LICENSE").read_text()
    assert b"</script" not in bundled
