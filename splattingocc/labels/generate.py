"""Make the label store of a data set, scene by scene, in parallel, and so that it can be interrupted at any moment."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splattingocc.data.key_frames import Index, KeyFrame
from splattingocc.data.label_store import (
    MANIFEST_NAME,
    LabelStore,
    Manifest,
    RayTable,
    SceneRecord,
    read_manifest,
    scene_fingerprint,
    sha256_of,
    steps_per_pixel,
    write_manifest,
    write_scene,
)
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.labels.dense import DenseLabelConfig, input_maps, label_densely
from splattingocc.labels.lidar import LidarLabelConfig, project_lidar

LabelConfig = LidarLabelConfig | DenseLabelConfig
"""What labels are made from."""


def generate_labels(
    index: Index,
    dataroot: Path,
    out: Path,
    *,
    scenes: Iterable[str] | None = None,
    config: LabelConfig | None = None,
    vehicle_masks: Path | None = None,
    num_workers: int = 0,
    show_progress: bool = True,
) -> Manifest:
    """Write the labels of the named scenes (default: all) into the store `out` and return its manifest.

    What the masks in the folder `vehicle_masks` cover has no labels (`data/vehicle_masks.py`).

    Scenes that are already there, whole and made from the same tables with the same options, are kept. A run that was killed and
    started again leaves the same bytes as one that was not. The first error stops the run and names the key frame. With
    `num_workers` of 0 the work is done in this process; workers are spawned, so a script must guard its entry point.
    """
    config = config or LidarLabelConfig()
    names = [scene.name for scene in index.scenes] if scenes is None else list(scenes)
    out.mkdir(parents=True, exist_ok=True)
    masks = None if vehicle_masks is None else VehicleMasks.open(vehicle_masks, index)
    manifest = _begin(index, out, describe(config, masks, index))
    jobs = []
    for name in names:
        key_frames = [index[position] for position in index.of_scenes([name])]
        source_sha256 = scene_fingerprint(key_frames, manifest.source)
        if not _is_finished(out, manifest.scenes.get(name), source_sha256):
            jobs.append(SceneJob(name, key_frames, dataroot, out, manifest, source_sha256, config, masks))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not show_progress) as progress:
        task = progress.add_task("2D labels, scenes", total=len(names), completed=len(names) - len(jobs))
        for name, record in _run(jobs, num_workers):
            manifest = msgspec.structs.replace(manifest, scenes={**manifest.scenes, name: record})
            write_manifest(out, manifest)
            progress.advance(task)
    write_manifest(out, manifest)
    return read_manifest(out)


def describe(config: LabelConfig, masks: VehicleMasks | None, index: Index) -> str:
    """Return the one line that a manifest keeps of what the labels are made from."""
    return config.describe() if masks is None else f"{config.describe()}, {masks.describe(index)}"


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
    if msgspec.structs.replace(found, scenes={}) != empty:
        raise ValueError(
            f"{out / MANIFEST_NAME}: the store holds labels of {found.dataset_version} ({found.source}), asked for are labels of "
            f"{empty.dataset_version} ({empty.source}); choose another folder or delete this one"
        )
    return found


def _is_finished(out: Path, record: SceneRecord | None, source_sha256: str) -> bool:
    if record is None or record.source_sha256 != source_sha256 or not (out / record.file).exists():
        return False
    return sha256_of(out / record.file) == record.sha256


@dataclass(frozen=True)
class SceneJob:
    """What a process has to know to label a scene."""

    name: str
    key_frames: Sequence[KeyFrame]
    dataroot: Path
    out: Path
    manifest: Manifest
    """Of the store, as far as it is the same for all scenes."""
    source_sha256: str
    config: LabelConfig
    masks: VehicleMasks | None


def _run(jobs: Sequence[SceneJob], num_workers: int) -> Iterator[tuple[str, SceneRecord]]:
    """Yield the record of each scene as it is finished."""
    if num_workers == 0 or len(jobs) < 2:
        for job in jobs:
            yield job.name, label_scene(job)
        return
    # Spawned, not forked: the parent may hold threads or a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context)
    try:
        name_of = {pool.submit(label_scene, job): job.name for job in jobs}
        for future in as_completed(name_of):
            yield name_of[future], future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a label worker was killed, most likely for want of memory; finished scenes are kept, use fewer workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def label_key_frame(key_frames: Sequence[KeyFrame], i: int, dataroot: Path, config: LabelConfig) -> RayTable:
    """Return the labelled pixels of the i-th key frame of a scene, from LiDAR and lidarseg or from dense maps."""
    if isinstance(config, DenseLabelConfig):
        return label_densely(key_frames[i], dataroot, config)
    neighbours = [key_frames[i + offset] for offset in config.sweeps if 0 <= i + offset < len(key_frames)]
    return project_lidar(key_frames[i], dataroot, config, neighbours=neighbours)


def label_scene(job: SceneJob) -> SceneRecord:
    """Label the key frames of one scene and write its file. A fault is a `ValueError` that names the scene and the key frame."""
    tables: dict[str, RayTable] = {}
    for i, key_frame in enumerate(job.key_frames):
        try:
            table = label_key_frame(job.key_frames, i, job.dataroot, job.config)
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
        inputs_sha256=inputs_sha256(job.key_frames, job.dataroot, job.config, job.masks),
    )


def inputs_sha256(key_frames: Sequence[KeyFrame], dataroot: Path, config: LabelConfig, masks: VehicleMasks | None = None) -> str:
    """Return a digest of the contents of the sweeps, classes, maps and masks that the labels of a scene are made from."""
    digest = hashlib.sha256()
    if masks is not None:
        for channel in sorted({camera.channel for key_frame in key_frames for camera in key_frame.cameras}):
            path = masks.path_of(channel)
            digest.update(f"{channel} {sha256_of(path) if path.exists() else None}".encode())
    for key_frame in key_frames:
        paths = input_maps(key_frame, config) if isinstance(config, DenseLabelConfig) else []
        if isinstance(config, LidarLabelConfig) or config.depth is None:
            paths += [dataroot / key_frame.lidar.filename] if key_frame.lidar else []
        if isinstance(config, LidarLabelConfig) and key_frame.point_classes:
            paths.append(dataroot / key_frame.point_classes)
        for path in paths:
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def verify_inputs(store: LabelStore, index: Index, dataroot: Path, config: LabelConfig, *, vehicle_masks: Path | None = None) -> None:
    """Check that the files which the labels were made from still hold the same; reads them all.

    `config` and `vehicle_masks` are what made the store.
    """
    masks = None if vehicle_masks is None else VehicleMasks.open(vehicle_masks, index)
    if describe(config, masks, index) != store.manifest.source:
        raise ValueError(f"{store.folder / MANIFEST_NAME}: the store holds {store.manifest.source}; give the options that made it")
    for name, record in store.manifest.scenes.items():
        key_frames = [index[position] for position in index.of_scenes([name])]
        if inputs_sha256(key_frames, dataroot, config, masks) != record.inputs_sha256:
            raise ValueError(
                f"{store.folder / record.file}: the labels of {name} were made from other sweeps, classes or maps than are there now"
            )
