"""What every label source gets from the rest of the project, proven by one that exists here only."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes

from splattingocc.cli.data import Prepare
from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import LabelStore, RayTable
from splattingocc.data.nuscenes import read_index
from splattingocc.files import read_array
from splattingocc.labels.dense import DenseLabelConfig, DenseLabels
from splattingocc.labels.generate import generate_labels, verify_inputs
from splattingocc.labels.lidar import LidarLabelConfig, LidarLabels
from splattingocc.labels.source import LabelSource, MissingInput


@dataclass(frozen=True)
class ConstantMap:
    """A toy: each camera has one small map of classes, whatever the key frame; what its pixels show is 10 m away."""

    folder: Path

    def describe(self) -> str:
        return f"constant maps {self.folder.name}"

    def label(self, key_frame: KeyFrame, dataroot: Path, *, others: Mapping[int, KeyFrame]) -> RayTable:
        tables = [read_array(path) for path in self.input_files(key_frame, dataroot)]
        counts = [table.size for table in tables]
        pixels = [np.argwhere(np.ones_like(table))[:, ::-1] + 0.5 for table in tables]
        return RayTable(
            camera_indices=np.repeat(np.arange(len(tables), dtype=np.uint8), counts),
            semantics=np.concatenate([table.ravel() for table in tables]),
            pixels=np.concatenate(pixels).astype(np.float32),
            distances=np.full(sum(counts), 10, np.float32),
        )

    def input_files(self, key_frame: KeyFrame, dataroot: Path) -> list[Path]:
        if (self.folder / f"without {key_frame.token}").exists():
            raise MissingInput("a map of this moment")
        return [self.folder / f"{camera.channel}.npy" for camera in key_frame.cameras]


@dataclass
class PrepareConstant(Prepare):
    """`prepare` with one more field, which is all that it needs of a new source."""

    constant: Path | None = None

    def source(self) -> LabelSource:
        return super().source() if self.constant is None else ConstantMap(self.constant)


@pytest.fixture(scope="module")
def index(tiny_dataroot: Path) -> Index:
    return read_index(tiny_dataroot, tiny_nuscenes.VERSION)


@pytest.fixture
def maps(index: Index, tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for number, camera in enumerate(index[0].cameras):
        np.save(folder / f"{camera.channel}.npy", np.full((4, 6), number, np.uint8))
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_source_of_ones_own_makes_a_store(index: Index, tiny_dataroot: Path, maps: Path, tmp_path: Path, num_workers: int):
    source = ConstantMap(maps)
    generate_labels(index, tiny_dataroot, tmp_path / "store", source=source, num_workers=num_workers, show_progress=False)
    store = LabelStore.open(tmp_path / "store")
    assert store.manifest.source == "constant maps maps"
    store.verify(index)
    verify_inputs(store, index, tiny_dataroot, source)
    for token in index.tokens:
        table = store.read(token)
        np.testing.assert_array_equal(table.semantics, np.repeat(np.arange(6), 24))
        np.testing.assert_array_equal(table.semantics, table.camera_indices)
        np.testing.assert_allclose(table.distances, 10)


def test_stores_of_different_sources_do_not_mix(index: Index, tiny_dataroot: Path, tiny_store: Path, maps: Path):
    with pytest.raises(ValueError, match=r"the store holds labels of source lidar points.* asked for are labels of constant maps maps;"):
        generate_labels(index, tiny_dataroot, tiny_store, source=ConstantMap(maps), show_progress=False)
    with pytest.raises(ValueError, match=r"the store holds lidar points, .*; give the options that made it"):
        verify_inputs(LabelStore.open(tiny_store), index, tiny_dataroot, ConstantMap(maps))


def test_changed_files_of_any_source_are_found(index: Index, tiny_dataroot: Path, maps: Path, tmp_path: Path):
    generate_labels(index, tiny_dataroot, tmp_path / "store", source=ConstantMap(maps), show_progress=False)
    np.save(maps / "CAM_FRONT.npy", np.full((4, 6), 7, np.uint8))
    with pytest.raises(ValueError, match="the labels of scene-0001 were made from other"):
        verify_inputs(LabelStore.open(tmp_path / "store"), index, tiny_dataroot, ConstantMap(maps))
    (maps / "without scene-0001-0").touch()
    with pytest.raises(ValueError, match="key frame scene-0001-0 of scene-0001: missing: a map of this moment"):
        verify_inputs(LabelStore.open(tmp_path / "store"), index, tiny_dataroot, ConstantMap(maps))


def test_key_frames_that_lack_what_a_source_reads_are_left_out_where_asked(index: Index, tiny_dataroot: Path, maps: Path, tmp_path: Path):
    (maps / "without scene-0002-1").touch()
    source = ConstantMap(maps)
    with pytest.raises(ValueError, match=r"a map of this moment \(scene-0002, key frame scene-0002-1\)"):
        generate_labels(index, tiny_dataroot, tmp_path / "store", source=source, show_progress=False)
    manifest = generate_labels(index, tiny_dataroot, tmp_path / "store", source=source, skip_missing=True, show_progress=False)
    assert manifest.skipped == {"scene-0002-1": "a map of this moment"}
    verify_inputs(LabelStore.open(tmp_path / "store"), index, tiny_dataroot, source)


def test_maps_that_are_not_there_are_left_out_where_asked(index: Index, tiny_dataroot: Path, tmp_path: Path):
    for position in range(len(index)):
        for camera in index[position].cameras:
            path = tmp_path / "maps" / camera.channel / f"{Path(camera.filename).stem}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full(camera.image_size or (), 11, np.uint8))
    gone = tmp_path / "maps" / "CAM_BACK" / f"{Path(index[1].cameras[4].filename).stem}.npy"
    gone.unlink()
    source = DenseLabels(DenseLabelConfig(semantics=tmp_path / "maps"))
    manifest = generate_labels(index, tiny_dataroot, tmp_path / "store", source=source, skip_missing=True, show_progress=False)
    assert manifest.skipped == {index.tokens[1]: f"{gone.with_suffix('')}: no map of that name; expected .png, .npy, .npz"}
    verify_inputs(LabelStore.open(tmp_path / "store"), index, tiny_dataroot, source)


class Remembering(ConstantMap):
    """A toy that takes note of which other key frames it is given."""

    given: dict[str, dict[int, str]] = {}

    def label(self, key_frame: KeyFrame, dataroot: Path, *, others: Mapping[int, KeyFrame]) -> RayTable:
        self.given[key_frame.token] = {offset: other.token for offset, other in others.items()}
        return super().label(key_frame, dataroot, others=others)


def test_a_source_gets_the_other_key_frames_of_the_scene_by_their_place(index: Index, tiny_dataroot: Path, maps: Path, tmp_path: Path):
    (maps / "without scene-0001-1").touch()
    generate_labels(index, tiny_dataroot, tmp_path / "store", source=Remembering(maps), skip_missing=True, show_progress=False)
    assert Remembering.given["scene-0002-1"] == {-1: "scene-0002-0", 1: "scene-0002-2"}
    assert Remembering.given["scene-0001-0"] == {2: "scene-0001-2"}
    assert Remembering.given["scene-0003-1"] == {-1: "scene-0003-0"}


def test_prepare_needs_no_more_of_a_source_than_a_field(tiny_dataroot: Path, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    store = tmp_path / "store"
    PrepareConstant(tiny_dataroot, version=tiny_nuscenes.VERSION, out=store, workers=0, constant=maps).run()
    PrepareConstant(tiny_dataroot, version=tiny_nuscenes.VERSION, out=store, verify_inputs=True, constant=maps).run()
    assert "1,152 labelled rays in 8 key frames" in capsys.readouterr().out
    shutil.rmtree(store)
    PrepareConstant(tiny_dataroot, version=tiny_nuscenes.VERSION, out=store, workers=0).run()
    assert LabelStore.open(store).manifest.source.startswith("lidar points")


def test_key_frames_that_no_scene_reaches_are_said_to_give_no_labels(tiny_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    lidar = LidarLabelConfig(other_key_frames=(-1, 3, 50))
    Prepare(tiny_dataroot, version=tiny_nuscenes.VERSION, out=tmp_path / "store", workers=0, lidar=lidar).run()
    assert "--lidar.other-key-frames 3, 50: gave no labels, the longest scene has 3 key frames\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"dense": DenseLabelConfig(stride=4)}, "--dense.stride 4: does nothing without class maps"),
        (
            {"dense": DenseLabelConfig(semantics=Path("maps")), "lidar": LidarLabelConfig(other_key_frames=(-1,))},
            r"--lidar.other-key-frames \(-1,\): does nothing where labels come from maps",
        ),
    ],
)
def test_options_of_a_source_that_is_not_used_are_refused(options: dict, refused: str):
    with pytest.raises(ValueError, match=refused):
        Prepare(Path("data"), **options).source()


def test_the_manifest_keeps_every_option_that_changes_labels():
    maps = Path("/data/maps")
    for source, line in (
        (LidarLabels(), "lidar points, min_depth 1.0 m, max_distance 120.0 m, without hidden ones"),
        (
            LidarLabels(LidarLabelConfig(min_depth=2, max_distance=50, drop_hidden=False, other_key_frames=(-1, 1), point_columns=4)),
            "lidar points, min_depth 2.0 m, max_distance 50.0 m, with hidden ones, sweeps of key frames -1, +1, 4 columns",
        ),
        (
            LidarLabels(LidarLabelConfig(with_classes=False)),
            "lidar points, min_depth 1.0 m, max_distance 120.0 m, without hidden ones, distances only",
        ),
        (
            DenseLabels(DenseLabelConfig(semantics=maps / "classes")),
            "class maps /data/maps/classes (occ3d), distances from lidar, stride 8, max_distance 120.0 m",
        ),
        (
            DenseLabels(DenseLabelConfig(semantics=maps / "c", class_map="cityscapes", depth=maps / "d", confidence=maps, stride=4)),
            "class maps /data/maps/c (cityscapes), distances from depth maps /data/maps/d (1.0 per metre, along the axis), stride 4, "
            "max_distance 120.0 m, confidence /data/maps at least 0.5",
        ),
        (
            DenseLabels(DenseLabelConfig(semantics=maps / "c", point_columns=4)),
            "class maps /data/maps/c (occ3d), distances from lidar, stride 8, max_distance 120.0 m, 4 columns",
        ),
    ):
        assert isinstance(source, LabelSource)
        assert source.describe() == line


def test_another_table_of_classes_makes_other_labels(tmp_path: Path):
    table = tmp_path / "classes.json"
    lines = set()
    for content in ('{"1": "car"}', '{"1": "bus"}'):
        table.write_text(content)
        lines.add(DenseLabels(DenseLabelConfig(semantics=tmp_path, class_map=table)).describe())
    assert len(lines) == 2
