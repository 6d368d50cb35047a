"""The prediction cache: what a checkpoint predicts, written once and scored from disk as often as wanted.

`<directory>/<scene>/<frame index>_<token>.npz` holds `semantics` on the experiment's grid (Occ3D's by default), optionally
`probabilities`, and the digest of all that decided them. `provenance.json`, written first, says what that is; `manifest.json`, written
last, that the cache is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from splattingocc.files import BadFile, child, decoding, read_arrays, read_json, read_sealed_json, write_atomically, write_sealed_json
from splattingocc.files.arrays import names_of_arrays
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.taxonomy import FREE

FORMAT_VERSION = 3
TAXONOMY = "occ3d-nuscenes-17"
MANIFEST_NAME = "manifest.json"
PROVENANCE_NAME = "provenance.json"


BYTES_PER_CELL = 8
"""At most; whatever the type of its numbers."""
SMALLEST_LIMIT = 2**20
"""Bytes of a file, however small the grid."""


class GridRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the cells of a prediction lie, as `VoxelGrid` has it."""

    lower: tuple[float, float, float] = OCC3D_GRID.lower
    upper: tuple[float, float, float] = OCC3D_GRID.upper
    cell_size: float = OCC3D_GRID.cell_size

    @property
    def voxels(self) -> VoxelGrid:
        return VoxelGrid(self.lower, self.upper, self.cell_size)

    @classmethod
    def of(cls, grid: VoxelGrid) -> GridRecord:
        return cls(grid.lower, grid.upper, grid.cell_size)


class CachedFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names one key frame of the split."""

    scene: str
    index: int
    """Position of the key frame in its scene, from 0."""
    token: str

    def path_in(self, directory: Path) -> Path:
        """Return where a cache in this directory keeps the frame."""
        return child(child(directory, self.scene), f"{self.index:03d}_{self.token}.npz")


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Says what made a prediction."""

    config: str
    """Name of the config."""
    checkpoint_hash: str
    commit: str
    threshold: float
    """Occupancy probability from which on a voxel counts as occupied, but for the ground's."""
    split: str
    decided_by: dict[str, str]
    """Everything that decides what is predicted, by name: data, network, checkpoint, threshold, code."""
    seed: int | None = None
    """Of the training."""
    grid: GridRecord = GridRecord()
    """That of the predictions."""
    ground_threshold: float | None = None
    """The same of voxels of ground; None in what was written before they had one of their own."""

    @property
    def occupancy_threshold(self) -> OccupancyThreshold:
        """Return what the field was read out by."""
        ground = self.threshold if self.ground_threshold is None else self.ground_threshold
        return OccupancyThreshold(ground=ground, others=self.threshold)

    @property
    def digest(self) -> str:
        """Of what decides the predictions, and of nothing else."""
        return hashlib.sha256(msgspec.json.encode(self.decided_by, order="sorted")).hexdigest()


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
    semantics: UInt8[Tensor, "x y z"]
    """Class index, or FREE."""
    probabilities: Float[Tensor, "x y z"] | None
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
        """Read one frame; a file that is damaged, or of another cache, is a `ValueError` naming it."""
        return read_frame(self.directory, frame, self.manifest.provenance)


def read_frame(directory: Path, frame: CachedFrame, provenance: Provenance) -> CachedPrediction:
    """Read all that a cache holds of one frame."""
    path = frame.path_in(directory)
    grid = provenance.grid.voxels
    arrays = read_arrays(path, ("made_by", "semantics", "probabilities"), limit=_limit(grid))
    _check_semantics(path, arrays.get("semantics"), grid)
    probabilities = arrays.get("probabilities")
    if probabilities is not None and (probabilities.shape != grid.shape or probabilities.dtype != np.float16):
        raise BadFile(path, f"probabilities are {probabilities.dtype} {probabilities.shape}, should be float16 {grid.shape}")
    _check_origin(path, arrays, provenance)
    return CachedPrediction(
        frame, torch.from_numpy(arrays["semantics"]), None if probabilities is None else torch.from_numpy(probabilities)
    )


FOREIGN_NAMES = ("{scene}/{token}/labels.npz", "{scene}/{token}/pred.npz", "{scene}/{token}.npz", "{token}/labels.npz", "{token}.npz")
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


def _limit(grid: VoxelGrid) -> int:
    """Return how many bytes a file of this grid may hold."""
    return max(SMALLEST_LIMIT, grid.num_cells * BYTES_PER_CELL)


def read_grid(path: Path, grid: VoxelGrid = OCC3D_GRID) -> UInt8[Tensor, "x y z"]:
    """Read the predicted grid in a `.npz` of ours or of another program; `ValueError` where there is none, or more than one."""
    there = [key for key in FOREIGN_KEYS if key in names_of_arrays(path)]
    if len(there) != 1:
        found = f"both {there[0]} and {there[1]}: which of them is the prediction?" if there else "none of them"
        raise BadFile(path, f"expected one of the arrays {', '.join(FOREIGN_KEYS)}, and it has {found}")
    semantics = read_arrays(path, there, limit=_limit(grid))[there[0]]
    if semantics.shape == (1, *grid.shape):  # with an axis for the batch
        semantics = semantics[0]
    if not np.issubdtype(semantics.dtype, np.integer) or semantics.size == 0:
        raise BadFile(path, f"{there[0]} is {semantics.dtype} {semantics.shape}, expected whole numbers {grid.shape}")
    if (wrong := semantics[(semantics < 0) | (semantics > FREE)]).size:
        raise BadFile(path, f"{there[0]} holds {wrong[0]}, expected whole numbers from 0 to {FREE} (free)")
    semantics = semantics.astype(np.uint8)
    _check_semantics(path, semantics, grid)
    return torch.from_numpy(semantics)


def grid_of_cache(directory: Path) -> VoxelGrid:
    """Return the grid of the predictions in a folder: what its provenance says, or Occ3D's where it has none, as of another program."""
    provenance = provenance_of_cache(directory)
    return OCC3D_GRID if provenance is None else provenance.grid.voxels


def provenance_of_cache(directory: Path) -> Provenance | None:
    """Return what made the predictions in a folder, whole or not; None of another program's."""
    path, what = directory / PROVENANCE_NAME, "the provenance of a prediction cache"
    if not path.exists():
        return None
    with decoding(path, what):
        return msgspec.convert(read_sealed_json(path, what=what), Provenance)


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
    """Open the predictions of a whole split to score them: a cache of ours, by its manifest, or another program's files.

    A cache of other key frames than these is a `ValueError`: a score of a part is none of the split. So is one of another grid than the
    truth's.
    """
    if not directory.is_dir():
        raise BadFile(directory, "no such folder of predictions")
    if not any((directory / name).is_file() for name in (MANIFEST_NAME, PROVENANCE_NAME)):
        return read_foreign_predictions(directory, frames)
    cache = read_predictions(directory)
    if cache.manifest.provenance.grid.voxels != OCC3D_GRID:
        raise ValueError(f"{directory}: predicted on another grid than Occ3D's truth has; there is nothing to score it against")
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
        self.directory = directory
        self.provenance = provenance

    def refuse_others(self) -> None:
        """Raise a `ValueError` that names what differs where the directory holds predictions that something else decided."""
        found = self._found()
        if found is None:
            return
        differences = [name for name in {**found, **self.provenance.decided_by} if found.get(name) != self.provenance.decided_by.get(name)]
        if differences:
            first = differences[0]
            more = f", and {len(differences) - 1} more differences ({', '.join(differences[1:4])})" if differences[1:] else ""
            there, asked = (_shortened(values.get(first)) for values in (found, self.provenance.decided_by))
            raise ValueError(
                f"{self.directory}: holds predictions made with {first} {there}, asked for is {asked}{more}; --fresh predicts anew, "
                "--dump-dir chooses another folder"
            )

    def _found(self) -> Mapping[str, str] | None:
        """Return what decided the predictions that are there, if there are any."""
        path = self.directory / PROVENANCE_NAME
        if not path.exists():
            manifest = self.directory / MANIFEST_NAME
            if manifest.exists():
                self._refuse_foreign_manifest(manifest)
                raise BadFile(manifest, "of predictions that do not say what made them; --fresh predicts anew")
            return None
        what = "the provenance of a prediction cache"
        try:
            with decoding(path, what):
                return msgspec.convert(read_sealed_json(path, what=what), Provenance).decided_by
        except BadFile:
            return None  # each frame says what made it, too

    def _refuse_foreign_manifest(self, path: Path) -> None:
        """Raise a `ValueError` where the manifest in the folder is of something else: nothing in it is to be removed or replaced then."""
        try:
            found = read_json(path, dict[str, Any], what="a manifest")
        except BadFile:
            return  # a damaged one
        if not {"provenance", "frames"} <= found.keys():
            raise BadFile(path, "of something else than predictions, which may not be replaced; --dump-dir chooses another folder")

    def _remove(self) -> None:
        """Remove the predictions that are there; files of a folder that is no cache of predictions stay."""
        manifest, provenance = self.directory / MANIFEST_NAME, self.directory / PROVENANCE_NAME
        if manifest.exists():
            self._refuse_foreign_manifest(manifest)
        elif not provenance.exists():
            return
        for path in self.directory.glob("*/[0-9][0-9][0-9]*_*.npz"):
            path.unlink()
        provenance.unlink(missing_ok=True)

    def begin(self, *, fresh: bool = False) -> None:
        """Open the cache for writing; until `finish` it counts as incomplete, whatever it was before. `fresh` removes what was in it."""
        if fresh:
            self._remove()
        else:
            self.refuse_others()
        (self.directory / MANIFEST_NAME).unlink(missing_ok=True)
        write_sealed_json(self.directory / PROVENANCE_NAME, self.provenance)

    def has(self, frame: CachedFrame) -> bool:
        """Say whether this very prediction is already there, readable and whole."""
        if not frame.path_in(self.directory).is_file():
            return False
        try:
            read_frame(self.directory, frame, self.provenance)
        except BadFile:
            return False  # damaged, or left by something else: it is predicted again
        return True

    def write(
        self,
        frame: CachedFrame,
        semantics: UInt8[Tensor, "x y z"],
        probabilities: Float[Tensor, "x y z"] | None = None,
    ) -> None:
        """Write one frame; the file appears whole or not at all."""
        path = frame.path_in(self.directory)
        arrays = {"semantics": semantics.cpu().numpy(), "made_by": np.array(self.provenance.digest)}
        _check_semantics(path, arrays["semantics"], self.provenance.grid.voxels)
        if probabilities is not None:
            arrays["probabilities"] = probabilities.detach().to(torch.float16).cpu().numpy()
        write_atomically(path, lambda temporary: _write_npz(temporary, arrays))

    def finish(self, frames: Sequence[CachedFrame]) -> PredictionCache:
        """Check that all frames of the split are there, write the manifest and return the cache."""
        manifest = Manifest(FORMAT_VERSION, TAXONOMY, self.provenance, tuple(frames))
        _check_frames(self.directory, manifest)
        write_sealed_json(self.directory / MANIFEST_NAME, manifest)
        return PredictionCache(self.directory, manifest)


def _shortened(value: str | None) -> str:
    return "nothing" if value is None else value if len(value) <= 60 else f"{value[:12]}…"


def read_predictions(directory: Path) -> PredictionCache:
    """Open a cache, refusing with a `ValueError` one that is incomplete, mixed from two checkpoints, or of another taxonomy."""
    path, what = directory / MANIFEST_NAME, "the manifest of a prediction cache"
    if not path.is_file():
        raise BadFile(path, "no such file; the cache is incomplete, predict again (finished frames are kept)")
    found: Any = read_json(path, what=what)
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:
        raise BadFile(path, f"format_version is {version}, this version reads {FORMAT_VERSION}")
    with decoding(path, what):
        manifest = msgspec.convert(read_sealed_json(path, what=what), Manifest)
    if manifest.taxonomy != TAXONOMY:
        raise BadFile(path, f"taxonomy is {manifest.taxonomy!r}, only {TAXONOMY!r} can be scored")
    _check_frames(directory, manifest)
    return PredictionCache(directory, manifest)


def _check_frames(directory: Path, manifest: Manifest) -> None:
    tokens = [frame.token for frame in manifest.frames]
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"{directory}: token {twice} is listed twice; each frame may be scored once")
    missing = [frame for frame in manifest.frames if not frame.path_in(directory).is_file()]
    if missing:
        first = missing[0].path_in(directory).relative_to(directory)
        raise ValueError(f"{directory}: incomplete, {len(missing)} of {len(tokens)} frames are missing, the first is {first}")
    for frame in manifest.frames:
        path = frame.path_in(directory)
        _check_origin(path, read_arrays(path, ("made_by",), limit=_limit(manifest.provenance.grid.voxels)), manifest.provenance)


def is_made_by(path: Path, provenance: Provenance) -> bool:
    """Return whether a file of a prediction cache says that it was made by this provenance."""
    arrays = read_arrays(path, ("made_by",), limit=_limit(provenance.grid.voxels))
    return _maker_of(arrays) == provenance.digest


def _maker_of(arrays: Mapping[str, np.ndarray]) -> str:
    return str(arrays.get("made_by", "nothing that it names"))


def _check_origin(path: Path, arrays: Mapping[str, np.ndarray], provenance: Provenance) -> None:
    made_by = _maker_of(arrays)
    if made_by != provenance.digest:
        raise BadFile(path, f"made by {made_by[:12]}, the cache by {provenance.digest[:12]}; a cache mixed from two is not scored")


def _check_semantics(path: Path, semantics: np.ndarray | None, grid: VoxelGrid) -> None:
    if semantics is None:
        raise BadFile(path, "has no array 'semantics'")
    if semantics.shape != grid.shape or semantics.dtype != np.uint8:
        raise BadFile(path, f"semantics are {semantics.dtype} {semantics.shape}, should be uint8 {grid.shape}")
    if semantics.max() > FREE:
        raise BadFile(path, f"semantics hold class {semantics.max()}; classes are 0 to {FREE} (free)")


def save_occupancy(path: Path, semantics: UInt8[Tensor, "x y z"], probabilities: Float[Tensor, "x y z"]) -> None:
    """Write one grid by itself: `semantics` as Occ3D's labels.npz has them, and `probabilities` as float16."""
    arrays = {"semantics": semantics.cpu().numpy(), "probabilities": probabilities.detach().to(torch.float16).cpu().numpy()}
    write_atomically(path, lambda temporary: _write_npz(temporary, arrays))


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a path, numpy would add .npz to its name
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
