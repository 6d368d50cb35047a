"""An exported network gives in another runtime what the network gives here, also for rigs that it was not exported with."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splattingocc import FREE, Predictor
from splattingocc.cli import main
from splattingocc.engine.checkpoint import EXPERIMENT_KEY, save_network
from splattingocc.experiment import ExperimentConfig, build_network
from splattingocc.pipeline.bench_inference import Case, measure
from splattingocc.pipeline.onnx_export import INPUTS, OPSET, OUTPUTS, store_halved

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

SMALL = {"lift": {"channels": 8, "coarsening": 4}, "volume_encoder": {"channels": (8, 16), "blocks": (1, 1)}}
GRID = {"lower": (-12.0, -12.0, -1.0), "upper": (12.0, 12.0, 2.2), "cell_size": 0.4}
NUM_VIEWS = 2


def write(path: Path, network: dict[str, Any] = {}, **loader: Any) -> Path:  # noqa: B006
    """Write a network with weights that leave space neither empty nor full."""
    data = {"loader": {"image_size": (64, 128), **loader}}
    config = ExperimentConfig.model_validate({"name": "small", "data": data, "grid": GRID, "network": SMALL | network})
    torch.manual_seed(0)
    built = build_network(config)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if name.startswith("head") and weight.ndim > 1:
                weight.normal_(std=0.3)
    metadata = {"threshold": "0.3", "ground_threshold": "0.15", EXPERIMENT_KEY: json.dumps(config.model_dump(mode="json"))}
    save_network(built, config.network, path, metadata)
    return path


def rig(yaws: tuple[float, float], *, focal: float, height: float) -> dict[str, Any]:
    """Two level cameras before noise, larger than the network's images."""
    rng = np.random.default_rng(int(focal))
    cam_from_ego = []
    for yaw in np.deg2rad(yaws):
        looking = np.array([[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]])
        cam_from_ego.append(np.block([[looking, -looking @ [[0.4], [0.2], [height]]], [np.array([[0.0, 0, 0, 1]])]]))
    K = np.array([[focal, 0, 85], [0, focal, 44], [0, 0, 1]])
    images = rng.integers(0, 256, (2, 90, 160, 3), dtype=np.uint8)
    return {"images": images, "K": np.stack([K, K]), "cam_from_ego": np.stack(cam_from_ego)}


RIGS = {
    "wide": rig((0, 180), focal=70.0, height=1.6),
    "narrow": rig((40, -75), focal=150.0, height=2.4),
    "one camera failed": {**rig((0, 90), focal=90.0, height=1.4), "images": [np.full((90, 160, 3), 90, np.uint8), None]},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("onnx") / "network.safetensors")


@pytest.fixture(scope="module")
def exported(network: Path) -> Path:
    """The network as the command writes it."""
    out = network.parent / "out.onnx"
    main(["export", str(network), str(out), "--views", str(NUM_VIEWS)])
    return out


def run(model: Path | bytes, given: dict[str, np.ndarray], *, threads: int = 1) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == list(INPUTS)
    assert [put.name for put in session.get_outputs()] == list(OUTPUTS)
    return session.run(None, given)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGS)
def test_another_runtime_gives_what_the_network_gives_for_any_rig(name: str, network: Path, exported: Path):
    predictor = Predictor.load(network, device="cpu")
    expected = predictor(**RIGS[name])
    probabilities, semantics = run(exported, predictor.inputs(**RIGS[name]))
    differences = np.abs(probabilities - expected.probabilities.numpy())
    # An alpha that is 1/255 but for rounding counts for one of the two only
    assert (differences > 1e-3).mean() < 1e-4
    assert differences.max() < 1 / 255 + 1e-3
    assert (semantics == expected.semantics.numpy()).mean() >= 0.999
    assert (semantics.dtype, 0.02 < (semantics != FREE).mean() < 0.98) == (np.uint8, True)


@pytest.mark.slow
def test_threads_of_another_runtime_change_nothing(network: Path, exported: Path):
    given = Predictor.load(network, device="cpu").inputs(**next(iter(RIGS.values())))
    alone, *others = (run(exported, given, threads=threads) for threads in (1, 4, 4))
    assert all(np.allclose(alone[0], probabilities, atol=1e-5) for probabilities, _ in others)


@pytest.mark.slow
def test_timing_a_file_of_another_rig_says_what_differs(network: Path, exported: Path):
    found = measure(Case("onnxruntime", network, 1, 1, exported, "cpu"))
    assert found["failed"] == f"{exported}: its images are of shape (2, 3, 64, 128), those of this network (6, 3, 64, 128)"


@pytest.mark.slow
def test_the_file_says_what_a_caller_needs_to_know(network: Path, exported: Path):
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert (about["threshold"], about["ground_threshold"]) == (0.3, 0.15)
    assert (about["image_size"], about["grid"]["cell_size"], len(about["classes"])) == ([64, 128], 0.4, 17)
    assert re.fullmatch(r"[0-9a-f]{64}", about["splattingocc"]["network_sha256"])
    # Of which onnxruntime's threads lose additions where they meet in one row
    sums = {attribute.s for node in model.graph.node if node.op_type == "ScatterND" for attribute in node.attribute}
    assert sums <= {b"none"}
    # No kernel of ours is left in it
    assert {node.domain for node in model.graph.node} <= {"", "pkg.onnxscript.torch_lib"}


@pytest.mark.slow
def test_half_the_bytes_give_nearly_the_same(network: Path, exported: Path):
    model = onnx.load(exported)
    halved = copy.deepcopy(model)
    store_halved(halved)
    assert halved.ByteSize() < 0.62 * model.ByteSize()
    given = Predictor.load(network, device="cpu").inputs(**RIGS["wide"])
    expected, found = run(exported, given), run(halved.SerializeToString(), given)
    assert np.abs(expected[0] - found[0]).max() < 0.02
    assert (expected[1] == found[1]).mean() > 0.99
    assert not np.array_equal(expected[0], found[0])


@pytest.mark.parametrize(
    ("network", "loader", "message"),
    [
        ({"head": {"kind": "density"}}, {}, r"network\.head\.kind is density; only gaussians can be exported"),
        ({"lift": {"kind": "lss", "channels": 8, "coarsening": 4}}, {}, r"network\.lift\.kind is lss; only sampling can be exported"),
        ({"temporal": {"frames": 1}}, {"previous_frames": 1}, "the network looks at 1 earlier frames; only networks of one frame can be"),
    ],
)
def test_parts_that_have_no_twin_are_named(network: dict[str, Any], loader: dict[str, Any], message: str, tmp_path: Path):
    path = write(tmp_path / "network.safetensors", network, **loader)
    with pytest.raises(SystemExit, match=f"^splattingocc: {message}"):
        main(["export", str(path), str(tmp_path / "out.onnx")])
    assert not (tmp_path / "out.onnx").exists()
