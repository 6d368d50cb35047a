"""The command that draws."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from splattingocc.experiment import ExperimentConfig


@dataclass
class Visualize:
    """Draw key frames as a trained network sees them: cameras, renderings beside labels, occupancy beside the truth."""

    config: tyro.conf.Positional[Path]
    """Configuration: a file, or the name of one that comes with the package."""
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
        from splattingocc.pipeline.prediction import positions_to_test, unlike_training, with_remembered_labels

        self.experiment = with_remembered_labels(self.experiment, self.checkpoint)
        for line in unlike_training(self.experiment, self.checkpoint):
            print(line, file=sys.stderr)
        index = build_index(self.experiment.data, self.checkpoint.parent)
        positions = positions_to_test(self.experiment, index, self.split)
        for frame in self.frames:
            if not 0 <= frame < len(positions):
                raise ValueError(f"--frames {frame}: split {self.split} has key frames 0 to {len(positions) - 1}")
            out = self.out or self.checkpoint.parent / "pictures"
            for path in draw_key_frame_without_cache(self.experiment, self.checkpoint, index, positions[frame], out):
                print(path)
