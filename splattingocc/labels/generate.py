"""Make the label store of a data set, scene by scene, in parallel, and so that it can be interrupted at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splattingocc.data.camera_images import check_size
from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import (
    MANIFEST_NAME,
    LabelStore,
    Manifest,
    RayTable,
    SceneRecord,
    read_manifest,
    scene_fingerprint,
    scene_path,
    steps_per_pixel,
    write_manifest,
    write_scene,
)
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.files import BadFile, open_image, read_json, sha256_of, sole_writer, write_json
from splattingocc.labels.dense import DenseLabels, check_names
from splattingocc.labels.lidar import LidarLabels
from splattingocc.labels.source import LabelSource, MissingInput
from splattingocc.worker_pool import run_jobs

INPUTS_SEEN = "inputs_seen.json"
IF_KILLED = "a label worker was killed, most likely for want of memory; finished scenes are kept, use fewer workers"


def generate_labels(
    index: Index,
    dataroot: Path,
    out: Path,
    *,
    scenes: Iterable[str] | None = None,
    source: LabelSource | None = None,
    skip_missing: bool = False,
    vehicle_masks: Path | None = None,
    num_workers: int = 0,
    show_progress: bool = True,
) -> Manifest:
    """Write the labels of the named scenes (default: all) into the store `out` and return its manifest.

    They are made from LiDAR points with classes, or from another `source`. What the masks in the folder `vehicle_masks` cover has no
    labels (`data/vehicle_masks.py`).

    Scenes that are already there, whole and made from the same tables and files with the same options, are kept; what lies at a path is
    looked at again where its size or time is another, and what is gone since is no reason to make anything again. A scene that has another
    name now, or was cut into several, takes the place of the one that had its key frames before. A run that was killed and
    started again leaves the same bytes as one that was not. The first error stops the run and names the key frame. With `skip_missing`,
    key frames of which a file (an image, a sweep, a map) or a sensor is missing are left out, and the manifest says which; a store in
    which nothing is labelled is a `ValueError` all the same. With `num_workers` of 0 the work is done in this process; workers are
    spawned, so a script must guard its entry point.
    """
    source = source or LidarLabels()
    names = [scene.name for scene in index.scenes] if scenes is None else list(dict.fromkeys(scenes))
    index.of_scenes(names)
    incomplete = [reason for scene, reason in index.incomplete.values() if scene in names]
    if incomplete and not skip_missing:
        raise ValueError(f"{incomplete[0]}; {len(incomplete)} such key frames in all, which --skip-missing leaves out")
    masks = None if vehicle_masks is None else VehicleMasks.open(vehicle_masks, index)
    with sole_writer(out):
        manifest = _begin(index, out, describe(source, masks, index))
        manifest = msgspec.structs.replace(manifest, asked=tuple({*manifest.asked, *names}))
        write_manifest(out, manifest)
        jobs, seen = [], InputsSeen(out, dataroot, source, masks)
        mapped: dict[tuple[str, str], str] = {}
        for name in names:
            key_frames = [index[position] for position in index.of_scenes([name])]
            if isinstance(source, DenseLabels):
                check_names(key_frames, mapped)
            record = manifest.scenes.get(name)
            missing = missing_files(key_frames, dataroot, source) if skip_missing else {}
            outlasting = _labels_that_outlast_their_files(index, out, manifest, name, missing, dataroot)
            skipped = {token: reason for token, reason in missing.items() if token not in outlasting}
            labelled = [key_frame.token for key_frame in key_frames if key_frame.token not in skipped]
            made_from = scene_fingerprint(index, labelled, manifest.source)
            job = SceneJob(name, key_frames, dataroot, out, manifest, source, masks, skipped, made_from)
            if record is None or not _is_finished(job, record) or not seen.are_those_of(record, job):
                if outlasting:
                    what = f"holds labels of {len(outlasting)} key frames whose files are gone since, e.g. {min(outlasting.values())}"
                    remedy = "put these files back, or give another folder (--out)"
                    raise BadFile(scene_path(out, name), f"{what}, and would be made again without them; {remedy}")
                jobs.append(job)
                seen.note(job)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not show_progress) as progress:
            task = progress.add_task("2D labels, scenes", total=len(names), completed=len(names) - len(jobs))
            named = {job.name: job for job in jobs}
            for name, record in run_jobs(label_scene, named, num_workers=num_workers, if_killed=IF_KILLED):
                manifest, of_before = _with_scene(manifest, name, record, index)
                write_manifest(out, manifest)
                for other in of_before:
                    scene_path(out, other).unlink(missing_ok=True)
                progress.advance(task)
        seen.write()
        manifest = read_manifest(out)
    if not sum(manifest.scenes[name].num_rays for name in names):
        raise ValueError(f"{out}: not one labelled ray in {len(names)} scenes; {_why_nothing(manifest, names)}")
    return manifest


def _with_scene(manifest: Manifest, name: str, record: SceneRecord, index: Index) -> tuple[Manifest, list[str]]:
    """Return the manifest with a scene in it and without those that had its key frames before, under another name; and these names."""
    tokens = {*record.tokens, *record.skipped}
    of_before = [
        other
        for other, found in manifest.scenes.items()
        if other != name and not (tokens.isdisjoint(found.tokens) and tokens.isdisjoint(found.skipped))
    ]
    gone = {*of_before} - {scene.name for scene in index.scenes}
    scenes = {other: found for other, found in manifest.scenes.items() if other not in of_before}
    asked = tuple(other for other in manifest.asked if other not in gone)
    return msgspec.structs.replace(manifest, asked=asked, scenes={**scenes, name: record}), of_before


def _why_nothing(manifest: Manifest, names: Sequence[str]) -> str:
    skipped = {reason for name in names for reason in manifest.scenes[name].skipped.values()}
    if skipped:
        return f"every key frame with labels was left out, e.g. because of {min(skipped)}"
    return "every point or pixel is of an unknown class, out of range, or seen by no camera: look at the classes and at the calibration"


def describe(source: LabelSource, masks: VehicleMasks | None, index: Index) -> str:
    """Return the one line that a manifest keeps of what the labels are made from."""
    return source.describe() if masks is None else f"{source.describe()}, {masks.describe(index)}"


def _begin(index: Index, out: Path, source: str) -> Manifest:
    """Return the manifest to go on from: that of the store, where it is of the same kind, else an empty one."""
    # A camera that a key frame lacks has the size 0 there
    image_sizes = tuple((int(height), int(width)) for height, width in index.image_sizes.max(axis=0))
    empty = Manifest(
        dataset_version=index.version,
        source=source,
        cameras=tuple(index.channels[index.has_lidar :]),
        image_sizes=image_sizes,
        steps_per_pixel=steps_per_pixel(image_sizes),
    )
    if not (out / MANIFEST_NAME).exists():
        return empty
    found = read_manifest(out)
    if not found.scenes:  # of a run that ended before its first scene
        return empty
    for field in ("dataset_version", "source", "cameras", "image_sizes"):
        there, asked = getattr(found, field), getattr(empty, field)
        if there != asked:
            reason = f"the store holds labels of {field} {there}, asked for are labels of {asked}; choose another folder or delete this one"
            raise BadFile(out / MANIFEST_NAME, reason)
    return found


@dataclass(frozen=True)
class SceneJob:
    """The labels of one scene, to be made in any process."""

    name: str
    key_frames: Sequence[KeyFrame]
    dataroot: Path
    out: Path
    manifest: Manifest
    """Of the store, as far as it is the same for all scenes."""
    source: LabelSource
    masks: VehicleMasks | None
    skipped: Mapping[str, str]
    """Key frames, by token, of which a file is not there, and which."""
    source_sha256: str
    """As `scene_fingerprint` gives it of the others."""

    @property
    def labelled(self) -> list[KeyFrame]:
        """The key frames that get labels."""
        return [key_frame for key_frame in self.key_frames if key_frame.token not in self.skipped]


def _labels_that_outlast_their_files(
    index: Index, out: Path, manifest: Manifest, name: str, missing: Mapping[str, str], dataroot: Path
) -> dict[str, str]:
    """Return which of a scene's missing key frames have good labels in the store and their images still, and what is gone of each."""
    record = manifest.scenes.get(name)
    if record is None or not {*missing} & {*record.tokens}:
        return {}
    tables_hold = all(map(index.has, record.tokens)) and scene_fingerprint(index, record.tokens, manifest.source) == record.source_sha256
    path = scene_path(out, name)
    if not (tables_hold and path.is_file() and sha256_of(path) == record.sha256):
        return {}
    with_images = {
        key_frame.token
        for key_frame in (index[position] for position in index.of_scenes([name]))
        if _missing_image(key_frame, dataroot) is None
    }
    return {token: missing[token] for token in record.tokens if token in missing and token in with_images}


def _is_finished(job: SceneJob, record: SceneRecord) -> bool:
    path = scene_path(job.out, job.name)
    if record.source_sha256 != job.source_sha256 or not path.is_file() or record.skipped != job.skipped:
        return False
    return sha256_of(path) == record.sha256


class InputsSeen:
    """Remembers of which sizes and times the files were that labels are made from, so that a store which is whole is seen to be so at once.

    It lies beside the store's manifest and is no part of it: the same labels have the same bytes wherever they are made.
    """

    def __init__(self, out: Path, dataroot: Path, source: LabelSource, masks: VehicleMasks | None) -> None:
        self._path, self._dataroot, self._source, self._masks = out / INPUTS_SEEN, dataroot, source, masks
        self._seen: dict[str, dict[str, str]] = {}
        with suppress(BadFile, OSError):
            self._seen = read_json(self._path, dict[str, dict[str, str]], what="sizes and times of inputs")

    def note(self, job: SceneJob) -> None:
        """Look at the files of a scene whose labels are about to be made."""
        self._seen[job.name], _ = self._states(job)

    def are_those_of(self, record: SceneRecord, job: SceneJob) -> bool:
        """Say whether the files of a scene hold what its labels were made from.

        Files that are gone are no reason to make labels again; where another one has changed beside them, what all held cannot be told any
        more, which is a `BadFile`.
        """
        states, gone = self._states(job)
        seen = self._seen.get(job.name, {})
        if gone:
            # Of one that was never looked at nothing is known
            changed = next((path for path, state in states.items() if seen.get(path, state) != state), None)
            if changed is None:
                return True
            what = f"its size or time is another than when {job.name} was labelled, and {gone[0]} is gone"
            raise BadFile(Path(changed), f"{what}, so that they cannot be compared; put that back, or give another folder (--out)")
        if seen == states:
            return True
        found = inputs_sha256(job.labelled, self._dataroot, self._source, self._masks)
        self._seen[job.name] = states
        return found == record.inputs_sha256

    def write(self) -> None:
        """Keep what was seen."""
        write_json(self._path, dict(sorted(self._seen.items())))

    def _states(self, job: SceneJob) -> tuple[dict[str, str], list[str]]:
        """Return size and time of each file of a scene that is there, by its path, and which are not."""
        paths = [] if self._masks is None else list(self._masks.files)
        gone = []
        for key_frame in job.labelled:
            try:
                paths += self._source.input_files(key_frame, self._dataroot)
            except MissingInput as error:
                gone.append(str(error))
        states = {}
        for path in dict.fromkeys(paths):
            try:
                found = path.stat()
            except OSError:
                gone.append(str(path))
            else:
                states[str(path)] = f"{found.st_size} {found.st_mtime_ns}"
        return states, gone


def label_scene(job: SceneJob) -> SceneRecord:
    """Label the key frames of one scene and write its file. A fault is a `ValueError` that names the scene and the key frame."""
    tables: dict[str, RayTable] = {}
    # Before they are read: what is replaced from then on is found the next time
    inputs = None
    with suppress(ValueError, OSError):  # one is not there, which whoever reads it says
        inputs = inputs_sha256(job.labelled, job.dataroot, job.source, job.masks)
    labelled = {i: key_frame for i, key_frame in enumerate(job.key_frames) if key_frame.token not in job.skipped}
    for i, key_frame in labelled.items():
        others = {j - i: other for j, other in labelled.items() if j != i}
        try:
            if (image := _missing_image(key_frame, job.dataroot)) is not None:
                raise BadFile(image, "no such file; --skip-missing leaves such key frames out")
            if i == min(labelled):
                _check_image_sizes(key_frame, job.dataroot)
            table = job.source.label(key_frame, job.dataroot, others=others)
            tables[key_frame.token] = table if job.masks is None else job.masks.visible(table, key_frame.cameras)
        except ValueError as error:
            raise ValueError(f"{error} ({job.name}, key frame {key_frame.token})") from None
    return write_scene(
        job.out,
        job.name,
        tables,
        steps=job.manifest.steps_per_pixel,
        num_cameras=len(job.manifest.cameras),
        source_sha256=job.source_sha256,
        inputs_sha256=inputs or inputs_sha256(job.labelled, job.dataroot, job.source, job.masks),
        skipped=job.skipped,
    )


def _check_image_sizes(key_frame: KeyFrame, dataroot: Path) -> None:
    """Refuse images of another size than the tables say: labels would lie elsewhere in them, and a training would end at the first."""
    for camera in key_frame.cameras:
        path = dataroot / camera.filename
        with open_image(path) as image:
            check_size(path, image, camera)


def _missing_image(key_frame: KeyFrame, dataroot: Path) -> Path | None:
    """Return the first image, if any, that is not there: labels may need none, but a training would end at it, hours later."""
    return next((path for camera in key_frame.cameras if not (path := dataroot / camera.filename).is_file()), None)


def missing_files(key_frames: Iterable[KeyFrame], dataroot: Path, source: LabelSource) -> dict[str, str]:
    """Return the key frames, by token, that lack a file which labels or training would want, and the first such file of each."""
    found = {key_frame.token: _missing_file(key_frame, dataroot, source) for key_frame in key_frames}
    return {token: path for token, path in found.items() if path is not None}


def _missing_file(key_frame: KeyFrame, dataroot: Path, source: LabelSource) -> str | None:
    if (image := _missing_image(key_frame, dataroot)) is not None:
        return str(image)
    try:
        paths = source.input_files(key_frame, dataroot)
    except MissingInput as error:
        return str(error)
    return next((str(path) for path in paths if not path.is_file()), None)


def inputs_sha256(key_frames: Sequence[KeyFrame], dataroot: Path, source: LabelSource, masks: VehicleMasks | None = None) -> str:
    """Return a digest of the contents of the files and masks that the labels of a scene are made from."""
    digest = hashlib.sha256()
    if masks is not None:
        for channel in sorted({camera.channel for key_frame in key_frames for camera in key_frame.cameras}):
            path = masks.path_of(channel)
            digest.update(f"{channel} {sha256_of(path) if path.exists() else None}".encode())
    for key_frame in key_frames:
        try:
            paths = source.input_files(key_frame, dataroot)
        except MissingInput as error:
            raise ValueError(f"key frame {key_frame.token} of {key_frame.scene}: missing: {error}") from None
        for path in paths:
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def verify_inputs(store: LabelStore, index: Index, dataroot: Path, source: LabelSource, *, vehicle_masks: Path | None = None) -> None:
    """Check that the files which the labels were made from still hold the same; reads them all.

    `source` and `vehicle_masks` are what made the store.
    """
    masks = None if vehicle_masks is None else VehicleMasks.open(vehicle_masks, index)
    if describe(source, masks, index) != store.manifest.source:
        raise BadFile(store.folder / MANIFEST_NAME, f"the store holds {store.manifest.source}; give the options that made it")
    in_index = {scene.name for scene in index.scenes}
    for name, record in store.manifest.scenes.items():
        if name not in in_index:
            continue
        frames = [index[position] for position in index.of_scenes([name])]
        key_frames = [frame for frame in frames if frame.token not in record.skipped]
        if inputs_sha256(key_frames, dataroot, source, masks) != record.inputs_sha256:
            what = "other sweeps, classes or maps than are there now; `splattingocc prepare` makes them again"
            reason = f"the labels of {name} were made from {what}"
            raise BadFile(scene_path(store.folder, name), reason)
