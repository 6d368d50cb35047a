"""Bring a rig that is not nuScenes': four cameras with images of two sizes, and a LiDAR of 64 beams that reaches 60 m.

The front camera sees the bonnet in every image: a mask says where. The left camera fails once: that key frame has the other three.

The recordings are made up by the synthetic streets; `record` stands for your own logs. What a data set of yours needs is in `describe`
and the one call of `write_index`: from there on every command works on it.

    python examples/02_your_own_rig.py --out data/shuttle
    splattingocc prepare --dataroot data/shuttle --version drives --vehicle-masks data/shuttle/masks
    splattingocc train splattingocc-synth --data.dataroot data/shuttle --data.version drives \\
        --data.vehicle-masks data/shuttle/masks --optimization.image-steps 20
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy import ndarray
from PIL import Image

from splattingocc.cli.ending import ending_well
from splattingocc.data.key_frames import KeyFrame, SensorFrame
from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.data.own_data import write_index
from splattingocc.geometry.rays import Rays
from splattingocc.synthetic.camera_images import render_image
from splattingocc.synthetic.rig import rigid_matrix
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import World, draw_world

INTERVAL = 0.4
"""Seconds between key frames."""
LIDAR_RANGE = 60.0
"""Metres."""
ELEVATIONS = np.deg2rad(np.linspace(-25.0, 15.0, 64))
AZIMUTHS = np.deg2rad(np.arange(0.0, 360.0, 0.5))


@dataclass(frozen=True)
class Camera:
    """Where a camera of the rig sits, how it sees, and when it fires."""

    position: tuple[float, float, float]
    """In the ego frame (x forward, y left, z up), metres."""
    yaw: float
    """Degrees left of straight ahead."""
    image_size: tuple[int, int]
    """Height and width, pixels."""
    focal: float
    """Pixels."""
    delay: float
    """Seconds after the LiDAR's timestamp."""

    @property
    def K(self) -> ndarray:
        height, width = self.image_size
        return np.array([[self.focal, 0.0, width / 2], [0.0, self.focal, height / 2], [0.0, 0.0, 1.0]])

    @property
    def ego_from_sensor(self) -> ndarray:
        """The camera frame is x right, y down, z forward."""
        yaw = np.deg2rad(self.yaw)
        right, down, ahead = [np.sin(yaw), -np.cos(yaw), 0.0], [0.0, 0.0, -1.0], [np.cos(yaw), np.sin(yaw), 0.0]
        return rigid_matrix(np.array([right, down, ahead]).T, np.array(self.position))


RIG = {
    "front": Camera((2.0, 0.0, 1.6), 0.0, (240, 400), 230.0, 0.00),
    "left": Camera((1.0, 0.9, 1.8), 90.0, (160, 200), 90.0, 0.03),
    "rear": Camera((-1.0, 0.0, 1.6), 180.0, (160, 200), 90.0, 0.01),
    "right": Camera((1.0, -0.9, 1.8), -90.0, (160, 200), 90.0, 0.02),
}
BONNET_COLOUR = (50, 60, 70)
EGO_FROM_LIDAR = rigid_matrix(np.eye(3), np.array([0.5, 0.0, 2.2]))


@dataclass(frozen=True)
class Options:
    """Where to write, and how much."""

    out: Path
    """Data root to fill."""
    drives: int = 3
    """Scenes; the last one is for validation."""
    frames: int = 3
    """Key frames of each."""
    seed: int = 0


def bonnet() -> ndarray:
    """Say which pixels of the front camera show the own vehicle."""
    height, width = RIG["front"].image_size
    v, u = np.mgrid[:height, :width]
    return ((u - width / 2) / (0.4 * width)) ** 2 + ((v - height) / (0.2 * height)) ** 2 < 1


def record(world: World, scene: SceneMesh, time: float, folder: Path, stem: str) -> None:
    """Stand in for your logs: write the images and the LiDAR points, with a class each, of one moment."""
    for name, camera in RIG.items():
        scene.set_time(time + camera.delay)
        world_from_cam = world.ego.world_from_ego(time + camera.delay) @ camera.ego_from_sensor
        image = render_image(scene, world.light, camera.K, world_from_cam, camera.image_size, seed=round(1e3 * time))
        if name == "front":
            image[bonnet()] = BONNET_COLOUR
        path = folder / "images" / name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    scene.set_time(time)
    azimuth, elevation = (angles.ravel() for angles in np.meshgrid(AZIMUTHS, ELEVATIONS, indexing="ij"))
    directions = np.stack([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=1)
    world_from_lidar = world.ego.world_from_ego(time) @ EGO_FROM_LIDAR
    origin = torch.from_numpy(world_from_lidar[:3, 3].astype(np.float32))
    rays = Rays(
        origin.expand(len(directions), 3).contiguous(), torch.from_numpy((directions @ world_from_lidar[:3, :3].T).astype(np.float32))
    )
    hits = scene.cast(rays.to(scene.device), LIDAR_RANGE)
    hit = hits.triangles.cpu().numpy() >= 0
    categories = scene.categories[hits.triangles.long().clamp(min=0)].cpu().numpy()[hit]
    (folder / "lidar").mkdir(exist_ok=True)
    np.save(folder / "lidar" / f"{stem}.npy", (directions * hits.distances.cpu().numpy()[:, None])[hit].astype(np.float32))
    np.save(folder / "lidar" / f"{stem}_classes.npy", np.array(CLASS_OF_LIDARSEG, dtype=np.uint8)[categories])


def describe(world: World, scene_name: str, frame: int, stem: str, names: Sequence[str]) -> KeyFrame:
    """Say which files belong to a moment, where the sensors sit on the vehicle, and where the vehicle was when each of them measured.

    `names` are those of the cameras that took an image.
    """
    time = frame * INTERVAL
    cameras = tuple(
        SensorFrame(
            token=f"{stem}/{name}",
            channel=name,
            filename=f"images/{name}/{stem}.png",
            timestamp=round(1e6 * (time + camera.delay)),
            image_size=camera.image_size,
            K=camera.K,
            ego_from_sensor=camera.ego_from_sensor,
            world_from_ego=world.ego.world_from_ego(time + camera.delay),
        )
        for name, camera in ((name, RIG[name]) for name in names)
    )
    lidar = SensorFrame(
        token=f"{stem}/lidar",
        channel="lidar",
        filename=f"lidar/{stem}.npy",
        timestamp=round(1e6 * time),
        image_size=None,
        K=None,
        ego_from_sensor=EGO_FROM_LIDAR,
        world_from_ego=world.ego.world_from_ego(time),
    )
    return KeyFrame(
        token=stem,
        scene=scene_name,
        index_in_scene=frame,
        timestamp=round(1e6 * time),
        world_from_ego=world.ego.world_from_ego(time),
        cameras=cameras,
        lidar=lidar,
        point_classes=f"lidar/{stem}_classes.npy",
    )


def main(options: Options) -> None:
    if options.drives < 2 or options.frames < 1:
        raise SystemExit(f"--drives {options.drives} --frames {options.frames}: at least two drives of one key frame are needed")
    key_frames: list[KeyFrame] = []
    names = [f"drive-{number}" for number in range(options.drives)]
    for number, name in enumerate(names):
        world = draw_world(np.random.default_rng((options.seed, number)), options.frames * INTERVAL)
        scene = SceneMesh(world, torch.device("cpu"))
        for frame in range(options.frames):
            stem = f"{name}_{frame:03d}"
            record(world, scene, frame * INTERVAL, options.out, stem)
            is_last = (number, frame) == (options.drives - 1, options.frames - 1)
            cameras = [camera for camera in RIG if not (is_last and camera == "left")]
            key_frames.append(describe(world, name, frame, stem, cameras))
            print(f"{stem}: {len(cameras)} images, one sweep", flush=True)
    (options.out / "masks").mkdir(exist_ok=True)
    Image.fromarray(bonnet()).save(options.out / "masks" / "front.png")
    path = write_index(options.out, "drives", key_frames, {"train": names[:-1], "val": names[-1:]})
    print(f"{path}: {len(key_frames)} key frames of {len(names)} drives")


if __name__ == "__main__":
    with ending_well(Path(__file__).name, is_last=True):
        main(tyro.cli(Options, description=__doc__))
