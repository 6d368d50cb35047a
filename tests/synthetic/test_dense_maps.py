"""Dense maps against the LiDAR, against what the camera's rays meet, and through `prepare`."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splattingocc.cli import main
from splattingocc.data.key_frames import KeyFrame, SensorFrame
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import inside, labelled_rays
from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.rays import Rays
from splattingocc.geometry.transforms import invert_rigid, transform_points
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.labels.dense import DenseLabelConfig, label_densely
from splattingocc.synthetic.dense_maps import DEPTH_SCALE, see, true_maps, write_maps
from splattingocc.synthetic.lidar_sweeps import Lidar
from splattingocc.synthetic.rig import Sensor, draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import World, draw_world
from splattingocc.synthetic.writer import SynthConfig, write_dataset
from splattingocc.taxonomy import FREE, SKY

IMAGE_SIZE = (180, 320)
EGO, NOISE = 31, 0
Scene = tuple[World, tuple[Sensor, ...], SceneMesh, np.ndarray]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A world half a second after its start, and where the ego vehicle is."""
    rng = np.random.default_rng(5)
    world, rig = draw_world(rng, 1.0), draw_rig(rng, IMAGE_SIZE)
    mesh = SceneMesh(world, torch.device("cpu"))
    mesh.set_time(0.5)
    return world, rig, mesh, world.ego.world_from_ego(0.5)


def test_depth_and_class_are_those_that_the_lidar_measures(scene: Scene):
    _, rig, mesh, world_from_ego = scene
    sweep = Lidar(rig[-1].ego_from_sensor, torch.device("cpu")).measure(mesh, world_from_ego, np.random.default_rng(0))
    real = ~np.isin(sweep.categories, (EGO, NOISE))
    points = transform_points(torch.from_numpy(world_from_ego @ rig[-1].ego_from_sensor), torch.from_numpy(sweep.points[real, :3]).double())
    classes = np.array(CLASS_OF_LIDARSEG)[sweep.categories[real]]
    for sensor in rig[:6]:
        assert sensor.K is not None
        world_from_cam = world_from_ego @ sensor.ego_from_sensor
        seen = see(mesh, sensor.K, world_from_cam, IMAGE_SIZE)
        cam_from_world = invert_rigid(torch.from_numpy(world_from_cam))
        pixels, visible = Cameras(torch.from_numpy(sensor.K), cam_from_world, IMAGE_SIZE).project(points)
        columns, rows = pixels[visible].long().numpy().T
        measured = transform_points(cam_from_world, points[visible])[:, 2].numpy()
        errors = np.abs(seen.depths[rows, columns] / measured - 1)
        same_surface = errors < 0.05
        assert same_surface.mean() > 0.7
        assert np.median(errors) < 0.02
        around = np.pad(seen.semantics, 1, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3))
        is_border = (windows != seen.semantics[..., None, None]).any(axis=(-2, -1))
        counted = same_surface & ~is_border[rows, columns]
        assert counted.sum() > 500
        assert (seen.semantics[rows, columns] == classes[visible.numpy()])[counted].mean() >= 0.97


def test_the_sky_has_no_depth_and_everything_else_has(scene: Scene):
    _, rig, mesh, world_from_ego = scene
    assert rig[1].K is not None
    seen = see(mesh, rig[1].K, world_from_ego @ rig[1].ego_from_sensor, IMAGE_SIZE)
    assert 0.05 < (seen.semantics == SKY).mean() < 0.8
    assert ((seen.depths == 0) == (seen.semantics == SKY)).all()
    assert (seen.things[seen.semantics == SKY] == -1).all()


def test_labels_made_from_perfect_maps_end_where_their_rays_meet_the_scene(scene: Scene, tmp_path: Path):
    _, rig, mesh, world_from_ego = scene
    frames = []
    for sensor in rig[:6]:
        assert sensor.K is not None
        filename = f"samples/{sensor.channel}/one.jpg"
        write_maps(true_maps(see(mesh, sensor.K, world_from_ego @ sensor.ego_from_sensor, IMAGE_SIZE)), tmp_path, filename)
        frames.append(SensorFrame("t", sensor.channel, filename, 0, IMAGE_SIZE, sensor.K, sensor.ego_from_sensor, world_from_ego))
    folders = {kind: tmp_path / "dense" / kind for kind in ("semantics", "depth")}
    config = DenseLabelConfig(**folders, depth_scale=DEPTH_SCALE)
    table = label_densely(KeyFrame("k", "scene", 0, 0, world_from_ego, tuple(frames)), tmp_path, config)
    for view, sensor in enumerate(rig[:6]):
        own = table[table.camera_indices == view]
        world_from_cam = world_from_ego @ sensor.ego_from_sensor
        directions = np.concatenate([own.pixels, np.ones((len(own), 1))], axis=1) @ np.linalg.inv(sensor.K).T @ world_from_cam[:3, :3].T
        directions = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True)).float()
        hits = mesh.cast(Rays(torch.from_numpy(world_from_cam[:3, 3]).float().expand_as(directions).contiguous(), directions), 160.0)
        assert np.array_equal(own.semantics == SKY, hits.triangles.numpy() < 0)
        errors = np.abs(own.distances / hits.distances.numpy() - 1)[own.semantics != SKY]
        assert len(errors) > 200
        # A unit of the map is 4 mm; a grazing ray or an edge between two pixels' rays may differ in a few
        assert np.quantile(errors, 0.99) < 0.002


@pytest.mark.parametrize(("dense", "kinds", "least_agreement"), [("perfect", 2, 0.93), ("degraded", 3, 0.5)])
def test_a_data_set_with_dense_maps_becomes_labels(tmp_path: Path, dense: str, kinds: int, least_agreement: float):
    data, labels = tmp_path / "data", tmp_path / "labels"
    main(["synth", "--out", str(data), "--scenes", "1", "--val-scenes", "0", "--frames", "1", "--image-size", "90", "160",
          "--drive-seconds", "4", "--dense", dense])  # fmt: skip
    maps = sorted((data / "dense").rglob("*.png"))
    images = sorted((data / "samples").rglob("*.jpg"))
    assert len(maps) == 6 * kinds
    assert {(path.parent.name, path.stem) for path in maps} == {(path.parent.name, path.stem) for path in images}
    folders = [word for kind in ("semantics", "depth") for word in (f"--dense.{kind}", str(data / "dense" / kind))]
    confidence = ["--dense.confidence", str(data / "dense/confidence"), "--dense.min-confidence", "0.9"] if kinds == 3 else []
    main(["prepare", "--dataroot", str(data), "--out", str(labels), "--workers", "0", "--dense.stride", "2", *folders, *confidence,
          "--dense.depth-scale", "256"])  # fmt: skip
    index = read_index(data, "v1.0-mini")
    found = labelled_rays(index[0], LabelStore.open(labels))
    assert (found[1].semantics == SKY).any()
    rays, wanted = inside(*found, OCC3D_GRID)
    cells, _ = OCC3D_GRID.cells_of(rays.at(wanted.distances + 0.02))
    truth = np.load(data / "gts" / index[0].scene / index[0].token / "labels.npz")["semantics"][tuple(cells.numpy().T)]
    assert len(truth) > 5000
    assert least_agreement < (truth != FREE).mean() < (1.01 if dense == "perfect" else 0.95)
    assert least_agreement < (truth == wanted.semantics.numpy()).mean() < (1.01 if dense == "perfect" else 0.9)


def test_dense_maps_are_the_same_every_time_and_a_fresh_data_set_without_them_has_all_the_rest(tmp_path: Path):
    config = SynthConfig(num_scenes=1, num_val_scenes=0, frames_per_scene=1, drive_seconds=1.0, image_size=(32, 48), dense="degraded")
    for name in ("once", "again"):
        write_dataset(config, tmp_path / name, progress=False)
    once = digests(tmp_path / "once")
    assert digests(tmp_path / "again") == once
    assert np.asarray(Image.open(next((tmp_path / "once/dense/depth").rglob("*.png")))).dtype == np.uint16
    assert json.loads((tmp_path / "once/synthetic.json").read_text())["config"]["dense"] == "degraded"
    write_dataset(config.model_copy(update={"dense": "none"}), tmp_path / "again", progress=False, fresh=True)
    assert not (tmp_path / "again/dense").exists()
    assert digests(tmp_path / "again") == {name: digest for name, digest in once.items() if not name.startswith("dense/")}


def digests(root: Path) -> dict[str, str]:
    """Return what each file of a data set holds, but for its own description."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "synthetic.json"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
