"""Frozen dataclasses of tensors: the shape every noun of the project has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound="Struct")
# Methods say `self: S` because beartype, which checks types in tests, refuses `typing.Self` outside classes that it decorates itself.


class Struct:
    """Base of the frozen dataclasses whose fields are tensors, other structs, or plain values that every element of a batch shares."""

    def map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        """Apply `function` to every tensor, in nested structs too; other fields stay as they are."""
        return self._replace_each(lambda value: function(value) if isinstance(value, Tensor) else value.map(function))

    def to(self: S, *args: Any, **kwargs: Any) -> S:
        """Move every tensor as `Tensor.to` does (device only: a dtype would also convert the integer labels)."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self: S) -> S:
        """Pin every tensor; the name is the one that `torch.utils.data.DataLoader` looks for."""
        return self.map(Tensor.pin_memory)

    def detach(self: S) -> S:
        """Cut every tensor from the autograd graph."""
        return self.map(Tensor.detach)

    def __getitem__(self: S, index: Any) -> S:
        """Index the leading (batch) axes of every tensor."""
        return self.map(lambda tensor: tensor[index])

    def _replace_each(self: S, function: Callable[[Any], Any]) -> S:
        changes = {
            field.name: function(value)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor | Struct)
        }
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def stack(structs: Sequence[S]) -> S:
    """Stack equal-shaped structs along a new leading batch axis.

    Strings become a tuple of strings; other plain fields (image size, grid) must be equal in all of them, else `ValueError`.
    """
    first = structs[0]
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(first):  # type: ignore[arg-type]
        values = [getattr(struct, field.name) for struct in structs]
        if isinstance(values[0], Tensor):
            changes[field.name] = torch.stack(values)
        elif isinstance(values[0], Struct):
            changes[field.name] = stack(values)
        elif isinstance(values[0], str):
            changes[field.name] = tuple(values)
        elif any(value != values[0] for value in values):
            raise ValueError(f"cannot stack {type(first).__name__}: field {field.name} differs ({values[0]!r} and others)")
    return dataclasses.replace(first, **changes)  # type: ignore[type-var]
