import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from splattingocc.data.index_file import load_columns, save_columns

KEY = "key"


def columns() -> dict[str, Any]:
    """Two key frames of one scene, a LiDAR and one camera."""
    return {
        "scenes": [("a", 0, 2)],
        "channels": ["lidar", "front"],
        "has_lidar": True,
        "tokens": ["a0", "a1"],
        "sensor_tokens": ["l0", "f0", "l1", "f1"],
        "filenames": ["l0.bin", "f0.jpg", "l1.bin", "f1.jpg"],
        "point_classes": ["c0.bin", None],
        "incomplete": {"a2": ("a", "no LiDAR")},
        "splits": {"train": ["a"], "val": []},
        "timestamps": np.array([1, 2]),
        "world_from_key_ego": np.tile(np.eye(4), (2, 1, 1)),
        "sensor_timestamps": np.array([[1, 1], [2, 2]]),
        "image_sizes": np.array([[[60, 100]], [[60, 100]]]),
        "K": np.tile(np.eye(3), (2, 1, 1, 1)),
        "ego_from_sensor": np.tile(np.eye(4), (2, 2, 1, 1)),
        "world_from_ego": np.tile(np.eye(4), (2, 2, 1, 1)),
        "sensor_present": np.array([[True, True], [True, False]]),
    }


def test_columns_come_back_as_they_were(tmp_path: Path):
    path = tmp_path / "index.msgpack"
    save_columns(path, KEY, columns())
    found = load_columns(path, KEY)
    assert found is not None
    assert list(found) == list(columns())
    for name, value in columns().items():
        np.testing.assert_array_equal(np.asarray(found[name], dtype=object), np.asarray(value, dtype=object))
    assert load_columns(path, "another key") is None
    assert load_columns(tmp_path / "missing", KEY) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scenes", [("a", 0, 1)]),
        ("scenes", [("a", 1, 2)]),
        ("scenes", [("a", 0, 1), ("a", 1, 1)]),
        ("scenes", [["a"]]),
        ("channels", ["lidar"]),
        ("channels", [1, 2]),
        ("tokens", ["a0"]),
        ("tokens", "a"),
        ("filenames", ["l0.bin"]),
        ("point_classes", [None]),
        ("incomplete", {"a2": "no LiDAR"}),
        ("splits", {"train": ["b"]}),
        ("timestamps", np.array([1.0, 2.0])),
        ("timestamps", [1, 2]),
        ("image_sizes", np.zeros((2, 2), np.int64)),
        ("K", np.full((2, 1, 3, 3), np.nan)),
        ("world_from_ego", np.tile(np.eye(4), (3, 2, 1, 1))),
        ("sensor_present", np.ones((2, 1), bool)),
        ("more", 1),
        ("more", np.zeros(2)),
    ],
)
def test_columns_that_do_not_belong_together_are_as_good_as_none(tmp_path: Path, name: str, value: Any):
    save_columns(tmp_path / "index.msgpack", KEY, {**columns(), name: value})
    assert load_columns(tmp_path / "index.msgpack", KEY) is None


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("plain", []),
        ("arrays", None),
        ("format", "x"),
        ("timestamps", ("|O", [2], bytes(16))),
        ("timestamps", ("x", [2], bytes(16))),
        ("timestamps", ("<i8", [3], bytes(16))),
        ("timestamps", ("<i8", [2, -1], bytes(16))),
        ("timestamps", ["<i8"]),
    ],
)
def test_a_file_of_another_make_with_a_right_digest_is_as_good_as_none(tmp_path: Path, part: str, value: Any):
    path = tmp_path / "index.msgpack"
    save_columns(path, KEY, columns())
    content = msgspec.msgpack.decode(path.read_bytes()[32:])
    (content["arrays"] if part == "timestamps" else content)[part] = value
    packed = msgspec.msgpack.encode(content)
    path.write_bytes(hashlib.sha256(packed).digest() + packed)
    assert load_columns(path, KEY) is None
