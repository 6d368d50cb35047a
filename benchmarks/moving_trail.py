"""What moving things would leave behind, were their labels of neighbouring key frames kept: measured on labels and truth, no network.

    splattingocc synth --out D --scenes 30 --val-scenes 6 --frames 2 --image-size 180 320 && splattingocc prepare --dataroot D
    python benchmarks/moving_trail.py --dataroot D

For every pair of neighbouring key frames, the labelled surfaces of one are placed in the ego frame of the other. Prints a JSON line for
each kind of label: how many there are for each key frame, and how many percent lie in a cell that is free in the other's truth, or in one
that truth fills with another class, among those inside its mask_camera. The last line is of what training takes (`auxiliary_rays`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import LabelledRays, auxiliary_rays, labelled_rays
from splattingocc.data.nuscenes import only_version, read_index
from splattingocc.data.occ3d import OccupancyTruth, read_truth
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.provenance import environment
from splattingocc.taxonomy import FREE, MOVING_CLASSES, NUM_CLASSES

KINDS = ("own key frame, moving classes", "neighbour, moving classes", "neighbour, other classes", "neighbour, as training takes it")


def count(labelled: LabelledRays, truth: OccupancyTruth, chosen: Tensor | None = None) -> Tensor:
    """Return how many labelled surfaces lie in cells that truth knows, and how many of those in free and in otherwise filled ones."""
    rays, labels = labelled
    cells, inside = OCC3D_GRID.cells_of(rays.at(labels.distances))
    counted = inside & (labels.semantics < NUM_CLASSES)
    if chosen is not None:
        counted &= chosen
    x, y, z = cells[counted].unbind(-1)
    seen = truth.mask_camera[x, y, z]
    found, said = truth.semantics[x, y, z][seen].long(), labels.semantics[counted][seen]
    free = found == FREE
    return torch.stack([seen.sum(), free.sum(), (~free & (found != said)).sum()])


def measure(index: Index, store: LabelStore, gts: Path) -> tuple[dict[str, Tensor], int]:
    """Return the counts of each kind over all pairs, and how many pairs there are."""
    totals, pairs = {kind: torch.zeros(3, dtype=torch.int64) for kind in KINDS}, 0
    for position in range(len(index)):
        key_frame = index[position]
        truth = read_truth(gts, key_frame.scene, key_frame.token)
        own = labelled_rays(key_frame, store)
        totals[KINDS[0]] += count(own, truth, _moving(own))
        for offset in (-1, 1):
            neighbour = index.neighbour(position, offset)
            if neighbour is None:
                continue
            pairs += 1
            placed = labelled_rays(index[neighbour], store, in_ego_of=key_frame)
            totals[KINDS[1]] += count(placed, truth, _moving(placed))
            totals[KINDS[2]] += count(placed, truth, ~_moving(placed))
            taken = auxiliary_rays(index[neighbour], key_frame, store, weight=1.0, part="all", held_out_fraction=0.0)
            totals[KINDS[3]] += count(taken, truth)
    return totals, pairs


def _moving(labelled: LabelledRays) -> Tensor:
    return torch.isin(labelled[1].semantics, torch.tensor(MOVING_CLASSES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True)
    options = parser.parse_args()
    index = read_index(options.dataroot, only_version(options.dataroot))
    store = LabelStore.open(options.dataroot / "labels_2d")
    index = store.labelled_part(index)
    totals, pairs = measure(index, store, options.dataroot / "gts")
    for kind, (seen, free, other) in ((kind, found.tolist()) for kind, found in totals.items()):
        shares = (
            {"in_free_cells_percent": round(100 * free / seen, 2), "in_other_class_percent": round(100 * other / seen, 2)} if seen else {}
        )
        frames = len(index) if kind == KINDS[0] else pairs
        line = {"labels": kind, "pairs_or_frames": frames, "for_each": round(seen / frames, 1) if frames else None, **shares}
        print(json.dumps(line | {key: environment()[key] for key in ("commit",)}))


if __name__ == "__main__":
    main()
