"""Where the host would wait for a GPU: found on a CPU, by the operations that ask what a tensor holds.

A GPU works behind the host, which runs ahead of it as long as nothing that it does depends on a value. What does is an operation whose
result is a number of Python or has a size that values decide, and a copy to or from memory that is not pinned.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import splattingocc

PACKAGE = Path(splattingocc.__file__).parent
SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount", "histogram")
"""Operations of torch whose results have a size that depends on values; `bincount` looks for the largest first."""
ANSWERING_PYTHON = ("_local_scalar_dense", "item", "is_nonzero", "equal", "_linalg_check_errors")
"""Operations of torch whose result is a number or a truth of Python: what `item`, `bool` and `int` call."""
READING = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
"""On a CPU these call no operation."""


class Waits(TorchDispatchMode):
    """Counts, inside, what the host would wait for: by the place in our code that asked, as (file:function, what)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()
        self.is_counting = True
        self._python = _Calls(self.note)

    def __enter__(self) -> Waits:
        self._python.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._python.__exit__(*error)

    def note(self, what: str) -> None:
        if self.is_counting:
            self.found[place_of_caller(), what] += 1

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "splattingocc":
            # What happens inside is of interest too, and would be hidden behind one operation
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs or {})
        if name == "equal" and _are_one(*args[:2]):
            return func(*args)
        if name in ANSWERING_PYTHON or name in SIZED_BY_VALUES:
            self.note(name.removeprefix("_"))
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            self.note(name)
        if name == "index" and _has_mask(args[1]):
            self.note("index by a mask")
        # Of one value, that is a `masked_fill`
        if name in ("index_put", "index_put_", "_index_put_impl_") and _has_mask(args[1]) and args[2].numel() != 1:
            self.note("index_put by a mask")
        return func(*args, **kwargs or {})


class _Calls(TorchFunctionMode):
    """Notes calls from Python that a CPU answers without an operation."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in READING:
            self._note(func.__name__)
        if func is Tensor.new_tensor or (func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None):
            self._note("upload of numbers")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and _has_list(args[1]):
            self._note("upload of indices")
        if func is Tensor.to and not kwargs.get("non_blocking") and _names_device((*args[1:], *kwargs.values())):
            self._note("to another device")
        return func(*args, **kwargs)


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _are_one(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same memory, of which torch knows without looking that it is equal to itself."""
    return one.data_ptr() == other.data_ptr() and (one.shape, one.stride()) == (other.shape, other.stride())


def _names_device(arguments: tuple) -> bool:
    """Return whether a call in our own code names a device: torch's and Lightning's own are of tensors that are there already."""
    caller = Path(sys._getframe(2).f_code.co_filename)
    return caller.is_relative_to(PACKAGE) and any(isinstance(argument, torch.device | str) for argument in arguments)


def _has_list(index: Any) -> bool:
    return any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))


def place_of_caller() -> str:
    """Return file and function of the innermost call in our code; where there is none, in Lightning's; else that is torch's."""
    outside, frame = "torch", sys._getframe(1)
    while frame is not None:
        path, function = Path(frame.f_code.co_filename), frame.f_code.co_name
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{function}"
        if outside == "torch" and "lightning" in path.parts:
            outside = f"lightning {path.name}:{function}"
        frame = frame.f_back
    return outside
