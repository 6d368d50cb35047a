"""The command line: `splattingocc demo | synth | prepare | train | test | visualize | bench`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from rich.console import Console

from splattingocc.experiment import ExperimentConfig, describe_validation, load_config


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

    def run(self) -> None:
        from splattingocc.pipeline import newest_checkpoint, train

        work_dir = self.work_dir or Path("work_dirs") / self.experiment.name
        resume_from = self.resume_from
        if resume_from is None and self.auto_resume:
            resume_from = newest_checkpoint(work_dir)
        if resume_from is not None and not resume_from.is_file():
            raise ValueError(f"--resume-from {resume_from}: no such checkpoint")
        print(f"trained network: {train(self.experiment, work_dir, resume_from=resume_from)}")


@dataclass
class Test:
    """Predict a split with a trained network and score it."""

    config: tyro.conf.Positional[Path]
    """Configuration file."""
    checkpoint: tyro.conf.Positional[Path]
    """`network.safetensors`, or a checkpoint of a training that is not finished."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    eval: tuple[Literal["segm", "render"], ...] = ("segm",)
    """What to score: `segm` the occupancy against Occ3D's truth, `render` rendered rays against 2D labels."""
    split: str = "val"
    """Which split."""
    part: Literal["all", "train", "held_out"] = "all"
    """For `render`: which rays of each frame; `held_out` are those that training did not use."""
    dump_dir: Path | None = None
    """Where the prediction cache goes; `output` beside the checkpoint by default."""

    def run(self) -> None:
        from splattingocc.evaluation import miou, report
        from splattingocc.experiment import build_index
        from splattingocc.pipeline import predict, score_rendering

        work_dir = self.checkpoint.parent
        index = build_index(self.experiment.data, work_dir)
        console = Console()
        metrics: dict[str, Any] = {}
        if "segm" in self.eval:
            cache = predict(self.experiment, self.checkpoint, self.dump_dir or work_dir / "output", split=self.split, index=index)
            rows = miou.score_cache(cache, self.experiment.data.truth_folder)
            console.print(report.summary_table(rows), report.class_table(rows))
            metrics |= {row.name: report.metrics_of(row) for row in rows}
        if "render" in self.eval:
            scores = score_rendering(self.experiment, self.checkpoint, split=self.split, part=self.part, index=index)
            console.print(report.rendering_table({f"{self.split}, {self.part} rays": scores}))
            metrics["rendering"] = scores
        report.write_metrics(work_dir / f"metrics_{self.split}.json", metrics)


@dataclass
class Prepare:
    """Make the 2D labels of a data set: LiDAR points with their classes, projected into the images."""

    dataroot: Path
    """Folder of a data set in the nuScenes layout."""
    version: str = "v1.0-trainval"
    """Folder of its tables."""
    out: Path | None = None
    """Where the label store goes; `<dataroot>/labels_2d` by default."""
    workers: int = 2
    """Processes."""
    verify: bool = False
    """Check an existing store against its manifest and tables instead of making one."""

    def run(self) -> None:
        from splattingocc.data.label_store import LabelStore
        from splattingocc.data.nuscenes import read_index
        from splattingocc.labels.generate import generate_labels

        out = self.out or self.dataroot / "labels_2d"
        index = read_index(self.dataroot, self.version, cache_dir=out / "index")
        if self.verify:
            LabelStore.open(out).verify(index)
            print(f"{out}: every scene is whole and made from these tables")
            return
        manifest = generate_labels(index, self.dataroot, out, num_workers=self.workers)
        rays = sum(scene.num_rays for scene in manifest.scenes.values())
        print(f"{out}: {rays:,} labelled rays in {len(index)} key frames of {len(manifest.scenes)} scenes")


COMMANDS: dict[str, type] = {"train": Train, "test": Test, "prepare": Prepare}
CONFIGURED = ("train", "test")
"""Commands whose first argument is a configuration file that sets the defaults of their options."""


def parse(arguments: Sequence[str]) -> Any:
    """Turn command-line words into one of the command classes."""
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="splattingocc", args=list(arguments))
        raise AssertionError("tyro accepts known commands only")
    command, rest = COMMANDS[name], list(arguments[1:])
    prog = f"splattingocc {name}"
    if name not in CONFIGURED or not rest or rest[0].startswith("-"):
        return tyro.cli(command, prog=prog, args=rest)
    config = Path(rest[0])
    experiment = load_config(config)
    fields = {field.name: field for field in dataclasses.fields(command)}
    positional = {"checkpoint": tyro.MISSING} if "checkpoint" in fields else {}
    return tyro.cli(command, prog=prog, args=rest, default=command(config=config, experiment=experiment, **positional))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a `ValueError` is the user's to mend and ends in one line."""
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
    except ValidationError as error:
        sys.exit(f"splattingocc: {describe_validation(error)}")
    except ValueError as error:
        sys.exit(f"splattingocc: {error}")


if __name__ == "__main__":
    main()
