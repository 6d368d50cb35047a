from pathlib import Path

import pytest

from splattingocc.cli import parse
from splattingocc.config_files import CONFIGS, find_config, known_configs
from splattingocc.experiment import load_config

ROOT = Path(__file__).parents[1]
SYNTH = CONFIGS / "splattingocc" / "splattingocc-synth.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["splattingocc-synth", "splattingocc-synth.py", "splattingocc/splattingocc-synth", "splattingocc/splattingocc-synth.py"]
)
def test_a_configuration_of_the_package_is_known_by_its_name_in_any_folder(name: str):
    assert find_config(Path(name)) == SYNTH
    assert parse(["train", name, "--seed", "7"]).experiment == load_config(SYNTH).model_copy(update={"seed": 7})


def test_every_configuration_has_a_name_of_its_own():
    assert sorted(known_configs().values()) == sorted(CONFIGS.rglob("*.py"))
    assert "splattingocc-synth" in known_configs()


def test_the_paths_of_the_family_lead_to_the_same_configurations():
    for path in CONFIGS.rglob("*.py"):
        in_checkout = ROOT / "configs" / path.relative_to(CONFIGS)
        assert in_checkout.read_bytes() == path.read_bytes()
        assert load_config(in_checkout) == load_config(Path(path.stem))


def test_a_file_goes_before_a_name_and_a_folder_does_not(elsewhere: Path):
    (elsewhere / "splattingocc-synth").mkdir()
    assert find_config(Path("splattingocc-synth")) == SYNTH
    (elsewhere / "splattingocc-synth.py").write_text("def config(): ...\n")
    assert find_config(Path("splattingocc-synth.py")) == Path("splattingocc-synth.py")
    with pytest.raises(ValueError, match=r"splattingocc-synth\.py: config\(\) returned NoneType"):
        load_config(Path("splattingocc-synth.py"))


@pytest.mark.parametrize(
    "name",
    [
        "splattingocc-sinth",
        "other/splattingocc-synth",
        "splattingocc-synth.json",
        "/splattingocc-synth",
        "configs/splattingocc/splattingocc-synth.py",
        "a\0b",
    ],
)
def test_what_is_neither_a_file_nor_a_name_is_refused_with_the_names(name: str):
    reason = r"no such file, and no configuration of this name; .*by name there are .*splattingocc-synth"
    with pytest.raises(ValueError, match=reason) as refused:
        load_config(Path(name))
    assert str(refused.value).startswith(name)
    assert "\n" not in str(refused.value)


def test_a_misspelled_name_names_the_right_one():
    with pytest.raises(ValueError, match=r"did you mean splattingocc-synth\?"):
        find_config(Path("splattingoc-synth.py"))


def test_a_name_longer_than_file_systems_allow_is_refused_in_one_line():
    with pytest.raises(ValueError, match="File name too long"):
        load_config(Path("x" * 300))
