"""Commands that make data sets and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from splattingocc.config import Config, Seed, Workers
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LABEL_FOLDER, Manifest
from splattingocc.labels.dense import DenseLabelConfig, DenseLabels
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.labels.source import LabelSource


@dataclass
class Prepare:
    """Make the 2D labels of a data set: LiDAR points with their classes projected into the images, or dense maps where they are given."""

    dataroot: Path
    """Folder of a data set in the nuScenes layout."""
    version: str | None = None
    """Folder of its tables; where there is only one, that one."""
    out: Path | None = None
    """Where the label store goes; `<dataroot>/labels_2d` by default."""
    workers: Workers = 2
    """Processes; 0 does the work in this one."""
    scenes: tuple[str, ...] = ()
    """Label these scenes only, by name; all without."""
    skip_missing: bool = False
    """Leave out key frames of which a sensor or a file is missing, and keep in the store which; without, the first one is an error."""
    lidar: LidarLabelConfig = field(default_factory=LidarLabelConfig)
    """Labels from LiDAR and lidarseg."""
    dense: DenseLabelConfig = field(default_factory=DenseLabelConfig)
    """Labels from dense maps, where `--dense.semantics` is given."""
    vehicle_masks: Path | None = None
    """Folder with a PNG per camera, `<channel>.png`, that is black but for the own vehicle: what it covers has no labels."""
    verify: bool = False
    """Check an existing store against its manifest and tables instead of making one."""
    verify_inputs: bool = False
    """Check, beside that, that the sweeps and maps still hold what the labels were made from: reads them all."""

    def source(self) -> LabelSource:
        """Return what the options ask to make labels from; options of any other source are an error, because they would do nothing."""
        if self.dense.semantics is not None:
            _refuse_changed("lidar", self.lidar, "does nothing where labels come from maps (--dense.semantics)")
            return DenseLabels(self.dense)
        _refuse_changed("dense", self.dense, "does nothing without class maps (--dense.semantics)")
        return LidarLabels(self.lidar)

    def run(self) -> None:
        from splattingocc.data.label_store import LabelStore
        from splattingocc.data.nuscenes import only_version, read_index
        from splattingocc.labels.generate import generate_labels, verify_inputs

        source = self.source()
        out = self.out or self.dataroot / LABEL_FOLDER
        version = self.version or only_version(self.dataroot)
        if self.verify or self.verify_inputs:
            self._refuse_unused()
            store = LabelStore.open(out)
            index = read_index(self.dataroot, version)
            store.verify(index)
            if self.verify_inputs:
                verify_inputs(store, index, self.dataroot, source, vehicle_masks=self.vehicle_masks)
            print(f"{out}: every scene is whole and made from these tables{' and files' if self.verify_inputs else ''}")
            return
        index = read_index(self.dataroot, version, cache_dir=out / "index")
        manifest = generate_labels(
            index,
            self.dataroot,
            out,
            scenes=self.scenes or None,
            source=source,
            skip_missing=self.skip_missing,
            vehicle_masks=self.vehicle_masks,
            num_workers=self.workers,
        )
        self._report(out, manifest, index)

    def _refuse_unused(self) -> None:
        """Refuse options that would do nothing where a store is only looked at."""
        if self.scenes or self.skip_missing:
            raise ValueError(
                f"{'--scenes' if self.scenes else '--skip-missing'}: does nothing with --verify, which looks at the whole store"
            )
        if not self.verify_inputs:
            why = "does nothing with --verify; --verify-inputs looks at what labels are made from"
            _refuse_changed("lidar", self.lidar, why)
            _refuse_changed("dense", self.dense, why)
            if self.vehicle_masks is not None:
                raise ValueError(f"--vehicle-masks {self.vehicle_masks}: {why}; leave it out")

    def _report(self, out: Path, manifest: Manifest, index: Index) -> None:
        records = manifest.scenes.values()
        frames = sum(len(scene.tokens) for scene in records)
        print(f"{out}: {manifest.num_rays:,} labelled rays in {frames} key frames of {len(records)} scenes")
        if not any(scene.num_classified for scene in records):
            print("no label has a class: they train geometry only")
        if not any(scene.num_measured for scene in records):
            print("no label has a distance: look at the units of the depth maps (--dense.depth-scale) and at --dense.max-distance")
        for line in index.doubts():
            print(line)
        longest = max(scene.count for scene in index.scenes)
        if beyond := [offset for offset in self.lidar.other_key_frames if abs(offset) >= longest]:
            named = ", ".join(map(str, beyond))
            print(f"--lidar.other-key-frames {named}: gave no labels, the longest scene has {longest} key frames")
        if left := len(index.scenes) - len(records):
            print(f"{left} more scenes of {index.version} have no labels")
        reasons = {**{token: reason for token, (_, reason) in index.incomplete.items()}, **manifest.skipped}
        if reasons:
            of_files = {name for name, scene in manifest.scenes.items() if scene.skipped}
            scenes = sorted(of_files | {name for name, _ in index.incomplete.values()})
            some = ", ".join(scenes[:8]) + (", …" if len(scenes) > 8 else "")
            print(f"left out: {len(reasons)} key frames of {len(scenes)} scenes ({some})")
            token, reason = next(iter(reasons.items()))
            print(f"e.g. {token}: {reason}")


def _refuse_changed(prefix: str, options: Config, why: str) -> None:
    """Refuse options that are not as they are by default."""
    for name, value in options:
        if value != type(options).model_fields[name].default:
            raise ValueError(f"--{prefix}.{name.replace('_', '-')} {value}: {why}; leave it out")


@dataclass
class Synth:
    """Write a synthetic data set: streets, cameras, LiDAR and truth in the layout of nuScenes and Occ3D."""

    out: Path
    """Folder to write to."""
    scenes: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Scenes in all, validation included."""
    val_scenes: Annotated[int, Field(ge=0, le=10_000)] = 2
    """How many of them are for validation."""
    frames: Annotated[int, Field(ge=1, le=80)] = 10
    """Key frames of each scene, half a second apart."""
    seed: Seed = 0
    """The same options and seed give the same bytes."""
    image_size: tuple[int, int] = (450, 800)
    """Height and width of the images, pixels."""
    version: str = "v1.0-mini"
    """Folder of the tables."""
    drive_seconds: float = 20.0
    """How long each drive lasts, whose LiDAR makes the truth, however few key frames are written; longer where so many need it."""
    truth: Literal["accumulated", "complete", "both"] = "accumulated"
    """What `gts` holds: what the LiDAR met in the whole drive, as in Occ3D, or every surface; of both, every surface is in
    `gts_complete`."""
    pose_errors: bool = True
    """State poses with the errors that locating a vehicle has."""
    label_errors: bool = True
    """Give the LiDAR points' classes the errors that people make; the 3D truth and the boxes have none."""
    dense: Literal["none", "perfect", "degraded"] = "none"
    """Write maps of class and metric depth for `prepare --dense.*` into `<out>/dense`, perfect or with the errors of foundation models."""
    workers: Workers = 2
    """Processes that write scenes beside each other; 0 writes them in this one. The bytes are the same."""
    fresh: bool = False
    """Replace another synthetic data set that is in the folder, and remove the labels that lie there."""

    def run(self) -> None:
        from splattingocc.synthetic.writer import SynthConfig, write_dataset

        config = SynthConfig(
            num_scenes=self.scenes,
            num_val_scenes=self.val_scenes,
            frames_per_scene=self.frames,
            image_size=self.image_size,
            seed=self.seed,
            version=self.version,
            drive_seconds=self.drive_seconds,
            truth=self.truth,
            pose_errors=self.pose_errors,
            label_errors=self.label_errors,
            dense=self.dense,
        )
        write_dataset(config, self.out, fresh=self.fresh, num_workers=self.workers)
        print(f"{self.out}: {self.scenes} scenes of {self.frames} key frames")
