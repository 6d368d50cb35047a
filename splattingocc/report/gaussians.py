"""How Gaussians travel to the page's viewer: the most opaque ones, 15 bytes each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from splattingocc.engine.checkpoint import NETWORK_FILE
from splattingocc.engine.inference import predict_fields
from splattingocc.experiment import build_index, build_prediction_set
from splattingocc.files import sha256_of
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.pipeline.networks import with_folders_here
from splattingocc.pipeline.prediction import open_network, what_decides, with_data_of
from splattingocc.report.found import Found
from splattingocc.report.voxels import deflated
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.struct import stack

SCALE_STEPS_PER_OCTAVE = 16
"""Of the logarithm in which a standard deviation travels: a step is 4 percent."""
SMALLEST_SCALE = 2.0**-10
"""Metres."""
FAINTEST = 0.1
"""Opacity of what is too faint to be shown."""


@dataclass(frozen=True)
class PackedGaussians:
    """Some of the Gaussians of a key frame."""

    there: int
    """How many there were to choose from."""
    content: bytes
    """Deflated planes of bytes: means as 16-bit shares of the grid (x, y, z), logarithms of scales, quaternions w x y z in 127ths,
    opacities in 255ths, classes."""


def predict_gaussians(found: Found, most: int) -> dict[str, PackedGaussians]:
    """Return the Gaussians of the key frames that are shown, by token, as the network of the run sees them again.

    Where it cannot (another network than the predictions', no images, a field of another kind) there are none, and a line of what is
    missing says why.
    """
    if found.cache is None or not found.frames or not most:
        return {}
    if found.network is None or found.experiment is None:
        found.missing.append(f"Gaussians: no {NETWORK_FILE} in {found.folder}, which predicts them")
        return {}
    if sha256_of(found.network) != found.cache.manifest.provenance.checkpoint_hash:
        found.missing.append(f"Gaussians: {found.network} is another network than that of the predictions")
        return {}
    try:
        by = found.cache.manifest.provenance
        config, _ = with_folders_here(with_data_of(found.experiment, by), found.network)
        index = build_index(config.data, found.folder)
        now = what_decides(config, by.checkpoint_hash, by.occupancy_threshold, found.split, index)
        other = [name for name in by.decided_by if name.startswith("data.") or name == "tables" if by.decided_by[name] != now.get(name)]
        if other:
            there, here = by.decided_by[other[0]], now.get(other[0])
            raise ValueError(f"the predictions were made with {other[0]} {there}, this network would be asked with {here}")
        positions = {index.tokens[position]: position for position in index.of_split(found.split)}
        asked = [positions[frame.token] for frame in found.frames if frame.token in positions]
        if len(asked) < len(found.frames):
            found.missing.append(f"Gaussians: {len(found.frames) - len(asked)} key frames are not in {config.data.dataroot}")
        network, _ = open_network(config, found.network)
        samples = build_prediction_set(config.data, index, asked)
        packed: dict[str, PackedGaussians] = {}
        for i in track(range(len(asked)), "predicting Gaussians", transient=True):
            field = next(predict_fields(network, [stack([samples[i]])]))[1]
            if not isinstance(field, Gaussians):
                raise ValueError(f"its head predicts {type(field).__name__}, which is rendered without any")
            packed[index.tokens[asked[i]]] = pack_gaussians(field, found.grid, most)
    except ValueError as error:
        found.missing.append(f"Gaussians: {error}")
        return {}
    return packed


def pack_gaussians(gaussians: Gaussians, grid: VoxelGrid, most: int) -> PackedGaussians:
    """Pack at most so many Gaussians that are not too faint, the most opaque ones."""
    lower, upper = (gaussians.means.new_tensor(corner) for corner in (grid.lower, grid.upper))
    inside = ((gaussians.means >= lower) & (gaussians.means <= upper)).all(dim=-1) & (gaussians.opacities >= FAINTEST)
    there = inside.nonzero().flatten()
    chosen = there[gaussians.opacities[there].argsort(descending=True, stable=True)[:most]].sort().values
    shares = (gaussians.means[chosen] - lower) / (upper - lower)
    octaves = (gaussians.scales[chosen].clamp(min=SMALLEST_SCALE) / SMALLEST_SCALE).log2()
    columns = (
        *_columns(shares * 65535, np.uint16),
        *_columns(octaves * SCALE_STEPS_PER_OCTAVE, np.uint8),
        *_columns(gaussians.quats[chosen] * 127, np.int8),
        *_columns(gaussians.opacities[chosen, None] * 255, np.uint8),
        *_columns(gaussians.features[chosen].argmax(dim=-1, keepdim=True).float(), np.uint8),
    )
    return PackedGaussians(len(there), deflated(*columns))


def _columns(values: torch.Tensor, kind: type[np.integer]) -> list[np.ndarray]:
    limits, little = np.iinfo(kind), np.dtype(kind).newbyteorder("<")
    values = values.detach().cpu().round().clamp(int(limits.min), int(limits.max))
    return [column.numpy().astype(little) for column in values.unbind(-1)]
