"""What each kernel takes of a GPU's registers and local memory, by NVIDIA's assembler: no GPU is needed.

    pip install --target NVCC nvidia-cuda-nvcc
    PYTHONPATH=NVCC python benchmarks/registers.py                # or: --ptxas PATH, or ptxas on PATH

Compiles every kernel of the package to PTX for each architecture, and that with `ptxas -v`. Prints a JSON line for each: registers of a
thread, bytes of local memory that spilled registers are written to and read from, the stack frame (local arrays, and what is spilled),
shared memory of a block, and how many threads an SM holds at most by their registers, of how many it could. Ends with a table; `--out`
also writes the lines into a file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
import warp as wp

import splattingocc.kernels
import splattingocc.synthetic
from splattingocc.files import first_line
from splattingocc.kernels.gaussian_read_out import read_out_kernel
from splattingocc.kernels.gaussian_render import render_kernels
from splattingocc.provenance import environment
from splattingocc.taxonomy import NUM_CLASSES

ROOMS = (splattingocc.kernels, splattingocc.synthetic)
"""Where kernels are defined."""
BLOCK = 256
"""Threads of a block, as Warp launches them."""
PARTS_OF_SM = 4
"""Each with a quarter of the registers and of the warps."""
REGISTERS_OF_PART = 16_384
REGISTER_STEP = 8
"""Registers of a thread are given out in so many."""
WARP = 32
THREADS_OF_SM = {75: 1024, 86: 1536, 87: 1536, 89: 1536, 120: 1536, 121: 1536}
"""Threads that an SM can hold, of architectures where these are not `MOST_THREADS`. Source of all: CUDA C++ programming guide, table of
technical specifications for each compute capability."""
MOST_THREADS = 2048


@dataclass
class Arguments:
    architectures: tuple[int, ...] = (80, 90, 120)
    """Compute capabilities: 80 is an A100, 90 an H100 or H200, 120 an RTX 50."""
    channels: int = NUM_CLASSES
    """Of the features that are rendered and read out."""
    only: str = ""
    """Part of the names of the kernels that are wanted; all where it is empty."""
    ptxas: Path | None = None
    """NVIDIA's assembler; where it is not given, that of the PyPI package `nvidia-cuda-nvcc`, or else what is on PATH."""
    out: Path | None = None
    """File that the lines are also written into."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes."""

    registers: int
    """Of a thread."""
    spill_stores: int
    """Bytes of a thread."""
    spill_loads: int
    stack_frame: int
    """Bytes of a thread in local memory: local arrays, and what is spilled."""
    shared_memory: int
    """Bytes of a block."""


ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+?)(?:_[0-9a-f]{8})?_cuda_kernel_forward'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
"""One kernel in what ptxas says."""


def main() -> None:
    options = tyro.cli(Arguments)
    ptxas = find_ptxas(options.ptxas)
    around = environment() | {"ptxas": version_of(ptxas), "channels": options.channels}
    lines = []
    for module in modules(options.channels):
        for architecture in options.architectures:
            for line in measured(module, architecture, ptxas):
                if options.only in line["kernel"]:
                    lines.append(line)
                    print(json.dumps(line | around), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("".join(json.dumps(line | around) + "\n" for line in lines))
    print(table_of(lines))


def find_ptxas(given: Path | None) -> Path:
    """Return NVIDIA's assembler; `ValueError` says how to get it."""
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--ptxas {given}: there is no such file")
        return given
    # Before that on PATH, which may be older than what Warp's compiler writes
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for found in sorted(Path(folder).glob("*/bin/ptxas"), reverse=True):
            return found
    if (on_path := shutil.which("ptxas")) is not None:
        return Path(on_path)
    raise ValueError(
        "ptxas is not here: `pip install --target NVCC nvidia-cuda-nvcc` and set PYTHONPATH=NVCC, or say where it is by --ptxas"
    )


def version_of(ptxas: Path) -> str:
    said = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d[\d.]*)", said)
    return found[1] if found else "unknown"


def modules(channels: int) -> list[Any]:
    """Return the Warp modules of all kernels of the package, those of a number of channels for this one."""
    kernels: list[Any] = [render_kernels(channels).forward, read_out_kernel(channels)]
    for room in ROOMS:
        for info in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            kernels += [value for value in vars(importlib.import_module(info.name)).values() if isinstance(value, wp.Kernel)]
    return list({kernel.module.name: kernel.module for kernel in kernels}.values())


def measured(module: Any, architecture: int, ptxas: Path) -> Iterator[dict[str, Any]]:
    """Yield what the kernels of a module take."""
    with tempfile.TemporaryDirectory() as folder:
        wp.compile_aot_module(module, arch=architecture, use_ptx=True, module_dir=folder)
        (ptx,) = Path(folder).glob("*.ptx")
        # Warp ends the file with a zero, on which ptxas may stumble
        ptx.write_bytes(ptx.read_bytes().rstrip(b"\0"))
        command = [ptxas, "-v", f"-arch=sm_{architecture}", "-o", Path(folder) / "kernels.cubin", ptx]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise ValueError(f"ptxas, {module.name} for sm_{architecture}: {said.stderr.strip().splitlines()[0]}")
    for name, resources in read(said.stderr).items():
        held, possible = threads_of_sm(resources.registers, architecture)
        line = {"what": "registers", "module": module.name.removeprefix("splattingocc."), "kernel": name, "architecture": architecture}
        yield line | asdict(resources) | {"threads_of_sm": held, "possible_threads_of_sm": possible}


def read(said: str) -> dict[str, Resources]:
    """Return what ptxas says of each kernel, by its name."""
    found = {}
    for match in ENTRY.finditer(said):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        numbers = (int(match[part]) for part in ("registers", "stores", "loads", "stack"))
        found[match["name"]] = Resources(*numbers, int(shared[1]) if shared else 0)
    return found


def threads_of_sm(registers: int, architecture: int) -> tuple[int, int]:
    """Return how many threads of whole blocks an SM holds, where nothing but registers is in the way, and how many it could."""
    possible = THREADS_OF_SM.get(architecture, MOST_THREADS)
    of_warp = WARP * -(-registers // REGISTER_STEP) * REGISTER_STEP
    warps = min(PARTS_OF_SM * (REGISTERS_OF_PART // of_warp), possible // WARP)
    return warps * WARP // BLOCK * BLOCK, possible


def table_of(lines: list[dict[str, Any]]) -> str:
    """Return a row for each kernel as Markdown, architectures side by side."""
    architectures = sorted({line["architecture"] for line in lines})
    title = "registers, spilled bytes, stack frame, threads of an SM"
    rows = [f"| kernel: {title} |{''.join(f' sm_{architecture} |' for architecture in architectures)}"]
    rows.append("|---|" + "---|" * len(architectures))
    by_kernel: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        by_kernel.setdefault(f"{line['module'].rpartition('.')[2]}.{line['kernel'].rpartition('__')[2]}", {})[line["architecture"]] = line
    for name, found in by_kernel.items():
        figures = ("registers", "spill_stores", "stack_frame", "threads_of_sm")
        cells = [", ".join(str(found[architecture][figure]) for figure in figures) for architecture in architectures]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(first_line(error))
