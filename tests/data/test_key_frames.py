import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes

from splattingocc.data.key_frames import Index, ego_from_other_ego, inverse
from splattingocc.data.nuscenes import read_index


def pose(x: float, y: float, yaw: float, pitch: float = 0.0) -> np.ndarray:
    cos, sin, up, ahead = math.cos(yaw), math.sin(yaw), math.sin(pitch), math.cos(pitch)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ np.array([[ahead, 0.0, up], [0.0, 1.0, 0.0], [-up, 0.0, ahead]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, (x, y, 0.3)
    return matrix


@pytest.mark.parametrize("far", [0.0, 1_234.567, 4.5e6])
def test_equal_poses_give_exactly_the_identity_wherever_they_are(far: float):
    world_from_ego = pose(far, -far / 3, 0.7, 0.01)
    assert np.array_equal(ego_from_other_ego(world_from_ego, world_from_ego.copy()), np.eye(4))
    others = np.stack([world_from_ego, pose(far + 1, far, 0.2), world_from_ego])
    same = (ego_from_other_ego(world_from_ego, others) == np.eye(4)).all(axis=(1, 2))
    assert same.tolist() == [True, False, True]


def test_the_other_ego_is_found_where_both_poses_say():
    world_from_ego, world_from_other = pose(10.0, -4.0, 0.7, 0.02), pose(13.0, -2.0, 0.9, -0.01)
    np.testing.assert_allclose(ego_from_other_ego(world_from_ego, world_from_other), inverse(world_from_ego) @ world_from_other, atol=1e-14)
    both = ego_from_other_ego(world_from_ego, np.stack([world_from_other, world_from_ego]))
    np.testing.assert_array_equal(both[0], ego_from_other_ego(world_from_ego, world_from_other))
    ahead = ego_from_other_ego(pose(5.0, 7.0, math.pi / 2), pose(5.0, 9.0, math.pi / 2))
    np.testing.assert_allclose(ahead[:3, 3], [2.0, 0.0, 0.0], atol=1e-15)


def test_the_error_is_that_of_metres_and_not_of_world_coordinates():
    # The same motion near the world's origin and 2**22 m away, whose coordinates both hold exactly
    near = ego_from_other_ego(pose(0.0, 0.0, 0.7, 0.02), pose(1.5, 0.25, 0.9))
    far = ego_from_other_ego(pose(2.0**22, -(2.0**22), 0.7, 0.02), pose(2.0**22 + 1.5, 0.25 - 2.0**22, 0.9))
    np.testing.assert_array_equal(far, near)
    product = inverse(pose(2.0**22, -(2.0**22), 0.7, 0.02)) @ pose(2.0**22 + 1.5, 0.25 - 2.0**22, 0.9)
    assert np.abs(product - near).max() > 1e-11


@pytest.fixture
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.mark.parametrize(
    "name", ["../../home/model", "/abs", "a/b", "a\\b", ".hidden", "", " a", "a ", "a\nb", "a\0", "\x7f", "x" * 181, "\u2003a", "é" * 91]
)
def test_names_that_cannot_name_a_file_are_refused(index: Index, name: str):
    scenes = (*index.scenes[:2], dataclasses.replace(index.scenes[2], name=name))
    for what, changes in (
        ("scene", {"scenes": scenes}),
        ("key frame", {"tokens": [*index.tokens[:-1], name]}),
        ("channel", {"channels": [*index.channels[:-1], name]}),
        ("split", {"splits": {"train": index.splits["train"], name: ()}}),
    ):
        with pytest.raises(ValueError, match=rf"^v1\.0-tiny: {what} .* cannot name a file"):
            dataclasses.replace(index, **changes)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "\\\\host\\x", "../x.jpg", "samples/../../x.jpg", "samples\\..\\x", "a/..", "a\nb", "a\0b", "\x7f"]
)
def test_files_outside_of_the_data_root_are_refused(index: Index, name: str):
    for column in ("filenames", "point_classes"):
        for files in ([name, *getattr(index, column)[1:]], [*getattr(index, column)[:-1], name]):
            with pytest.raises(ValueError, match=r"^v1\.0-tiny: file .*: expected a path inside of the data root"):
                dataclasses.replace(index, **{column: files})


def test_unusual_names_that_stay_inside_are_accepted(index: Index):
    scenes = (*index.scenes[:2], dataclasses.replace(index.scenes[2], name="nuit à Zürich..2"))
    renamed = dataclasses.replace(index, scenes=scenes, splits={}, filenames=[f"a..b/ü {name}" for name in index.filenames])
    assert renamed[7].scene == "nuit à Zürich..2"


def test_an_index_without_fault_is_not_looked_through_name_by_name(index: Index, monkeypatch: pytest.MonkeyPatch):
    # A quarter of a million names: joined and searched once they take 25 ms, one by one ten times as long
    for check in ("check_name", "check_relative"):
        monkeypatch.setattr(f"splattingocc.data.key_frames.{check}", lambda name, what: pytest.fail(f"looked at {what} {name}"))
    dataclasses.replace(index, tokens=list(index.tokens))
