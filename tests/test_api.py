"""What other programs may import: at once, lazily, with types; and the page that says how, whose code runs."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splattingocc
from splattingocc import Predictor
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.experiment import ExperimentConfig, build_network

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SAID = re.compile(r"^ *print\(.*\)  # (.+)$", flags=re.MULTILINE)


PROGRAM = """
import warnings, torch, warp as wp
import matplotlib, PIL.Image

def settings():
    numbers = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.backends.cudnn.benchmark)
    return list(warnings.filters), dict(matplotlib.rcParams), wp.config.enable_backward, wp.config.log_level, numbers

with warnings.catch_warnings(record=True):
    # What others change as they are imported
    import torch.utils.data, lightning.pytorch, torch.distributed
before = settings()
import splattingocc
from splattingocc import Predictor
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels.voxel_walk import cast_first_hit
rays = Rays(torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]))
cast_first_hit(torch.ones(2, 2, 2, dtype=torch.uint8), VoxelGrid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), 1.0), rays)
after = settings()
assert before == after, [(old, new) for old, new in zip(before, after) if old != new]

@wp.kernel
def square(x: wp.array(dtype=float), y: wp.array(dtype=float)):
    i = wp.tid()
    y[i] = x[i] * x[i]

x = wp.array([1.0, 2.0, 3.0], dtype=float, device="cpu", requires_grad=True)
y = wp.zeros(3, dtype=float, device="cpu", requires_grad=True)
with wp.Tape() as tape:
    wp.launch(square, dim=3, inputs=[x], outputs=[y], device="cpu")
tape.backward(grads={y: wp.ones(3, dtype=float, device="cpu")})
print(x.grad.numpy().tolist())
"""


def python(code: str) -> str:
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_the_package_imports_nothing_that_takes_time():
    names = "{'torch', 'numpy', 'lightning', 'pydantic', 'warp'}"
    assert python(f"import sys, splattingocc; print({names} & set(sys.modules))") == "set()\n"
    # The label space is words and numbers
    assert python(f"import sys; from splattingocc import CLASSES, FREE; print({names} & set(sys.modules))") == "set()\n"


def test_a_program_that_uses_the_package_keeps_its_own_settings(tmp_path: Path):
    """Warp's gradients and messages, warning filters, torch's defaults: they belong to the whole process."""
    program = tmp_path / "program.py"  # Warp reads its kernels' source
    program.write_text(PROGRAM)
    finished = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "[2.0, 4.0, 6.0]"


def test_every_public_name_is_what_its_module_has_and_type_checkers_are_told_the_same():
    source = Path(splattingocc.__file__).read_text()
    told = re.findall(r"^    from splattingocc\.([\w.]+) import (.+)$", source, flags=re.MULTILINE)
    homes = {name: module for module, names in told for name in names.split(", ")}
    assert sorted([*homes, "__version__"]) == sorted(splattingocc.__all__)
    assert set(splattingocc.__all__) <= set(dir(splattingocc))
    for name, module in homes.items():
        assert getattr(splattingocc, name) is getattr(import_module(f"splattingocc.{module}"), name)


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'splattingocc' has no attribute 'Predict'"):
        splattingocc.Predict  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_says_that_it_has_types():
    assert (Path(splattingocc.__file__).parent / "py.typed").is_file()


def test_the_page_names_everything_public_and_every_argument():
    text = PAGE.read_text()
    arguments = [*inspect.signature(Predictor.load).parameters, *inspect.signature(Predictor.__call__).parameters]
    public = [name for name in splattingocc.__all__ if name != "__version__"]
    assert [name for name in [*public, *arguments] if name not in ("self", "path") and not re.search(rf"\b{name}\b", text)] == []


def test_the_code_of_the_page_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
    config = ExperimentConfig.model_validate({"name": "small", "data": {"loader": {"image_size": (32, 64)}}, "network": network})
    metadata = {"threshold": "0.3", "ground_threshold": "0.15", EXPERIMENT_KEY: config.model_dump_json()}
    save_network(build_network(config), config.network, tmp_path / "network.safetensors", metadata)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    # What the first block has from its reader
    cam_from_ego = np.array([[[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]]])
    K = np.array([[[60.0, 0, 32], [0, 60, 16], [0, 0, 1]]])
    names: dict[str, Any] = {"images": np.zeros((1, 32, 64, 3), np.uint8), "K": K, "cam_from_ego": cam_from_ego}
    for number, block in enumerate(blocks):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block, f"docs/api.md, block {number}", "exec", dont_inherit=True), names)
        printed = said.getvalue().splitlines()
        assert [line for line in SAID.findall(block) if line not in printed] == [], printed
    assert names["occupancy"].semantics.shape == names["predictor"].grid.shape == (200, 200, 16)
    assert len(names["points"]) == (names["sweep"].semantics != splattingocc.SKY).sum()
