"""Time and memory to read the tables of a data set of the size of v1.0-trainval, from made-up tables of that size.

    python benchmarks/index_trainval.py --folder /tmp/trainval-tables

Writes 2 GB of tables where the folder does not have them yet; prints one JSON line for building the index and one for loading its cache.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from splattingocc.data.nuscenes import read_index
from splattingocc.data.nuscenes_columns import CHANNELS
from splattingocc.data.nuscenes_taxonomy import LIDARSEG_CATEGORIES

VERSION = "v1.0-trainval"
NUM_SCENES, NUM_SAMPLES, NUM_SENSOR_FRAMES = 850, 34_149, 2_631_083
"""Published counts of v1.0-trainval."""


def write_tables(folder: Path) -> None:
    """Write tables of the published row counts; the content of sweeps is never looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = (*CHANNELS, "RADAR_FRONT")
    quat, position = (
        "[\n0.5720320396729045,\n-0.0016977771610471074,\n0.011798001930183783,\n-0.8201446642457809\n]",
        "[\n411.3039349319818,\n1180.8903791765097,\n0.0\n]",
    )
    K = [[1266.417203046554, 0.0, 816.2670197447984], [0.0, 1266.417203046554, 491.50706579294757], [0.0, 0.0, 1.0]]
    mounts = [
        {
            "token": f"{scene:016x}{i:016x}",
            "sensor_token": channel,
            "translation": [1.7, 0.0, 1.5],
            "rotation": [0.5, -0.5, 0.5, -0.5],
            "camera_intrinsic": K if channel.startswith("CAM") else [],
        }
        for scene in range(NUM_SCENES)
        for i, channel in enumerate(channels)
    ]
    scene_of = [i * NUM_SCENES // NUM_SAMPLES for i in range(NUM_SAMPLES)]
    plain = {
        "scene": [{"token": f"{i:032x}", "name": f"scene-{i:04d}"} for i in range(NUM_SCENES)],
        "sample": [{"token": f"{i:032x}", "scene_token": f"{scene_of[i]:032x}", "timestamp": i * 500_000} for i in range(NUM_SAMPLES)],
        "sensor": [{"token": channel, "channel": channel} for channel in channels],
        "calibrated_sensor": mounts,
        "category": [{"token": str(i), "name": name, "index": i} for i, (name, _) in enumerate(LIDARSEG_CATEGORIES)],
        "lidarseg": [],
    }
    for name, rows in plain.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
    with (folder / "sample_data.json").open("w") as sample_data, (folder / "ego_pose.json").open("w") as ego_pose:
        for i in range(NUM_SENSOR_FRAMES):
            separator = "[\n" if i == 0 else ",\n"
            is_key_frame = i < NUM_SAMPLES * len(channels)
            sample, sensor = (i // len(channels), i % len(channels)) if is_key_frame else (i % NUM_SAMPLES, 0)
            token, channel = f"{i:032x}", channels[sensor]
            ego_pose.write(f'{separator}{{\n"token": "{token}",\n"timestamp": {i},\n"rotation": {quat},\n"translation": {position}\n}}')
            sample_data.write(
                f'{separator}{{\n"token": "{token}",\n"sample_token": "{sample:032x}",\n"ego_pose_token": "{token}",\n'
                f'"calibrated_sensor_token": "{scene_of[sample]:016x}{sensor:016x}",\n"timestamp": {i},\n"fileformat": "jpg",\n'
                f'"is_key_frame": {str(is_key_frame).lower()},\n"height": 900,\n"width": 1600,\n'
                f'"filename": "samples/{channel}/n015-2018-07-24-11-22-45+0800__{channel}__{i:016d}.jpg",\n'
                f'"prev": "{token}",\n"next": "{token}"\n}}'
            )
        ego_pose.write("\n]")
        sample_data.write("\n]")


def measure(dataroot: Path, stage: str) -> None:
    """Read the index in this process and print what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    index = read_index(dataroot, VERSION)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "what": f"index {stage}",
                "key_frames": len(index),
                "sensor_frames": NUM_SENSOR_FRAMES,
                "seconds": round(seconds, 2),
                "peak_memory_gb": round(peak / 2**20, 2),
                "over_start_gb": round((peak - before) / 2**20, 2),
                "machine": platform.machine(),
                "python": platform.python_version(),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the tables are, or are to be written")
    parser.add_argument("--stage", choices=("build", "load"), help="measure this stage only, in this process")
    arguments = parser.parse_args()
    if arguments.stage:
        measure(arguments.folder, arguments.stage)
        return
    if not (arguments.folder / VERSION / "ego_pose.json").exists():
        write_tables(arguments.folder / VERSION)
    for cache in (arguments.folder / ".splattingocc").glob("index-*"):
        cache.unlink()
    for stage in ("build", "load"):
        subprocess.run([sys.executable, __file__, "--folder", str(arguments.folder), "--stage", stage], check=True)


if __name__ == "__main__":
    main()
