"""Commands that describe, train, predict and score."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from splattingocc.data.key_frames import Index
from splattingocc.engine.distributed import Launcher
from splattingocc.evaluation import report
from splattingocc.evaluation.predictions import CachedFrame, Predictions
from splattingocc.experiment import ExperimentConfig
from splattingocc.files import check_name, child, sole_writer

if TYPE_CHECKING:
    from splattingocc.pipeline.prediction import OpenedNetwork

MIB, GIB = 2**20, 2**30
TRAINING_HEADLINE = ("loss", "samples_per_second", "peak_memory_gib", "threshold", "ground_threshold")
"""What the ledger keeps of a training's metrics."""


@dataclass
class Demo:
    """Build synthetic streets, train on their 2D labels, score and draw: the whole path on one machine. Safe to run again."""

    out: Path = Path("work_dirs/demo")
    """Folder of the data, the model, the numbers and the pictures."""
    seed: int = 0
    """Seeds the training; the streets stay the same."""
    fresh: bool = False
    """Redo what an earlier run finished."""

    def run(self) -> None:
        from splattingocc.demo import run_demo

        run_demo(self.out, seed=self.seed, fresh=self.fresh)


@dataclass
class Describe:
    """Say what training a configuration costs before a job starts: parameters, arithmetic and memory of each part."""

    config: tyro.conf.Positional[Path]
    """Configuration: a file, or the name of one that comes with the package."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    json: bool = False
    """Print a JSON object instead of a table."""

    def run(self) -> None:
        from splattingocc.pipeline.description import describe

        found = describe(self.experiment)
        if self.json:
            totals = {"total": found.total, "total_checkpointed": found.total_checkpointed}
            print(json.dumps({"config": self.experiment.name, **dataclasses.asdict(found), **totals}))
            return
        table = Table(title=f"{self.experiment.name}, one sample, forward; what is kept for the backward pass")
        for column in ("", "parameters", "GFLOP", "MiB", "checkpointed"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for part in found.parts:
            numbers = (f"{part.parameters / 1e6:,.2f} M", f"{part.flops / 1e9:,.1f}", f"{part.activations / MIB:,.0f}")
            table.add_row(part.name, *numbers, f"{part.activations_checkpointed / MIB:,.0f}")
        again = f"{max(part.largest_stage for part in found.parts) / MIB:,.0f}"
        table.add_row("largest stage, again", "", "", "", again)
        gradients, rest = f"{found.gradients / MIB:,.0f}", f"{(found.images + found.labels) / MIB:,.0f}"
        table.add_row("gradients of the field", "", "", gradients, gradients)
        table.add_row("images, rays and labels", "", "", rest, rest)
        parameters, flops = (sum(getattr(part, name) for part in found.parts) for name in ("parameters", "flops"))
        of_sample = ((total - found.weights) / found.batch_size / MIB for total in (found.total, found.total_checkpointed))
        table.add_row("at the highest point", f"{parameters / 1e6:,.2f} M", f"{flops / 1e9:,.1f}", *(f"{size:,.0f}" for size in of_sample))
        console = Console()
        console.print(table)
        lines = (
            f"weights, gradients, optimizer: {found.weights / GIB:.2f} GiB",
            f"a step of {found.batch_size} on one device: {found.total / GIB:.1f} GiB, with activation checkpointing "
            f"{found.total_checkpointed / GIB:.1f} GiB",
            "counted in float32; what kernels need for a moment, and what allocators round up, comes on top",
        )
        console.print("\n".join(lines), highlight=False)


@dataclass
class Train:
    """Train a configuration; any of its fields can be set on the command line."""

    config: tyro.conf.Positional[Path]
    """Configuration: a file, or the name of one that comes with the package."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    work_dir: Path | None = None
    """Where results go; `work_dirs/<name>` by default."""
    resume_from: Path | None = None
    """Checkpoint to go on from."""
    auto_resume: bool = False
    """Go on from the newest checkpoint in the work directory, where there is one. Beside --resume-from only where Slurm or torchrun has
    begun the same job before."""
    launcher: Launcher = "none"
    """What started this process and others beside it: torchrun (`pytorch`), srun (`slurm`), or nothing."""
    validate: bool = False
    """Predict and score the val split when training is done."""
    deterministic: bool = False
    """Short for --trainer.deterministic True."""
    load_interval: int | None = None
    """Short for --data.loader.load-interval."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import NETWORK_FILE, newest_checkpoint
        from splattingocc.engine.distributed import gather, process_number, processes, started_by, was_begun_again
        from splattingocc.engine.signals import early_warnings_ignored
        from splattingocc.pipeline.training import train

        trainer = self.experiment.trainer
        if self.deterministic:
            trainer = trainer.model_copy(update={"deterministic": True})
        if (started := started_by(self.launcher)) is not None:
            trainer = trainer.model_copy(update={"devices": started[0], "num_nodes": started[1]})
        elif (trainer.devices, trainer.num_nodes) != (1, 1):
            # Alone it would wait for the others for ever
            option = f"trainer.devices is {trainer.devices}" if trainer.devices > 1 else f"trainer.num_nodes is {trainer.num_nodes}"
            raise ValueError(f"{option}: several processes are started by torchrun or srun, with --launcher pytorch or slurm")
        self.experiment = with_load_interval(self.experiment.model_copy(update={"trainer": trainer}), self.load_interval)
        work_dir = self.work_dir or child(Path("work_dirs"), self.experiment.name)
        is_first = process_number(self.launcher) == 0
        if self.validate and is_first:
            self._check_validation(work_dir)
        with sole_writer(work_dir) if is_first else nullcontext():
            # Of a job that its scheduler begins again the command line is the same, what it has reached is not
            takes_newest = self.auto_resume and (self.resume_from is None or was_begun_again())
            resume_from = newest_checkpoint(work_dir) if takes_newest else None
            if resume_from is None and self.resume_from is not None:
                resume_from = found_network(self.resume_from, self.experiment.name, say=is_first)
            with early_warnings_ignored(), recorded_run("train", self.config, self.experiment, work_dir, self.launcher) as entry:
                metrics = train(self.experiment, work_dir, resume_from=resume_from)
                entry |= {name: metrics[name] for name in TRAINING_HEADLINE if name in metrics}
                if is_first:
                    print(f"trained network: {work_dir / NETWORK_FILE}")
        if self.validate:
            # Met once: on the store of torchrun's agent a second group would find what the first one left
            with processes(self.launcher):
                gather(None)  # the first process writes the network's file, all of them read it
                Test(self.config, self.experiment, work_dir / NETWORK_FILE, launcher=self.launcher, fresh=True).run()

    def _check_validation(self, work_dir: Path) -> None:
        """Find what `--validate` would want before the training, not after it."""
        from splattingocc.experiment import build_index
        from splattingocc.pipeline.prediction import positions_to_test

        positions_to_test(self.experiment, build_index(self.experiment.data, work_dir), "val")
        if (folder := self.experiment.data.gts) is not None and not folder.is_dir():
            raise ValueError(f"--data.gts {folder}: no such folder, and --validate scores against the truth in it")


@dataclass
class Test:
    """Predict a split with a trained network and score it, or score predictions that are there. Under torchrun processes share the work."""

    config: tyro.conf.Positional[Path]
    """Configuration: a file, or the name of one that comes with the package; or a network's file, which holds that of its training."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    checkpoint: tyro.conf.Positional[Path | None] = None
    """`network.safetensors`, or a checkpoint of a training that is not finished, such as `latest.pth`. A bare name that is not in this
    folder may be in `work_dirs/<name>`."""
    eval: tuple[Literal["segm", "ray", "render", "all"], ...] = ()
    """What to score: `segm` voxels against Occ3D's truth, `ray` RayIoU beside them, `render` rendered rays against 2D labels, `all`. By
    default voxels, where there is truth; a split without any is predicted only."""
    split: str = "val"
    """Which split."""
    part: Literal["all", "train", "held_out"] = "all"
    """For `render`: which rays of each frame; `held_out` are those that training did not use."""
    dump_dir: Path | None = None
    """Where the prediction cache goes; by default `output` (of other splits than val `output_<split>`) in the run's folder."""
    fresh: bool = False
    """Predict anew what the folder holds of another checkpoint, configuration or version of the code; without, that is an error."""
    from_cache: Path | None = None
    """Score these predictions instead: a cache of ours, or another program's `<token>.npz` or `<scene>/<token>/labels.npz`."""
    work_dir: Path | None = None
    """Where scores and the console log go; by default the folder of the checkpoint's run. With --from-cache nothing is written without."""
    launcher: Launcher = "none"
    """What started this process and others beside it: torchrun (`pytorch`), srun (`slurm`), or nothing."""
    gpu_collect: bool = False
    """Nothing: kept for command lines of this family; what processes count is always collected."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import is_network
        from splattingocc.engine.distributed import gather, process_number, processes, rank, started_by
        from splattingocc.experiment import build_index
        from splattingocc.pipeline.networks import network_to_test, run_folder, with_folders_here
        from splattingocc.pipeline.prediction import about_options, open_once, what_is_seen, with_remembered_labels
        from splattingocc.visualization.curves import draw_curves

        remarks: list[str] = []
        opened: OpenedNetwork | None = None
        if is_network(self.config):
            self.experiment, remarks = with_folders_here(self.experiment, self.config)
            self.checkpoint = self.config if self.checkpoint is None and self.from_cache is None else self.checkpoint
        if (self.checkpoint is None) == (self.from_cache is None):
            raise ValueError("give either a checkpoint, or --from-cache with predictions")
        self._refuse_unused()
        started_by(self.launcher)
        if self.checkpoint is not None:
            self.checkpoint = found_network(self.checkpoint, self.experiment.name, say=process_number(self.launcher) == 0)
            self.experiment = with_remembered_labels(self.experiment, self.checkpoint)
        work_dir = self.work_dir or (run_folder(self.checkpoint) if self.checkpoint is not None else None)
        if work_dir is not None:
            work_dir.mkdir(parents=True, exist_ok=True)
        recorded = recorded_run("test", self.config, self.experiment, work_dir, self.launcher)
        with processes(self.launcher), recorded as entry:
            if self.checkpoint is not None:
                # Of one process: a training may let a link lead elsewhere meanwhile
                named, checkpoint = self.checkpoint, gather(network_to_test(self.checkpoint) if rank() == 0 else None)[0]
                assert checkpoint is not None
                remarks += [f"{named} is {checkpoint}"] if named != checkpoint else []
                remarks += about_options(self.experiment, checkpoint, self.config, part=self.part)
                self.checkpoint = checkpoint
                opened = open_once(self.experiment, checkpoint)
                if len({*gather(opened.digest)}) > 1:
                    raise ValueError(f"{checkpoint}: was replaced while processes read it; test again")
            for line in remarks if rank() == 0 else ():
                print(line, file=sys.stderr)
            index = build_index(self.experiment.data, work_dir)
            metrics = self._metrics(opened, index, work_dir, entry, Console(quiet=rank() > 0))
            if rank() == 0 and work_dir is not None and metrics:
                path = work_dir / f"metrics_{check_name(self.split, '--split')}.json"
                if opened is not None:
                    metrics |= {"checkpoint": opened.digest, "images": what_is_seen(self.experiment, index)}
                metrics["data"] = f"{self.experiment.data.dataroot.resolve()} {self.experiment.data.version}"
                for line in report.add_metrics(path, metrics):
                    print(line)
                if any(isinstance(scores, dict) and "by_distance" in scores for scores in metrics.values()):
                    try:
                        draw_curves(work_dir, scores=metrics)
                    except ValueError as error:  # of another file there; the scores are written
                        print(f"no curves.png: {error}", file=sys.stderr)

    def _refuse_unused(self) -> None:
        """Refuse options that would do nothing beside the others."""
        without_cache = ""
        if self.from_cache is not None:
            without_cache = "--from-cache, which predicts nothing"
        elif {*self.eval} == {"render"}:
            without_cache = "--eval render alone, which keeps no predictions"
        for option, given in (("--fresh", self.fresh), ("--dump-dir", self.dump_dir is not None)):
            if given and without_cache:
                raise ValueError(f"{option}: does nothing with {without_cache}")
        if self.part != "all" and not {"render", "all"} & {*self.eval}:
            raise ValueError(f"--part {self.part}: does nothing without --eval render, whose rays it chooses")

    def _metrics(
        self, opened: OpenedNetwork | None, index: Index, work_dir: Path | None, entry: dict[str, Any], console: Console
    ) -> dict[str, Any]:
        """Predict and score; put the headline into the ledger's entry, print the tables and return everything."""
        from splattingocc.pipeline.prediction import frames_of
        from splattingocc.pipeline.scoring import check_truth, labels_to_test, score_rendering

        asked = set(self.eval or ("segm",))
        kinds = {"segm", "ray", "render"} if "all" in asked else asked
        if "ray" in kinds and not index.has_lidar:
            raise ValueError(
                f"--eval ray: {index.version} has no LiDAR, whose places RayIoU's rays start from; expected --eval segm or render"
            )
        frames = list(frames_of(self.experiment, index, self.split).values())
        if "render" in kinds and opened is None:
            raise ValueError("--eval render: needs the network itself; give a checkpoint instead of --from-cache")
        has_truth = not kinds & {"segm", "ray"} or check_truth(self.experiment, frames)
        if not has_truth and (self.eval or self.checkpoint is None):
            raise ValueError(f"{self._no_truth()} to score against; without --eval, a checkpoint only predicts")
        unlabelled = labels_to_test(self.experiment, index, self.split)[2] if "render" in kinds else 0
        whole = len(index.of_split(self.split)) + sum(scene in index.splits[self.split] for scene, _ in index.incomplete.values())
        console.print(f"{self.split}: {len(frames)} of {whole} key frames", highlight=False, markup=False)
        if unlabelled:
            console.print(f"{unlabelled} of them have no labels to render along", highlight=False, markup=False)
        metrics: dict[str, Any] = {}
        if kinds & {"segm", "ray"}:
            predictions = self._predictions(opened, index, work_dir, frames)
            if not has_truth:
                console.print(f"predicted; {self._no_truth()}: nothing to score", markup=False)
                return {}
            metrics |= self._score(predictions, index, entry, console, rays="ray" in kinds)
        if "render" in kinds and opened is not None:
            scores = score_rendering(self.experiment, opened, split=self.split, part=self.part, index=index)
            console.print(report.rendering_table({f"{self.split}, {self.part} rays": scores}))
            metrics |= {"rendering": scores, "rendering_part": self.part}
        return metrics

    def _no_truth(self) -> str:
        from splattingocc.geometry.voxel_grid import OCC3D_GRID

        if self.experiment.grid.voxels != OCC3D_GRID:
            return "grid is not Occ3D's, of which the truth is: there is none of this one"
        return f"{self.experiment.data.truth_folder}: no truth of split {self.split}"

    def _predictions(self, opened: OpenedNetwork | None, index: Index, work_dir: Path | None, frames: Sequence[CachedFrame]) -> Predictions:
        from splattingocc.evaluation.predictions import PredictionCache, open_predictions
        from splattingocc.pipeline.prediction import check_tables_of, predict

        if opened is None or work_dir is None:
            assert self.from_cache is not None
            found = open_predictions(self.from_cache, frames)
            if isinstance(found, PredictionCache):
                check_tables_of(found, self.experiment, index)
            return found
        dump_dir = self.dump_dir or child(work_dir, "output" if self.split == "val" else f"output_{self.split}")
        return predict(self.experiment, opened, dump_dir, split=self.split, index=index, fresh=self.fresh)

    def _score(self, predictions: Predictions, index: Index, entry: dict[str, Any], console: Console, *, rays: bool) -> dict[str, Any]:
        from splattingocc.evaluation.predictions import PredictionCache
        from splattingocc.pipeline.prediction import seen_in
        from splattingocc.pipeline.scoring import score

        rows = score(self.experiment, predictions, index, rays=rays)
        provenance = predictions.manifest.provenance if isinstance(predictions, PredictionCache) else None
        console.print(report.summary_table(rows), report.class_table(rows), report.region_table(rows[0]), report.ray_table(rows))
        for warning in rows[0].warnings if provenance is None else ():
            console.print(f"warning: {warning}", markup=False)
        entry |= report.headline_of(rows[0])
        metrics: dict[str, Any] = {row.name: report.metrics_of(row) for row in rows}
        if provenance is None and self.from_cache is not None:
            metrics["predictions"] = str(self.from_cache.resolve())
        elif provenance is not None:
            metrics |= {"checkpoint": provenance.checkpoint_hash, "images": seen_in(provenance)}
        metrics["truth"] = str(self.experiment.data.truth_folder.resolve())
        metrics["markdown"] = report.markdown(rows[0], provenance, self.split)
        return metrics


def found_network(path: Path, name: str, *, say: bool) -> Path:
    """Return the network's file that is meant by a path, as `find_network` takes it, and say where it was found if not there."""
    from splattingocc.pipeline.networks import find_network

    found = find_network(path, name)
    if found != path and say:
        print(f"{path}: not in this folder; taking {found}")
    return found


def index_folder(run: Path) -> Path | None:
    """Return where a command that writes nothing else into a run's folder caches the index: there, where that can be written to."""
    return run if run.is_dir() and os.access(run, os.W_OK) else None


def with_load_interval(experiment: ExperimentConfig, load_interval: int | None) -> ExperimentConfig:
    """Return the experiment on every n-th training key frame only."""
    if load_interval is None:
        return experiment
    loader = experiment.data.loader.model_validate({**dict(experiment.data.loader), "load_interval": load_interval})
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"loader": loader})})


@contextmanager
def recorded_run(
    command: str, config: Path, experiment: ExperimentConfig, work_dir: Path | None, launcher: Launcher
) -> Iterator[dict[str, Any]]:
    """Keep a run's console log in its work directory; the first process writes the run into the ledger beside it. Neither without one."""
    from splattingocc.engine.console import console_log
    from splattingocc.engine.distributed import process_count, process_number
    from splattingocc.engine.ledger import differences, ledger_to_write, recorded
    from splattingocc.pipeline.networks import load_experiment
    from splattingocc.provenance import commit

    if work_dir is None:
        yield {}
        return
    console = console_log(work_dir, number=process_number(launcher))
    if process_number(launcher) > 0:
        with console:
            yield {}
        return
    what = {
        "command": command,
        "name": experiment.name,
        "commit": commit(),
        "config": str(config),
        "changed": differences(experiment.model_dump(mode="json"), load_experiment(config).model_dump(mode="json")),
        "data": f"{experiment.data.dataroot} {experiment.data.version}",
        "processes": process_count(launcher),
        "seed": experiment.seed,
        "work_dir": str(work_dir if work_dir.name not in ("", "..") else work_dir.resolve()),
    }
    with console, recorded(ledger_to_write(work_dir), what) as result:
        yield result
