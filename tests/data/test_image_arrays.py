import numpy as np
import pytest
import torch

from splattingocc.data.image_arrays import array_of


@pytest.mark.parametrize("values", [[[1, 2], [3]], (np.eye(3), np.zeros(3)), [torch.eye(3), torch.zeros(2)], {"fx": 1.0}, None])
def test_what_is_no_array_is_refused_by_its_name(values: object) -> None:
    with pytest.raises(ValueError, match=r"^world_from_ego is no array of numbers, expected floats of the shape \(4, 4\)$"):
        array_of(values, "world_from_ego", "floats of the shape (4, 4)")


def test_nested_lists_and_tensors_are_arrays() -> None:
    assert array_of([[1, 2], [3, 4]], "K", "floats").tolist() == [[1, 2], [3, 4]]
    assert array_of([torch.eye(2), np.eye(2)], "K", "floats").shape == (2, 2, 2)
