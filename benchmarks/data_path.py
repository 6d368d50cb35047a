"""Speed of the data path on one core: making labels, reading the store, making training samples.

    python benchmarks/data_path.py --dataroot DIR --version v1.0-mini

Prints one JSON line for each measurement. Files are read once before, so the disk is not in the figures.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from splattingocc.data.label_store import LabelStore
from splattingocc.data.loaders import LoaderConfig, TrainingSet
from splattingocc.data.nuscenes import read_index
from splattingocc.labels.generate import generate_labels
from splattingocc.labels.lidar import project_lidar

IMAGE_SIZES = ((256, 704), (512, 1408), (900, 1600))


def report(what: str, run: Callable[[], object], *, repeats: int, **sizes: object) -> None:
    """Print the median and the 95th percentile of the milliseconds that `run` takes."""
    run()
    milliseconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        milliseconds.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(milliseconds, (50, 95))
    figures = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "per_second": round(1000 / p50, 1)}
    print(json.dumps({"what": what, **sizes, **figures, "device": platform.processor() or platform.machine(), "torch": torch.__version__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True)
    parser.add_argument("--version", default="v1.0-mini")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        index = read_index(arguments.dataroot, arguments.version, cache_dir=out)
        position = index.of_split("train")[0]
        key_frame = index[position]
        generate_labels(index, arguments.dataroot, out / "labels", scenes=[key_frame.scene], show_progress=False)
        store = LabelStore.open(out / "labels")
        num_rays = len(store.read(key_frame.token))
        report("project lidar", lambda: project_lidar(key_frame, arguments.dataroot), repeats=30, rays=num_rays)
        report("read labels", lambda: store.read(key_frame.token), repeats=300, rays=num_rays, bytes=7 * num_rays)
        for image_size in IMAGE_SIZES:
            config = LoaderConfig(image_size=image_size, load_interval=len(index))
            dataset = TrainingSet(index, store, arguments.dataroot, config)
            source = key_frame.cameras[0].image_size
            report("training sample", lambda dataset=dataset: dataset[0], repeats=10, source=source, image_size=image_size)


if __name__ == "__main__":
    main()
