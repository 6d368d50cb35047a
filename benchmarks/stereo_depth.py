"""How often the image branch of trained networks knows the depth of what stands on the ground, with and without a frame before.

    python benchmarks/stereo_depth.py work_dirs/alone work_dirs/stereo --part all --split val

For each run and for classes that move and that do not, prints a JSON line: the share of labelled pixels of classes that are no ground whose
depth lies within 10 % of the label's, taken as the mode and as the median of the pixel's distribution, in all key frames and in those
that have one before them in their scene: of the first ones the frame before is the same one again, and says nothing.

A network whose image branch alone was trained will do: `--optimization.image-steps` of as many steps as there are, or more.
"""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import labelled_rays
from splattingocc.engine.checkpoint import NETWORK_FILE
from splattingocc.experiment import build_index, build_prediction_loader, load_config
from splattingocc.losses.pixels import label_pixels
from splattingocc.pipeline.prediction import open_network, training_seed
from splattingocc.provenance import environment
from splattingocc.struct import stack
from splattingocc.taxonomy import GROUND_CLASSES, MOVING_CLASSES, NUM_CLASSES

TOLERANCE = 0.1
"""Of the label's depth."""


@torch.inference_mode()
def measure(run: Path, split: str, part: str) -> dict[str, torch.Tensor]:
    """Return, for each labelled pixel of classes that are no ground: its class, the errors of mode and median, and if a frame is before."""
    config = load_config(run / "config.json")
    network, _ = open_network(config, run / NETWORK_FILE)
    device = next(network.parameters()).device
    bins = config.network.image_reader.depth_bins
    middles = bins.middles().to(device)
    store = LabelStore.open(config.data.label_folder)
    index = store.labelled_part(build_index(config.data, run))
    positions = index.of_split(split)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("semantics", "mode", "median", "has_earlier")}
    samples = zip(build_prediction_loader(config, index, positions), positions)
    for sample, position in track(samples, run.name, total=len(positions), console=Console(stderr=True)):
        views = sample.views.to(device)
        distribution = network.read_images(views).depth_logits.flatten(0, 1).softmax(dim=1)
        held_out_fraction = config.data.loader.held_out_fraction
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=held_out_fraction)
        pixels = label_pixels(stack([rays]).to(device), stack([labels]).to(device), views.cameras[:, 0])
        height, width = distribution.shape[-2:]
        columns = (pixels.positions[:, 0] * width).long().clamp(0, width - 1)
        rows = (pixels.positions[:, 1] * height).long().clamp(0, height - 1)
        of_pixels = distribution[pixels.images, :, rows, columns]
        stands = ~torch.isin(pixels.semantics, torch.tensor(GROUND_CLASSES, device=device)) & (pixels.semantics < NUM_CLASSES)
        stands &= (pixels.depths >= bins.nearest) & (pixels.depths < bins.farthest)
        depths = {
            "mode": middles[of_pixels.argmax(dim=1)],
            "median": middles[(of_pixels.cumsum(dim=1) < 0.5).sum(dim=1).clamp(max=bins.count - 1)],
        }
        for name, depth in depths.items():
            found[name].append(((depth - pixels.depths).abs() / pixels.depths)[stands].cpu())
        found["semantics"].append(pixels.semantics[stands].cpu())
        found["has_earlier"].append(torch.full((int(stands.sum()),), index.neighbour(position, -1) is not None))
    return {name: torch.cat(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="work directories of finished trainings")
    parser.add_argument("--split", default="val")
    parser.add_argument("--part", choices=("all", "train", "held_out"), default="all", help="which labels; held_out for the train split")
    arguments = parser.parse_args()
    for run in arguments.runs:
        found = measure(run, arguments.split, arguments.part)
        moves = torch.isin(found["semantics"], torch.tensor(MOVING_CLASSES))
        for classes, chosen in (("moving", moves), ("static", ~moves)):
            figures: dict[str, float | int] = {}
            for frames, among in (("all", chosen), ("with_earlier", chosen & found["has_earlier"])):
                figures[f"pixels_{frames}"] = int(among.sum())
                for name in ("mode", "median"):
                    figures[f"{name}_within_10_percent_{frames}"] = round((found[name][among] <= TOLERANCE).float().mean().item(), 4)
            what = {"what": "image branch depth", "run": str(run), "seed": training_seed(run / NETWORK_FILE), "split": arguments.split}
            print(json.dumps(what | {"part": arguments.part, "classes": classes} | figures | environment()))


if __name__ == "__main__":
    main()
