"""From a trained network to occupancy grids, a threshold and rendered scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from splattingocc.data.samples import PredictionSample
from splattingocc.engine.batches import dead_workers_named
from splattingocc.engine.module import RenderConfig
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.splatting.field import Field, Rendering


@torch.inference_mode()
def predict_fields(network: nn.Module, samples: Iterable[PredictionSample]) -> Iterator[tuple[PredictionSample, Field]]:
    """Yield each sample (batch axis of one) with the field (no batch axis) that the network sees in it."""
    network.eval()
    device = next(network.parameters()).device
    with dead_workers_named():
        for sample in samples:
            yield sample, network(sample.views.to(device)).field[0].detach()


@torch.inference_mode()
def render_labelled(field: Field, rays: Rays, labels: RayLabels, config: RenderConfig) -> Rendering:
    """Render a field along labelled rays."""
    return field.render(rays, near=config.near, far=config.far, label_distances=labels.distances, margin=config.margin)
