"""From a trained network to occupancy grids, a threshold and rendered scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from splattingocc.data.samples import PredictionSample
from splattingocc.engine.loading import dead_workers_named
from splattingocc.engine.options import RenderConfig
from splattingocc.geometry.rays import RayLabels, Rays
from splattingocc.splatting.field import Field, Rendering
from splattingocc.struct import Struct
from splattingocc.taxonomy import SKY

HIT_ALPHA = 0.5
"""A ray that is stopped to less than this share counts as hitting nothing."""


@dataclass(frozen=True)
class Surfaces(Struct):
    """What each ray meets, as a LiDAR or a camera would say it."""

    semantics: Int64[Tensor, " ray"]
    """Class index; SKY where a ray meets nothing."""
    distances: Float[Tensor, " ray"]
    """Metres along the ray; nan where it meets nothing."""
    alphas: Float[Tensor, " ray"]
    """The share of the ray that was stopped; HIT_ALPHA and less is nothing."""


@torch.no_grad()
def predict_fields(network: nn.Module, samples: Iterable[PredictionSample]) -> Iterator[tuple[PredictionSample, Field]]:
    """Yield each sample (batch axis of one) with the field (no batch axis) that the network sees in it."""
    network.eval()
    device = next(network.parameters()).device
    with dead_workers_named():
        for sample in samples:
            yield sample, network(sample.views.to(device)).field[0].detach()


@torch.inference_mode()
def render_labelled(field: Field, rays: Rays, labels: RayLabels, config: RenderConfig) -> Rendering:
    """Render a field along labelled rays, however far away the labels are."""
    farthest = labels.distances.nan_to_num().max().item() if labels.distances.numel() else 0.0
    far = max(config.far, farthest + config.margin)
    return field.render(rays, near=config.near, far=far, label_distances=labels.distances, margin=config.margin)


@torch.no_grad()
def render_surfaces(field: Field, rays: Rays, config: RenderConfig) -> Surfaces:
    """Render the class and the distance of what each ray meets in an unbatched field; rays of any device, results on the field's."""
    rendering = field.render(rays.to(field.opacities.device), near=config.near, far=config.far)
    hit = rendering.alphas > HIT_ALPHA
    semantics = torch.where(hit, rendering.features.argmax(dim=-1), SKY)
    return Surfaces(semantics, torch.where(hit, rendering.distances, torch.nan), rendering.alphas)
