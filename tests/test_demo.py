from pathlib import Path

import pytest

from splattingocc import demo as demo_module
from splattingocc.demo import CONFIG, WORLD, Demo
from splattingocc.experiment import load_config


def test_an_interrupted_training_goes_on_only_with_the_same_code_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = []
    monkeypatch.setattr(demo_module, "train", lambda experiment, work_dir, resume_from: found.append((work_dir / "left").exists()))
    demo = Demo(tmp_path, WORLD, load_config(CONFIG))
    demo._train("one")
    (tmp_path / "train" / "left").write_text("by an interrupted run")
    demo._train("one")
    demo._train("another")
    assert found == [False, True, False]
