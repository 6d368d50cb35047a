from pathlib import Path

import numpy as np
import pytest
import torch

from splattingocc.data.occ3d import read_truth, truth_path

SHAPE = (200, 200, 16)


def _write(gts: Path, **changes: np.ndarray | None) -> Path:
    arrays = {"semantics": np.full(SHAPE, 17, np.uint8), "mask_camera": np.zeros(SHAPE, np.uint8), "mask_lidar": np.ones(SHAPE, np.uint8)}
    arrays["semantics"][3, 4, 5] = 11
    arrays["mask_camera"][3, 4, 5] = 1
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    path = truth_path(gts, "scene-0001", "token")
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **arrays)
    return path


def test_a_grid_on_disk_is_read_with_its_axes_in_order(tmp_path):
    _write(tmp_path)
    truth = read_truth(tmp_path, "scene-0001", "token")
    assert truth.semantics[3, 4, 5] == 11
    assert (truth.semantics != 17).sum() == 1
    assert truth.mask_camera.dtype == torch.bool
    assert truth.mask_camera.sum() == 1
    assert truth.mask_camera[3, 4, 5]
    assert truth.mask_lidar.all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"scene-0001/token/labels\.npz: no such file"):
        read_truth(tmp_path, "scene-0001", "token")


@pytest.mark.parametrize("kept", [0, 10, 200, -30])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = _write(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"labels\.npz: not an .npz archive"):
        read_truth(tmp_path, "scene-0001", "token")


def test_flipped_bytes_inside_the_compressed_grid_are_noticed(tmp_path):
    path = _write(tmp_path)
    content = bytearray(path.read_bytes())
    content[60:120] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.npz: not an .npz archive"):
        read_truth(tmp_path, "scene-0001", "token")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_camera": None}, "has no array 'mask_camera'"),
        ({"semantics": np.zeros((200, 200, 15), np.uint8)}, r"semantics has shape \(200, 200, 15\), should be \(200, 200, 16\)"),
        ({"semantics": np.zeros(SHAPE, np.int64)}, "semantics has dtype int64, should be uint8"),
        ({"semantics": np.full(SHAPE, 255, np.uint8)}, "semantics holds class 255"),
        ({"mask_lidar": np.full(SHAPE, 2, np.uint8)}, "mask_lidar holds 2"),
        ({"semantics": np.array([object()])}, "holds Python objects"),
    ],
)
def test_a_file_that_is_not_an_occ3d_grid_is_refused_by_name(tmp_path, changes, message):
    _write(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"labels.npz: .*{message}"):
        read_truth(tmp_path, "scene-0001", "token")
