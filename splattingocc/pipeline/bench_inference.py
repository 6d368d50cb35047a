"""Time a network on one frame: from images in memory to an occupancy grid."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from splattingocc.engine.checkpoint import is_network
from splattingocc.experiment import ExperimentConfig, build_network
from splattingocc.files import first_line
from splattingocc.geometry.cameras import Views
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.networks import load_experiment
from splattingocc.pipeline.prediction import open_network
from splattingocc.provenance import environment
from splattingocc.splatting.field import OccupancyThreshold
from splattingocc.worker_pool import end_with_parent

Way = Literal["eager", "torch.compile", "onnxruntime"]
WAYS: tuple[Way, ...] = ("eager", "torch.compile", "onnxruntime")
STATUS = Path("/proc/self/status")
"""Where Linux says how much memory a process has taken."""
THRESHOLD = OccupancyThreshold.of_all(0.1)
"""Of a network that has none, because it was not trained."""


@dataclass(frozen=True)
class Case:
    """One way to run a network, in a process of its own."""

    way: Way
    path: Path
    """Network or configuration."""
    threads: int
    repeats: int
    onnx: Path | None
    device: str


def bench_inference(
    path: Path, *, ways: Sequence[Way] = WAYS, repeats: int = 5, threads: Sequence[int] = (1, 2), onnx: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Yield one flat record for each case: how, sizes, seconds (p50, p95), peak memory, device, versions, commit; or why it does not work.

    `path` is a network's file, or a configuration, whose network then has random weights. Images are noise, and so a trained network
    predicts less, and an untrained one more, than on a street. Memory is all that the process took, its libraries included. `onnx` is the
    network as `splattingocc export` writes it.
    """
    load_experiment(path)  # what is wrong with it is better said before a process is started
    if onnx is not None and not onnx.is_file():
        raise ValueError(f"{onnx}: no such file; `splattingocc export NETWORK {onnx}` writes it, of a network without earlier frames")
    cases = [Case(way, path, count, repeats, onnx, "cpu") for count in threads for way in ways]
    if torch.cuda.is_available():
        cases += [Case(way, path, torch.get_num_threads(), repeats, None, "cuda") for way in ways if way != "onnxruntime"]
    for case in cases:
        found: dict[str, Any] = {"what": case.way, "network": str(path), "num_threads": case.threads}
        if (reason := _impossible(case)) is not None:
            yield {**found, "device": case.device, "failed": reason}
            continue
        # A process for each: threads and peak memory are a process's
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
            try:
                # Workers inherit what is blocked: Ctrl-C is for this process, with which they end
                blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    measured = pool.submit(measure, case)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                yield found | measured.result()
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
            except BrokenProcessPool:
                yield {**found, "device": case.device, "failed": "its process was killed, perhaps for memory"}


def _impossible(case: Case) -> str | None:
    """Say what a case lacks that cannot be run at all."""
    if case.way == "onnxruntime" and case.onnx is None:
        return "--onnx FILE is not given, which `splattingocc export NETWORK FILE` writes"
    if case.way == "onnxruntime" and importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'splattingocc[export]'"
    return None


@torch.inference_mode()
def measure(case: Case) -> dict[str, Any]:
    """Run one case in this process."""
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    config = load_experiment(case.path)
    views = made_up_sample(config).views.to(device)
    sizes = {"num_views": views.images.shape[2], "image_size": f"{views.images.shape[-2]} × {views.images.shape[-1]}"}
    circumstances = sizes | environment(device) | {"num_threads": case.threads}
    try:
        run = _onnx_run(case, views) if case.way == "onnxruntime" else _torch_run(case, config, views, device)
        run()  # compiles kernels and warms caches
    except Exception as error:
        # Compilers raise errors of dozens of types, none of which is of the program's making
        return circumstances | {"failed": first_line(error)[:300]}
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(case.repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    p50, p95 = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    timed = {"p50_s": round(p50, 5), "p95_s": round(p95, 5), "repeats": case.repeats, "peak_memory_mb": round(peak / 2**20)}
    return circumstances | timed


def _torch_run(case: Case, config: ExperimentConfig, views: Views, device: torch.device) -> Callable[[], object]:
    network, threshold = _open(case.path, config, device)
    if case.way == "torch.compile":
        compile_parts(network)

    def run() -> None:
        threshold.read_out(network(views).field[0], config.grid.voxels)

    return run


def compile_parts(network: OccupancyNetwork) -> None:
    """Compile the parts that are convolutions alone; between them kernels are launched and cells are counted that some camera sees."""
    for part in (network.backbone, network.neck, network.volume_encoder):
        part.compile()


def _open(path: Path, config: ExperimentConfig, device: torch.device) -> tuple[OccupancyNetwork, OccupancyThreshold]:
    if is_network(path):
        network, threshold = open_network(config, path, device)
        return network, threshold if threshold is not None and threshold.lowest else THRESHOLD
    torch.manual_seed(0)
    return build_network(config, initial_weights=False).to(device).eval(), THRESHOLD


def _onnx_run(case: Case, views: Views) -> Callable[[], object]:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    # As torch's threads do here: what spins while it waits takes the time of whatever else runs on its core
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(case.onnx), options, providers=["CPUExecutionProvider"])
    cameras = views.cameras[0, 0]
    values = (views.images[0, 0], cameras.K, cameras.cam_from_ego)
    inputs = {put.name: value.numpy() for put, value in zip(session.get_inputs(), values)}
    for put in session.get_inputs():
        here = inputs[put.name].shape
        if len(put.shape) != len(here) or any(isinstance(size, int) and size != own for size, own in zip(put.shape, here)):
            raise ValueError(f"{case.onnx}: its {put.name} are of shape {tuple(put.shape)}, those of this network {here}")
    return lambda: session.run(None, inputs)


def peak_memory() -> int:
    """Return the most memory that this process has taken, bytes."""
    if STATUS.is_file():
        # What getrusage says begins with what the parent had taken
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
