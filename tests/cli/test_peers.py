"""The words of `splattingocc bench render --peers`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from splattingocc.cli import main
from splattingocc.cli.peers import verdict
from splattingocc.splatting import bench_peers, bench_scaling, mitsuba_peer


def record(what: str, volume: str = "fog", **others: Any) -> dict[str, Any]:
    seconds = {f"{part}_{clock}_s": 0.5 for part in ("index", "forward", "backward") for clock in ("cpu", "wall")}
    over = {f"{step}_over_ours": 4.5 for step in ("forward", "backward", "total")}
    sizes = {"num_channels": 3, "num_rays": 12000, "occupied_share": 1.0, "repeats": 5, "num_threads": 1, "peak_beyond_mb": 70}
    return {"what": what, "volume": volume, **seconds, **over, **sizes, **others}


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def cases(*, num_rays: int, repeats: int) -> Iterator[list[dict[str, Any]]]:
        yield [record("ours", num_rays=num_rays), record("Mitsuba"), record("brute force", num_rays=8, peak_beyond_mb=None)]

    points = [record("ours", curve=curve, num_empty=empty) for curve in ("rays", "empty Gaussians") for empty in (1000, 9000)]
    monkeypatch.setattr(bench_peers, "bench_peers", cases)
    monkeypatch.setattr(bench_scaling, "bench_scaling", lambda repeats: points)


@pytest.mark.usefixtures("_measured")
def test_a_table_names_what_is_compared_and_files_hold_lines_and_curves(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, curves = tmp_path / "peers.jsonl", tmp_path / "curves.png"
    main(["bench", "render", "--peers", "--rays", "12000", "--out", str(out), "--curves", str(curves)])
    printed = capsys.readouterr().out
    assert "fog (100% occupied), 3 channels, 12,000 rays; CPU seconds, medians of 5" in " ".join(printed.split())
    assert "brute force, 8 rays" in printed
    assert "Mitsuba: reached: forward ≥ 4, missed: backward ≥ 10" in printed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["what"] for line in lines] == ["ours", "Mitsuba", "brute force", *4 * ["ours"]]
    assert Image.open(curves).size == (900, 360)


@pytest.mark.usefixtures("_measured")
def test_what_is_not_installed_is_one_line_and_the_others_are_measured(capsys, monkeypatch):
    monkeypatch.setattr(mitsuba_peer, "why_missing", lambda: "Mitsuba is left out (why): how")
    main(["bench", "render", "--peers", "--json"])
    captured = capsys.readouterr()
    assert captured.err == "Mitsuba is left out (why): how\n"
    assert [json.loads(line)["what"] for line in captured.out.splitlines()] == ["ours", "Mitsuba", "brute force"]


def test_an_aim_is_reached_at_its_bound():
    assert verdict(record("NeRF, skipping", total_over_ours=5.0)) == "reached: total ≥ 5"
    assert verdict(record("NeRF sampling", "trained-like", total_over_ours=59.0)) == "missed: total ≥ 60"
    assert verdict(record("NeRF sampling", "dense clutter")) == ""
    assert verdict(record("ours", peak_beyond_mb=101)) == "missed: ≤ 100 MB"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "--out", "lines.jsonl"], "lines.jsonl: is for `bench render --peers`"),
        (["infer", "network.safetensors", "--peers"], "--peers: is for `bench render`"),
        (["infer", "network.safetensors", "--rays", "5"], "--rays: is for `bench render`"),
        (["render", "--threads", "3"], "--threads: is for `bench infer`"),
        (["infer", "network.safetensors", "--threads", "0"], "--threads 0: expected 1 to 1024"),
        (["render", "--ways", "eager"], "--ways: is for `bench infer`"),
    ],
)
def test_options_of_the_peers_are_refused_without_them(words: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        main(["bench", *words])
