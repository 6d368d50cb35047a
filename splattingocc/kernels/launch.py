"""How every Warp kernel of the project is started.

A kernel takes the index of its first item as its first argument and works on item `first + wp.tid()`. That lets one launch be cut into
chunks: on a CPU, where a Warp launch runs on the calling thread and releases the GIL, the chunks go to a pool of as many threads as torch
uses; on CUDA there is one chunk, on torch's current stream.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import warp as wp

from splattingocc.kernels.cache import init_warp, load_module


@contextmanager
def _quietly() -> Iterator[None]:
    """Have Warp print no banner and no notices of compiling; its settings belong to the whole process, so to others as well."""
    level, wp.config.log_level = wp.config.log_level, wp.LOG_ERROR
    try:
        yield
    finally:
        wp.config.log_level = level


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drop what native code writes to the error stream, which Python cannot catch."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


# Warp's native library warns of the missing CUDA driver whatever its log level; a CPU machine is a place to run, not a fault.
with _quietly(), nullcontext() if torch.cuda.is_available() else _silenced_stderr():
    substitute = init_warp()
if substitute is not None:
    print(f"splattingocc: {substitute}", file=sys.stderr)

CHUNKS_PER_THREAD = 8
"""Chunks a CPU launch is cut into for each thread, so that uneven items even out."""


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="warp")


@cache
def _load(module: Any, device: str) -> None:
    """Compile and load a module once, before any threads use it."""
    # A CPU launch uses blocks of one thread, which is a build of its own.
    with _quietly():
        load_module(module, wp.get_device(device), block_dim=1 if device == "cpu" else None)


def launch(
    kernel: Any,
    count: int,
    inputs: Sequence[Any] | Callable[[int], Sequence[Any]],
    *,
    device: torch.device,
    num_chunks: int | None = None,
) -> None:
    """Run `kernel(first, *inputs)`, a `wp.kernel`, over `count` items and wait for the result (on CUDA: in stream order).

    `inputs` may be a function of the chunk number, for kernels that need a buffer of their own in each of `num_chunks` chunks.
    """
    if count == 0:
        return
    arguments = inputs if callable(inputs) else lambda chunk: inputs
    _load(kernel.module, str(device))
    if device.type != "cpu":
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        wp.launch(kernel, dim=count, inputs=[0, *arguments(0)], stream=stream)
        return
    num_threads = torch.get_num_threads()
    chunks = num_chunks or (num_threads * CHUNKS_PER_THREAD if num_threads > 1 else 1)
    bounds = [count * chunk // chunks for chunk in range(chunks + 1)]

    def run(chunk: int) -> None:
        size = bounds[chunk + 1] - bounds[chunk]
        if size:
            wp.launch(kernel, dim=size, inputs=[bounds[chunk], *arguments(chunk)], device="cpu")

    if num_threads == 1 or chunks == 1:
        for chunk in range(chunks):
            run(chunk)
    else:
        started = [_pool(num_threads).submit(run, chunk) for chunk in range(chunks)]
        try:
            for future in started:
                future.result()
        finally:
            # After an error or Ctrl-C too: whoever frees the tensors must not do so before the last kernel has let go of them
            concurrent.futures.wait([future for future in started if not future.cancel()])
