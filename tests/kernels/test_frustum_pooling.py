import pytest
import torch
import warp as wp
from torch import Tensor

from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid, rigid, rotation_from_quat, transform_points
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.kernels import frustum_pooling
from splattingocc.kernels.frustum_pooling import frustum_cells, sort_by_counting, sort_on_device
from splattingocc.kernels.gaussian_scene import as_output
from splattingocc.models.lift import pooling
from splattingocc.models.lift.pooling import pool_frustum, pool_reference
from splattingocc.struct import stack

HOPPER = 90
CPU_AND_CUDA = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")]
    ),
]
GRID = VoxelGrid((-6.0, -4.0, -1.0), (6.0, 8.0, 3.0), 0.5)
DEPTHS = torch.tensor([0.7, 1.5, 3.1, 5.9, 11.0])
SIZE = (6, 9)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_cameras(batch: int, views: int, generator: torch.Generator) -> Cameras:
    """Cameras near the origin that look anywhere, with skewed intrinsics, as turned images have them."""
    quats = torch.nn.functional.normalize(torch.randn(batch, views, 4, generator=generator), dim=-1)
    K = torch.tensor([[40.0, 3.0, 33.0], [-2.0, 45.0, 21.0], [0.0, 0.0, 1.0]]).expand(batch, views, 3, 3)
    return Cameras(K, rigid(rotation_from_quat(quats), torch.randn(batch, views, 3, generator=generator)), (48, 72))


def points_by_hand(camera: Cameras, size: tuple[int, int]) -> Tensor:
    """(bin, row, column, 3) in the ego frame: where the ray through each pixel has each z-depth."""
    rows, columns = size
    u = (torch.arange(columns) + 0.5) / columns * camera.image_size[1]
    v = (torch.arange(rows) + 0.5) / rows * camera.image_size[0]
    pixels = torch.stack([u.expand(rows, columns), v[:, None].expand(rows, columns), torch.ones(rows, columns)], dim=-1).double()
    points_cam = DEPTHS[:, None, None, None].double() * (pixels @ torch.linalg.inv(camera.K.double()).mT)
    return transform_points(invert_rigid(camera.cam_from_ego.double()), points_cam.flatten(0, 2)).unflatten(0, points_cam.shape[:3])


def cells_by_hand(camera: Cameras, size: tuple[int, int], grid: VoxelGrid) -> tuple[Tensor, Tensor]:
    """The cell of each point, -1 outside; and which points are not so near a border that rounding decides."""
    points = points_by_hand(camera, size)
    (x, y, z), inside = (result.movedim(-1, 0) if result.ndim == 4 else result for result in grid.cells_of(points))
    offsets = (points - points.new_tensor(grid.lower)) / grid.cell_size
    certain = ((offsets - offsets.round()).abs() > 1e-4).all(dim=-1)
    return torch.where(inside, (x * grid.shape[1] + y) * grid.shape[2] + z, torch.full_like(x, -1)), certain


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("change", ["as they are", "mirrored images", "mirrored ego frame", "image half as large"])
def test_each_point_lies_in_the_cell_that_unprojecting_it_says(change: str, device: str, generator: torch.Generator):
    cameras = random_cameras(2, 3, generator)
    if change == "mirrored images":
        cameras = cameras.flip()
        assert (cameras.K[..., 0, 0] < 0).all()
    elif change == "mirrored ego frame":
        mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
        cameras = cameras.transform_ego(mirror)
    elif change == "image half as large":
        cameras = cameras.resize((24, 36))
    cells = frustum_cells(cameras.to(device), DEPTHS.to(device), SIZE, GRID).cpu()
    assert cells.shape == (2, 3, len(DEPTHS), *SIZE)
    for element in range(2):
        for view in range(3):
            expected, certain = cells_by_hand(cameras[element, view], SIZE, GRID)
            inside = expected >= 0
            assert 0.05 < inside.float().mean() < 0.95
            assert certain.float().mean() > 0.99
            expected = torch.where(inside, expected + element * GRID.num_cells, torch.full_like(expected, 2 * GRID.num_cells))
            assert torch.equal(cells[element, view][certain], expected[certain].int())


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_camera_that_is_nowhere_has_no_point_in_the_grid(mirrored: bool):
    cameras = stack([stack([Cameras.nowhere((48, 72)), Cameras.nowhere((48, 72)).flip()])])
    if mirrored:
        cameras = cameras.transform_ego(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))
    assert (frustum_cells(cameras, DEPTHS, SIZE, GRID) == GRID.num_cells).all()


def test_an_empty_batch_has_no_cells():
    cameras = Cameras(torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 4, 4), (48, 72))
    assert frustum_cells(cameras, DEPTHS, SIZE, GRID).shape == (0, 2, len(DEPTHS), *SIZE)
    pooled = pool_frustum(torch.zeros(0, 5, 6, 9), torch.zeros(0, 3, 9, 8), torch.zeros(0, 5, 6, 9, dtype=torch.int32), 0)
    assert pooled.shape == (0, 8)


def test_more_points_than_have_numbers_are_refused():
    cameras = Cameras(torch.eye(3).expand(1, 1, 3, 3), torch.eye(4).expand(1, 1, 4, 4), (48, 72))
    with pytest.raises(ValueError, match=r"1,073,741,824,000 cells in a batch, expected at most 1,073,741,824"):
        frustum_cells(cameras, DEPTHS, SIZE, VoxelGrid((0.0, 0.0, 0.0), (1024.0, 1024.0, 1024.0), 0.1))


def random_maps(views: int, rows: int, height: int, channels: int, num_cells: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    depth = torch.rand(views, 5, rows, 9, generator=generator)
    context = torch.randn(views, height, 9, channels, generator=generator)
    # A third of the points lies outside
    cells = torch.randint(0, num_cells + num_cells // 2, (views, 5, rows, 9), generator=generator).clamp(max=num_cells)
    return depth, context, cells.int()


def gradients(pooled: Tensor, leaves: tuple[Tensor, ...], weights: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((pooled * weights).sum() + pooled.square().sum(), leaves)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("channels", [1, 8, 11, 32])
@pytest.mark.parametrize(("rows", "height"), [(6, 6), (6, 3), (8, 2)])
def test_the_kernels_say_what_the_reference_says(rows: int, height: int, channels: int, device: str, generator: torch.Generator):
    depth, context, cells = random_maps(3, rows, height, channels, 40, generator)
    weights = torch.randn(40, channels, generator=generator)
    ours = tuple(leaf.to(device).requires_grad_() for leaf in (depth, context))
    exact = tuple(leaf.double().requires_grad_() for leaf in (depth, context))
    pooled, expected = pool_frustum(*ours, cells.to(device), 40), pool_reference(*exact, cells, 40)
    torch.testing.assert_close(pooled.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(gradients(pooled, ours, weights.to(device)), gradients(expected, exact, weights.double())):
        torch.testing.assert_close(found.double().cpu(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("channels", [8, 11, 16, 32])
def test_gradients_of_context_as_the_lift_gives_it_are_those_of_the_reference(views: int, channels: int, generator: torch.Generator):
    """Channels come from a convolution before the pixels, so the context is a transposed view; of one view its rows are still one axis."""
    depth, context, cells = random_maps(views, 6, 6, channels, 40, generator)
    context = context.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not context.is_contiguous()
    weights = torch.randn(40, channels, generator=generator)
    ours, exact = (
        (depth.requires_grad_(), context.requires_grad_()),
        tuple(leaf.detach().double().requires_grad_() for leaf in (depth, context)),
    )
    pooled, expected = pool_frustum(*ours, cells, 40), pool_reference(*exact, cells, 40)
    for found, wanted in zip(gradients(pooled, ours, weights), gradients(expected, exact, weights.double())):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


def test_a_kernel_is_never_given_a_copy_to_write_to():
    with pytest.raises(AssertionError, match=r"strides \(1, 2\)"):
        as_output(torch.zeros(3, 2).T, wp.float32)


def test_the_gradients_of_the_reference_are_those_of_finite_differences(generator: torch.Generator):
    depth, context, cells = random_maps(2, 4, 2, 3, 10, generator)
    leaves = (depth.double().requires_grad_(), context.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda depth, context: pool_reference(depth, context, cells, 10), leaves)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_points_outside_give_nothing_and_get_no_gradient(device: str, generator: torch.Generator):
    depth, context, cells = (tensor.to(device) for tensor in random_maps(2, 6, 3, 8, 40, generator))
    leaves = (depth.requires_grad_(), context.requires_grad_())
    pooled = pool_frustum(*leaves, torch.full_like(cells, 40), 40)
    assert not pooled.any()
    assert not any(gradient.any() for gradient in gradients(pooled, leaves, torch.ones_like(pooled)))


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_pooling_repeats_to_the_last_digit_and_does_not_depend_on_the_threads(device: str, generator: torch.Generator):
    depth, context, cells = (tensor.to(device) for tensor in random_maps(4, 24, 6, 8, 7, generator))
    leaves = (depth.requires_grad_(), context.requires_grad_())
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3, 3):
            torch.set_num_threads(count)
            pooled = pool_frustum(*leaves, cells, 7)
            results.append((pooled, *gradients(pooled, leaves, torch.ones_like(pooled))))
    finally:
        torch.set_num_threads(threads)
    for first, second, third in zip(*results):
        assert torch.equal(first, second)
        assert torch.equal(second, third)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_both_ways_to_sort_bring_the_points_into_the_same_order(num_threads: int, generator: torch.Generator):
    depth, context, cells = random_maps(3, 6, 3, 8, 40, generator)
    shape = frustum_pooling._shape_of(depth, context)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        one, other = (sort(cells.flatten(), depth.flatten(), shape, 40) for sort in (sort_by_counting, sort_on_device))
    finally:
        torch.set_num_threads(threads)
    inside = int(one.starts[-1])
    assert inside == (cells < 40).sum() < cells.numel()
    assert torch.equal(one.starts, other.starts)
    assert torch.equal(one.depths[:inside], other.depths[:inside])
    assert torch.equal(one.pixels[:inside], other.pixels[:inside])


def test_the_operators_keep_what_they_promise_torch(generator: torch.Generator):
    depth, context, cells = random_maps(2, 6, 3, 8, 40, generator)
    leaves = (depth.requires_grad_(), context.requires_grad_())
    torch.library.opcheck(torch.ops.splattingocc.pool_frustum, (*leaves, cells, 40))
    arguments = (depth.detach(), context.detach(), cells, torch.ones(40, 8))
    torch.library.opcheck(torch.ops.splattingocc.pool_frustum_backward, arguments)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": torch.zeros(2, 5, 6, 9, dtype=torch.bfloat16)}, "depth: dtype is torch.bfloat16, pooling works in torch.float32"),
        ({"context": torch.zeros(2, 3, 9, 8, dtype=torch.float64)}, "context: dtype is torch.float64"),
        ({"cells": torch.zeros(2, 5, 3, 9, dtype=torch.int32)}, r"cells: shape is \(2, 5, 3, 9\), expected that of depth, \(2, 5, 6, 9\)"),
        ({"context": torch.zeros(2, 4, 9, 8)}, r"context: shape is \(2, 4, 9, 8\), expected \(2, a divisor of 6, 9, channels\)"),
        ({"context": torch.zeros(3, 3, 9, 8)}, r"context: shape is \(3, 3, 9, 8\)"),
        ({"context": torch.zeros(2, 0, 9, 8)}, r"context: shape is \(2, 0, 9, 8\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Tensor], said: str):
    arguments = {
        "depth": torch.zeros(2, 5, 6, 9),
        "context": torch.zeros(2, 3, 9, 8),
        "cells": torch.zeros(2, 5, 6, 9, dtype=torch.int32),
    }
    with pytest.raises(ValueError, match=said):
        # Before `pool_frustum`, the checker that pytest installs would refuse some of these in its own words
        pooling._check(**{**arguments, **change})


def test_the_kernels_compile_for_cuda_on_a_machine_without_one(tmp_path):
    wp.compile_aot_module(frustum_pooling.sum_over_points.module, arch=HOPPER, use_ptx=True, module_dir=tmp_path)
    (ptx,) = tmp_path.glob("*.ptx")
    text = ptx.read_text()
    assert f".target sm_{HOPPER}" in text
    for name in ("find_cells", "look_up", "sum_over_points", "context_gradient", "depth_gradient"):
        assert f".entry {name}" in text
    assert "atom." not in text
