"""2D labels on disk: 7 bytes for each labelled ray, one memory-mapped safetensors file per scene, and a manifest.

The rays of a key frame lie camera by camera, behind the number of rays of each camera: first the pixels (u, v) of all rays, then their
distances, then their classes, so that reading copies nothing byte by byte. Pixels are kept in steps of 1/32 px (1/16 px for images over
2047 px, and so on), so a pixel is off by at most 1/64 px; distances in steps of 2 mm up to 131 m, so a distance is off by at most 1 mm;
a ray may have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, UInt8
from safetensors import safe_open
from safetensors.numpy import save

from splattingocc.data.key_frames import Index
from splattingocc.files import BadFile, child, decoding, read_json, read_sealed_json, sha256_of, write_atomically, write_sealed_json
from splattingocc.taxonomy import IGNORE, SKY

FORMAT_NAME = "splattingocc-labels"
FORMAT_VERSION = 6
LABEL_FOLDER = "labels_2d"
"""Where the labels of a data set lie in its folder, unless they are said to be elsewhere."""
MANIFEST_NAME = "manifest.json"
METRES_PER_STEP = 0.002
NO_DISTANCE = 65535
"""Step of a ray whose distance is not known (nan)."""
MAX_DISTANCE = (NO_DISTANCE - 1) * METRES_PER_STEP
"""Metres; farther labels cannot be stored."""
STEP_DTYPE = np.dtype("<u2")
"""Of a pixel coordinate and of a distance."""
RAY_BYTES = 3 * STEP_DTYPE.itemsize + 1
COUNT_DTYPE = np.dtype("<u4")
"""The number of rays of a camera."""


@dataclass(frozen=True)
class RayTable:
    """The labelled pixels of one key frame."""

    camera_indices: UInt8[np.ndarray, " ray"]
    """Into the cameras of the key frame."""
    semantics: UInt8[np.ndarray, " ray"]
    """Class index, SKY or IGNORE."""
    pixels: Float32[np.ndarray, "ray 2"]
    """u, v in the original image."""
    distances: Float32[np.ndarray, " ray"]
    """Metres from the camera centre to the labelled point; nan where not known."""

    def __len__(self) -> int:
        return len(self.semantics)

    def __getitem__(self, selection: np.ndarray | slice) -> RayTable:
        """Return the selected rays."""
        return RayTable(self.camera_indices[selection], self.semantics[selection], self.pixels[selection], self.distances[selection])


class SceneRecord(msgspec.Struct, frozen=True):
    """What the manifest says about one scene."""

    sha256: str
    """Of the file."""
    source_sha256: str
    """Of the tables and options that the labels were made from, as `scene_fingerprint` gives it."""
    inputs_sha256: str
    """Of the contents of the files that they were made from."""
    num_rays: int
    num_classified: int
    """Rays whose class is known, the sky's left out: of sky alone nothing can be learned about classes."""
    num_measured: int
    """Rays whose distance is known."""
    tokens: tuple[str, ...]
    """Key frames that have labels, in order of time."""
    skipped: dict[str, str] = {}
    """Key frames, by token, that were left out because a file of theirs is missing, and which."""


class Manifest(msgspec.Struct, frozen=True):
    """Describes a store; everything a reader has to know that is not in the scene files."""

    dataset_version: str
    source: str
    """What the labels were made from and with which options."""
    cameras: tuple[str, ...]
    image_sizes: tuple[tuple[int, int], ...]
    """Height and width of each camera's images; the largest, where key frames differ."""
    steps_per_pixel: int
    asked: tuple[str, ...] = ()
    """Names of the scenes that labels were asked for; those of them that are not among `scenes` are still to be made."""
    scenes: dict[str, SceneRecord] = {}
    format: str = FORMAT_NAME
    format_version: int = FORMAT_VERSION
    metres_per_step: float = METRES_PER_STEP

    @property
    def num_rays(self) -> int:
        return sum(scene.num_rays for scene in self.scenes.values())

    @property
    def skipped(self) -> dict[str, str]:
        """Key frames that were left out, by token, and why."""
        return {token: reason for scene in self.scenes.values() for token, reason in scene.skipped.items()}


def scene_path(folder: Path, name: str) -> Path:
    """Return where a store keeps the rays of a scene."""
    return child(folder, f"{name}.safetensors")


def steps_per_pixel(image_sizes: Sequence[tuple[int, int]]) -> int:
    """Return the finest power of two, at most 32, in which every pixel of these images fits 16 bits."""
    steps = 32
    while steps > 1 and max(max(size) for size in image_sizes) * steps > 65535:
        steps //= 2
    return steps


def pack_rays(table: RayTable, *, steps: int, num_cameras: int) -> UInt8[np.ndarray, " byte"]:
    """Return the bytes of a table: the ray count of each camera, then the rays, camera by camera and otherwise in their order.

    A pixel or distance that does not fit is a `ValueError`.
    """
    counts = np.bincount(table.camera_indices, minlength=num_cameras)
    if len(counts) > num_cameras:
        raise ValueError(f"a label's camera is {len(counts) - 1}, there are {num_cameras} cameras")
    table = table[np.argsort(table.camera_indices, kind="stable")]
    pixels = np.rint(table.pixels * steps)
    distances = np.rint(table.distances / METRES_PER_STEP)
    known = distances[~np.isnan(distances)]
    for name, values, smallest, largest in (("pixel", pixels, 0, 65535), ("distance", known, 1, NO_DISTANCE - 1)):
        if not ((values >= smallest) & (values <= largest)).all():
            raise ValueError(
                f"a label's {name} does not fit the store: distances of {METRES_PER_STEP} to {MAX_DISTANCE:.1f} m, pixels up to "
                f"{65535 // steps}"
            )
    steps_along = np.where(np.isnan(distances), NO_DISTANCE, distances)
    columns = (counts.astype(COUNT_DTYPE), pixels.astype(STEP_DTYPE).ravel(), steps_along.astype(STEP_DTYPE), table.semantics)
    return np.concatenate([column.view(np.uint8) for column in columns])


def unpack_rays(packed: UInt8[np.ndarray, " byte"], *, steps: int, num_cameras: int) -> RayTable:
    """Return what `pack_rays` packed; `ValueError` where the counts and the bytes do not agree."""
    header = num_cameras * COUNT_DTYPE.itemsize
    counts = packed[:header].view(COUNT_DTYPE) if len(packed) >= header else np.zeros(0, COUNT_DTYPE)
    num_rays = int(counts.sum(dtype=np.int64))
    if len(counts) != num_cameras or len(packed) != header + num_rays * RAY_BYTES:
        raise ValueError(f"{len(packed)} bytes do not hold {counts.tolist()} rays of {num_cameras} cameras")
    numbers = packed[header : header + num_rays * (RAY_BYTES - 1)].view(STEP_DTYPE)
    steps_along = numbers[2 * num_rays :]
    pixels = numbers[: 2 * num_rays].reshape(-1, 2) * np.float32(1 / steps)
    distances = steps_along * np.float32(METRES_PER_STEP)
    distances[steps_along == NO_DISTANCE] = np.nan
    camera_indices = np.repeat(np.arange(num_cameras, dtype=np.uint8), counts)
    return RayTable(camera_indices, packed[len(packed) - num_rays :].copy(), pixels, distances)


def scene_fingerprint(index: Index, tokens: Sequence[str], source: str) -> str:
    """Return a digest of what the labels of key frames depend on in the tables (files, calibration, poses) and of the options `source`."""
    digest = index.digest([index.position_of(token) for token in tokens])
    return hashlib.sha256(f"{source} {digest}".encode()).hexdigest()


def write_scene(
    folder: Path,
    name: str,
    tables: Mapping[str, RayTable],
    *,
    steps: int,
    num_cameras: int,
    source_sha256: str,
    inputs_sha256: str,
    skipped: Mapping[str, str] | None = None,
) -> SceneRecord:
    """Write the rays of a scene's key frames and return its entry in the manifest."""
    packed = {token: pack_rays(table, steps=steps, num_cameras=num_cameras) for token, table in tables.items()}
    # One metadata key only: safetensors writes several in no fixed order, and equal labels must make equal bytes.
    content = save(packed, metadata={"format": f"{FORMAT_NAME}-{FORMAT_VERSION}"})
    write_atomically(scene_path(folder, name), lambda temporary: temporary.write_bytes(content))
    return SceneRecord(
        sha256=hashlib.sha256(content).hexdigest(),
        source_sha256=source_sha256,
        inputs_sha256=inputs_sha256,
        num_rays=sum(len(table) for table in tables.values()),
        num_classified=sum(int(((table.semantics != IGNORE) & (table.semantics != SKY)).sum()) for table in tables.values()),
        num_measured=sum(int(np.isfinite(table.distances).sum()) for table in tables.values()),
        tokens=tuple(tables),
        skipped=dict(skipped or {}),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, scenes in order of name."""
    ordered = msgspec.structs.replace(manifest, asked=tuple(sorted(manifest.asked)), scenes=dict(sorted(manifest.scenes.items())))
    write_sealed_json(folder / MANIFEST_NAME, ordered)


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest. Another format version is refused by name."""
    path, what = folder / MANIFEST_NAME, "the manifest of a label store"
    if not path.exists():
        raise BadFile(path, "no such file; make the labels first with `splattingocc prepare`")
    found: Any = read_json(path, what=what)
    if not isinstance(found, dict) or found.get("format") != FORMAT_NAME:
        raise BadFile(path, f"not {what}: field format is not {FORMAT_NAME!r}")
    if (version := found.get("format_version")) != FORMAT_VERSION:
        reason = f"label store of format version {version}, this program reads version {FORMAT_VERSION}"
        raise BadFile(path, f"{reason}; delete the folder and run `splattingocc prepare` again")
    with decoding(path, what):
        return msgspec.convert(read_sealed_json(path, what=what), Manifest)


class LabelStore:
    """Reads the rays of key frames. Files are mapped on first use and stay mapped; a pickled store maps anew in its own process."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self._scene_of = {token: name for name, record in manifest.scenes.items() for token in record.tokens}
        self._open_files: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path) -> LabelStore:
        """Open the store in a folder; contents are checked by `verify`, not here."""
        return cls(folder, read_manifest(folder))

    def __contains__(self, token: str) -> bool:
        return token in self._scene_of

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": {}}

    def read(self, token: str) -> RayTable:
        """Return the labelled pixels of a key frame."""
        name = self._scene_of.get(token)
        if name is None:
            raise BadFile(self.folder / MANIFEST_NAME, f"key frame {token} has no labels; run `splattingocc prepare` for its scene")
        path = scene_path(self.folder, name)
        with decoding(path, f"the labels of key frame {token}"):
            packed: np.ndarray = self._open(name, path).get_tensor(token)
            if packed.dtype != np.uint8 or packed.ndim != 1:
                raise ValueError(f"{packed.dtype} {packed.shape}, expected a row of bytes")
            return unpack_rays(packed, steps=self.manifest.steps_per_pixel, num_cameras=len(self.manifest.cameras))

    def _open(self, name: str, path: Path) -> Any:
        """Map a scene's file. Its digest is compared then, once in each process: a scene of nuScenes has 6 MB, which takes 5 ms."""
        file = self._open_files.get(name)
        if file is None:
            self._check_digest(name, path)
            file = self._open_files[name] = safe_open(path, framework="numpy")
        return file

    def _check_digest(self, name: str, path: Path) -> None:
        found, stated = sha256_of(path), self.manifest.scenes[name].sha256
        if found != stated:
            raise BadFile(path, f"damaged: sha256 is {found[:12]}…, the manifest says {stated[:12]}…")

    def labelled_part(self, index: Index) -> Index:
        """Return the index of the key frames that have labels: scenes that `prepare` was not asked for are left out, and what it skipped.

        Scenes that are still to be labelled, labels that were made from other tables, and key frames that the store has never heard of are
        a `ValueError`.
        """
        path = self.folder / MANIFEST_NAME
        positions: list[int] = []
        for scene in index.scenes:
            record = self.manifest.scenes.get(scene.name)
            if record is None and scene.name in self.manifest.asked:
                remedy = (
                    "let `splattingocc prepare` go on; with --skip-missing it leaves out key frames whose files are gone or were deleted"
                )
                raise BadFile(path, f"the labels of {scene.name} are still to be made; {remedy}")
            if record is None:
                continue
            self.check_tables(index, scene.name)
            for position in range(scene.first, scene.first + scene.count):
                token = index.tokens[position]
                if token in self._scene_of:
                    positions.append(position)
                elif token not in record.skipped:
                    raise BadFile(path, f"key frame {token} of {scene.name} has no labels; run `splattingocc prepare` for its scene")
        if not positions:
            reason = f"has labels of none of the {len(index)} key frames of {index.version}; it is of {self.manifest.dataset_version}"
            raise BadFile(path, reason)
        return index if len(positions) == len(index) else index.only(positions)

    def check_tables(self, index: Index, name: str) -> None:
        """Raise a `ValueError` where a scene's labels were made from other tables: their pixels are of other cameras or images."""
        record = self.manifest.scenes.get(name)
        if record is None:
            return
        if not all(map(index.has, record.tokens)) or scene_fingerprint(index, record.tokens, self.manifest.source) != record.source_sha256:
            reason = f"the labels of {name} were made from other tables than {index.version} has now; run `splattingocc prepare` again"
            raise BadFile(scene_path(self.folder, name), reason)

    def verify(self, index: Index | None = None) -> None:
        """Check every file against the manifest and, with an index, that all of its scenes are there and were made from its tables.

        A flipped byte, a missing file, a scene without labels, or labels made from other tables is a `ValueError`. Of scenes that the index
        has not, only the files are compared.
        """
        for scene in index.scenes if index is not None else ():
            if scene.name not in self.manifest.scenes:
                raise BadFile(self.folder / MANIFEST_NAME, f"{scene.name} has no labels; run `splattingocc prepare` to add it")
        in_index = {scene.name for scene in index.scenes} if index is not None else set()
        for name in self.manifest.scenes:
            self._check_digest(name, scene_path(self.folder, name))
            if index is not None and name in in_index:
                self.check_tables(index, name)
        if index is not None:
            self.labelled_part(index)
