"""From a trained network to occupancy grids, a threshold and rendered scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from splattingocc.data.samples import PredictionSample
from splattingocc.engine.batches import dead_workers_named
from splattingocc.engine.module import RenderConfig
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.splatting.gaussians import Gaussians, Rendering
from splattingocc.splatting.render import render


@torch.inference_mode()
def predict_gaussians(network: nn.Module, samples: Iterable[PredictionSample]) -> Iterator[tuple[PredictionSample, Gaussians]]:
    """Yield each sample (batch axis of one) with the Gaussians (no batch axis) that the network sees in it."""
    network.eval()
    device = next(network.parameters()).device
    with dead_workers_named():
        for sample in samples:
            yield sample, network(sample.views.to(device)).gaussians[0].detach()


@torch.inference_mode()
def render_labelled(gaussians: Gaussians, rays: Rays, labels: RayLabels, config: RenderConfig) -> Rendering:
    """Render the Gaussians along labelled rays."""
    return render(gaussians, rays, near=config.near, far=config.far, label_distances=labels.distances, margin=config.margin)
