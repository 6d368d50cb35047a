import os
import tracemalloc
from pathlib import Path

import pytest

from splattingocc.files import BadFile, check_name, check_relative, child, decoding, open_regular, read_bytes, read_json, without_type


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, found in ((tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device"), (tmp_path, "folder"), (tmp_path / "x", "no such file")):
        with pytest.raises(BadFile, match=f"^{path}: .*{found}"):
            read_bytes(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no space
    with pytest.raises(BadFile, match="expected at most 1,000"):
        open_regular(path, limit=1000)


def test_reading_takes_the_memory_of_the_file_not_of_the_limit(tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "small") == b"x" * 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": "\xff"}', b"nul\x00"])
def test_what_is_not_json_is_one_line_with_the_path(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=f"^{path}: not a manifest") as caught:
        read_json(path, what="a manifest")
    assert "\n" not in str(caught.value)


def test_numbers_that_json_has_not_are_shown(tmp_path):
    path = tmp_path / "a.json"
    for number in ("NaN", "-Infinity", "nan"):
        path.write_text(f'[{{"token": "a", "translation": [0.5, {number}]}}]')
        with pytest.raises(BadFile, match=rf"near '.*{number}.*'; NaN and infinities, which Python's json writes, are no JSON$"):
            read_json(path)
    path.write_text("[{'token': 1}]")
    with pytest.raises(BadFile, match=r"""\(byte 2\), near "\[\{'token': 1\}\]"$"""):
        read_json(path)


def test_any_error_of_a_decoder_names_the_file():
    for error in (KeyError("x"), RuntimeError("first\nsecond"), MemoryError(), RecursionError(), NotImplementedError("compression 99")):
        with pytest.raises(BadFile, match=r"^some/file: ") as caught, decoding(Path("some/file"), "a thing"):
            raise error
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ValueError: x.jpg: damaged", "x.jpg: damaged"),
        ("splattingocc.files.reading.BadFile: /a/b.png: no such file", "/a/b.png: no such file"),
        ("splattingocc.engine.batches.LoaderFailed: a process ended", "a process ended"),
        ("/data/Error: x", "/data/Error: x"),
    ],
)
def test_the_type_of_an_error_is_left_out_of_what_people_read(line, expected):
    assert without_type(line) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", "a\\b", "nul\0", "line\n", ".hidden", " x", "x" * 300])
def test_names_that_would_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a file"):
        child(tmp_path, name)


def test_names_of_people_are_accepted(tmp_path):
    for name in ("scene-0001", "Fahrt Köln 3", "2020.01.01_12-30", "n015-2018+0800"):
        assert child(tmp_path, name) == tmp_path / check_name(name, "a name")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "nul\0"])
def test_file_names_stay_in_their_root(name):
    with pytest.raises(ValueError, match="inside of the data root"):
        check_relative(name, "filename")
    assert check_relative("samples/a..b/x.jpg", "filename") == "samples/a..b/x.jpg"
