"""What has to be known of a GPU, in one command that ends after eight minutes: rendering, gradients, steps, inference, tests, a training.

    bash benchmarks/gpu.sh                                    # or: python benchmarks/gpu.py [--only render steps] [--seconds 480]

Each part runs in a process of its own, so that one that fails or takes too long leaves the others be, those that say most first. Every
figure is a JSON line in `benchmarks/results/<device>-<commit>.jsonl` as soon as it is known, with the device and the versions. Ends with a
table of the figures beside what is aimed at, and with status 1 where a part failed. Nothing but this repository and its wheels is needed:
all data are made here. gsplat is measured last where it is installed (it may compile itself for minutes), Swin-B only where timm is (the
other recipe then has a ResNet-101 in its place, and says so).

`--device cpu --small` goes through the same motions with small volumes and networks: the check that a machine without a GPU can make.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import torch
import tyro
from comparison_variants import changed
from torch import Tensor

from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.files import first_line
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.pipeline.description import describe
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.trainer import build_module
from splattingocc.provenance import environment
from splattingocc.splatting import bench, bench_scenes
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.splatting.render import render
from splattingocc.struct import stack

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MIB = 2**20
RECIPES = ("splattingocc-r50", "splattingocc-Nframe")
THRESHOLD = 0.4
"""Of the read-out; its value costs nothing."""
LONGEST_PART = {"render": 120.0, "gradients": 60.0, "steps": 150.0, "inference": 60.0, "tests": 120.0}
"""Seconds after which a part is ended, so that one that hangs leaves time for the others."""
SECONDS_TO_READ = 5.0
"""Before a part is ended: a training ends earlier by so many, and what it logged is read."""
REPEATED_BACKWARD = 5
"""Backward passes of the same rendering, whose sums are added in any order of threads."""


@dataclass(frozen=True)
class Aim:
    """What a figure should be."""

    figure: str
    bound: float
    at_most: bool

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


AIMS: dict[str, tuple[Aim, ...]] = {
    "tests": (Aim("failed", 0, True), Aim("passed", 1, False)),
    "gaussians, trained-like, 38400 rays": (Aim("forward_and_backward_ms", 2.0, True), Aim("peak_beyond_inputs_mib", 100, True)),
    "gradients": (Aim("largest_relative_difference_to_cpu", 1e-4, True),),
    "step of splattingocc-r50": (Aim("samples_per_second", 12, False),),
    "step of splattingocc-Nframe": (Aim("samples_per_second", 2.5, False),),
    "inference of splattingocc-r50": (Aim("frames_per_second", 60, False),),
    "training": (Aim("last_loss_over_first", 0.9, True),),
}
"""By what was measured; on an H100 or a GPU like it."""


@dataclass
class Arguments:
    only: tuple[Literal["render", "gradients", "steps", "inference", "tests", "training", "gsplat"], ...] = (
        "render",
        "gradients",
        "steps",
        "inference",
        "tests",
        "training",
        "gsplat",
    )
    """Parts to run, in this order."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What to measure."""
    seconds: float = 480
    """For all parts together; a part that has not begun by then is left out, one that runs is ended."""
    training_seconds: float = 120
    """Of these, for the training; less where less is left."""
    small: bool = False
    """Small volumes and networks: figures that mean nothing."""
    out: Path = RESULTS
    """Folder of the results."""
    part: str | None = None
    """Run this part in this process and print its lines: what the benchmark starts itself with."""
    part_seconds: float = 600
    """After which such a process is ended."""


def main() -> int:
    options = tyro.cli(Arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device that this torch can use; `splattingocc doctor` says why")
    if options.part is not None:
        for line in PARTS[options.part](options):
            print(json.dumps(line), flush=True)
        return 0
    around = environment(torch.device(options.device)) | {"threads": torch.get_num_threads(), "small": options.small}
    name = re.sub(r"[^A-Za-z0-9]+", "-", around["device"]).strip("-").lower()
    path = options.out / f"{name}-{around['commit']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    # Added to what another run of this code found, which may be of other parts; whoever ends this from outside keeps what is known by then
    with path.open("a") as file:
        for line in measured(options):
            lines.append(line)
            print(json.dumps(line | around), file=file, flush=True)
    print(table_of(lines), f"{path}", sep="\n\n")
    return 1 if any("error" in line for line in lines) else 0


def measured(options: Arguments) -> Iterator[dict[str, Any]]:
    """Yield the lines of all parts."""
    end = time.monotonic() + options.seconds
    for part in options.only:
        left = end - time.monotonic()
        if left <= 0:
            yield {"what": part, "error": f"not begun within {options.seconds:g} s"}
            continue
        began = time.monotonic()
        yield from _of_process(part, min(left, LONGEST_PART.get(part, left)))
        print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _of_process(part: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Run a part in a process of its own and yield its lines as they come; an error is one."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--part", part, "--part-seconds", str(seconds)]
    is_late = threading.Event()
    with tempfile.TemporaryFile("w+") as said:
        # A group of its own: what the part has started must not go on beside the next one
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT, start_new_session=True)
        assert process.stdout is not None
        timer = threading.Timer(seconds, lambda: (is_late.set(), _end_group(process.pid)))
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            _end_group(process.pid)
        said.seek(0)
        last = [line.strip() for line in said if line.strip()]
    error = None if status == 0 else f"status {status}"
    if is_late.is_set():
        error = f"ended after {seconds:.0f} s, when the time was up"
    if error is not None:
        yield {"what": part, "error": f"{error}: {last[-1]}" if last else error}


def _end_group(number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


def table_of(lines: list[dict[str, Any]]) -> str:
    """Return what was measured beside what is aimed at, as Markdown."""
    rows = ["| what | figure | measured | aim | |", "|---|---|---|---|---|"]
    for line in lines:
        if "error" in line:
            rows.append(f"| {line['what']} | | {line['error']} | | failed |")
        for aim in AIMS.get(line["what"], ()):
            if (value := line.get(aim.figure)) is not None:
                rows.append(f"| {line['what']} | {aim.figure} | {value:g} | {aim} | {'met' if aim.met(value) else 'missed'} |")
    return "\n".join(rows)


def _tests(options: Arguments) -> Iterator[dict[str, Any]]:
    """Run the tests that need a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Not all tests, whose imports alone take a while and may need what is not installed here
        files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            # Checking every shape needs what is not installed beside wheels alone, and takes longer
            "-o",
            "addopts=",
            f"--junitxml={report}",
            *map(str, files[:1] if options.small else files),
        ]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise ValueError(f"pytest: {(run.stdout + run.stderr).strip().splitlines()[-1]}")
        suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    names = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None]
    passed = counts["tests"] - failed - counts["skipped"]
    yield {"what": "tests", "passed": passed, "failed": failed, "skipped": counts["skipped"], "failing": names}


def _render(options: Arguments) -> Iterator[dict[str, Any]]:
    """Time rendering, beside NeRF sampling and, where it is installed, gsplat."""
    for num_rays in (200,) if options.small else (38_400, 200_000):
        for record in bench.bench_render(num_rays=num_rays, repeats=1 if options.small else 5, device=options.device):
            line = {key: value for key, value in record.items() if key in {"num_rays", "num_gaussians", "num_channels", "repeats"}}
            line |= {f"{part}_ms": 1e3 * record[f"{part}_p50_s"] for part in ("forward", "backward")}
            line["forward_and_backward_ms"] = line["forward_ms"] + line["backward_ms"]
            line["peak_mib"] = record["peak_memory_mb"]
            if options.device == "cuda" and "num_gaussians" in record:
                numbers = record["num_gaussians"] * (3 + 4 + 3 + 1 + record["num_channels"])
                # Of inputs and of their gradients, which any renderer needs
                line["peak_beyond_inputs_mib"] = record["peak_memory_mb"] - 2 * 4 * numbers / MIB
            yield {"what": f"{record['what']}, {num_rays} rays", **line}


def _gsplat(options: Arguments) -> Iterator[dict[str, Any]]:
    """Time gsplat's rasterisation of the trained-like volume, one camera, all pixels; a line that says so where it is not installed."""
    try:
        import gsplat  # type: ignore[import-not-found]
    except ImportError:
        yield {"what": "gsplat", "remark": "not installed, not measured"}
        return
    if options.device == "cpu":
        yield {"what": "gsplat", "remark": "has no renderer for CPUs, not measured"}
        return
    generator = torch.Generator().manual_seed(0)
    gaussians = bench_scenes.trained_like_volume(generator).to("cuda").map(lambda tensor: tensor.requires_grad_())
    cam_from_ego = torch.eye(4)
    cam_from_ego[:3, :3] = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    cam_from_ego[:3, 3] = -cam_from_ego[:3, :3] @ torch.tensor([0.9, 0.0, 1.6])
    for height, width in ((900, 1600), (450, 800)):
        K = torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]])

        def rasterized(height: int = height, width: int = width, K: Tensor = K) -> Tensor:
            image, alpha, _ = gsplat.rasterization(
                gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features,
                cam_from_ego[None].cuda(), K[None].cuda(), width, height,
            )  # fmt: skip
            return image.square().sum() + alpha.sum()

        yield {"what": f"gsplat, dense {height} × {width}", "rays": height * width, **_timed(rasterized)}


def _timed(loss_of: Callable[[], Tensor], repeats: int = 5) -> dict[str, float]:
    """Return milliseconds of forward and backward, medians after one round to warm up, and the peak of CUDA's memory."""
    forward, backward = [], []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(1 + repeats):
        start = bench._now(torch.device("cuda"))
        loss = loss_of()
        middle = bench._now(torch.device("cuda"))
        loss.backward()
        backward.append(1e3 * (bench._now(torch.device("cuda")) - middle))
        forward.append(1e3 * (middle - start))
    peak = torch.cuda.max_memory_allocated() / MIB
    return {"forward_ms": statistics.median(forward[1:]), "backward_ms": statistics.median(backward[1:]), "peak_mib": peak}


def _gradients(options: Arguments) -> Iterator[dict[str, Any]]:
    """Compare results and gradients with those of the CPU, and backward passes with each other."""
    generator = torch.Generator().manual_seed(0)
    num_rays = 200 if options.small else 8000
    rays = bench_scenes.surround_rays(num_rays, generator)
    distances = 3 + 30 * torch.rand(num_rays, generator=generator)
    volume = bench_scenes.trained_like_volume(generator)
    expected, expected_results = _gradients_on("cpu", volume, rays, distances)
    found = [_gradients_on(options.device, volume, rays, distances) for _ in range(REPEATED_BACKWARD)]
    apart = {name: _apart(found[0][0][name], value) for name, value in expected.items()}
    spread = {name: max(_apart(other[0][name], found[0][0][name]) for other in found[1:]) for name in expected}
    yield {
        "what": "gradients",
        "rays": num_rays,
        "largest_relative_difference_to_cpu": max(apart.values()),
        "of_each": apart,
        "largest_relative_difference_of_results": max(_apart(found[0][1][name], value) for name, value in expected_results.items()),
        "largest_relative_difference_between_runs": max(spread.values()),
        "runs": REPEATED_BACKWARD,
    }


def _gradients_on(device: str, volume: Gaussians, rays: Any, distances: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    gaussians = volume.to(device).map(lambda tensor: tensor.detach().clone().requires_grad_())
    rendering = render(gaussians, rays.to(device), near=bench_scenes.NEAR, far=bench_scenes.FAR, label_distances=distances.to(device))
    loss = bench.loss_of(rendering)
    loss.backward()
    names = ("means", "quats", "scales", "opacities", "features")
    results = {name: getattr(rendering, name).detach().cpu() for name in ("features", "distances", "in_front", "at_hit")}
    return {name: getattr(gaussians, name).grad.cpu() for name in names}, results


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def _recipe(name: str, options: Arguments) -> tuple[ExperimentConfig, str]:
    """Return a recipe as its file has it, training in bf16, and what its encoder is."""
    config = load_config(Path("splattingocc-synth" if options.small else name))
    if options.small:
        config = changed(config, {"data.loader.image_size": (64, 96), "data.loader.num_rays": 500})
    backbone = config.network.backbone
    if backbone.kind == "timm":
        try:
            import timm  # noqa: F401
        except ImportError:
            config = changed(config, {"network.backbone": ResNetConfig(depth=101)})
            backbone = config.network.backbone
    return changed(config, {"trainer.precision": "bf16-mixed"}), f"{backbone.kind} {getattr(backbone, 'depth', '')}".strip()


def _steps(options: Arguments) -> Iterator[dict[str, Any]]:
    """Take joint training steps of the recipes on made-up samples; no loading of data is in them."""
    for name in RECIPES:
        config, encoder = _recipe(name, options)
        torch.manual_seed(0)
        module = build_module(config).to(options.device).train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
        sample = made_up_sample(config)
        sample = replace(stack([sample[0]] * config.data.batch_size), token=("made up",) * config.data.batch_size).to(options.device)
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        take = partial(_take_step, module, optimizer, sample)
        seconds = []
        for _ in range(2 if options.small else 13):
            start = bench._now(torch.device(options.device))
            loss = take()
            seconds.append(bench._now(torch.device(options.device)) - start)
        line = {"what": f"step of {name}", "encoder": encoder, "batch_size": config.data.batch_size, "loss": float(loss.detach())}
        seconds = seconds[1:] if options.small else seconds[3:]
        line |= {"seconds_p50": statistics.median(seconds), "samples_per_second": config.data.batch_size / statistics.median(seconds)}
        if options.device == "cuda":
            line["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
            line["waits"] = _waits_of(take)
        yield line
        del take, module, optimizer, sample, loss
        if options.device == "cuda":
            torch.cuda.empty_cache()
    # Last, because it is computed on the CPU, for longer than the steps took
    for name in RECIPES:
        config, encoder = _recipe(name, options)
        predicted = describe(config)
        total = predicted.total_checkpointed if config.trainer.activation_checkpointing else predicted.total
        yield {"what": f"description of {name}", "encoder": encoder, "described_float32_mib": total / MIB}


def _take_step(module: OccupancyModule, optimizer: torch.optim.Optimizer, sample: TrainingSample) -> Tensor:
    """Take a step as a training does, but for what it logs; return the loss."""
    optimizer.zero_grad()
    loss = module.losses_of(sample, step=module.optimization.image_steps).total
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), module.optimization.gradient_clip)
    optimizer.step()
    return loss


def _waits_of(work: Callable[[], object]) -> int:
    """Return how often torch waits for the GPU in some work; `tests/engine/test_waits.py` says where it must."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _inference(options: Arguments) -> Iterator[dict[str, Any]]:
    """Predict and read out, one sample at a time, images on the device; in float32, convolutions as torch has them."""
    config, encoder = _recipe(RECIPES[0], options)
    torch.manual_seed(0)
    network = build_module(config).network.to(options.device).eval()
    views = made_up_sample(config).views.to(options.device)
    seconds = []
    for _ in range(2 if options.small else 23):
        start = bench._now(torch.device(options.device))
        with torch.inference_mode():
            field = network(views).field[0]
        field.read_out(field.grid, threshold=THRESHOLD)
        seconds.append(bench._now(torch.device(options.device)) - start)
    seconds = seconds[1:] if options.small else seconds[3:]
    middle = statistics.median(seconds)
    yield {
        "what": f"inference of {RECIPES[0]}",
        "encoder": encoder,
        "frames": len(seconds),
        "seconds_p50": middle,
        "frames_per_second": 1 / middle,
    }


def _training(options: Arguments) -> Iterator[dict[str, Any]]:
    """Make streets, label them and train the demo's network on them from the command line; its loss has to fall."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder) / "streets", Path(folder) / "run"
        streets, frames, size = ("2", "1", ("64", "114")) if options.small else ("8", "4", ("180", "320"))
        _command("synth", "--out", data, "--scenes", streets, "--val-scenes", "1", "--frames", frames, "--image-size", *size)
        _command("prepare", "--dataroot", data)
        epochs, began = 2 if options.small else 1000, time.monotonic()
        words: list[object] = ["train", "splattingocc-synth", "--data.dataroot", data, "--work-dir", work, "--trainer.max-epochs", epochs]
        words += ["--optimization.image-steps", 0, "--trainer.accelerator", options.device, "--data.num-workers", 4]
        if options.small:
            words += ["--data.loader.image-size", 32, 64, "--data.loader.num-rays", 200]
        # Ended when its time is up, as meant: what is looked at is the log of its losses
        left = options.part_seconds - (time.monotonic() - started) - SECONDS_TO_READ
        with suppress(subprocess.TimeoutExpired):
            _command(*words, timeout=left if options.small else min(left, options.training_seconds))
        seconds = time.monotonic() - began
        with (work / "logs" / "metrics.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    tenth = max(1, len(losses) // 10)
    first, last = statistics.fmean(losses[:tenth]), statistics.fmean(losses[-tenth:])
    yield {
        "what": "training",
        "steps": len(losses),
        "seconds": seconds,
        "first_loss": first,
        "last_loss": last,
        "last_loss_over_first": last / first,
    }


def _command(*words: object, timeout: float | None = None) -> None:
    """Run a command of splattingocc; `ValueError` with its last line where it fails."""
    command = [sys.executable, "-m", "splattingocc", *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if run.returncode:
        raise ValueError(f"splattingocc {words[0]}: {(run.stderr or run.stdout).strip().splitlines()[-1]}")


PARTS: dict[str, Callable[[Arguments], Iterator[dict[str, Any]]]] = {
    "render": _render,
    "gradients": _gradients,
    "steps": _steps,
    "inference": _inference,
    "tests": _tests,
    "training": _training,
    "gsplat": _gsplat,
}

if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(first_line(error))
