"""What a folder holds of a run that a report can show, and what is missing there, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from splattingocc.data.occ3d import truth_path
from splattingocc.engine.checkpoint import NETWORK_FILE
from splattingocc.engine.ledger import Run, ledgers_of, read_ledger
from splattingocc.evaluation.predictions import MANIFEST_NAME, PROVENANCE_NAME, CachedFrame, PredictionCache, read_predictions
from splattingocc.experiment import ExperimentConfig
from splattingocc.files import BadFile, check_name, child, open_regular, read_json
from splattingocc.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from splattingocc.pipeline.networks import experiment_of
from splattingocc.pipeline.prediction import with_data_of

T = TypeVar("T")
CURVES_NAME = "curves.png"
MEDIA = (".mp4", ".webp", ".png")
WEBP_ANIMATION = 0b10
"""Among the flags of an extended WebP file."""
FIGURES = "camera_mask"
"""What a method has among its scores, and nothing else in their file has."""


@dataclass(frozen=True)
class Found:
    """What there is to show. None, or nothing in it, where it is missing, and then a line of `missing` says so."""

    folder: Path
    """Of the run."""
    split: str
    cache: PredictionCache | None
    frames: tuple[CachedFrame, ...]
    """Those that are shown."""
    gts: Path | None
    """Folder with the truth of at least one of them."""
    network: Path | None
    experiment: ExperimentConfig | None
    """That of the network."""
    methods: dict[str, dict[str, Any]]
    """Scores by the name of what was scored."""
    rendering: dict[str, Any]
    """Scores of rendered rays against 2D labels."""
    calibration: dict[str, Any]
    runs: list[Run]
    """Of the ledger."""
    curves: Path | None
    films: list[Path]
    pictures: list[Path]
    missing: list[str] = field(default_factory=list)

    @property
    def grid(self) -> VoxelGrid:
        return OCC3D_GRID if self.cache is None else self.cache.manifest.provenance.grid.voxels


def find(folder: Path, *, split: str, scenes: tuple[str, ...] = (), most_frames: int, gts: Path | None = None) -> Found:
    """Look through the folder of a run, of the demo, or of a prediction cache; nothing to show at all is a `ValueError`.

    Of the cache at most so many frames are shown, spread evenly; only those of some scenes where they are named.
    """
    if not folder.is_dir():
        raise BadFile(folder, "no such folder")
    missing: list[str] = []
    output = _cache_folder(folder, split)
    # A cache of a run lies in its folder, one that was put elsewhere in no run's; what the demo trained has a folder of its own
    above = folder.absolute().parent
    is_run = any(
        (above / name).is_file() for name in (NETWORK_FILE, f"train/{NETWORK_FILE}", "config.json", _metrics_name(split), CURVES_NAME)
    )
    run = above if output == folder and is_run else folder
    trained = next((place for place in (run, run / "train") if (place / NETWORK_FILE).is_file()), run)
    cache = None if output is None else _or_missing(lambda: read_predictions(output), missing)
    if output is None:
        _check_split(run, split)
        missing.append(f"predictions: no {_output_name(split)} in {folder}; `splattingocc test` writes one")
    if cache is not None:
        if split not in ("val", cache.manifest.provenance.split):
            raise ValueError(f"--split {split}: {cache.directory} holds predictions of split {cache.manifest.provenance.split}")
        split = cache.manifest.provenance.split
    frames = () if cache is None else _chosen(cache, scenes, most_frames)
    network = trained / NETWORK_FILE
    experiment = None
    if network.is_file():
        experiment = _or_missing(lambda: experiment_of(network)[0], missing)
    truth = _truth(gts, experiment, frames, cache, missing)
    methods, rendering = _scores(run, split, cache, truth, missing)
    calibration = _or_missing(lambda: read_json(trained / "calibration.json", dict[str, Any], what="a calibration"), missing)
    ledgers = ledgers_of(trained)
    runs = [run for ledger in ledgers if ledger.is_file() for run in read_ledger(ledger).runs if _is_of(run, trained)]
    if not runs:
        missing.append(f"ledger: {ledgers[0]} names no run of this folder")
    curves = next((path for path in (run / CURVES_NAME, trained / CURVES_NAME) if path.is_file()), None)
    if curves is None:
        missing.append(f"curves: no {CURVES_NAME} in {trained}")
    folders = [run] if output is None else [run, output]
    media = list(dict.fromkeys(path for place in folders for path in _media_in(place)))
    films = [path for path in media if _is_film(path)]
    pictures = [path for path in media if path not in films]
    for name, there in (("film", films), ("pictures", pictures)):
        if not there:
            missing.append(f"{name}: none in {run}; `splattingocc visualize` makes them")
    found = Found(
        run, split, cache, frames, truth, network if experiment is not None else None, experiment,
        methods, rendering, calibration or {}, runs, curves, films, pictures, missing,
    )  # fmt: skip
    if cache is None and not (methods or rendering or calibration or curves or films or pictures):
        raise ValueError(f"{folder}: no run and no prediction cache; expected predictions, scores, curves or pictures in it")
    return found


def _output_name(split: str) -> str:
    return "output" if split == "val" else f"output_{check_name(split, '--split')}"


def _metrics_name(split: str) -> str:
    return f"metrics_{check_name(split, '--split')}.json"


def _check_split(run: Path, split: str) -> None:
    """Refuse a split that a folder has neither predictions nor scores of, where it has those of others."""
    of_val = [run / "output", run / _metrics_name("val"), run / "scores.json"]
    named = {path: path.stem.partition("_")[2] for pattern in ("output_*", "metrics_*.json") for path in run.glob(pattern)}
    there = sorted({"val" for path in of_val if path.exists()} | {*named.values()})
    if there and split not in there:
        raise ValueError(f"--split {split}: neither predictions nor scores of it in {run}, which has those of {', '.join(there)}")


def _cache_folder(folder: Path, split: str) -> Path | None:
    for place in (folder, child(folder, _output_name(split))):
        if any((place / name).is_file() for name in (MANIFEST_NAME, PROVENANCE_NAME)):
            return place
    return None


def _or_missing(read: Callable[[], T], missing: list[str]) -> T | None:
    """Return what is read, or write down why there is none."""
    try:
        return read()
    except ValueError as error:
        missing.append(str(error))
        return None


def _chosen(cache: PredictionCache, scenes: tuple[str, ...], most: int) -> tuple[CachedFrame, ...]:
    for scene in scenes:
        if all(frame.scene != scene for frame in cache.frames):
            there = sorted({frame.scene for frame in cache.frames})
            named = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if there[5:] else "")
            raise ValueError(f"--scenes {scene}: no such scene in {cache.directory}, which has {named}")
    frames = sorted((frame for frame in cache.frames if not scenes or frame.scene in scenes), key=lambda frame: (frame.scene, frame.index))
    count = min(most, len(frames))
    return tuple(frames[i * len(frames) // count] for i in range(count))


def _truth(
    gts: Path | None,
    experiment: ExperimentConfig | None,
    frames: tuple[CachedFrame, ...],
    cache: PredictionCache | None,
    missing: list[str],
) -> Path | None:
    if experiment is not None and cache is not None:
        experiment = with_data_of(experiment, cache.manifest.provenance)
    folder = gts or (None if experiment is None else experiment.data.truth_folder)
    if gts is not None and not gts.is_dir():
        raise ValueError(f"--gts {gts}: no such folder")
    if cache is not None and cache.manifest.provenance.grid.voxels != OCC3D_GRID:
        missing.append("truth: there is none of this grid, only of Occ3D's")
    elif folder is not None and any(truth_path(folder, frame.scene, frame.token).is_file() for frame in frames):
        return folder
    elif frames:
        where = "nothing says where it is" if folder is None else f"{folder} has none of these key frames"
        missing.append(f"truth: {where}; --gts does")
    return None


def _scores(
    run: Path, split: str, cache: PredictionCache | None, truth: Path | None, missing: list[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the scores that `test` wrote for a split, or else those of the demo: of voxels by method, and of rays.

    Those of something else than what is shown, predictions and `truth`, are left out.
    """
    path = child(run, _metrics_name(split))
    if split == "val" and not path.is_file() and (run / "scores.json").is_file():
        path = run / "scores.json"
    found = _or_missing(lambda: read_json(path, dict[str, Any], what="scores"), missing) or {}
    if cache is not None:
        by, row = cache.manifest.provenance, found.get("markdown")
        whose = found.get("checkpoint", by.checkpoint_hash)
        if whose != by.checkpoint_hash or (isinstance(row, str) and by.checkpoint_hash[:12] not in row):
            missing.append(f"{path}: of another checkpoint than the predictions; left out")
            return {}, {}
        there = f"{by.decided_by.get('data.dataroot')} {by.decided_by.get('data.version')}"
        if "data.dataroot" in by.decided_by and found.get("data", there) != there:
            missing.append(f"{path}: of {found['data']}, the predictions are of {there}; left out")
            return {}, {}
        images = found.get("images")
        if isinstance(images, dict) and images != {name: by.decided_by.get(name) for name in images}:
            missing.append(f"{path}: of other images than the predictions; left out")
            return {}, {}
        against = found.get("truth")
        if truth is not None and isinstance(against, str) and Path(against) != truth.resolve():
            missing.append(f"{path}: against the truth in {against}, shown is that in {truth}; left out")
            return {}, {}
    methods = {name: scores for name, scores in found.items() if isinstance(scores, dict) and FIGURES in scores}
    rendering, part = found.get("rendering"), found.get("rendering_part", "all")
    return methods, {f"rendered, {part} rays": rendering} if isinstance(rendering, dict) else {}


def _is_of(run: Run, folder: Path) -> bool:
    """Say whether a run of the ledger beside a folder worked in it."""
    return Path(str(run.what.get("work_dir", ""))).name == folder.absolute().name


def _media_in(folder: Path) -> Iterator[Path]:
    """Go through pictures and films in a folder and in its own folders, but for the curves."""
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern)):
            if path.suffix in MEDIA and path.is_file() and path.name != CURVES_NAME:
                yield path


def _is_film(path: Path) -> bool:
    """Say whether a file moves, as a WebP may; one that cannot be read is what its name says, and the page says what is wrong with it."""
    if path.suffix != ".webp":
        return path.suffix == ".mp4"
    try:
        with open_regular(path) as file:
            begin = file.read(21)
    except BadFile:
        return True
    # RIFF, length, WEBP; then its first chunk's name and length, and of an extended file its flags
    return begin[12:16] == b"VP8X" and bool(begin[20:] and begin[20] & WEBP_ANIMATION)
