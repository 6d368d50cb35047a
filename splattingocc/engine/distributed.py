"""Several processes that share the work of predicting and scoring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes that torchrun started, if it did, for as long as this lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
