"""The threshold of a trained network, from 2D labels that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.progress import track

from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LabelStore
from splattingocc.data.labelled_rays import LabelledRays, Part, auxiliary_rays, inside, join, labelled_rays
from splattingocc.data.loaders import calibration_scenes
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.calibrate import Calibration, ThresholdCalibration
from splattingocc.experiment import ExperimentConfig, build_prediction_loader
from splattingocc.models.network import OccupancyNetwork

CALIBRATION_FRAMES = 16
"""Key frames, evenly spread, that choose the threshold."""


def calibration_frames(config: ExperimentConfig, index: Index) -> tuple[list[int], Part]:
    """Return the key frames with labels that choose the threshold, by position, and which of their rays do."""
    kept_back = index.of_scenes(calibration_scenes(index, config.data.loader))
    positions, part = (kept_back, "all") if kept_back else (index.of_split("train"), "held_out")
    return spread(positions, CALIBRATION_FRAMES), part


def spread(positions: Sequence[int], most: int) -> list[int]:
    """Return so many of the positions, evenly spread over them; all, where there are no more."""
    count = min(len(positions), most)
    return [positions[i * len(positions) // count] for i in range(count)]


def check_labels_reach_grid(config: ExperimentConfig, index: Index, store: LabelStore) -> None:
    """Raise a `ValueError` where no label of the key frames that will choose the threshold lies in the grid, before a whole training."""
    positions, part = calibration_frames(config, index)
    if part == "held_out" and not config.data.loader.held_out_fraction:
        raise ValueError(
            f"data.loader.held_out_fraction is 0 and data.loader.calibration_scenes {config.data.loader.calibration_scenes} keeps no scene "
            "back (at most one in eight): nothing is left to choose the threshold on"
        )
    for position in positions:
        rays, labels = labelled_rays(index[position], store, part=part, held_out_fraction=config.data.loader.held_out_fraction)
        if len(inside(rays, labels, config.grid.voxels)[1].distances):
            return
    raise ValueError(
        f"grid: from {config.grid.lower} to {config.grid.upper} m, and none of the labels of the {len(positions)} key frames on which the "
        f"threshold is chosen lies in it ({store.folder})"
    )


def calibration_rays(config: ExperimentConfig, index: Index, position: int, store: LabelStore, part: Part) -> LabelledRays:
    """Return what the labels of a key frame and of its neighbours say about the volume of that key frame.

    One sweep hits few of the cells that are occupied and crosses most of those that are free; the neighbours' sweeps hit others.
    """
    fraction, reach = config.data.loader.held_out_fraction, config.calibration.label_frames // 2
    parts = [labelled_rays(index[position], store, part=part, held_out_fraction=fraction)]
    for offset in range(-reach, reach + 1):
        neighbour = index.neighbour(position, offset) if offset else None
        if neighbour is not None:
            parts.append(auxiliary_rays(index[neighbour], index[position], store, weight=1.0, part=part, held_out_fraction=fraction))
    return join(parts)


def calibrate(config: ExperimentConfig, network: OccupancyNetwork, index: Index) -> Calibration:
    """Choose the occupancy threshold on the labels of scenes kept back from training, or else on rays that training did not use."""
    store = LabelStore.open(config.data.label_folder)
    index = store.labelled_part(index)
    positions, part = calibration_frames(config, index)
    calibration = ThresholdCalibration(config.calibration, config.grid.voxels)
    loader = build_prediction_loader(config, index, positions)
    samples = predict_fields(network, loader)
    for (_, field), position in zip(track(samples, "calibrating", total=len(positions)), positions):
        rays, labels = calibration_rays(config, index, position, store, part)
        occupancy = field.read_out(config.grid.voxels, threshold=0.5)
        calibration.update(occupancy.probabilities.cpu(), rays, labels)
    return calibration.compute()
