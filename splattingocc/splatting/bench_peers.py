"""Time our renderer on a CPU beside its peers: the same Gaussians and rays, forward and backward, one round of each after the other.

What a figure is: the median over rounds of the CPU seconds of this process, all its threads, beside wall-clock seconds; a ratio is that of
two such medians of one run, peer over ours. Other work on the machine moves both alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splattingocc.provenance import environment, processor
from splattingocc.splatting import bench_scenes as scenes
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.mitsuba_peer import why_missing
from splattingocc.splatting.peak_memory import peak_beyond
from splattingocc.splatting.peers import BRUTE_RAYS, CANDIDATES, OF_FEW_RAYS, OURS, OURS_FEW, PARTS, Candidate, Laps, Scene

VOLUMES: Mapping[str, Callable[..., Gaussians]] = {
    "trained-like": scenes.sparse_volume,
    "fog": scenes.untrained_volume,
    "dense clutter": scenes.clutter_volume,
}
CHANNELS = (18, 3)


@dataclass(frozen=True)
class Case:
    """A volume and a number of channels."""

    volume: str
    num_channels: int
    num_rays: int

    def scene(self) -> Scene:
        generator = torch.Generator().manual_seed(0)
        rays, labels = scenes.surround_rays(self.num_rays, generator), scenes.label_distances(self.num_rays, generator)
        return Scene(VOLUMES[self.volume](generator, num_channels=self.num_channels), rays, labels)


def bench_peers(
    *, num_rays: int = 24000, repeats: int = 5, channels: Sequence[int] = CHANNELS, volumes: Sequence[str] = tuple(VOLUMES)
) -> Iterator[list[dict[str, Any]]]:
    """Yield for each volume and number of channels a flat record of each candidate, ours first.

    `peak_beyond_mb` is resident memory over inputs and gradients, of one round in a process of its own.
    """
    around = circumstances()
    for case in (Case(volume, count, num_rays) for volume in volumes for count in channels):
        scene = case.scene()
        names = [name for name in CANDIDATES if name != "Mitsuba" or (case.num_channels == 3 and why_missing() is None)]
        seconds = rounds({name: _candidate(name, scene) for name in names}, repeats)
        records = []
        for name in names:
            sizes = {"num_channels": case.num_channels, "num_gaussians": len(scene.gaussians.opacities), "repeats": repeats}
            sizes |= {"num_rays": min(BRUTE_RAYS, num_rays) if name in OF_FEW_RAYS else num_rays}
            sizes |= {"occupied_share": round(scenes.occupied_share(scene.gaussians), 4)}
            ours = seconds[OURS_FEW if name in OF_FEW_RAYS else OURS]
            memory = None if name in OF_FEW_RAYS else peak_beyond(_memory_round, name, case)
            figures = {**seconds[name], **ratios(seconds[name], ours), "peak_beyond_mb": memory}
            records.append({"what": name, "volume": case.volume, **sizes, **figures, **around})
        yield records


def circumstances() -> dict[str, Any]:
    return {**environment(torch.device("cpu")), "processor": processor(), "num_threads": torch.get_num_threads()}


def ratios(peer: Mapping[str, float], ours: Mapping[str, float]) -> dict[str, float]:
    """Return how many times the CPU seconds of ours a peer takes: forward (with the index), backward, and all of it."""
    index = {"forward": ("index", "forward"), "backward": ("backward",), "total": PARTS}
    return {
        f"{name}_over_ours": round(sum(peer[f"{part}_cpu_s"] for part in parts) / sum(ours[f"{part}_cpu_s"] for part in parts), 2)
        for name, parts in index.items()
    }


def _candidate(name: str, scene: Scene) -> Candidate:
    return CANDIDATES[name](scene.first(BRUTE_RAYS) if name in OF_FEW_RAYS else scene)


def rounds(candidates: Mapping[str, Candidate], repeats: int) -> dict[str, dict[str, float]]:
    """Return each candidate's medians by `<part>_cpu_s` and `<part>_wall_s`, over rounds in which each has its turn."""
    for candidate in candidates.values():
        candidate.warm_up()
        candidate.start()
    laps: dict[str, list[Laps]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            laps[name].append(Laps())
            candidate.round(laps[name][-1])
    return {name: medians(each) for name, each in laps.items()}


def medians(laps: Sequence[Laps]) -> dict[str, float]:
    """Return the median of each part over rounds, seconds."""
    found = {}
    for part in PARTS:
        found[f"{part}_cpu_s"] = round(statistics.median(lap.cpu[part] for lap in laps), 5)
        found[f"{part}_wall_s"] = round(statistics.median(lap.wall[part] for lap in laps), 5)
    return found


def _memory_round(name: str, case: Case) -> Callable[[], int]:
    """Return one round of a candidate, ready to begin, that returns the bytes of its gradients."""
    candidate = _candidate(name, case.scene())
    candidate.warm_up()

    def measured() -> int:
        candidate.start()
        candidate.round(Laps())
        return candidate.gradient_bytes()

    return measured
