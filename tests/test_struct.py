from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from splattingocc.struct import Struct, stack


@dataclass(frozen=True)
class Inner(Struct):
    values: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Outer(Struct):
    token: str | tuple[str, ...]
    inner: Inner
    counts: Tensor
    extra: Tensor | None = None


def outer(token: str = "a", size: tuple[int, int] = (2, 3)) -> Outer:
    return Outer(token, Inner(torch.arange(4.0), size), torch.tensor([1, 2]))


def test_map_reaches_nested_tensors_and_leaves_the_rest():
    mapped = outer().map(lambda tensor: tensor * 2)
    assert mapped.inner.values.tolist() == [0, 2, 4, 6]
    assert mapped.counts.tolist() == [2, 4]
    assert mapped.inner.size == (2, 3)
    assert mapped.token == "a"
    assert mapped.extra is None


def test_map_does_not_change_the_original():
    original = outer()
    original.map(lambda tensor: tensor * 2)
    assert original.inner.values.tolist() == [0, 1, 2, 3]


def test_indexing_reaches_the_leading_axis_of_every_tensor():
    batch = stack([outer("a"), outer("b")])
    assert batch[1].inner.values.tolist() == [0, 1, 2, 3]
    assert batch[:1].counts.shape == (1, 2)


def test_stacking_adds_a_batch_axis_and_collects_strings():
    batch = stack([outer("a"), outer("b"), outer("c")])
    assert batch.token == ("a", "b", "c")
    assert batch.inner.values.shape == (3, 4)
    assert batch.counts.dtype == torch.int64
    assert batch.inner.size == (2, 3)


def test_stacking_structs_whose_plain_fields_differ_is_refused_by_field_name():
    with pytest.raises(ValueError, match="field size differs"):
        stack([outer(size=(2, 3)), outer(size=(4, 3))])


def test_detach_cuts_the_graph():
    values = torch.ones(2, requires_grad=True) * 2
    assert not Inner(values, (1, 1)).detach().values.requires_grad


def test_to_moves_every_tensor():
    moved = outer().to("meta")
    assert moved.inner.values.device.type == moved.counts.device.type == "meta"


def test_a_struct_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        outer().token = "b"  # type: ignore[misc]
