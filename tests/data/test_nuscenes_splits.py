import json
from pathlib import Path

import pytest

from splattingocc.data.nuscenes_splits import VAL_SCENES_TRAINVAL, read_splits


def test_the_published_validation_split_has_its_150_scenes():
    assert len(VAL_SCENES_TRAINVAL) == 150
    assert {"scene-0003", "scene-0110", "scene-0625", "scene-1073"} <= VAL_SCENES_TRAINVAL
    assert not {"scene-0001", "scene-0037", "scene-0628", "scene-0776", "scene-0918", "scene-1074"} & VAL_SCENES_TRAINVAL


def test_mini_has_a_split_of_its_own(tmp_path: Path):
    scenes = ["scene-0061", "scene-0103", "scene-0553", "scene-0916"]
    assert read_splits(tmp_path, "v1.0-mini", scenes) == {"train": ("scene-0061", "scene-0553"), "val": ("scene-0103", "scene-0916")}
    assert read_splits(tmp_path, "v1.0-trainval", scenes)["val"] == ("scene-0103", "scene-0553", "scene-0916")


def test_an_unknown_version_without_a_split_file_says_what_is_missing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"splits\.json: no such file; v1\.0-own has no published split"):
        read_splits(tmp_path, "v1.0-own", ["a"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"train": ["a"], "val": ["c"]}, "split val: scene c is not in scene.json"),
        ({"train": ["a", "b"], "val": ["b"]}, r"scene b is listed twice \(in train and val\)"),
        (["a"], "not a JSON object of scene lists"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path: Path, content: object, expected: str):
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=expected):
        read_splits(tmp_path, "v1.0-own", ["a", "b"])
