import pytest
import torch
from rigs import surround_cameras

from splattingocc.geometry.cameras import Cameras, Views
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.models.cell_head import EVIDENCE_CENTER, EVIDENCE_FLOOR, MAX_OPACITY
from splattingocc.models.evidence import Evidence
from splattingocc.models.gaussian_head import GaussianHead, GaussianHeadConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.models.volume_encoder import UNet3dConfig
from splattingocc.struct import stack
from splattingocc.taxonomy import NUM_CLASSES

GRID = VoxelGrid((-6.4, -6.4, -0.8), (6.4, 6.4, 2.4), 0.4)


def small_network() -> OccupancyNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(lift=SamplingLiftConfig(channels=8, coarsening=2), volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)))
    return OccupancyNetwork(config, GRID)


def surround_views(batch: int) -> Views:
    cameras = surround_cameras(3, (32, 64), focal=30.0)
    return Views(torch.rand(batch, 1, 3, 3, 32, 64), stack([stack([cameras])] * batch))


def test_every_gaussian_stays_in_its_own_cell_and_bounds():
    head = GaussianHead(GaussianHeadConfig(), 4, GRID, coarsening=2)
    torch.nn.init.normal_(head.geometry.weight, std=3.0)
    gaussians = head(torch.randn(2, 4, 16, 16, 4), no_evidence(2))
    cells, inside = GRID.cells_of(gaussians.means[0])
    assert inside.all()
    assert len(torch.unique(cells, dim=0)) == GRID.num_cells
    config = head.config
    assert gaussians.scales.min() >= config.min_scale
    assert gaussians.scales.max() <= config.max_scale
    assert gaussians.opacities.max() <= MAX_OPACITY
    assert torch.allclose(gaussians.quats.norm(dim=-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(gaussians.features.sum(dim=-1), torch.ones(()), atol=1e-5)


def no_evidence(batch: int) -> Evidence:
    return Evidence(torch.zeros(batch, GRID.num_cells), torch.zeros(batch, GRID.num_cells, NUM_CLASSES))


def test_a_fresh_head_follows_the_evidence():
    head = GaussianHead(GaussianHeadConfig(), 4, GRID, coarsening=2)
    evidence = no_evidence(1)
    evidence.surface[0, 7], evidence.classes[0, 7, 4] = 0.5, 1.0
    gaussians = head(torch.zeros(1, 4, 16, 16, 4), evidence)
    assert gaussians.opacities[0, 7] > 0.4
    assert gaussians.opacities[0, 8] < 0.01
    assert gaussians.features[0, 7].argmax() == 4


def test_a_fresh_head_starts_as_configured():
    config = GaussianHeadConfig(initial_opacity=0.05, initial_scale=0.1)
    head = GaussianHead(config, 4, GRID, coarsening=2)
    evidence = no_evidence(1).map(lambda values: values + EVIDENCE_CENTER - EVIDENCE_FLOOR)
    gaussians = head(torch.zeros(1, 4, 16, 16, 4), evidence)
    assert torch.allclose(gaussians.opacities, torch.tensor(0.05), atol=1e-5)
    assert torch.allclose(gaussians.scales, torch.tensor(0.1), atol=1e-5)
    assert torch.allclose(gaussians.means[0], gaussians.means[0].detach())
    assert torch.allclose(gaussians.quats, torch.tensor([1.0, 0, 0, 0]))


def test_fine_cells_lie_inside_the_volume_cell_that_predicts_them():
    head = GaussianHead(GaussianHeadConfig(), 1, GRID, coarsening=2)
    coarse = GRID.coarsen(2)
    centers = head.centers.unflatten(0, (coarse.num_cells, 8)).mean(dim=1)
    assert torch.allclose(centers, coarse.centers().reshape(-1, 3), atol=1e-4)


def test_a_batch_gives_what_its_samples_give_alone():
    network = small_network().eval()
    views = surround_views(2)
    together = network(views).field
    for sample in range(2):
        alone = network(views[sample : sample + 1]).field
        assert torch.allclose(together.opacities[sample], alone.opacities[0], atol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = small_network()
    output = network(surround_views(1))
    gaussians = output.field
    fields = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.features, output.reading.depth_logits)
    sum((field * torch.randn_like(field)).sum() for field in fields).backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert missing == []


@pytest.mark.parametrize("training", [False, True])
def test_views_that_no_camera_took_change_nothing_and_learn_nothing(training: bool):
    views = surround_views(1)
    nowhere = stack([stack([stack([Cameras.nowhere((32, 64))])])])
    padded = Views(
        torch.cat([views.images, torch.zeros(1, 1, 1, 3, 32, 64)], dim=2),
        Cameras(
            torch.cat([views.cameras.K, nowhere.K], dim=2), torch.cat([views.cameras.cam_from_ego, nowhere.cam_from_ego], dim=2), (32, 64)
        ),
    )
    outcomes = []
    for seen in (views, padded):
        network = small_network().train(training)
        output = network(seen)
        torch.manual_seed(1)
        (output.field.opacities.sum() + (output.field.features * torch.rand(NUM_CLASSES)).sum()).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
        outcomes.append((output, gradients, dict(network.named_buffers())))
    (alone, gradients, buffers), (beside, gradients_beside, buffers_beside) = outcomes
    torch.testing.assert_close(beside.field.opacities, alone.field.opacities)
    torch.testing.assert_close(beside.field.features, alone.field.features)
    torch.testing.assert_close(beside.reading.depth_logits[:, :3], alone.reading.depth_logits)
    torch.testing.assert_close(buffers_beside, buffers)
    assert gradients.keys() == gradients_beside.keys()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(gradients_beside[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
