"""The notebook runs from its first cell to its last on a small network, without Jupyter, and is committed with what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.experiment import ExperimentConfig, build_network

NOTEBOOK = Path(__file__).parents[1] / "examples" / "03_predict.ipynb"
SMALL = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs(synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    data = {"dataroot": synthetic_dataroot, "version": "v1.0-mini", "loader": {"image_size": (32, 64)}}
    config = ExperimentConfig.model_validate({"name": "small", "data": data, "network": SMALL})
    torch.manual_seed(0)
    # Low enough that a network of random weights sees something everywhere
    metadata = {"threshold": "0.02", EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))}
    save_network(build_network(config), config.network, tmp_path / "network.safetensors", metadata)
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells()):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec", dont_inherit=True), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {"DATAROOT": synthetic_dataroot, "NETWORK": tmp_path / "network.safetensors", "OUT": tmp_path / "out"}
    said = capsys.readouterr().out
    assert "(200, 200, 16)" in said
    assert f"{len(names['cells'].centers):,} occupied" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["from_above.png", "gaussians.ply", "seen.npz", "seen.ply"]
    picture = np.asarray(Image.open(tmp_path / "out" / "from_above.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_the_first_cell_that_has_code_says_where_the_demo_leaves_what_is_looked_at():
    (first,) = (cell for cell in code_cells() if "parameters" in cell["metadata"].get("tags", []))
    assert first == code_cells()[0]
    assert "work_dirs/demo/train/network.safetensors" in "".join(first["source"])


def test_the_notebook_shows_what_it_gave():
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert NOTEBOOK.stat().st_size < 500_000
