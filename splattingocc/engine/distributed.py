"""Several processes that share the work: how many were started, and what each of them does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeAlias, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
Launcher: TypeAlias = Literal["none", "pytorch", "slurm"]
"""What started the processes: nothing, torchrun, or srun."""
LONGEST_WAIT = timedelta(hours=12)
"""For the other processes, whose part of the work may take longer; one that ends is noticed at once."""


def started_by(launcher: Launcher) -> tuple[int, int] | None:
    """Return how many processes were started on each node, and on how many nodes; None for `none`.

    What torchrun started is so many also where nobody says so: each would train alone, in one folder. A launcher that has left no trace
    in the environment is a `ValueError`: one process would train where many were asked for.
    """
    by_torchrun = "WORLD_SIZE" in os.environ and "LOCAL_WORLD_SIZE" in os.environ
    if launcher == "none" and not by_torchrun:
        return None
    if launcher in ("none", "pytorch"):
        if not by_torchrun:
            raise ValueError("--launcher pytorch: torchrun has not started this process; use tools/dist_train.sh, or --launcher none")
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return per_node, int(os.environ["WORLD_SIZE"]) // per_node
    if "SLURM_NTASKS" not in os.environ:
        raise ValueError("--launcher slurm: srun has not started this process; use tools/slurm_train.sh, or --launcher none")
    nodes = int(os.environ["SLURM_NNODES"])
    return int(os.environ["SLURM_NTASKS"]) // nodes, nodes


@contextmanager
def processes(launcher: Launcher) -> Iterator[None]:
    """Join the other processes that torchrun or srun started, if one did, for as long as this lasts."""
    size = process_count(launcher)
    if size == 1 or dist.is_initialized():
        yield
        return
    number, on_node, where = _place()
    if torch.cuda.is_available():
        torch.cuda.set_device(on_node)
    dist.init_process_group("gloo", init_method=where, rank=number, world_size=size, timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _place() -> tuple[int, int, str]:
    """Return this process's number, its number on its node, and where all of them meet."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), "env://"
    # Imported where it is needed, because it takes seconds
    from lightning.fabric.plugins.environments import SLURMEnvironment

    slurm = SLURMEnvironment()
    return slurm.global_rank(), slurm.local_rank(), f"tcp://{slurm.main_address}:{slurm.main_port}"


def was_begun_again() -> bool:
    """Say whether Slurm or torchrun has begun this job before, which had to end or has died."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def process_number(launcher: Launcher) -> int:
    """Return the number of this process among those that were started, before they have met.

    Slurm's variables count for `slurm` only: a shell inside of an allocation has them too, and is alone.
    """
    of_slurm = ("SLURM_PROCID",) if launcher == "slurm" else ()
    for name in ("RANK", *of_slurm, "LOCAL_RANK"):  # of torchrun, srun, and of Lightning, which starts further ones by itself
        if name in os.environ:
            return int(os.environ[name])
    return 0


def process_count(launcher: Launcher) -> int:
    """Return how many processes were started, before they have met."""
    alone = os.environ.get("SLURM_NTASKS", "1") if launcher == "slurm" else "1"
    return int(os.environ.get("WORLD_SIZE", alone))


def rank() -> int:
    """Return the number of this process; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's part of a list: every item is in exactly one part, and the parts may differ in length."""
    return items[rank() :: dist.get_world_size()] if dist.is_initialized() else items


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order, in each of them. Also waits for all."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(values, value)
    except RuntimeError as error:
        raise ValueError("another process of this job has ended; its own message says why") from error
    return values  # type: ignore[return-value]
