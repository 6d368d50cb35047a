"""Rotations and rigid transforms. A transform is a (4, 4) matrix named `dst_from_src`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def beside(numbers: Sequence[float | int], tensor: Tensor, dtype: torch.dtype | None = None) -> Shaped[Tensor, " number"]:
    """Return numbers where a tensor is, in its precision; unlike `new_tensor` the host does not wait for a GPU meanwhile."""
    return torch.tensor(numbers, dtype=dtype or tensor.dtype).to(tensor.device, non_blocking=True)


def rotation_from_quat(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn unit quaternions (w, x, y, z) into rotation matrices. The caller normalises; gradients flow as if the norm were one."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rigid(rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Assemble the transform x ↦ rotation · x + translation."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = beside([0.0, 0.0, 0.0, 1.0], top).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_rigid(dst_from_src: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Return `src_from_dst`. Exact for matrices whose linear part is orthogonal: rotations and reflections."""
    transposed = dst_from_src[..., :3, :3].mT
    return rigid(transposed, -(transposed @ dst_from_src[..., :3, 3:]).squeeze(-1))


def transform_points(
    dst_from_src: Float[Tensor, "*batch 4 4"], points_src: Float[Tensor, "*batch point 3"]
) -> Float[Tensor, "*batch point 3"]:
    """Express points in the destination frame."""
    return points_src @ dst_from_src[..., :3, :3].mT + dst_from_src[..., None, :3, 3]


def transform_directions(
    dst_from_src: Float[Tensor, "*batch 4 4"], directions_src: Float[Tensor, "*batch point 3"]
) -> Float[Tensor, "*batch point 3"]:
    """Express directions in the destination frame: rotated, not translated."""
    return directions_src @ dst_from_src[..., :3, :3].mT
