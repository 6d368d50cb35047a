"""The prediction cache: what a checkpoint predicts, written once and scored from disk as often as wanted.

`<directory>/<scene>/<frame index>_<token>.npz` holds `semantics` in Occ3D's layout, optionally `probabilities`, and the checkpoint
and threshold that made it. `manifest.json`, written last, says that the cache is whole.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from splattingocc.data.taxonomy import FREE
from splattingocc.files import write_atomically
from splattingocc.geometry.voxel_grid import OCC3D_GRID

FORMAT_VERSION = 2
TAXONOMY = "occ3d-nuscenes-17"
MANIFEST_NAME = "manifest.json"


class CachedFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names one key frame of the split."""

    scene: str
    index: int
    """Position of the key frame in its scene, from 0."""
    token: str

    @property
    def relative_path(self) -> Path:
        return Path(self.scene) / f"{self.index:03d}_{self.token}.npz"


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Says what made a prediction."""

    config: str
    """Name of the config."""
    config_hash: str
    checkpoint_hash: str
    commit: str
    threshold: float
    """Occupancy probability from which on a voxel counts as occupied."""
    split: str
    seed: int | None = None
    """Of the training."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `manifest.json` holds."""

    format_version: int
    taxonomy: str
    provenance: Provenance
    frames: tuple[CachedFrame, ...]


@dataclass(frozen=True)
class CachedPrediction:
    """One predicted key frame."""

    frame: CachedFrame
    semantics: UInt8[Tensor, "200 200 16"]
    """Class index, or FREE."""
    probabilities: Float[Tensor, "200 200 16"] | None
    """Of being occupied, float16; None if the cache was written without."""


@runtime_checkable
class Predictions(Protocol):
    """Predicted key frames on disk, whoever made them."""

    @property
    def frames(self) -> tuple[CachedFrame, ...]: ...

    def read(self, frame: CachedFrame) -> CachedPrediction: ...


@dataclass(frozen=True)
class PredictionCache:
    """A whole cache of one checkpoint; iterating reads its frames one by one."""

    directory: Path
    manifest: Manifest

    @property
    def frames(self) -> tuple[CachedFrame, ...]:
        return self.manifest.frames

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[CachedPrediction]:
        return map(self.read, self.frames)

    def read(self, frame: CachedFrame) -> CachedPrediction:
        """Read one frame; a damaged file is a `ValueError` naming it."""
        path = self.directory / frame.relative_path
        arrays = _read_npz(path, ("semantics", "probabilities"))
        _check_semantics(path, arrays.get("semantics"))
        probabilities = arrays.get("probabilities")
        if probabilities is not None and (probabilities.shape != OCC3D_GRID.shape or probabilities.dtype != np.float16):
            raise ValueError(f"{path}: probabilities are {probabilities.dtype} {probabilities.shape}, should be float16 {OCC3D_GRID.shape}")
        return CachedPrediction(
            frame, torch.from_numpy(arrays["semantics"]), None if probabilities is None else torch.from_numpy(probabilities)
        )


FOREIGN_NAMES = ("{scene}/{token}/labels.npz", "{scene}/{token}.npz", "{token}/labels.npz", "{token}.npz")
"""Where another program may have put the prediction of a key frame."""
FOREIGN_KEYS = ("semantics", "pred", "arr_0")
"""What it may have called the grid."""


@dataclass(frozen=True)
class ForeignPredictions:
    """Predictions of another program: one `.npz` a key frame, a grid of whole numbers 0..17 in Occ3D's layout."""

    directory: Path
    frames: tuple[CachedFrame, ...]
    paths: dict[str, Path]
    """By token."""

    def read(self, frame: CachedFrame) -> CachedPrediction:
        """Read one frame; a damaged file is a `ValueError` naming it."""
        return CachedPrediction(frame, read_grid(self.paths[frame.token]), None)


def read_grid(path: Path) -> UInt8[Tensor, "200 200 16"]:
    """Read the predicted grid in a `.npz` of ours or of another program; `ValueError` where there is none."""
    arrays = _read_npz(path, FOREIGN_KEYS)
    if not arrays:
        raise ValueError(f"{path}: has none of the arrays {', '.join(FOREIGN_KEYS)}")
    semantics = next(iter(arrays.values()))
    if not np.issubdtype(semantics.dtype, np.integer) or semantics.size == 0 or semantics.min() < 0 or semantics.max() > FREE:
        raise ValueError(f"{path}: the grid is {semantics.dtype}, expected whole numbers from 0 to {FREE} (free)")
    semantics = semantics.astype(np.uint8)
    _check_semantics(path, semantics)
    return torch.from_numpy(semantics)


def read_foreign_predictions(directory: Path, frames: Sequence[CachedFrame]) -> ForeignPredictions:
    """Find another program's predictions of these key frames; `ValueError` names the first that has none and counts the others."""
    paths: dict[str, Path] = {}
    for frame in frames:
        names = (name.format(scene=frame.scene, token=frame.token) for name in FOREIGN_NAMES)
        path = next((directory / name for name in names if (directory / name).is_file()), None)
        if path is not None:
            paths[frame.token] = path
    missing = [frame for frame in frames if frame.token not in paths]
    if missing:
        raise ValueError(
            f"{directory}: no prediction for {len(missing)} of {len(frames)} key frames, the first is {missing[0].token} of "
            f"{missing[0].scene}; looked for {', '.join(FOREIGN_NAMES)}"
        )
    return ForeignPredictions(directory, tuple(frames), paths)


def open_predictions(directory: Path, frames: Sequence[CachedFrame]) -> Predictions:
    """Open the predictions of a whole split: a cache of ours, by its manifest, or another program's files.

    A cache of other key frames than these is a `ValueError`: a score of a part is none of the split.
    """
    if not (directory / MANIFEST_NAME).is_file() and not any(directory.glob(f"*/[0-9][0-9][0-9]_{frames[0].token}.npz")):
        return read_foreign_predictions(directory, frames)
    cache = read_predictions(directory)
    there, asked = ({frame.token for frame in one} for one in (cache.frames, frames))
    if there != asked:
        raise ValueError(
            f"{directory}: holds {len(there)} key frames of split {cache.manifest.provenance.split}, {len(there - asked)} of them not "
            f"asked for; asked for are {len(asked)}, of which {len(asked - there)} are missing"
        )
    return cache


class PredictionWriter:
    """Writes a cache frame by frame. An interrupted one goes on where it stopped: ask `has` before predicting a frame."""

    def __init__(self, directory: Path, provenance: Provenance) -> None:
        """Open the cache for writing; until `finish` it counts as incomplete, whatever it was before."""
        self.directory = directory
        self.provenance = provenance
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST_NAME).unlink(missing_ok=True)

    def has(self, frame: CachedFrame) -> bool:
        """Say whether a prediction of this very checkpoint and threshold is already there, readable and whole."""
        path = self.directory / frame.relative_path
        if not path.is_file():
            return False
        try:
            _check_origin(path, self.provenance)
            _check_semantics(path, _read_npz(path, ("semantics",)).get("semantics"))
        except ValueError:
            return False  # of another checkpoint, or damaged: it will be predicted again
        return True

    def write(
        self,
        frame: CachedFrame,
        semantics: UInt8[Tensor, "200 200 16"],
        probabilities: Float[Tensor, "200 200 16"] | None = None,
    ) -> None:
        """Write one frame; the file appears whole or not at all."""
        path = self.directory / frame.relative_path
        arrays = {
            "semantics": semantics.cpu().numpy(),
            "checkpoint_hash": np.array(self.provenance.checkpoint_hash),
            "threshold": np.array(self.provenance.threshold, dtype=np.float64),
        }
        _check_semantics(path, arrays["semantics"])
        if probabilities is not None:
            arrays["probabilities"] = probabilities.detach().to(torch.float16).cpu().numpy()
        write_atomically(path, lambda temporary: _write_npz(temporary, arrays))

    def finish(self, frames: Sequence[CachedFrame]) -> PredictionCache:
        """Check that all frames of the split are there, write the manifest and return the cache."""
        manifest = Manifest(FORMAT_VERSION, TAXONOMY, self.provenance, tuple(frames))
        _check_frames(self.directory, manifest)
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        write_atomically(self.directory / MANIFEST_NAME, lambda temporary: temporary.write_bytes(text))
        return PredictionCache(self.directory, manifest)


def read_predictions(directory: Path) -> PredictionCache:
    """Open a cache, refusing with a `ValueError` one that is incomplete, mixed from two checkpoints, or of another taxonomy."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the cache is incomplete, predict again (finished frames are kept)")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a manifest of a prediction cache: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ValueError(f"{path}: format_version is {manifest.format_version}, this version reads {FORMAT_VERSION}")
    if manifest.taxonomy != TAXONOMY:
        raise ValueError(f"{path}: taxonomy is {manifest.taxonomy!r}, only {TAXONOMY!r} can be scored")
    _check_frames(directory, manifest)
    return PredictionCache(directory, manifest)


def _check_frames(directory: Path, manifest: Manifest) -> None:
    tokens = [frame.token for frame in manifest.frames]
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"{directory}: token {twice} is listed twice; each frame may be scored once")
    missing = [frame for frame in manifest.frames if not (directory / frame.relative_path).is_file()]
    if missing:
        first = missing[0].relative_path
        raise ValueError(f"{directory}: incomplete, {len(missing)} of {len(tokens)} frames are missing, the first is {first}")
    for frame in manifest.frames:
        _check_origin(directory / frame.relative_path, manifest.provenance)


def _check_origin(path: Path, provenance: Provenance) -> None:
    arrays = _read_npz(path, ("checkpoint_hash", "threshold"))
    if len(arrays) < 2:
        raise ValueError(f"{path}: does not say which checkpoint and threshold made it (checkpoint_hash, threshold)")
    checkpoint_hash, threshold = str(arrays["checkpoint_hash"]), float(arrays["threshold"])
    if checkpoint_hash != provenance.checkpoint_hash:
        raise ValueError(
            f"{path}: made by checkpoint {checkpoint_hash}, the cache by {provenance.checkpoint_hash}; "
            "a cache mixed from two checkpoints is not scored"
        )
    if not math.isclose(threshold, provenance.threshold):
        raise ValueError(f"{path}: made with threshold {threshold}, the cache with {provenance.threshold}")


def _check_semantics(path: Path, semantics: np.ndarray | None) -> None:
    if semantics is None:
        raise ValueError(f"{path}: has no array 'semantics'")
    if semantics.shape != OCC3D_GRID.shape or semantics.dtype != np.uint8:
        raise ValueError(f"{path}: semantics are {semantics.dtype} {semantics.shape}, should be uint8 {OCC3D_GRID.shape}")
    if semantics.max() > FREE:
        raise ValueError(f"{path}: semantics hold class {semantics.max()}; classes are 0 to {FREE} (free)")


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a path, numpy would add .npz to its name
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def _read_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return those of the named arrays that the file has."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys if key in archive}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a readable prediction: {error}") from error
