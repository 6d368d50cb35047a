"""What the program does with each kind of file: the command, or the function that the command calls, and a digest of what came of it.

Everything here runs in a folder that holds a copy of the world (`world.py`) in which one file is damaged.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from world import OWN_VERSION, VERSION, DemoOptions

from splattingocc.cli import main
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import PredictionSet, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_tables import TABLES
from splattingocc.data.occ3d import read_truth
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.engine.checkpoint import newest_checkpoint
from splattingocc.engine.ledger import read_ledger
from splattingocc.engine.loggers import MetricsTable
from splattingocc.experiment import load_config
from splattingocc.models.backbones.resnet import ResNet, ResNetConfig
from splattingocc.pipeline.prediction import open_network, training_seed, unlike_training, with_remembered_labels

TEXT = "text without a digest: another number or name within its bounds"
PIXELS = "an image without a digest: other pixels"
POINTS = "raw numbers without a digest: a point moved within its bounds, or got another class"
ARRAY = "an array without a digest: other values within their bounds"
LINES = "lines that cannot be read are left out and counted"
ONE_BEFORE = "the checkpoint before it is taken"
OTHER = "a whole file of the right kind that holds something else"


@dataclass(frozen=True)
class Reader:
    """A kind of file, and what reads it."""

    name: str
    files: str
    """A pattern of the files of the kind, in the world."""
    parts: tuple[str, ...]
    """Of the world, that reading it takes."""
    read: Callable[[], Any]
    """Returns what came of it, to be compared with what comes of the file as it was."""
    weight: int = 4
    """How many of the inputs, beside other readers."""
    accident: str | None = None
    """Why damage that nobody meant may be accepted; None where it must be noticed."""
    forged: str | None = OTHER
    """Why a file that somebody made may be accepted with another result."""
    heals: bool = False
    """Whether the program makes the file again."""
    optional: bool = False
    """Whether the file may be missing altogether."""


def digest(value: Any) -> str:
    """Return a digest of plain values, arrays, tensors and dataclasses of them."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and np.isinf(value).any():
            raise AssertionError("accepted numbers that are not finite")
        found.update(f"{value.dtype} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            found.update(field.name.encode())
            _feed(found, getattr(value, field.name))
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            found.update(str(key).encode())
            _feed(found, value[key])
    elif isinstance(value, list | tuple):
        found.update(b"[%d" % len(value))
        for one in value:
            _feed(found, one)
    else:
        if isinstance(value, float) and not math.isfinite(value):
            raise AssertionError(f"accepted {value}")
        found.update(repr(value).encode(errors="surrogatepass"))


def _files(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return the digests of files of a folder, but for what is of the moment."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


# Tables and indices


def index_of_tables() -> Any:
    return read_index(Path("synth"), VERSION, cache_dir=Path("cache"))


def index_of_own() -> Any:
    return read_index(Path("own"), OWN_VERSION)


def cached_index() -> Any:
    return read_index(Path("synth"), VERSION, cache_dir=Path("runs/small/index"))


def doctor() -> Any:
    main(["doctor", "--dataroot", "synth"])


def prepare() -> Any:
    main(["prepare", "--dataroot", "synth", "--out", "labels", "--workers", "0"])
    return _files(Path("labels"), "*.safetensors")


def prepare_again() -> Any:
    main(["prepare", "--dataroot", "synth", "--workers", "0"])
    return _files(Path("synth/labels_2d"), "*.safetensors")


def verify() -> Any:
    main(["prepare", "--dataroot", "synth", "--verify", "--verify-inputs"])


def prepare_own() -> Any:
    main(["prepare", "--dataroot", "own", "--out", "labels", "--workers", "0"])
    return _files(Path("labels"), "*.safetensors")


def prepare_dense() -> Any:
    main([
        "prepare", "--dataroot", "own", "--out", "labels", "--workers", "0", "--dense.semantics", "maps/semantics", "--dense.depth",
        "maps/depth", "--dense.confidence", "maps/confidence", "--dense.class-map", "maps/classes.json", "--dense.stride", "2",
    ])  # fmt: skip
    return _files(Path("labels"), "*.safetensors")


def prepare_masked() -> Any:
    main(["prepare", "--dataroot", "own", "--out", "labels", "--workers", "0", "--vehicle-masks", "own/vehicle"])
    return _files(Path("labels"), "*.safetensors")


# Samples


def predicted_samples() -> Any:
    return _samples(index_of_tables(), Path("synth"))


def own_samples() -> Any:
    return _samples(index_of_own(), Path("own"))


def masked_samples() -> Any:
    index = index_of_own()
    return _samples(index, Path("own"), masks=VehicleMasks.open(Path("own/vehicle"), index))


def _samples(index: Index, root: Path, **options: Any) -> Any:
    config = load_config(Path("config.json")).data.loader
    samples = PredictionSet(index, root, config, list(range(len(index))), **options)
    return [samples[i] for i in range(len(samples))]


def training_samples() -> Any:
    """All that training reads: tables, images and labels."""
    index, store = index_of_tables(), LabelStore.open(Path("synth/labels_2d"))
    config = load_config(Path("config.json"))
    samples = TrainingSet(store.labelled_part(index), store, Path("synth"), config.data.loader, seed=0)
    return [samples[i] for i in range(len(samples))], {token: store.read(token) for token in index.tokens}


# Configurations, trainings, networks


FIRST, LAST = (Path(f"runs/small/checkpoints/step_{step:08d}.ckpt") for step in (4, 8))


def config_in_json() -> Any:
    return load_config(Path("config.json")).model_dump(mode="json")


def config_in_python() -> Any:
    return load_config(Path("config.py")).model_dump(mode="json")


def _trained() -> Any:
    folder = Path("runs/small")
    with (folder / "logs/metrics.csv").open() as file:
        losses = {row["step"]: row["loss"] for row in csv.DictReader(file)}
    metrics = json.loads((folder / "metrics.json").read_text())
    return losses, metrics["losses"], _files(folder, "*.safetensors"), (folder / "calibration.json").read_text()


def train_from() -> Any:
    """Go on from the checkpoint of the first of two epochs, by its name."""
    main(["train", "config.json", "--work-dir", "runs/small", "--resume-from", str(FIRST)])
    return _trained()


def train_again() -> Any:
    """Start a training again that is finished; what is damaged of it is made again, from the newest checkpoint that is whole."""
    main(["train", "config.json", "--work-dir", "runs/small", "--auto-resume"])
    return _trained()


def open_checkpoint() -> Any:
    """What `--auto-resume` looks at before it trains."""
    newest = newest_checkpoint(Path("runs/small"))
    return None if newest is None else str(newest)


def test_checkpoint() -> Any:
    return _network(LAST)


def test_network() -> Any:
    return _network(Path("runs/small/network.safetensors"))


def _network(path: Path) -> Any:
    """What `test` does with a network before it predicts."""
    config = load_config(Path("config.json"))
    labels = with_remembered_labels(config, path).data.labels
    network, threshold = open_network(config, path)
    return str(labels), unlike_training(config, path), training_seed(path), threshold, network.state_dict()


def initial_weights() -> Any:
    return ResNet(ResNetConfig(weights=Path("weights/resnet18.safetensors"))).state_dict()


def initial_weights_of_torch() -> Any:
    return ResNet(ResNetConfig(weights=Path("weights/resnet18.pth"))).state_dict()


# Predictions and truth


def _scores() -> Any:
    scores = json.loads(Path("runs/small/metrics_val.json").read_text())
    return scores["model"]


def test_again() -> Any:
    main(["test", "config.json", "runs/small/network.safetensors"])
    return _scores()


def score_cache() -> Any:
    main(["test", "config.json", "--from-cache", "runs/small/output", "--work-dir", "runs/small"])
    return _scores()


def score_foreign() -> Any:
    main(["test", "config.json", "--from-cache", "foreign", "--work-dir", "runs/small"])
    return _scores()


def truth() -> Any:
    index = index_of_tables()
    return [read_truth(Path("synth/gts"), index[i].scene, index[i].token) for i in range(len(index))]


def visualize() -> Any:
    main(["visualize", "config.json", "runs/small/network.safetensors"])
    return _files(Path("runs/small/pictures"))


# What runs leave


def log() -> Any:
    main(["log", "--path", "runs/log.txt"])
    main(["log", "--path", "runs/log.txt", "--json"])
    return read_ledger(Path("runs/log.txt")).runs


def go_on_in_metrics() -> Any:
    table = MetricsTable(Path("runs/small"))
    table.log_metrics({"loss": 1.0, "epoch": 1}, step=9)
    table.save()
    with Path("runs/small/logs/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def synth_again() -> Any:
    main(["synth", "--out", "synth", "--scenes", "3", "--val-scenes", "1", "--frames", "2", "--image-size", "32", "64"])
    return _files(Path("synth"), "samples/*/*")


def synth_fresh() -> Any:
    """Another and smaller data set in place of the one that is there."""
    main(["synth", "--out", "synth", "--scenes", "1", "--val-scenes", "1", "--frames", "1", "--image-size", "16", "16", "--fresh"])
    return _files(Path("synth"), "samples/*/*")


def demo_stages() -> Any:
    from rich.console import Console

    from splattingocc.demo import Stages

    stages = Stages(Path("demo"), Console())
    for name in ("world", "labels"):
        stages.run(name, name, DemoOptions(), lambda: None)
    return sorted(stages.seconds), float(sum(stages.seconds.values())) >= 0


def demo_conclusion() -> Any:
    from rich.console import Console

    from splattingocc.demo import Demo, Stages
    from splattingocc.synthetic.writer import SynthConfig

    demo = Demo(Path("demo"), SynthConfig(), load_config(Path("config.json")))
    demo._conclude(Stages(Path("demo"), Console(quiet=True)), Console())
    return json.loads(Path("demo/metrics.json").read_text())["methods"]


SYNTH = ("synth",)
TRAINED = ("synth", "config.json", "runs")
OWN = ("own", "config.json")
READERS: tuple[Reader, ...] = (
    *(
        Reader(f"table {name}.json", f"synth/{VERSION}/{name}.json", SYNTH, index_of_tables, 5, TEXT, TEXT, optional=name in TABLES[6:])
        for name in TABLES
    ),
    Reader("any table, prepare", f"synth/{VERSION}/*.json", SYNTH, prepare, 4, TEXT, TEXT, optional=True),
    Reader("any table, doctor", f"synth/{VERSION}/*.json", SYNTH, doctor, 2, TEXT, TEXT, optional=True),
    Reader("splits.json", f"synth/{VERSION}/splits.json", SYNTH, index_of_tables, 5, TEXT, TEXT, optional=True),
    Reader("image, JPEG", "synth/samples/CAM_*/*", (*SYNTH, "config.json"), predicted_samples, 10, PIXELS, PIXELS),
    Reader("image, PNG", "own/*/*[0-9].png", OWN, own_samples, 8, PIXELS, PIXELS),
    Reader("sweep, .bin", "synth/samples/LIDAR_TOP/*", SYNTH, prepare, 6, POINTS, POINTS),
    Reader("lidarseg", f"synth/lidarseg/{VERSION}/*", SYNTH, prepare, 5, POINTS, POINTS),
    Reader("sweep, .npy", "own/a[0-9].npy", OWN, prepare_own, 6, ARRAY, ARRAY),
    Reader("sweep, .npz", "own/b[0-9].npz", OWN, prepare_own, 6),
    Reader("point classes, .npy", "own/*_classes.npy", OWN, prepare_own, 5, ARRAY, ARRAY),
    Reader("class map, PNG", "maps/semantics/*/*", ("own", "maps"), prepare_dense, 6, PIXELS, PIXELS),
    Reader("depth map, .npy", "maps/depth/*/*", ("own", "maps"), prepare_dense, 6, ARRAY, ARRAY),
    Reader("confidence map, .npz", "maps/confidence/*/*", ("own", "maps"), prepare_dense, 6),
    Reader("names of classes, JSON", "maps/classes.json", ("own", "maps"), prepare_dense, 6, TEXT, TEXT),
    Reader("vehicle mask, labels", "own/vehicle/*", OWN, prepare_masked, 3, PIXELS, PIXELS),
    Reader("vehicle mask, images", "own/vehicle/*", OWN, masked_samples, 3, PIXELS, PIXELS),
    Reader("labels of a scene, training", "synth/labels_2d/*.safetensors", (*SYNTH, "config.json"), training_samples, 6, None, None),
    Reader("labels of a scene, prepare", "synth/labels_2d/*.safetensors", SYNTH, prepare_again, 4, None, None, heals=True, optional=True),
    Reader("manifest of labels, training", "synth/labels_2d/manifest.json", (*SYNTH, "config.json"), training_samples, 6),
    Reader("manifest of labels, prepare", "synth/labels_2d/manifest.json", SYNTH, prepare_again, 4, heals=True, optional=True),
    Reader("labels, verify", "synth/labels_2d/*.*", SYNTH, verify, 2),
    Reader("cache of the index", "runs/small/index/*", TRAINED, cached_index, 6, heals=True, optional=True),
    Reader("index of own data", f"own/{OWN_VERSION}/*", OWN, index_of_own, 10),
    Reader("checkpoint, looked at", str(LAST), TRAINED, open_checkpoint, 4, ONE_BEFORE),
    Reader("checkpoint, gone on from", str(FIRST), TRAINED, train_from, 3),
    Reader("checkpoint, --auto-resume", str(LAST), TRAINED, train_again, 2, heals=True),
    Reader("checkpoint, tested", str(LAST), TRAINED, test_checkpoint, 4),
    Reader("network", "runs/small/network.safetensors", TRAINED, test_network, 8),
    Reader("network, finished training", "runs/small/network.safetensors", TRAINED, train_again, 1, heals=True, optional=True),
    Reader("metrics.json", "runs/small/metrics.json", TRAINED, train_again, 2, TEXT, TEXT, heals=True, optional=True),
    Reader("weights, .safetensors", "weights/resnet18.safetensors", ("weights/resnet18.safetensors",), initial_weights, 4, ARRAY, ARRAY),
    Reader("weights, .pth", "weights/resnet18.pth", ("weights/resnet18.pth",), initial_weights_of_torch, 4),
    Reader("prediction, scored", "runs/small/output/*/*.npz", TRAINED, score_cache, 6),
    Reader("prediction, predicted again", "runs/small/output/*/*.npz", TRAINED, test_again, 2, heals=True, optional=True),
    Reader("manifest of predictions", "runs/small/output/manifest.json", TRAINED, score_cache, 5),
    Reader("provenance of predictions", "runs/small/output/provenance.json", TRAINED, test_again, 2, heals=True, optional=True),
    Reader("predictions of others", "foreign/*/*", (*TRAINED, "foreign"), score_foreign, 6),
    Reader("truth", "synth/gts/*/*/*", SYNTH, truth, 6),
    Reader("truth, scored", "synth/gts/scene-9003/*/*", TRAINED, score_cache, 3),
    Reader("truth, drawn", "synth/gts/scene-9003/*/*", TRAINED, visualize, 1, optional=True),
    Reader("configuration in JSON", "config.json", ("config.json",), config_in_json, 6, TEXT, TEXT),
    Reader("configuration in Python", "config.py", ("config.json", "config.py"), config_in_python, 4, TEXT, TEXT),
    Reader("ledger", "runs/log.txt", ("runs/log.txt",), log, 6, LINES, LINES),
    Reader("metrics.csv", "runs/small/logs/metrics.csv", ("runs/small/logs",), go_on_in_metrics, 6, LINES, LINES, optional=True),
    Reader("synthetic.json", "synth/synthetic.json", SYNTH, synth_again, 2, TEXT, TEXT),
    Reader("synthetic.json, --fresh", "synth/synthetic.json", SYNTH, synth_fresh, 4, TEXT, TEXT),
    Reader("stages of the demo", "demo/stages.json", ("demo",), demo_stages, 4, heals=True, optional=True),
    Reader("scores of the demo", "demo/scores.json", ("demo", "config.json"), demo_conclusion, 4, TEXT, TEXT),
)  # fmt: skip
