"""Computing activations again in the backward pass instead of keeping them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(module: nn.Module) -> None:
    """Let a module keep nothing but its inputs for the backward pass, which runs it again; what it computes and learns stays the same.

    Its parameters keep their names: whether it is done is no property of a network. Where no gradients are asked for, nothing changes.
    """
    if not isinstance(getattr(module, "forward", None), _Recomputed):
        module.forward = _Recomputed(module)


class _Recomputed:
    """The `forward` of a module that is run again. An object and not a closure: a copy of the module has a copy of it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        forward = type(self._module).forward
        if not torch.is_grad_enabled():
            return forward(self._module, *inputs, **options)
        return checkpoint(forward, self._module, *inputs, use_reentrant=False, context_fn=self._contexts, **options)

    def _contexts(self) -> tuple[Any, Any]:
        return nullcontext(), _buffers_spared(self._module)


@contextmanager
def _buffers_spared(module: nn.Module) -> Iterator[None]:
    """Let what runs inside change copies of the buffers: the statistics of BatchNorm have counted the batch already."""
    owners = [(part, name) for part in module.modules() for name, buffer in part._buffers.items() if buffer is not None]
    kept = [part._buffers[name] for part, name in owners]
    for (part, name), buffer in zip(owners, kept):
        assert buffer is not None
        part._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for (part, name), buffer in zip(owners, kept):
            part._buffers[name] = buffer
