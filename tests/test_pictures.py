"""Pictures of a key frame by a network of random weights: what is drawn, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_nuscenes
import torch
from PIL import Image

from splattingocc import pictures
from splattingocc.cli.draw import VisualizeScene
from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import LabelStore, RayTable
from splattingocc.data.loaders import LoaderConfig
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS
from splattingocc.data.occ3d import truth_path
from splattingocc.engine.checkpoint import save_network
from splattingocc.evaluation.predictions import Manifest, PredictionCache, Provenance
from splattingocc.experiment import DataConfig, ExperimentConfig, build_network
from splattingocc.files import sha256_of
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.labels.generate import generate_labels
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.pictures import (
    PictureOptions,
    draw_cached_grids,
    draw_key_frame,
    draw_key_frame_without_cache,
    draw_overview,
    film_scene,
    predictions_in,
)
from splattingocc.pipeline.camera_maps import camera_maps
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import FREE, SKY
from splattingocc.visualization import film
from splattingocc.visualization.panels import FILM_WIDTH, OCCUPANCY_WIDTH, OVERVIEW_WIDTH
from splattingocc.visualization.raycast import PictureConfig
from splattingocc.visualization.sheet import GAP, MARGIN, Heading

CAR = 4
SMALL = PictureOptions(picture=PictureConfig(image_size=(60, 100), pixels_per_cell=1, supersampling=1))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    dataroot = tiny_nuscenes.write(tmp_path_factory.mktemp("pictures") / "data", scenes={"scene-0001": 1, "scene-0002": 1})
    generate_labels(read_index(dataroot, tiny_nuscenes.VERSION), dataroot, dataroot / "labels_2d", show_progress=False)
    return ExperimentConfig(
        name="pictures",
        data=DataConfig(dataroot=dataroot, version=tiny_nuscenes.VERSION, loader=LoaderConfig(image_size=(32, 64)), num_workers=0),
        network=NetworkConfig(
            backbone=MobileNetV2Config(),
            lift=SamplingLiftConfig(channels=8, coarsening=4),
            volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)),
        ),
    )


@pytest.fixture(scope="module")
def index(experiment: ExperimentConfig) -> Index:
    return read_index(experiment.data.dataroot, experiment.data.version)


@pytest.fixture(scope="module")
def key_frame(index: Index) -> KeyFrame:
    return index[0]


@pytest.fixture(scope="module")
def checkpoint(experiment: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights with a threshold."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_network(build_network(experiment), experiment.network, path, {"threshold": "0.3"})
    return path


def wall_ahead(distance: float) -> Gaussians:
    """Return opaque Gaussians of class car that fill a plane `distance` metres ahead of the vehicle."""
    y, z = torch.meshgrid(torch.arange(-20, 20, 0.2), torch.arange(-1, 5.4, 0.2), indexing="ij")
    means = torch.stack([torch.full_like(y, distance), y, z], dim=-1).reshape(-1, 3)
    features = torch.nn.functional.one_hot(torch.full((len(means),), CAR), 17).float()
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(means), 1)
    return Gaussians(means, quats, torch.full_like(means, 0.15), torch.full((len(means),), 0.95), features, OCC3D_GRID)


def test_a_key_frame_without_truth_gets_four_whole_pictures(
    experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path
) -> None:
    paths = draw_key_frame_without_cache(experiment, checkpoint, index, 0, tmp_path / "out")
    assert [path.name for path in paths] == [f"scene-0001_000_{kind}.png" for kind in ("cameras", "rendering", "occupancy", "overview")]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    for path in paths:
        Image.open(path).load()
    assert Image.open(paths[2]).width == OCCUPANCY_WIDTH + 2 * MARGIN


def test_rendered_maps_show_what_stands_before_the_camera(experiment: ExperimentConfig, key_frame: KeyFrame) -> None:
    maps = {camera.name: camera for camera in camera_maps(experiment, wall_ahead(10.3), key_frame)}
    assert list(maps) == list(CAMERA_CHANNELS)
    front, back = maps["CAM_FRONT"], maps["CAM_BACK"]
    height, width = front.rendered_semantics.shape
    assert front.rendered_semantics[height // 2, width // 2] == CAR
    # The camera stands 0.5 m ahead of the ego origin at this key frame's own time
    assert front.rendered_distances[height // 2, width // 2].item() == pytest.approx(9.8, abs=0.4)
    assert (back.rendered_semantics == SKY).all()
    assert back.rendered_distances.isnan().all()


def test_labels_lie_on_the_picture_where_the_store_says(experiment: ExperimentConfig, key_frame: KeyFrame) -> None:
    table = LabelStore.open(experiment.data.label_folder).read(key_frame.token)
    for view, camera in enumerate(camera_maps(experiment, wall_ahead(10.3), key_frame)):
        stored = torch.from_numpy(table.pixels[table.camera_indices == view])
        # Network input 32 × 64 of an image 180 × 320: the lowest 160 rows; the picture is twice as large
        shown = (stored - torch.tensor([0.0, 20.0])) * 2
        shown = shown[stored[:, 1] >= 20.01]
        assert abs(len(shown) - len(camera.label_pixels)) <= 2
        assert len(shown) > 50
        if len(shown) == len(camera.label_pixels):
            assert torch.allclose(shown, camera.label_pixels, atol=0.1)


def test_labels_without_a_distance_lie_where_those_with_one_do(
    experiment: ExperimentConfig, key_frame: KeyFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, read = camera_maps(experiment, wall_ahead(10.3), key_frame), LabelStore.read

    def read_classes(store: LabelStore, token: str) -> RayTable:
        table = read(store, token)
        return dataclasses.replace(table, distances=np.full_like(table.distances, np.nan))

    monkeypatch.setattr(LabelStore, "read", read_classes)
    for camera, with_distances in zip(camera_maps(experiment, wall_ahead(10.3), key_frame), measured):
        assert torch.allclose(camera.label_pixels, with_distances.label_pixels, atol=0.01)
        assert torch.equal(camera.label_semantics, with_distances.label_semantics)
        assert camera.label_distances.isnan().all()


def test_labels_of_other_tables_are_not_drawn(experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path) -> None:
    moved = dataclasses.replace(index, K=index.K + [[0, 0, 20], [0, 0, 0], [0, 0, 0]])
    for draw in (draw_key_frame_without_cache, draw_overview):
        with pytest.raises(ValueError, match="the labels of scene-0001 were made from other tables"):
            draw(experiment, checkpoint, moved, 0, tmp_path / "out.png")
    provenance = Provenance("x", sha256_of(checkpoint), "e0", 0.3, "train", decided_by={"tables": "of before"})
    cache = PredictionCache(tmp_path, Manifest(1, "occ3d", provenance, ()))
    with pytest.raises(ValueError, match=r"was predicted from other tables than .* has now; predict again"):
        draw_key_frame(experiment, checkpoint, cache, index, 0, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_threshold_is_refused(experiment: ExperimentConfig, index: Index, tmp_path: Path) -> None:
    checkpoint = tmp_path / "network.safetensors"
    save_network(build_network(experiment), experiment.network, checkpoint, {})
    with pytest.raises(ValueError, match=r"network\.safetensors: has no occupancy threshold"):
        draw_key_frame_without_cache(experiment, checkpoint, index, 0, tmp_path / "out")


def test_predictions_of_another_checkpoint_are_refused(
    experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path
) -> None:
    manifest = Manifest(1, "", Provenance("", "", "another", "", 0.3, "val"), ())
    with pytest.raises(ValueError, match="another checkpoint"):
        draw_key_frame(experiment, checkpoint, PredictionCache(tmp_path, manifest), index, 0, tmp_path / "out")


def test_a_scene_of_one_key_frame_is_a_film_of_one_frame(
    experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path
) -> None:
    path = film_scene(experiment, checkpoint, index, [0], tmp_path / "scene.webp", options=SMALL)
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) == 1
        assert film.width == FILM_WIDTH + 2 * MARGIN


def test_a_camera_that_a_key_frame_lacks_is_black_in_a_film_and_the_others_stay_in_their_places(
    experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index.sensor_present is None
    present = np.ones((len(index), len(index.channels)), dtype=bool)
    present[1, index.channels.index("CAM_FRONT")] = False
    scene = dataclasses.replace(index, sensor_present=present)
    shown: list[list[tuple[str, torch.Tensor]]] = []
    whole = pictures.film_frame
    monkeypatch.setattr(pictures, "film_frame", lambda images, *rest: shown.append(images) or whole(images, *rest))
    film_scene(experiment, checkpoint, scene, [0, 1], tmp_path / "scene.webp", options=SMALL)
    names = [[name for name, _ in images] for images in shown]
    assert names == [list(CAMERA_CHANNELS)] * 2
    black = [[name for name, image in images if not image.any()] for images in shown]
    assert black == [[], ["CAM_FRONT"]]


def test_views_of_the_cameras_and_an_orbit_are_files_of_their_own(
    experiment: ExperimentConfig, checkpoint: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "ORBIT_FRAMES", 2)
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    options = dataclasses.replace(SMALL, views=("camera", "orbit"))
    paths = draw_key_frame_without_cache(experiment, checkpoint, index, 0, tmp_path / "out", options=options)
    assert [path.name for path in paths[4:]] == ["scene-0001_000_views.png", "scene-0001_000_orbit.webp"]
    with Image.open(paths[5]) as orbit:
        assert orbit.n_frames == 2
    overview = draw_overview(experiment, checkpoint, index, 0, tmp_path / "overview.webp", options=SMALL)
    with Image.open(overview) as image:
        assert (image.format, image.width) == ("WEBP", OVERVIEW_WIDTH + 2 * MARGIN)


@pytest.fixture
def cached_scene(index: Index, tmp_path: Path) -> Path:
    """A scene's folder as another program leaves it, without a manifest, and the truth of its key frame."""
    key_frame = index[0]
    semantics = np.full((200, 200, 16), FREE, dtype=np.uint8)
    semantics[100:140, 95:105, 2] = CAR
    folder = tmp_path / "output" / key_frame.scene
    folder.mkdir(parents=True)
    np.savez_compressed(folder / f"000_{key_frame.token}.npz", semantics=semantics)
    truth = truth_path(tmp_path / "gts", key_frame.scene, key_frame.token)
    truth.parent.mkdir(parents=True)
    seen = np.ones_like(semantics)
    semantics[100:120] = FREE
    np.savez_compressed(truth, semantics=semantics, mask_camera=seen, mask_lidar=seen)
    return folder


def test_a_cached_scene_is_drawn_beside_its_truth_with_the_score_of_the_frame(
    cached_scene: Path, experiment: ExperimentConfig, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Heading] = []
    save = pictures.save_occupancies
    monkeypatch.setattr(
        pictures, "save_occupancies", lambda path, drawn, heading, **more: (said.append(heading), save(path, drawn, heading, **more))[1]
    )
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    picture, moving = draw_cached_grids(cached_scene, gts=tmp_path / "gts", known=(experiment, index), options=SMALL)
    assert picture == cached_scene / f"000_{index[0].token}.png"
    assert moving == cached_scene / "scene-0001.webp"
    assert said[0].title == "scene-0001, key frame 0"
    # Half of what is predicted is true
    assert said[0].details == ("this frame, inside mask_camera: mIoU 50.0 %, IoU 50.0 %",)
    with Image.open(picture) as image, Image.open(moving) as frame:
        width, height = image.width, frame.height
    draw_cached_grids(cached_scene, options=SMALL)
    with Image.open(picture) as image, Image.open(moving) as frame:
        assert width == 3 * (image.width - 2 * MARGIN + GAP) - GAP + 2 * MARGIN
        assert frame.height != height


def test_the_folder_in_hand_is_a_scene_too(cached_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    monkeypatch.chdir(cached_scene)
    picture, moving = draw_cached_grids(Path("."), gts=tmp_path / "gts", options=SMALL)
    assert moving == cached_scene.resolve() / "scene-0001.webp"
    assert picture.is_file()


def test_the_scene_tool_takes_truth_and_cameras_from_the_run_and_refuses_in_one_line(
    cached_scene: Path,
    experiment: ExperimentConfig,
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr(pictures, "draw_cached_grids", lambda folder, **options: drawn.append(options) or [folder / "x.png"])
    VisualizeScene(cached_scene).run()
    assert (drawn[-1]["gts"], drawn[-1]["known"]) == (None, None)
    with pytest.raises(ValueError, match=r"--dataroot: does nothing without .*: no .*config\.json, expected --config with it"):
        VisualizeScene(cached_scene, dataroot=tmp_path).run()
    (tmp_path / "config.json").write_text(json.dumps(experiment.model_dump(mode="json")))
    VisualizeScene(cached_scene).run()
    assert drawn[-1]["gts"] == experiment.data.truth_folder
    known = drawn[-1]["known"]
    assert known is not None
    assert known[1].tokens == index.tokens
    VisualizeScene(cached_scene, gts=tmp_path / "gts").run()
    assert drawn[-1]["gts"] == tmp_path / "gts"
    elsewhere = experiment.model_copy(update={"data": experiment.data.model_copy(update={"dataroot": Path("nowhere")})})
    (tmp_path / "config.json").write_text(json.dumps(elsewhere.model_dump(mode="json")))
    VisualizeScene(cached_scene).run()
    assert drawn[-1]["known"] is None
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match=r"no predictions \(\*\.npz\) in this folder"):
        VisualizeScene(tmp_path).run()
    with pytest.raises(ValueError, match="--gts nowhere: no such folder"):
        VisualizeScene(cached_scene, gts=Path("nowhere")).run()
    with pytest.raises(ValueError, match=rf"--gts {tmp_path}: has no truth of {cached_scene.name}, expected <gts>/"):
        VisualizeScene(cached_scene, gts=tmp_path).run()
    with pytest.raises(ValueError, match="--size 3 600: expected height and width of 200 to 4000 pixels"):
        VisualizeScene(cached_scene, size=(3, 600)).run()
    with pytest.raises(ValueError, match="--hide tree: no such class"):
        VisualizeScene(cached_scene, hide=("tree",)).run()


def test_predictions_are_drawn_in_the_order_of_their_key_frames(tmp_path: Path) -> None:
    names = ["000_d", "100_c", "999_b", "1000_a"]
    for name in (*names, "of_another_program"):
        (tmp_path / f"{name}.npz").touch()
    assert [path.stem for path in predictions_in(tmp_path)] == ["of_another_program", *names]


def test_files_of_another_program_are_in_the_order_of_their_key_frames_and_known_by_their_whole_token(
    experiment: ExperimentConfig, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = ["9002_0001", "another", "0_first"]
    known = dataclasses.replace(index, tokens=["0_first", "9002_0001"])
    folder = tmp_path / "scene-0001"
    folder.mkdir()
    for token in tokens[::2]:
        np.savez_compressed(folder / f"{token}.npz", semantics=np.full(OCC3D_GRID.shape, FREE, np.uint8))
    titles: list[str] = []
    show = pictures._show

    def watched(grid: torch.Tensor, voxels: VoxelGrid, truth: None, heading: Heading, options: PictureOptions) -> object:
        titles.append(heading.title)
        return show(grid, voxels, truth, heading, options)

    monkeypatch.setattr(pictures, "_show", watched)
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    draw_cached_grids(folder, known=(experiment, known), options=SMALL)
    assert titles == ["scene-0001, 0_first", "scene-0001, 9002_0001"]
