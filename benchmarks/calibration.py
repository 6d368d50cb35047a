"""How far the threshold that 2D labels chose is from the best that 3D truth would choose.

    python benchmarks/calibration.py CONFIG CHECKPOINT --dataroot DIR --version v1.0-mini

Reads out the val split at many thresholds and scores each against the truth. Prints one JSON line. The best threshold is an oracle's: it
is not to be used.
"""

import argparse
import json
from pathlib import Path

import torch

from splattingocc.data.occ3d import read_truth
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.miou import NUM_LABELS, confusion, scores
from splattingocc.experiment import build_index, build_prediction_loader, load_config
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.pipeline.prediction import open_network
from splattingocc.provenance import environment
from splattingocc.splatting.read_out import read_out
from splattingocc.taxonomy import FREE

STEP = 0.025


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dataroot", type=Path, required=True)
    parser.add_argument("--version", default="v1.0-mini")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    data = config.data.model_copy(update={"dataroot": arguments.dataroot, "version": arguments.version})
    config = config.model_copy(update={"data": data})
    network, chosen = open_network(config, arguments.checkpoint)
    assert chosen is not None
    index = build_index(data, arguments.checkpoint.parent)
    thresholds = [*torch.arange(STEP, 0.95, STEP).tolist(), chosen]
    counts = torch.zeros(len(thresholds), NUM_LABELS, NUM_LABELS, dtype=torch.int64)
    positions = index.of_split("val")
    samples = predict_fields(network, build_prediction_loader(config, index, positions))
    for (_, gaussians), position in zip(samples, positions):
        truth = read_truth(data.truth_folder, index[position].scene, index[position].token)
        everywhere = read_out(gaussians, OCC3D_GRID, threshold=1e-6)
        classes, probabilities = everywhere.semantics.cpu(), everywhere.probabilities.cpu()
        for row, threshold in enumerate(thresholds):
            semantics = torch.where(probabilities >= threshold, classes, torch.full_like(classes, FREE))
            counts[row] += confusion(semantics, truth.semantics, truth.mask_camera)
    scored = [scores(matrix) for matrix in counts]
    best_miou = max(range(len(thresholds)), key=lambda row: scored[row].miou_17)
    best_iou = max(range(len(thresholds)), key=lambda row: scored[row].geometric_iou)
    figures = {
        "chosen": {"threshold": chosen, "miou_17": scored[-1].miou_17, "iou": scored[-1].geometric_iou},
        "best_for_miou": {"threshold": thresholds[best_miou], "miou_17": scored[best_miou].miou_17},
        "best_for_iou": {"threshold": thresholds[best_iou], "iou": scored[best_iou].geometric_iou},
    }
    rounded = {name: {key: round(value, 3) for key, value in values.items()} for name, values in figures.items()}
    print(json.dumps({"what": "calibrated threshold", "frames": len(positions), **rounded} | environment()))


if __name__ == "__main__":
    main()
