"""The shapes that the synthetic world's functions name are true: for speed, no other test checks them in this one room."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import splattingocc

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGE = Path(splattingocc.__file__).parent
CHECKED = """
import sys
from pathlib import Path
from jaxtyping import install_import_hook

install_import_hook("splattingocc", "beartype.beartype")
from splattingocc.synthetic.mesh import roll
from splattingocc.synthetic.writer import SynthConfig, write_dataset

config = SynthConfig(
    num_scenes=1, num_val_scenes=0, frames_per_scene=1, drive_seconds=1.0, image_size=(16, 16), dense="perfect", label_errors=True
)
write_dataset(config, Path(sys.argv[1]), progress=False)
try:
    roll("steeply")
except Exception as error:
    print(type(error).__name__)
"""


def test_a_street_is_made_with_every_shape_checked(tmp_path: Path):
    finished = subprocess.run([sys.executable, "-c", CHECKED, tmp_path / "street"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.splitlines()[-1] == "TypeCheckError", "nothing was checked"


def test_all_other_rooms_are_checked_in_all_tests():
    options = tomllib.loads(PROJECT.read_text())["tool"]["pytest"]["ini_options"]["addopts"].split()
    (packages,) = (option.partition("=")[2].split(",") for option in options if option.startswith("--jaxtyping-packages"))
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {f"splattingocc.{room}" for room in rooms} - set(packages) == {
        "splattingocc.__init__", "splattingocc.__main__", "splattingocc.synthetic"
    }  # fmt: skip
