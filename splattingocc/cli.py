"""The command line: `splattingocc demo | synth | prepare | train | test | visualize | bench | log | doctor`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from splattingocc.experiment import ExperimentConfig, describe_validation, load_config
from splattingocc.labels.dense import DenseLabelConfig
from splattingocc.labels.lidar import LidarLabelConfig


def with_load_interval(experiment: ExperimentConfig, load_interval: int | None) -> ExperimentConfig:
    """Return the experiment on every so manieth training key frame only."""
    if load_interval is None:
        return experiment
    loader = experiment.data.loader.model_validate({**dict(experiment.data.loader), "load_interval": load_interval})
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"loader": loader})})


def expand_cfg_options(words: Sequence[str]) -> list[str]:
    """Turn `--cfg-options a.b=c d=1,2`, as this family of projects writes it, into `--a.b c --d 1 2`."""
    expanded: list[str] = []
    inside = False
    for word in words:
        if word in ("--cfg-options", "--cfg_options"):
            inside = True
        elif inside and not word.startswith("-") and "=" in word:
            name, value = word.split("=", 1)
            expanded += [f"--{name}", *value.strip("[]()").replace(",", " ").split()]
        elif inside and not word.startswith("-"):
            raise ValueError(f"--cfg-options {word}: expected key=value")
        else:
            inside = False
            expanded.append(word)
    return expanded


@contextmanager
def ledger_entry(command: str, config: Path, experiment: ExperimentConfig, work_dir: Path) -> Iterator[dict[str, Any]]:
    """Write a run into the ledger beside its work directory; of several processes, only the first does."""
    from splattingocc.engine.distributed import is_first
    from splattingocc.engine.ledger import LEDGER_NAME, differences, recorded
    from splattingocc.provenance import commit

    if not is_first():
        yield {}
        return
    what = {
        "command": command,
        "name": experiment.name,
        "commit": commit(),
        "config": str(config),
        "changed": differences(experiment.model_dump(mode="json"), load_config(config).model_dump(mode="json")),
        "data": f"{experiment.data.dataroot} {experiment.data.version}",
        "processes": int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))),
        "seed": experiment.seed,
        "work_dir": str(work_dir),
    }
    with recorded(work_dir.resolve().parent / LEDGER_NAME, what) as result:
        yield result


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
    launcher: Literal["none", "pytorch", "slurm"] = "none"
    """What started this process and others beside it: torchrun (`pytorch`), srun (`slurm`), or nothing."""
    validate: bool = False
    """Predict and score the val split when training is done."""
    deterministic: bool = False
    """Short for --trainer.deterministic True."""
    load_interval: int | None = None
    """Short for --data.loader.load-interval."""

    def run(self) -> None:
        from splattingocc.engine.distributed import is_first, started_by
        from splattingocc.pipeline import NETWORK_FILE, newest_checkpoint, train

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
        with ledger_entry("train", self.config, self.experiment, work_dir):
            train(self.experiment, work_dir, resume_from=resume_from)
        if is_first():
            print(f"trained network: {work_dir / NETWORK_FILE}")
            if self.validate:
                Test(self.config, self.experiment, work_dir / NETWORK_FILE).run()


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
    launcher: Literal["none", "pytorch", "slurm"] = "none"
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
        with processes(), ledger_entry("test", self.config, self.experiment, work_dir) as entry:
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


@dataclass
class Prepare:
    """Make the 2D labels of a data set: LiDAR points with their classes projected into the images, or dense maps where they are given."""

    dataroot: Path
    """Folder of a data set in the nuScenes layout."""
    version: str = "v1.0-trainval"
    """Folder of its tables."""
    out: Path | None = None
    """Where the label store goes; `<dataroot>/labels_2d` by default."""
    workers: int = 2
    """Processes."""
    lidar: LidarLabelConfig = field(default_factory=LidarLabelConfig)
    """Labels from LiDAR and lidarseg."""
    dense: DenseLabelConfig = field(default_factory=DenseLabelConfig)
    """Labels from dense maps, where `--dense.semantics` is given."""
    verify: bool = False
    """Check an existing store against its manifest and tables instead of making one."""
    verify_inputs: bool = False
    """Check, beside that, that the sweeps and maps still hold what the labels were made from: reads them all."""

    def run(self) -> None:
        from splattingocc.data.label_store import LabelStore
        from splattingocc.data.nuscenes import read_index
        from splattingocc.labels.generate import generate_labels, verify_inputs

        out = self.out or self.dataroot / "labels_2d"
        index = read_index(self.dataroot, self.version, cache_dir=out / "index")
        config = self.lidar if self.dense.semantics is None else self.dense
        if self.verify or self.verify_inputs:
            store = LabelStore.open(out)
            store.verify(index)
            if self.verify_inputs:
                verify_inputs(store, index, self.dataroot, config)
            print(f"{out}: every scene is whole and made from these tables{' and files' if self.verify_inputs else ''}")
            return
        manifest = generate_labels(index, self.dataroot, out, config=config, num_workers=self.workers)
        rays = sum(scene.num_rays for scene in manifest.scenes.values())
        print(f"{out}: {rays:,} labelled rays in {len(index)} key frames of {len(manifest.scenes)} scenes")


@dataclass
class Synth:
    """Write a synthetic data set: streets, cameras, LiDAR and truth in the layout of nuScenes and Occ3D."""

    out: Path
    """Folder to write to."""
    scenes: int = 10
    """Scenes in all, validation included."""
    val_scenes: int = 2
    """How many of them are for validation."""
    frames: int = 10
    """Key frames of each scene, half a second apart."""
    seed: int = 0
    """The same options and seed give the same bytes."""
    image_size: tuple[int, int] = (450, 800)
    """Height and width of the images, pixels."""
    version: str = "v1.0-mini"
    """Folder of the tables."""
    fresh: bool = False
    """Replace another synthetic data set that is in the folder."""

    def run(self) -> None:
        from splattingocc.synthetic.writer import SynthConfig, write_dataset

        config = SynthConfig(
            num_scenes=self.scenes,
            num_val_scenes=self.val_scenes,
            frames_per_scene=self.frames,
            image_size=self.image_size,
            seed=self.seed,
            version=self.version,
        )
        write_dataset(config, self.out, fresh=self.fresh)
        print(f"{self.out}: {self.scenes} scenes of {self.frames} key frames")


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
class Visualize:
    """Draw key frames as a trained network sees them: cameras, renderings beside labels, occupancy beside the truth."""

    config: tyro.conf.Positional[Path]
    """Configuration file."""
    checkpoint: tyro.conf.Positional[Path]
    """`network.safetensors` of a finished training."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    split: str = "val"
    """Which split."""
    frames: tuple[int, ...] = (0,)
    """Positions of key frames in the split."""
    out: Path | None = None
    """Where the pictures go; `pictures` beside the checkpoint by default."""

    def run(self) -> None:
        from splattingocc.experiment import build_index
        from splattingocc.pictures import draw_key_frame_without_cache

        index = build_index(self.experiment.data, self.checkpoint.parent)
        positions = index.of_split(self.split)
        for frame in self.frames:
            if not 0 <= frame < len(positions):
                raise ValueError(f"--frames {frame}: split {self.split} has key frames 0 to {len(positions) - 1}")
            out = self.out or self.checkpoint.parent / "pictures"
            for path in draw_key_frame_without_cache(self.experiment, self.checkpoint, index[positions[frame]], out):
                print(path)


@dataclass
class Bench:
    """Measure on this machine; prints p50 and p95 of several runs."""

    what: tyro.conf.Positional[Literal["render"]]
    """`render`: Gaussians beside NeRF sampling, on the same rays."""
    rays: int = 24_000
    """Rays of one run."""
    repeats: int = 5
    """Timed runs, after one that is not."""
    json: bool = False
    """Print one JSON line for each case instead of a table."""

    def run(self) -> None:
        import torch

        from splattingocc.splatting.bench import bench_render

        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        rows = [row for device in devices for row in bench_render(num_rays=self.rays, repeats=self.repeats, device=device)]
        if self.json:
            print("\n".join(json.dumps(row) for row in rows))
            return
        table = Table(title=f"{self.rays:,} rays; seconds, median of {self.repeats} (95th percentile)")
        for column in ("", "device", "forward", "backward", "peak memory"):
            table.add_column(column)
        for row in rows:
            times = (f"{row[f'{step}_p50_s']:.3f} ({row[f'{step}_p95_s']:.3f})" for step in ("forward", "backward"))
            table.add_row(row["what"], row["device"], *times, f"{row['peak_memory_mb']:,.0f} MB")
        Console().print(table)


@dataclass
class Log:
    """Print the ledger of runs as a table, or what two runs differ in."""

    compare: tuple[str, str] | None = None
    """Two runs, by the beginning or the end of their number."""
    path: Path = Path("work_dirs/log.txt")
    """The ledger."""

    def run(self) -> None:
        from splattingocc.engine.ledger import differences, read_ledger

        runs = read_ledger(self.path)
        if self.compare is None:
            table = Table(title=str(self.path))
            for column in ("run", "command", "name", "commit", "changed", "seed", "processes", "result"):
                table.add_column(column)
            for run in runs:
                changed = ", ".join(f"{name}={value}" for name, value in run.what["changed"].items())
                result = ", ".join(f"{name} {value}" for name, value in run.result.items()) or "running, or killed"
                what = [str(run.what[name]) for name in ("command", "name", "commit")]
                table.add_row(run.id, *what, changed, str(run.what["seed"]), str(run.what["processes"]), result)
            Console().print(table)
            return
        first, second = (self._find(runs, number) for number in self.compare)
        for name, value in differences(second.what | second.result, first.what | first.result).items():
            print(f"{name}: {_at(first.what | first.result, name)} → {value}")

    def _find(self, runs: list, number: str) -> Any:
        found = [run for run in runs if run.id.startswith(number) or run.id.endswith(number)]
        if len(found) != 1:
            raise ValueError(f"--compare {number}: {len(found)} runs of {self.path} have such a number, expected one")
        return found[0]


def _at(content: Any, name: str) -> Any:
    """Return what a dotted name leads to; dots may be part of a key."""
    if name in content:
        return content[name]
    head, _, rest = name.partition(".")
    return _at(content[head], rest) if rest and isinstance(content.get(head), dict) else None


@dataclass
class Doctor:
    """Say what is installed, whether the kernels run, which data are there, and what to do about what is missing."""

    dataroot: Path | None = None
    """Look at the data in this folder too."""
    version: str = "v1.0-trainval"
    """Folder of its tables."""

    def run(self) -> None:
        from splattingocc.doctor import examine

        table = Table(title="splattingocc doctor")
        for column in ("", "found", "what to do"):
            table.add_column(column)
        findings = examine(self.dataroot, self.version)
        for finding in findings:
            style = "red" if finding.is_problem else "yellow" if finding.advice else ""
            table.add_row(finding.name, finding.found, finding.advice or "", style=style)
        Console().print(table)
        if problems := [finding.name for finding in findings if finding.is_problem]:
            raise ValueError(f"something that is needed does not work: {', '.join(problems)}")


COMMANDS: dict[str, type] = {
    "demo": Demo,
    "synth": Synth,
    "prepare": Prepare,
    "train": Train,
    "test": Test,
    "visualize": Visualize,
    "bench": Bench,
    "log": Log,
    "doctor": Doctor,
}
CONFIGURED = ("train", "test", "visualize")
"""Commands whose first argument is a configuration file that sets the defaults of their options."""


def parse(arguments: Sequence[str]) -> Any:
    """Turn command-line words into one of the command classes."""
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="splattingocc", args=list(arguments))
        raise AssertionError("tyro accepts known commands only")
    command, rest = COMMANDS[name], expand_cfg_options(arguments[1:])
    prog = f"splattingocc {name}"
    if name not in CONFIGURED or not rest or rest[0].startswith("-"):
        return tyro.cli(command, prog=prog, args=rest)
    # The same command with the configuration file's values as the defaults of its options
    experiment = dataclasses.field(default=load_config(Path(rest[0])))
    options = [("experiment", Annotated[ExperimentConfig, tyro.conf.arg(name="")], experiment)]
    configured = dataclasses.make_dataclass(command.__name__, options, bases=(command,), namespace={"__doc__": command.__doc__})
    return tyro.cli(configured, prog=prog, args=rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a `ValueError` is the user's to mend and ends in one line."""
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
    except ValidationError as error:
        sys.exit(f"splattingocc: {describe_validation(error)}")
    except ValueError as error:
        # An error in a loader's worker comes wrapped in its traceback, of which the last line is the error
        last = str(error).strip().splitlines()[-1] if str(error) else type(error).__name__
        sys.exit(f"splattingocc: {last.removeprefix('ValueError: ')}")
    except KeyboardInterrupt:
        sys.exit("splattingocc: interrupted")


if __name__ == "__main__":
    main()
