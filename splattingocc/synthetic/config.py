"""What a synthetic data set is made with."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from splattingocc.config import Config, ImageSize, Seed
from splattingocc.files import check_name

FRAME_INTERVAL = 0.5
"""Seconds between key frames."""
DenseQuality = Literal["none", "perfect", "degraded"]
"""No maps, maps without errors, or maps with those of foundation models."""
TruthKind = Literal["accumulated", "complete", "both"]


class SynthConfig(Config):
    """A synthetic data set. The same configuration gives the same bytes."""

    num_scenes: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Scenes in all, validation included. Each has a street of its own."""
    num_val_scenes: Annotated[int, Field(ge=0, le=10_000)] = 2
    """How many of them, the last ones, are for validation."""
    frames_per_scene: Annotated[int, Field(ge=1, le=80)] = 10
    """Key frames of each scene, half a second apart, somewhere in its drive."""
    image_size: ImageSize = (450, 800)
    """Height and width of the images, pixels."""
    seed: Seed = 0
    """Everything is drawn from it."""
    version: Annotated[str, Field(pattern=r"^[\w.\-]+$"), AfterValidator(partial(check_name, what="the version"))] = "v1.0-mini"
    """The folder of the tables."""
    drive_seconds: Annotated[float, Field(ge=0.5, le=120)] = 20.0
    """How long each drive lasts, seconds, as nuScenes' scenes do; longer where that many key frames need it."""
    truth: TruthKind = "accumulated"
    """What `gts` holds: what the LiDAR met in the whole drive, as in Occ3D, or every surface; of both, every surface is in
    `gts_complete`."""
    pose_errors: bool = True
    """State poses with the errors that locating a vehicle has; the accumulated truth is blurred by them."""
    label_errors: bool = True
    """Give the LiDAR points' classes in lidarseg the errors that people make; the 3D truth and the boxes have none."""
    dense: DenseQuality = "none"
    """Write maps of class and metric depth beside the images, perfect or with the errors of foundation models."""

    @model_validator(mode="after")
    def _check(self) -> SynthConfig:
        if self.num_val_scenes > self.num_scenes:
            raise ValueError(f"num_val_scenes: {self.num_val_scenes}, but there are only {self.num_scenes} scenes in all")
        if min(self.image_size) < 16:
            raise ValueError(f"image_size: {self.image_size} is too small; give height and width of at least 16 pixels")
        return self

    @property
    def duration(self) -> float:
        """How long every scene lasts, seconds."""
        return max(self.drive_seconds, self.frames_per_scene * FRAME_INTERVAL)

    def splits(self) -> dict[str, list[str]]:
        """Return the names of the training and of the validation scenes."""
        names = [scene_name(number) for number in range(self.num_scenes)]
        num_train = self.num_scenes - self.num_val_scenes
        return {"train": names[:num_train], "val": names[num_train:]}


def scene_name(number: int) -> str:
    """Return the name of a scene; no scene of nuScenes has such a number."""
    return f"scene-{9001 + number}"
