import pytest
import torch
from einops import reduce
from rigs import surround_cameras
from torch import Tensor

from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.transforms import invert_rigid, transform_points
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.depth import DepthBins
from splattingocc.models.image_reader import ImageReader, ImageReaderConfig, ImageReading
from splattingocc.models.lift.lss import LSSLift, LSSLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack

GRID = VoxelGrid((-8.0, -8.0, -0.8), (8.0, 8.0, 2.4), 0.4)
COARSE_GRID = VoxelGrid((-3.0, -12.0, -1.5), (20.0, 9.0, 3.0), 0.5)
READER = ImageReaderConfig(ground_classes=(2,))
NUM_CLASSES = 5
SMALL = UNet3dConfig(channels=(8, 16), blocks=(1, 1))


def build_lift(channels: int, *, coarsening: int = 2, grid: VoxelGrid = GRID, bins: DepthBins = READER.depth_bins) -> LSSLift:
    return LSSLift(LSSLiftConfig(channels=channels, coarsening=coarsening), 4, NUM_CLASSES, bins, grid)


def rig(num_views: int, batch: int = 1) -> Cameras:
    return stack([surround_cameras(num_views, (32, 48), focal=20.0)] * batch)


def without_heights(lift: LSSLift, reading: ImageReading, cameras: Cameras) -> Tensor:
    return lift(reading, cameras) - lift.height_embedding[:, None, None, :]


def points_of(camera: Cameras, bins: DepthBins, size: tuple[int, int]) -> Tensor:
    """(bin · row · column, 3): the points of one camera in the ego frame, from its matrices alone, in float64."""
    rows, columns = size
    edges = bins.edges().double()
    depth, row, column = torch.meshgrid((edges[1:] * edges[:-1]).sqrt(), *(torch.arange(count).double() for count in size), indexing="ij")
    height, width = camera.image_size
    pixels = torch.stack([(column + 0.5) * width / columns, (row + 0.5) * height / rows, torch.ones_like(depth)], dim=-1)
    points_cam = torch.linalg.solve(camera.K.double(), (depth[..., None] * pixels).reshape(-1, 3).T).T
    return transform_points(invert_rigid(camera.cam_from_ego.double()), points_cam)


@pytest.mark.parametrize("grid", [GRID, COARSE_GRID], ids=["0.4 m", "0.5 m, off centre"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("fine_row", "column", "bin_index"), [(6, 1, 20), (8, 4, 27), (14, 3, 13)])
def test_a_pixel_of_one_depth_fills_the_cell_that_holds_its_point(
    grid: VoxelGrid, mirrored: bool, fine_row: int, column: int, bin_index: int
):
    cameras, bins, lift = rig(1), READER.depth_bins, build_lift(4, coarsening=1, grid=grid)
    if mirrored:
        cameras = cameras.flip()
    # Four fine rows for a row of features; all other pixels see something beyond the grid
    depth_logits = torch.full((1, 1, bins.count, 16, 6), -1e4)
    depth_logits[:, :, -1] = 0.0
    depth_logits[0, 0, :, fine_row, column] = -1e4
    depth_logits[0, 0, bin_index, fine_row, column] = 0.0
    reading = ImageReading(torch.randn(1, 1, 4, 4, 6), depth_logits, torch.randn(1, 1, NUM_CLASSES, 16, 6))
    volume = without_heights(lift, reading, cameras)[0]
    depth = bins.nearest * (bins.farthest / bins.nearest) ** ((bin_index + 0.5) / bins.count)
    camera = cameras[0, 0]
    u, v = (column + 0.5) * 48 / 6, (fine_row + 0.5) * 32 / 16
    right, down = (depth * (at - camera.K[axis, 2]) / camera.K[axis, axis] for axis, at in enumerate((u, v)))
    # The camera looks along x from 1.5 m above the origin
    point = torch.tensor([depth, -float(right), 1.5 - float(down)])
    expected = ((point - torch.tensor(grid.lower)) / grid.cell_size).floor().long()
    assert (expected >= 0).all()
    assert (expected < torch.tensor(grid.shape)).all()
    filled = volume.abs().sum(dim=0) > 1e-4
    assert filled.nonzero().tolist() == [expected.tolist()]
    classes = reading.class_logits.softmax(dim=2)[0, 0, :, fine_row // 4 * 4 : fine_row // 4 * 4 + 4, column].mean(dim=-1)
    said = torch.cat([reading.context[0, 0, :, fine_row // 4, column], classes])
    feature = lift.context_head.weight[:, :, 0, 0] @ said + lift.context_head.bias
    # A quarter: four rows share the feature
    torch.testing.assert_close(volume[:, *expected], feature / 4, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows_per_feature", [1, 3])
def test_the_volume_is_the_sum_over_all_pixels_of_all_views(rows_per_feature: int):
    cameras, bins, lift = rig(2, batch=2), DepthBins(count=12), build_lift(3, bins=DepthBins(count=12))
    config = READER.model_copy(update={"depth_bins": bins, "rows_per_feature": rows_per_feature})
    reading = ImageReader(config, 4, NUM_CLASSES)(torch.randn(2, 2, 4, 4, 6), cameras)
    volume = without_heights(lift, reading, cameras)
    rows = reading.depth_logits.shape[-2]
    classes = reduce(reading.class_logits.softmax(dim=2), "b v c (h k) w -> b v c h w", "mean", k=rows_per_feature)
    for element in range(2):
        expected = torch.zeros(3, *lift.grid.shape, dtype=torch.float64)
        for view in range(2):
            points = points_of(cameras[element, view], bins, (rows, 6))
            cells, inside = lift.grid.cells_of(points)
            said = torch.cat([reading.context[element, view], classes[element, view]])
            features = torch.einsum("oi,ihw->ohw", lift.context_head.weight[:, :, 0, 0], said) + lift.context_head.bias[:, None, None]
            fine = features.double().repeat_interleave(rows_per_feature, dim=1) / rows_per_feature
            density = reading.depth_logits[element, view].softmax(dim=0).double()
            product = (density[None] * fine[:, None]).flatten(1)[:, inside]
            x, y, z = cells[inside].unbind(dim=-1)
            expected.flatten(1).index_add_(1, (x * lift.grid.shape[1] + y) * lift.grid.shape[2] + z, product)
        # A point on a border may be rounded into the next cell
        wrong = (volume[element] - expected).abs().amax(dim=0) > 1e-4
        assert wrong.float().mean() < 2e-3
        assert (expected != 0).any(dim=0).float().mean() > 0.05


def test_cells_no_camera_sees_know_only_their_height_and_the_others_more():
    cameras, lift = rig(2), build_lift(8)
    reading = ImageReader(READER, 4, NUM_CLASSES)(torch.randn(1, 2, 4, 4, 6), cameras)
    filled = without_heights(lift, reading, cameras)[0].flatten(1).abs().sum(dim=0) > 0
    seen = torch.zeros(lift.grid.num_cells, dtype=torch.bool)
    for view in range(2):
        # A cell is seen where any of it is: its corners, or the points along its edges
        offsets = torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 9)] * 3) * lift.grid.cell_size
        points = (lift.grid.centers().reshape(-1, 1, 3) + offsets).flatten(0, 1)
        seen |= cameras[0, view].project(points)[1].view(lift.grid.num_cells, -1).any(dim=1)
    assert not (filled & ~seen).any()
    assert filled.any()
    assert not seen.all()


def test_mirroring_the_ego_frame_mirrors_the_volume():
    cameras, reader, lift = rig(3), ImageReader(READER, 4, NUM_CLASSES), build_lift(8)
    # Off the planes on which borders of cells meet pixels' rays
    shift = torch.eye(4)
    shift[:3, 3] = torch.tensor([0.017, 0.023, 0.011])
    cameras = cameras.transform_ego(shift)
    features = torch.randn(1, 3, 4, 4, 6)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    volume, mirrored = (lift(reader(features, seen_by), seen_by) for seen_by in (cameras, cameras.transform_ego(mirror)))
    torch.testing.assert_close(mirrored, volume.flip(3), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mirrored, volume, atol=1e-2)


def test_mirroring_the_images_and_their_cameras_changes_nothing():
    cameras, lift = rig(3), build_lift(8)
    shift = torch.eye(4)
    shift[:3, 3] = torch.tensor([0.017, 0.023, 0.011])
    cameras = cameras.transform_ego(shift)
    reading = ImageReader(READER, 4, NUM_CLASSES)(torch.randn(1, 3, 4, 4, 6), cameras)
    flipped = reading.map(lambda values: values.flip(-1))
    torch.testing.assert_close(lift(flipped, cameras.flip()), lift(reading, cameras), rtol=1e-4, atol=1e-4)


def test_views_that_are_nowhere_put_nothing_and_get_no_gradient():
    cameras, reader, lift = rig(3), ImageReader(READER, 4, NUM_CLASSES), build_lift(8)
    missing = stack([stack([cameras[0, 0], Cameras.nowhere((32, 48)), cameras[0, 2]])])
    reading = reader(torch.randn(1, 3, 4, 4, 6), cameras).map(lambda values: values.detach().requires_grad_())
    volume = lift(reading, missing)
    two = reading.map(lambda values: values[:, ::2])
    torch.testing.assert_close(volume, lift(two, missing[:, ::2]))
    volume.square().sum().backward()
    for values in (reading.context, reading.depth_logits, reading.class_logits):
        assert values.grad is not None
        assert not values.grad[:, 1].any()
        assert values.grad[:, 0].any()


def test_elements_of_a_batch_are_lifted_as_each_by_itself():
    reader, lift = ImageReader(READER, 4, NUM_CLASSES), build_lift(8)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    cameras = stack([rig(2)[0], rig(2)[0].transform_ego(turn)])
    reading = reader(torch.randn(2, 2, 4, 4, 6), cameras)
    volume = lift(reading, cameras)
    alone = [lift(reading.map(lambda values, i=i: values[i : i + 1]), cameras[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(volume, torch.cat(alone))
    assert not torch.allclose(volume[0], volume[1], atol=1e-2)


def test_the_amount_of_surface_is_kept():
    # All depths that bins can have, in a grid that holds them all
    cameras, bins, grid = rig(4), DepthBins(nearest=2.0, farthest=9.0, count=16), VoxelGrid((-32.0, -32.0, -32.0), (32.0, 32.0, 32.0), 1.0)
    lift = build_lift(1, bins=bins, grid=grid)
    lift.context_head.load_state_dict({"weight": torch.zeros_like(lift.context_head.weight), "bias": torch.ones(1)})
    config = READER.model_copy(update={"depth_bins": bins})
    reading = ImageReader(config, 4, NUM_CLASSES)(torch.randn(1, 4, 4, 4, 6), cameras)
    torch.testing.assert_close(without_heights(lift, reading, cameras).sum(), torch.tensor(4.0 * 4 * 6), rtol=1e-4, atol=0.0)


def test_gradients_reach_depth_classes_and_context():
    cameras, reader, lift = rig(2), ImageReader(READER, 4, NUM_CLASSES), build_lift(8)
    lift(reader(torch.randn(1, 2, 4, 4, 6), cameras), cameras).square().sum().backward()
    parameters = (reader.depth_head.smooth.weight, reader.class_head.differences.weight, lift.context_head.weight, lift.height_embedding)
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_autocast_rounds_the_features_and_nothing_else():
    cameras, reader, lift = rig(2), ImageReader(READER, 4, NUM_CLASSES), build_lift(8)
    reading = reader(torch.randn(1, 2, 4, 4, 6), cameras).map(lambda values: values.detach())
    volume = lift(reading, cameras)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = lift(reading, cameras)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - volume).abs().max() < 0.02 * volume.abs().max()
    # Points placed in bfloat16 would fill other cells
    heights = lift.height_embedding[:, None, None, :]
    assert torch.equal((volume - heights).abs().sum(dim=1) > 0, (rounded - heights).abs().sum(dim=1) > 0)
    half = reading.map(lambda values: values.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_half = lift(half, cameras)
    assert from_half.dtype == torch.float32
    assert (from_half - volume).abs().max() < 0.05 * volume.abs().max()


def test_a_network_can_have_this_lift_and_it_learns():
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"lift": {"kind": "lss", "channels": 8}, "volume_encoder": SMALL})
    network = OccupancyNetwork(config, GRID)
    assert type(network.lift) is LSSLift
    cameras = stack([surround_cameras(3, (32, 64), focal=30.0)])
    reading = network.read_images(Views(torch.rand(1, 1, 3, 3, 32, 64), stack([cameras]).map(lambda values: values.transpose(0, 1))))
    volume = network.volume_encoder(network.lift(reading, cameras))
    assert volume.shape == (1, 8, *GRID.coarsen(2).shape)
    (volume * torch.randn_like(volume)).sum().backward()
    learning = (network.lift, network.volume_encoder, network.neck, network.image_reader.depth_head)
    missing = [
        name for part in learning for name, parameter in part.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert missing == []
