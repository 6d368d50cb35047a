"""The command that draws."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from splattingocc.cli.run import found_network
from splattingocc.experiment import ExperimentConfig


@dataclass
class Visualize:
    """Draw key frames as a trained network sees them: cameras, renderings beside labels, occupancy beside the truth."""

    config: tyro.conf.Positional[Path]
    """Configuration: a file, or the name of one that comes with the package; or a network's file, which holds that of its training."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    checkpoint: tyro.conf.Positional[Path | None] = None
    """`network.safetensors` of a finished training, or its `latest.pth`; the first argument where that is a network."""
    split: str = "val"
    """Which split."""
    frames: tuple[int, ...] = (0,)
    """Positions of key frames in the split."""
    out: Path | None = None
    """Where the pictures go; `pictures` in the folder of the checkpoint's run by default."""
    rerun: Path | None = None
    """Also write a recording of these key frames for Rerun's viewer, an `.rrd` file; needs the extra `viz`."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import is_network
        from splattingocc.experiment import build_index
        from splattingocc.pictures import draw_key_frame_without_cache
        from splattingocc.pipeline.networks import network_to_test, run_folder, with_folders_here
        from splattingocc.pipeline.prediction import positions_to_test, unlike_training, with_remembered_labels
        from splattingocc.recording import check_rerun, record

        if self.rerun is not None:
            check_rerun()
        remarks: list[str] = []
        if is_network(self.config):
            self.experiment, remarks = with_folders_here(self.experiment, self.config)
            self.checkpoint = self.checkpoint or self.config
        if self.checkpoint is None:
            raise ValueError("expected a network after the configuration, as in `splattingocc visualize CONFIG NETWORK`")
        named = found_network(self.checkpoint, self.experiment.name, say=True)
        folder, checkpoint = run_folder(named), network_to_test(named)
        self.experiment = with_remembered_labels(self.experiment, checkpoint)
        for line in (*remarks, *unlike_training(self.experiment, checkpoint)):
            print(line, file=sys.stderr)
        index = build_index(self.experiment.data, folder)
        positions = positions_to_test(self.experiment, index, self.split)
        for frame in self.frames:
            if not 0 <= frame < len(positions):
                raise ValueError(f"--frames {frame}: split {self.split} has key frames 0 to {len(positions) - 1}")
            out = self.out or folder / "pictures"
            for path in draw_key_frame_without_cache(self.experiment, checkpoint, index, positions[frame], out):
                print(path)
        if self.rerun is not None:
            print(record(self.experiment, checkpoint, index, [positions[frame] for frame in self.frames], self.rerun))
