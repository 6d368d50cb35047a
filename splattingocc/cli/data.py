"""Commands that make data sets and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from splattingocc.labels.dense import DenseLabelConfig
from splattingocc.labels.lidar import LidarLabelConfig


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
    vehicle_masks: Path | None = None
    """Folder with a PNG per camera, `<channel>.png`, that is black but for the own vehicle: what it covers has no labels."""
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
                verify_inputs(store, index, self.dataroot, config, vehicle_masks=self.vehicle_masks)
            print(f"{out}: every scene is whole and made from these tables{' and files' if self.verify_inputs else ''}")
            return
        manifest = generate_labels(index, self.dataroot, out, config=config, vehicle_masks=self.vehicle_masks, num_workers=self.workers)
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
