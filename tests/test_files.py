import json

import pytest

from splattingocc.files import write_atomically, write_json


def test_a_file_appears_whole(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"b": [1]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"b": [1]}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
