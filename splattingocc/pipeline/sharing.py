"""A trained network as others get it: small, without folders of the machine that trained it, and with a card that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splattingocc.engine.checkpoint import CONFIG_KEY, DIGEST_KEY, EXPERIMENT_KEY, read_network, save_weights
from splattingocc.experiment import ExperimentConfig
from splattingocc.files import BadFile, decoding, read_json, sha256_of, write_atomically
from splattingocc.pipeline.networks import experiment_of, run_folder, threshold_in
from splattingocc.zoo import NETWORK_NAME

ORIGIN_KEY = "made_from_sha256"
"""Where a network's file says of which file it is a copy."""
SMALLEST_HALVED = 2
"""Axes of the weights that are stored as float16: biases, normalisations and running statistics are few, and their range is wide."""


def share_network(network: Path, out: Path, *, half: bool, card: bool = False) -> None:
    """Write a network's file again, as one to hand on: its weights, threshold and experiment, without folders of this machine.

    With a `card`, README.md beside it says what the network is, from its file and the folder of its run. A card that is there already is
    a `ValueError`: somebody may have written more into it.

    With `half`, weights of matrices and convolutions are rounded to float16; whoever loads them computes in float32. The checkpoint of an
    unfinished training, which has no threshold, is a `ValueError`.
    """
    if card and (path := card_path(out)).exists():
        raise ValueError(f"{path}: is there already; remove it to have it written anew")
    weights, metadata = read_network(network)
    with decoding(network, "a network of this project"):
        threshold = threshold_in(metadata)
    if threshold is None:
        raise BadFile(network, "has no threshold, which only the network of a finished training has")
    experiment_of(network)  # or it is of another version, which is better said now
    kept = {key: value for key, value in metadata.items() if key != DIGEST_KEY}
    kept |= {key: json.dumps(without_folders(json.loads(metadata[key]))) for key in (CONFIG_KEY, EXPERIMENT_KEY)}
    kept[ORIGIN_KEY] = sha256_of(network)
    if half:
        weights = {name: _halved(name, weight, network) for name, weight in weights.items()}
    save_weights(weights, out, kept)
    if card:
        _write_card(network, out)


def _halved(name: str, weight: Tensor, network: Path) -> Tensor:
    if weight.dtype != torch.float32 or weight.ndim < SMALLEST_HALVED:
        return weight
    halved = weight.half()
    if not halved.isfinite().all():
        raise BadFile(network, f"weight {name} has numbers up to {weight.abs().max():.3g}, float16 ends at 65504; expected without --fp16")
    return halved


def without_folders(options: Any) -> Any:
    """Return options in which no absolute path is left: its last part is."""
    if isinstance(options, dict):
        return {name: without_folders(value) for name, value in options.items()}
    if isinstance(options, list):
        return [without_folders(value) for value in options]
    return Path(options).name if isinstance(options, str) and Path(options).is_absolute() else options


def card_path(shared: Path) -> Path:
    """Return where the card of a network lies."""
    return shared.parent / "README.md"


def _write_card(network: Path, shared: Path) -> None:
    weights, metadata = read_network(shared)
    experiment, _ = experiment_of(shared)
    content = _card(shared, weights, metadata, experiment, _scores(run_folder(network), sha256_of(network)))
    write_atomically(card_path(shared), lambda temporary: temporary.write_text(content))


def _scores(run: Path, digest: str) -> str | None:
    """Return what testing this very network on val left in the folder of its run: a row of scores; none where it tested another last."""
    path = run / "metrics_val.json"
    if not path.exists():
        return None
    found = read_json(path, dict[str, Any], what="the scores of a run")
    markdown, data = found.get("markdown"), found.get("data")
    if not isinstance(markdown, str) or f"| {digest[:12]} |" not in markdown:
        return None
    where, _, version = data.rpartition(" ") if isinstance(data, str) else ("", "", "")
    on = f"the val scenes of {Path(where).name}, {version}" if where else "val"
    truth = found.get("truth")
    if isinstance(truth, str) and Path(truth) != (Path(where) / "gts").resolve():
        on += f", against the truth in {Path(truth).name}"
    return f"Of the file that this one was made from, on {on}.\n\n{markdown}"


def _card(shared: Path, weights: dict[str, Tensor], metadata: dict[str, str], experiment: ExperimentConfig, scores: str | None) -> str:
    data, network, first = experiment.data, experiment.network, experiment.trainer.initial_network
    height, width = data.loader.image_size
    parameters = sum(weight.numel() for name, weight in weights.items() if "running_" not in name and "num_batches" not in name)
    halved = any(weight.dtype == torch.float16 for weight in weights.values())
    rows = {
        "configuration": f"{experiment.name}; the whole of it is in the file",
        "encoder, head": f"{network.backbone.kind}, {network.head.kind}",
        "images": f"{height} × {width}, any number of cameras",
        "grid": f"{' × '.join(map(str, experiment.grid.voxels.shape))} cells of {experiment.grid.cell_size} m",
        "trained on": f"{data.dataroot} {data.version}; 2D labels only, {metadata.get('step', 'unknown')} steps, seed {experiment.seed}",
        **({} if first is None else {"began with the weights of": str(first)}),
        "occupancy threshold": str(threshold_in(metadata)),
        "parameters": f"{parameters / 1e6:.2f} M, {'matrices and convolutions stored as float16' if halved else 'float32'}, "
        f"{shared.stat().st_size / 1e6:.1f} MB",
        "commit of the training": metadata.get("commit", "unknown"),
        "made from": f"sha256 {metadata[ORIGIN_KEY]}",
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    tested = scores.strip() if scores else "Not tested yet."
    name = shared.resolve().parent.name
    # Only so is a file known by the name of its folder
    is_in_zoo = shared.name == NETWORK_NAME and shared.resolve().parent.parent.name == "zoo"
    known_as = f"zoo/{name}" if is_in_zoo else str(shared)
    use = f'from splattingocc import Predictor\n\npredictor = Predictor.load("{known_as}")'
    return (
        f"# {name}\n\n{table}\n\n## Scores\n\n{tested}\n\n"
        f"## Use\n\n```python\n{use}\n```\n\n`splattingocc test {known_as} --data.dataroot DIR` scores it.\n"
    )
