"""Commands that train, predict and score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from splattingocc.engine.distributed import Launcher
from splattingocc.experiment import ExperimentConfig, load_config

TRAINING_HEADLINE = ("loss", "samples_per_second", "peak_memory_gib", "threshold")
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
class Train:
    """Train a configuration; any of its fields can be set on the command line."""

    config: tyro.conf.Positional[Path]
    """Configuration file."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    work_dir: Path | None = None
    """Where results go; `work_dirs/<name>` by default."""
    resume_from: Path | None = None
    """Checkpoint to go on from."""
    auto_resume: bool = False
    """Go on from the newest checkpoint in the work directory, where there is one."""
    launcher: Launcher = "none"
    """What started this process and others beside it: torchrun (`pytorch`), srun (`slurm`), or nothing."""
    validate: bool = False
    """Predict and score the val split when training is done."""
    deterministic: bool = False
    """Short for --trainer.deterministic True."""
    load_interval: int | None = None
    """Short for --data.loader.load-interval."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import newest_checkpoint
        from splattingocc.engine.distributed import gather, process_number, started_by
        from splattingocc.engine.interruption import early_warnings_ignored
        from splattingocc.pipeline import NETWORK_FILE, train

        trainer = self.experiment.trainer
        if self.deterministic:
            trainer = trainer.model_copy(update={"deterministic": True})
        if (started := started_by(self.launcher)) is not None:
            trainer = trainer.model_copy(update={"devices": started[0], "num_nodes": started[1]})
        self.experiment = with_load_interval(self.experiment.model_copy(update={"trainer": trainer}), self.load_interval)
        work_dir = self.work_dir or Path("work_dirs") / self.experiment.name
        resume_from = self.resume_from
        if resume_from is None and self.auto_resume:
            resume_from = newest_checkpoint(work_dir)
        if resume_from is not None and not resume_from.is_file():
            raise ValueError(f"--resume-from {resume_from}: no such checkpoint")
        work_dir.mkdir(parents=True, exist_ok=True)
        with early_warnings_ignored(), recorded_run("train", self.config, self.experiment, work_dir, self.launcher) as entry:
            metrics = train(self.experiment, work_dir, resume_from=resume_from)
            entry |= {name: metrics[name] for name in TRAINING_HEADLINE if name in metrics}
            if process_number(self.launcher) == 0:
                print(f"trained network: {work_dir / NETWORK_FILE}")
        if self.validate:
            gather(None)  # the first process writes the network's file, all of them read it
            Test(self.config, self.experiment, work_dir / NETWORK_FILE, launcher=self.launcher).run()


@dataclass
class Test:
    """Predict a split with a trained network and score it, or score predictions that are there. Under torchrun processes share the work."""

    config: tyro.conf.Positional[Path]
    """Configuration file."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    checkpoint: tyro.conf.Positional[Path | None] = None
    """`network.safetensors`, or a checkpoint of a training that is not finished."""
    eval: tuple[Literal["segm", "ray", "render", "all"], ...] = ("segm",)
    """What to score: `segm` voxels against Occ3D's truth, `ray` RayIoU beside them, `render` rendered rays against 2D labels, `all`."""
    split: str = "val"
    """Which split."""
    part: Literal["all", "train", "held_out"] = "all"
    """For `render`: which rays of each frame; `held_out` are those that training did not use."""
    dump_dir: Path | None = None
    """Where the prediction cache goes; `output` beside the checkpoint by default."""
    from_cache: Path | None = None
    """Score these predictions instead: a cache of ours, or another program's `<token>.npz` or `<scene>/<token>/labels.npz`."""
    launcher: Launcher = "none"
    """What started this process and others beside it: torchrun (`pytorch`), srun (`slurm`), or nothing."""
    gpu_collect: bool = False
    """Nothing: kept for command lines of this family; what processes count is always collected."""

    def run(self) -> None:
        from splattingocc.engine.distributed import processes, rank, started_by
        from splattingocc.evaluation import report
        from splattingocc.evaluation.predictions import PredictionCache, open_predictions
        from splattingocc.experiment import build_index
        from splattingocc.pipeline import frames_of, predict, score, score_rendering

        if (self.checkpoint is None) == (self.from_cache is None):
            raise ValueError("give either a checkpoint, or --from-cache with predictions")
        started_by(self.launcher)
        kinds = {"segm", "ray", "render"} if "all" in self.eval else set(self.eval)
        work_dir = self.from_cache or self.checkpoint.parent  # type: ignore[union-attr]
        with processes(self.launcher), recorded_run("test", self.config, self.experiment, work_dir, self.launcher) as entry:
            index = build_index(self.experiment.data, work_dir)
            console = Console(quiet=rank() > 0)
            metrics: dict[str, Any] = {}
            if kinds & {"segm", "ray"}:
                if self.checkpoint is None:
                    predictions = open_predictions(work_dir, list(frames_of(index, self.split).values()))
                else:
                    dump_dir = self.dump_dir or work_dir / "output"
                    predictions = predict(self.experiment, self.checkpoint, dump_dir, split=self.split, index=index)
                rows = score(self.experiment, predictions, index, rays="ray" in kinds)
                provenance = predictions.manifest.provenance if isinstance(predictions, PredictionCache) else None
                console.print(report.summary_table(rows), report.class_table(rows), report.region_table(rows[0]), report.ray_table(rows))
                metrics |= {row.name: report.metrics_of(row) for row in rows}
                entry |= report.headline_of(rows[0])
                metrics["markdown"] = report.MARKDOWN_HEADER + "\n" + report.markdown_row(rows[0], provenance, self.split)
            if "render" in kinds:
                if self.checkpoint is None:
                    raise ValueError("--eval render: needs the network itself; give a checkpoint instead of --from-cache")
                scores = score_rendering(self.experiment, self.checkpoint, split=self.split, part=self.part, index=index)
                console.print(report.rendering_table({f"{self.split}, {self.part} rays": scores}))
                metrics["rendering"] = scores
            if rank() == 0:
                report.write_metrics(work_dir / f"metrics_{self.split}.json", metrics)


def with_load_interval(experiment: ExperimentConfig, load_interval: int | None) -> ExperimentConfig:
    """Return the experiment on every so manieth training key frame only."""
    if load_interval is None:
        return experiment
    loader = experiment.data.loader.model_validate({**dict(experiment.data.loader), "load_interval": load_interval})
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"loader": loader})})


@contextmanager
def recorded_run(command: str, config: Path, experiment: ExperimentConfig, work_dir: Path, launcher: Launcher) -> Iterator[dict[str, Any]]:
    """Keep a run's console log in its work directory, where there is one; the first process writes the run into the ledger beside it."""
    from splattingocc.engine.console import console_log
    from splattingocc.engine.distributed import process_count, process_number
    from splattingocc.engine.ledger import LEDGER_NAME, differences, recorded
    from splattingocc.provenance import commit

    console = console_log(work_dir, number=process_number(launcher)) if work_dir.is_dir() else nullcontext()
    if process_number(launcher) > 0:
        with console:
            yield {}
        return
    what = {
        "command": command,
        "name": experiment.name,
        "commit": commit(),
        "config": str(config),
        "changed": differences(experiment.model_dump(mode="json"), load_config(config).model_dump(mode="json")),
        "data": f"{experiment.data.dataroot} {experiment.data.version}",
        "processes": process_count(launcher),
        "seed": experiment.seed,
        "work_dir": str(work_dir),
    }
    with console, recorded(work_dir.resolve().parent / LEDGER_NAME, what) as result:
        yield result
