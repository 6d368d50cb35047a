"""Load a data set with the official nuscenes-devkit and check what it says about it.

The devkit needs numpy < 2, so it lives in an environment of its own, and this script imports nothing of SplattingOcc:
    python3.11 -m venv DEVKIT && DEVKIT/bin/pip install nuscenes-devkit
    DEVKIT/bin/python tests/oracles/devkit_loads.py DATAROOT [VERSION]

Of a synthetic data set, give one that was written with --no-label-errors: wrong instances are not what the boxes say.
"""

import os
import sys

import numpy as np
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points
from pyquaternion import Quaternion

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")


def check_chains(nusc: NuScenes) -> int:
    """Walk every chain from its first to its last link; return the number of links."""
    links = 0
    for scene in nusc.scene:
        token, seen = scene["first_sample_token"], []
        while token:
            seen.append(token)
            token = nusc.get("sample", token)["next"]
        assert seen[-1] == scene["last_sample_token"]
        assert len(seen) == scene["nbr_samples"]
        for channel in (*CAMERAS, "LIDAR_TOP"):
            tokens = [nusc.get("sample", sample)["data"][channel] for sample in seen]
            assert [nusc.get("sample_data", t)["next"] for t in tokens] == [*tokens[1:], ""]
            assert [nusc.get("sample_data", t)["prev"] for t in tokens] == ["", *tokens[:-1]]
            links += len(tokens)
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            last, token, count = token, nusc.get("sample_annotation", token)["next"], count + 1
        assert last == instance["last_annotation_token"]
        assert count == instance["nbr_annotations"]
        links += count
    return links


def lidar_of(nusc: NuScenes, sample: dict) -> tuple[np.ndarray, np.ndarray, dict]:
    """Return the points (3, N) in the sensor frame, their categories, and the sample_data row."""
    row = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    points = LidarPointCloud.from_file(os.path.join(nusc.dataroot, row["filename"])).points[:3]
    labels = np.fromfile(os.path.join(nusc.dataroot, nusc.get("lidarseg", row["token"])["filename"]), dtype=np.uint8)
    assert points.shape[1] == len(labels)
    return points, labels, row


def check_boxes(nusc: NuScenes, sample: dict) -> tuple[int, int, int]:
    """Count, over the annotated boxes, their points by the table, those inside by the devkit, and those inside of the right category."""
    points, labels, row = lidar_of(nusc, sample)
    _, boxes, _ = nusc.get_sample_data(row["token"])
    said, inside, right = 0, 0, 0
    for box in boxes:
        annotation = nusc.get("sample_annotation", box.token)
        mask = points_in_box(box, points, wlh_factor=1.05)
        category = nusc.lidarseg_name2idx_mapping[annotation["category_name"]]
        said += annotation["num_lidar_pts"]
        inside += int(mask.sum())
        right += int((labels[mask] == category).sum())
    return said, inside, right


def points_in_images(nusc: NuScenes, sample: dict) -> dict[str, int]:
    """Project the sweep into every camera through both ego poses, as nuScenes prescribes; return the points in each image."""
    points, _, row = lidar_of(nusc, sample)
    counts = {}
    for channel in CAMERAS:
        camera = nusc.get("sample_data", sample["data"][channel])
        moved = points
        for data, forward in ((row, True), (camera, False)):
            tables = ("calibrated_sensor", "ego_pose") if forward else ("ego_pose", "calibrated_sensor")
            for table in tables:
                pose = nusc.get(table, data[f"{table}_token"])
                rotation, shift = Quaternion(pose["rotation"]).rotation_matrix, np.array(pose["translation"])[:, None]
                moved = rotation @ moved + shift if forward else rotation.T @ (moved - shift)
        K = np.array(nusc.get("calibrated_sensor", camera["calibrated_sensor_token"])["camera_intrinsic"])
        pixels = view_points(moved, K, normalize=True)
        inside = (moved[2] > 1.0) & (pixels[0] >= 0) & (pixels[0] < camera["width"]) & (pixels[1] >= 0) & (pixels[1] < camera["height"])
        counts[channel] = int(inside.sum())
    return counts


def main() -> None:
    dataroot, version = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "v1.0-mini"
    nusc = NuScenes(version=version, dataroot=dataroot, verbose=True)
    nusc.list_scenes()
    print("links followed in all chains:", check_chains(nusc))
    for sample in nusc.sample[:3]:
        said, inside, right = check_boxes(nusc, sample)
        print(
            f"{len(sample['anns'])} boxes: {said} points by the table, {inside} inside by the devkit, {right} of them of the box's category"
        )
        assert right >= 0.98 * said, "boxes do not hold the points that the table gives them"
        print("points in each image:", points_in_images(nusc, sample))
    nusc.list_lidarseg_categories()
    nusc.render_sample_data(nusc.sample[0]["data"]["CAM_FRONT"], verbose=False)
    print("OK")


if __name__ == "__main__":
    main()
