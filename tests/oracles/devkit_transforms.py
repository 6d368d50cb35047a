"""Compare every camera's pose in its key frame with what the official nuscenes-devkit's own classes make of the same tables.

The devkit needs numpy < 2, so it lives in an environment of its own (see devkit_loads.py) and writes what it computes to a file:
    DEVKIT/bin/python tests/oracles/devkit_transforms.py write DATAROOT VERSION FILE.npz
    python tests/oracles/devkit_transforms.py compare DATAROOT VERSION FILE.npz
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
TOLERANCE = 1e-9
"""Metres, and entries of rotation matrices."""


def write(dataroot: str, version: str, file: str) -> None:
    """Write key_ego_from_cam of each (sample, camera), and the samples' tokens, as the devkit has them."""
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    nusc = NuScenes(version, dataroot, verbose=False)

    def matrix(row: dict, *, inverse: bool = False) -> np.ndarray:
        return transform_matrix(row["translation"], Quaternion(row["rotation"]), inverse=inverse)

    tokens, chains = [], []
    for sample in nusc.sample:
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        key_ego_from_world = matrix(nusc.get("ego_pose", lidar["ego_pose_token"]), inverse=True)
        for channel in CAMERAS:
            camera = nusc.get("sample_data", sample["data"][channel])
            world_from_ego = matrix(nusc.get("ego_pose", camera["ego_pose_token"]))
            chains.append(key_ego_from_world @ world_from_ego @ matrix(nusc.get("calibrated_sensor", camera["calibrated_sensor_token"])))
        tokens.append(sample["token"])
    np.savez(file, tokens=np.array(tokens), key_ego_from_cam=np.array(chains).reshape(len(tokens), len(CAMERAS), 4, 4))


def compare(dataroot: str, version: str, file: str) -> None:
    """Print the greatest difference to this project's index; exit with an error above the tolerance."""
    from splattingocc.data.nuscenes import read_index

    with tempfile.TemporaryDirectory() as cache:
        index = read_index(Path(dataroot), version, cache_dir=Path(cache))
    truth = np.load(file)
    assert sorted(truth["tokens"]) == sorted(index.tokens), "not the same key frames"
    greatest = 0.0
    for token, expected in zip(truth["tokens"], truth["key_ego_from_cam"]):
        key_frame = index[index.position_of(str(token))]
        for camera, chain in zip(key_frame.cameras, expected):
            found = key_frame.key_ego_from_world @ camera.world_from_ego @ camera.ego_from_sensor
            greatest = max(greatest, float(np.abs(found - chain).max()))
    print(f"{len(index)} key frames, {len(CAMERAS)} cameras each: greatest difference {greatest:.2e} (tolerance {TOLERANCE})")
    if greatest > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    {"write": write, "compare": compare}[sys.argv[1]](*sys.argv[2:5])
