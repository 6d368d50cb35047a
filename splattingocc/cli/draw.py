"""The commands that draw."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import Field

from splattingocc.cli.run import found_network, index_folder
from splattingocc.experiment import ExperimentConfig

if TYPE_CHECKING:
    from splattingocc.data.key_frames import Index
    from splattingocc.pictures import PictureOptions


@dataclass
class Visualize:
    """Draw key frames as a trained network sees them: cameras, renderings beside labels, occupancy beside the truth; or film scenes."""

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
    film: bool = False
    """Film the scenes of these key frames instead, each as a whole: cameras, prediction, and truth and errors where there is truth."""
    view: tuple[Literal["behind", "above", "camera", "orbit"], ...] = ("behind", "above")
    """From where occupancy is seen: from `behind` and from `above` the vehicle, as each `camera` would see it, below its image, and in a
    film that goes around the vehicle (`orbit`; with --film the film of the scene does). Films are seen from behind or in an orbit."""
    size: tuple[int, int] | None = None
    """Height and width of a picture in perspective, pixels; 338 600 by default."""
    keep: tuple[str, ...] = ()
    """Draw these classes only."""
    hide: tuple[str, ...] = ()
    """Draw all but these classes."""
    below: float | None = None
    """Draw only cells whose centre is less than so many metres above the ego frame, which is at the height of the road."""
    fps: Annotated[float, Field(ge=0.01, le=240)] = 2.0
    """Key frames a second in a film of a scene; nuScenes has 2."""
    overview: Path | None = None
    """Draw only the overview of the first of these key frames, into this file, `.png` or `.webp`: the picture at the top of the README."""
    rerun: Path | None = None
    """Also write a recording of these key frames for Rerun's viewer, an `.rrd` file; needs the extra `viz`."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import is_network
        from splattingocc.experiment import build_index
        from splattingocc.pictures import draw_key_frame_without_cache, draw_overview, film_scene
        from splattingocc.pipeline.networks import network_to_test, run_folder, with_folders_here
        from splattingocc.pipeline.prediction import about_options, positions_to_test, with_remembered_labels
        from splattingocc.recording import check_rerun, record

        options = options_of(self.view, self.size, self.keep, self.hide, self.below)
        if not self.frames:
            raise ValueError("--frames: expected at least one position of a key frame in the split")
        if self.overview is not None and self.overview.suffix not in (".png", ".webp"):
            raise ValueError(f"--overview {self.overview}: expected a file that ends with .png or .webp")
        self._refuse_unused()
        if self.rerun is not None:
            check_rerun()
        remarks: list[str] = []
        if is_network(self.config):
            self.experiment, remarks = with_folders_here(self.experiment, self.config)
            self.checkpoint = self.checkpoint or self.config
        if self.checkpoint is None:
            raise ValueError("expected a network after the configuration, as in `splattingocc visualize CONFIG NETWORK`")
        if (gts := self.experiment.data.gts) is not None and not gts.is_dir():
            raise ValueError(f"--data.gts {gts}: no such folder")
        named = found_network(self.checkpoint, self.experiment.name, say=True)
        folder, checkpoint = run_folder(named), network_to_test(named)
        self.experiment = with_remembered_labels(self.experiment, checkpoint)
        for line in (*remarks, *about_options(self.experiment, checkpoint, self.config)):
            print(line, file=sys.stderr)
        index = build_index(self.experiment.data, index_folder(folder))
        positions = positions_to_test(self.experiment, index, self.split)
        for frame in self.frames:
            if not 0 <= frame < len(positions):
                raise ValueError(f"--frames {frame}: split {self.split} has key frames 0 to {len(positions) - 1}")
        if self.rerun is not None:
            print(record(self.experiment, checkpoint, index, [positions[frame] for frame in self.frames], self.rerun))
        out = self.out or folder / "pictures"
        if self.film:
            for scene in dict.fromkeys(index[positions[frame]].scene for frame in self.frames):
                of_scene = [position for position in positions if index[position].scene == scene]
                path = out / f"{scene}.mp4"
                print(film_scene(self.experiment, checkpoint, index, of_scene, path, frames_per_second=self.fps, options=options))
            return
        if self.overview is not None:
            print(draw_overview(self.experiment, checkpoint, index, positions[self.frames[0]], self.overview, options=options))
            return
        for frame in self.frames:
            for path in draw_key_frame_without_cache(self.experiment, checkpoint, index, positions[frame], out, options=options):
                print(path)

    def _refuse_unused(self) -> None:
        """Refuse options that would do nothing beside the others."""
        other_view = self.view != Visualize.view
        if self.film and self.overview is not None:
            raise ValueError("--overview: draws no film, expected without --film")
        if self.film and other_view and (unseen := {*self.view} - {"behind", "orbit"}):
            raise ValueError(f"--view {' '.join(sorted(unseen))}: films are seen from behind, or in an orbit")
        if self.overview is not None and (other_view or self.out is not None):
            option = "--view" if other_view else "--out"
            raise ValueError(f"{option}: does nothing with --overview, one picture in the file that it names")
        if not self.film and self.fps != Visualize.fps:
            raise ValueError("--fps: is of the film of a scene, expected --film with it")


@dataclass
class VisualizeScene:
    """Draw the predicted grids of one scene of a prediction cache, each beside its file, and a film of the scene.

    Where the truth is known, predictions are drawn beside it; where the data are, the film shows the cameras, too. Both are, where the
    folder of the run has its `config.json`, and the data are where that says.
    """

    scene: tyro.conf.Positional[Path]
    """Folder of a scene, e.g. work_dirs/x/output/scene-0103."""
    gts: Path | None = None
    """Folder of Occ3D's truth; that of the configuration by default."""
    config: str | None = None
    """Configuration of the data: a file or a name, or a network's file; `config.json` of the run by default."""
    dataroot: Path | None = None
    """Folder of the data, where it is another than the configuration's."""
    view: tuple[Literal["behind", "above", "orbit"], ...] = ("behind", "above")
    """From where occupancy is seen."""
    size: tuple[int, int] | None = None
    """Height and width of a picture in perspective, pixels; 338 600 by default."""
    keep: tuple[str, ...] = ()
    """Draw these classes only."""
    hide: tuple[str, ...] = ()
    """Draw all but these classes."""
    below: float | None = None
    """Draw only cells whose centre is less than so many metres above the ego frame."""
    fps: Annotated[float, Field(ge=0.01, le=240)] = 2.0
    """Key frames a second in the film; nuScenes has 2."""

    def run(self) -> None:
        from splattingocc.pictures import draw_cached_grids, predictions_in

        options = options_of(self.view, self.size, self.keep, self.hide, self.below)
        predictions_in(self.scene)  # before anything is read that is only of use if there are any
        known = self._known()
        gts = self.gts or (None if known is None else known[0].data.truth_folder)
        if self.gts is not None and not self.gts.is_dir():
            raise ValueError(f"--gts {self.gts}: no such folder")
        if self.gts is not None and not (self.gts / self.scene.resolve().name).is_dir():
            raise ValueError(f"--gts {self.gts}: has no truth of {self.scene.resolve().name}, expected <gts>/<scene>/<token>/labels.npz")
        for path in draw_cached_grids(self.scene, gts=gts, known=known, frames_per_second=self.fps, options=options):
            print(path)

    def _known(self) -> tuple[ExperimentConfig, Index] | None:
        """Return the experiment and the index of its data; says why in one line where there is a configuration without its data."""
        from splattingocc.evaluation.predictions import provenance_of_cache
        from splattingocc.experiment import build_index
        from splattingocc.pipeline.networks import load_experiment
        from splattingocc.pipeline.prediction import with_data_of

        of_run = self.scene.resolve().parent.parent / "config.json"
        path = Path(self.config) if self.config is not None else of_run if of_run.exists() else None
        if path is None:
            if self.dataroot is not None:
                raise ValueError(f"--dataroot: does nothing without the configuration of the data: no {of_run}, expected --config with it")
            return None
        experiment = load_experiment(path)
        by = provenance_of_cache(self.scene.resolve().parent)
        if self.dataroot is None and by is not None:
            trained_with, experiment = experiment.data.dataroot, with_data_of(experiment, by)
            if experiment.data.dataroot != trained_with and not experiment.data.dataroot.is_dir():
                print(f"no cameras in the film: predicted from {experiment.data.dataroot}, no such folder here", file=sys.stderr)
                return None
        if self.dataroot is not None:
            data = experiment.data.model_copy(update={"dataroot": self.dataroot, "labels": None, "gts": None})
            experiment = experiment.model_copy(update={"data": data})
        if not experiment.data.dataroot.is_dir() and self.config is None and self.dataroot is None:
            print(f"no cameras in the film: {path} was trained with {experiment.data.dataroot}, no such folder here", file=sys.stderr)
            return None
        return experiment, build_index(experiment.data, None)


def options_of(
    view: tuple[str, ...], size: tuple[int, int] | None, keep: tuple[str, ...], hide: tuple[str, ...], below: float | None
) -> PictureOptions:
    """Return what to draw, from the words of a command line; `ValueError` names the option that is wrong."""
    from splattingocc.pictures import PictureOptions
    from splattingocc.visualization.raycast import PictureConfig
    from splattingocc.visualization.voxels import selection_of

    if size is not None and not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise ValueError(f"--size {size[0]} {size[1]}: expected height and width of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    picture = PictureConfig() if size is None else PictureConfig(image_size=size)
    return PictureOptions(view, picture, selection_of(keep, hide, below))  # type: ignore[arg-type]  # the parser has checked the views


SMALLEST_SIDE, LARGEST_SIDE = 200, 4000
"""Pixels of a picture in perspective: its caption must fit, and a line of a film."""
